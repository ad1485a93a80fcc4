"""How alike maps a and b are, both (B, 1, H, W), H and W of at least 3; one value (B,) per pair.

Each map is stretched to [0, 1] first. A constant map scores 1 with another constant map; its
correlations with any other map are 0. Maps that do not fit or are not finite raise ``InputError``.

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor

from reid_explain.checks import check_maps, describe
from reid_explain.errors import InputError
from reid_explain.fills import unit_range

Map = NDArray[np.float64]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (B,) of maps a and b, in [-1, 1].

    The window is 7 pixels wide, or the largest odd number that a smaller map allows.

    Source: Wang et al., Image quality assessment, IEEE TIP 2004, equation 13.

    Example:
        >>> maps = torch.eye(8)[None, None]
        >>> ssim(maps, 5 * maps), ssim(maps, maps.flip(-1)) < 0.1
        (tensor([1.], dtype=torch.float64), tensor([True]))
    """

    def of_pair(a: Map, b: Map) -> float:
        window = min(7, (min(a.shape) - 1) // 2 * 2 + 1)
        value = structural_similarity(a, b, win_size=window, data_range=1.0)  # type: ignore[no-untyped-call]
        return float(value)

    return _per_pair(of_pair, a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation (B,) of the pixels of maps a and b, in [-1, 1].

    Equal pixels share their mean rank.

    Example:
        >>> maps = torch.arange(9.0).view(1, 1, 3, 3)
        >>> spearman(maps, maps**2), spearman(maps, -maps)  # only the order counts
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    return _per_pair(lambda a, b: _correlation(rankdata(a), rankdata(b)), a, b)


def hog_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation (B,) of the oriented gradients of maps a and b, in [-1, 1].

    Nine orientations in cells of 16 pixels (fewer where a map has no 3 such cells across),
    normalized over 3 x 3 cells.

    Example:
        >>> maps = torch.eye(8)[None, None]
        >>> hog_similarity(maps, 5 * maps)
        tensor([1.], dtype=torch.float64)
    """

    def gradients(map_: Map) -> Map:
        cell = min(16, min(map_.shape) // 3)
        oriented: Map = hog(map_, pixels_per_cell=(cell, cell), cells_per_block=(3, 3))
        return oriented

    return _per_pair(lambda a, b: _correlation(gradients(a), gradients(b)), a, b)


def _per_pair(similarity: Callable[[Map, Map], float], a: Tensor, b: Tensor) -> Tensor:
    """Return the similarity (B,) of stretched maps, pair by pair."""
    a, b = check_maps("a", a), check_maps("b", b)
    if a.shape != b.shape:
        raise InputError("b", describe(b), f"the shape of a, {tuple(a.shape)}")
    if min(a.shape[2:]) < 3:
        raise InputError("a", describe(a), "maps of at least 3 x 3 pixels")
    rows = (unit_range(maps.double())[:, 0].cpu().numpy() for maps in (a, b))
    values = [similarity(*pair) for pair in zip(*rows, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def _correlation(a: Map, b: Map) -> float:
    """Return Pearson's correlation; of constants 1 with each other and 0 with anything else."""
    constant = [bool(np.ptp(values) == 0) for values in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
