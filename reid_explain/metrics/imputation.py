"""What removed pixels may have been: the weighted means of their neighbors.

Source: Rong et al., A consistent and efficient evaluation strategy for attribution methods (ROAD),
ICML 2022, section 4.2, noisy linear imputation.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.fills import content_generator

NEIGHBORS = {
    (down, across): 1 / 6 if down == 0 or across == 0 else 1 / 12
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if (down, across) != (0, 0)
}
"""Weights of the eight neighbors of a pixel in ``imputed``."""


def imputed(images: Tensor, masks: Tensor, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Return images (B, C, H, W) whose pixels outside masks (B, 1, H, W), bool, are imputed.

    Each becomes the weighted mean of its neighbors, ``NEIGHBORS``, those in the image, which are
    imputed too: one sparse linear system per image. Then Gaussian noise of deviation ``noise`` is
    added. Unlike the fills of ``reid_explain.fills`` this shows no edge of the mask. A mask without
    a pixel and shapes that do not fit raise ``InputError``.

    Example:
        >>> import torch
        >>> line = torch.tensor([[[[0.0, 7.0, 7.0, 3.0]]]])
        >>> known = torch.tensor([[[[True, False, False, True]]]])
        >>> imputed(line, known, noise=0)
        tensor([[[[0., 1., 2., 3.]]]])
    """
    if masks.dtype != torch.bool or masks.shape != (len(images), 1, *images.shape[2:]):
        raise InputError("masks", describe(masks), f"bool, one for each of {tuple(images.shape)}")
    if not masks.flatten(1).any(dim=1).all():
        raise InputError("masks", "a mask without a pixel", "at least one kept pixel in each")
    pixels, unknown = images.detach().double().cpu().numpy(), ~masks[:, 0].cpu().numpy()
    solved = [_solved(image, where) for image, where in zip(pixels, unknown, strict=True)]
    found = torch.from_numpy(np.stack(solved)).to(images)
    noisy = [torch.randn(image.shape, generator=content_generator(image, seed)) for image in images]
    return images.where(masks, found + noise * torch.stack(noisy).to(images))


def _solved(image: NDArray[np.float64], unknown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return an image (C, H, W) whose ``unknown`` pixels (H, W) are means of their neighbors."""
    number = np.cumsum(unknown).reshape(unknown.shape) - 1
    count = int(unknown.sum())
    if not count:
        return image
    y, x = np.nonzero(unknown)
    total, known = np.zeros(count), np.zeros((count, len(image)))
    entries: list[tuple[Any, Any, Any]] = []
    for (down, across), weight in NEIGHBORS.items():
        rows, columns = y + down, x + across
        inside = (rows >= 0) & (rows < len(unknown)) & (columns >= 0) & (columns < unknown.shape[1])
        own, rows, columns = np.flatnonzero(inside), rows[inside], columns[inside]
        total[own] += weight
        free = unknown[rows, columns]
        known[own[~free]] += weight * image[:, rows[~free], columns[~free]].T
        entries.append((own[free], number[rows[free], columns[free]], np.full(free.sum(), -weight)))
    entries.append((np.arange(count), np.arange(count), total))
    i, j, values = map(np.concatenate, zip(*entries, strict=True))
    result: NDArray[np.float64] = image.copy()
    system = coo_matrix((values, (i, j)), shape=(count, count)).tocsc()
    result[:, y, x] = spsolve(system, known, permc_spec="MMD_AT_PLUS_A").reshape(known.shape).T
    return result
