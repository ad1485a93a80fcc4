"""From values to colours.

A map is upsampled to its image (bilinear), and the colours run from its lowest to its highest
value. A map with negative values is signed evidence: its colours run from -m to m, m the largest
absolute value, so that the middle colour is zero. A constant map points at nothing and is drawn in
the lowest colour throughout.

``cmap`` names a matplotlib colormap for every map; by default it is :data:`SEQUENTIAL`, and
:data:`DIVERGING` for signed maps, both perceptually ordered. The papers use ``"jet"``.
"""

from collections.abc import Sequence, Sized
from typing import NamedTuple, TypeAlias

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.colors import Colormap, Normalize
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import check_finite, described
from reid_explain.errors import InputError

SEQUENTIAL = "inferno"
DIVERGING = "coolwarm"

Array: TypeAlias = NDArray[np.float64]
Tensors: TypeAlias = Tensor | Sequence[Tensor]

IMAGE_ROUNDING = 1e-3
CONSTANT = 1e-6


class Scale(NamedTuple):
    """From values to colours."""

    norm: Normalize
    colormap: Colormap
    signed: bool


def colour_scale(values: Sequence[Array], cmap: str | None) -> Scale:
    """Return the one scale of several maps (H, W)."""
    low = min(float(map_.min()) for map_ in values)
    high = max(float(map_.max()) for map_ in values)
    largest = max(abs(low), abs(high))
    constant = high - low <= CONSTANT * largest
    signed = low < 0 and not constant
    if cmap is None:
        cmap = DIVERGING if signed else SEQUENTIAL
    if constant:
        norm = Normalize(high, high + (largest or 1.0))
    elif signed:
        norm = Normalize(-largest, largest)
    else:
        norm = Normalize(low, high)
    return Scale(norm, named_colormap(cmap), signed)


def named_colormap(name: str) -> Colormap:
    """Return the colormap of this name."""
    if name not in matplotlib.colormaps:
        raise InputError("cmap", repr(name), "the name of a matplotlib colormap, such as 'inferno'")
    return matplotlib.colormaps[name]


def blend(pixels: Array, values: Array, scale: Scale, alpha: float) -> Array:
    """Return an image (H, W, 3) under the colours of its map (H, W)."""
    if not 0 <= alpha <= 1:
        raise InputError("alpha", alpha, "a number in [0, 1]")
    colours = np.asarray(scale.colormap(scale.norm(values)), dtype=np.float64)[..., :3]
    return (1 - alpha) * pixels + alpha * colours


def all_pixels(images: Tensors) -> list[Array]:
    """Return the images, at least one, as (H, W, 3), checked."""
    if len(images) == 0:
        raise InputError("images", "no image", "at least one image (3, H, W)")
    return [image_pixels(image, f"images[{i}]") for i, image in enumerate(images)]


def image_pixels(image: Tensor, argument: str) -> Array:
    """Return the image as (H, W, 3), checked."""
    if not (isinstance(image, Tensor) and image.dim() == 3 and len(image) == 3 and image.numel()):
        raise InputError(argument, described(image), "an image (3, H, W)")
    pixels = finite(argument, image)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -IMAGE_ROUNDING or high > 1 + IMAGE_ROUNDING:
        raise InputError(argument, f"values from {low:.4g} to {high:.4g}", "values in [0, 1]")
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def all_values(maps: Tensors, pixels: Sequence[Array], argument: str) -> list[Array]:
    """Return one map for each image as (H, W), checked."""
    check_one_per_image(argument, maps, pixels)
    return [
        map_values(map_, photo, f"{argument}[{i}]")
        for i, (map_, photo) in enumerate(zip(maps, pixels, strict=True))
    ]


def map_values(map_: Tensor, pixels: Array, argument: str) -> Array:
    """Return the map as (H, W), the size of its image, checked."""
    if isinstance(map_, Tensor) and map_.dim() == 2:
        map_ = map_[None]
    if not (isinstance(map_, Tensor) and map_.dim() == 3 and len(map_) == 1 and map_.numel()):
        raise InputError(argument, described(map_), "a map (1, h, w) or (h, w)")
    values = finite(argument, map_)[None]
    upsampled: Array = F.interpolate(values, pixels.shape[:2], mode="bilinear")[0, 0].numpy()
    return upsampled


def finite(argument: str, values: Tensor) -> Tensor:
    """Return the values in double precision on the CPU, if they are finite."""
    return check_finite(argument, values).cpu().double()


def check_one_per_image(argument: str, values: Sized, pixels: Sequence[Array]) -> None:
    """Raise unless there are as many values as images."""
    if len(values) != len(pixels):
        raise InputError(argument, len(values), f"{len(pixels)}, one per image")
