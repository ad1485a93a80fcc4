"""From the values of a map to colors over its image.

The colors glow: transparent where a map is low, then purple, orange, yellow. They are matplotlib's
perceptually uniform *inferno* without its dark end, so that lightness orders them in gray too.
Negative values of a signed map are blue. The limits are percentiles of the values, so that one
extreme corner hides nothing. A constant map points at nothing, and leaves its image as it is.
"""

from collections.abc import Sequence, Sized
from typing import NamedTuple, TypeAlias

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import check_finite, describe
from reid_explain.errors import InputError

Array: TypeAlias = NDArray[np.float64]
Tensors: TypeAlias = Tensor | Sequence[Tensor]

OPACITY, EXPONENT, PERCENTILE = 0.8, 1.5, 98.0
ROUNDING, CONSTANT = 1e-3, 1e-6

_WARM = matplotlib.colormaps["inferno"](np.linspace(0.25, 1, 128))
_COLD = LinearSegmentedColormap.from_list("cold", ["#0B3CC1", "#6CB4EE"], 128)(range(128))
GLOW = ListedColormap(_WARM, "glow")
SIGNED_GLOW = ListedColormap(np.concatenate([_COLD, _WARM]), "signed glow")


class Scale(NamedTuple):
    """From values to colors: limits, whether they are those of a signed map, and a colormap."""

    low: float
    high: float
    signed: bool
    colormap: Colormap

    def over(self, pixels: Array, values: Array, opacity: float = OPACITY) -> Array:
        """Return an image (..., 3) under the colors of its map (...), see-through where low."""
        place = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        share = opacity * (np.abs(2 * place - 1) if self.signed else place)[..., None] ** EXPONENT
        colors = np.asarray(self.colormap(place), dtype=np.float64)[..., :3]
        return (1 - share) * pixels + share * colors


def overlay(
    image: Tensor,
    map_: Tensor,
    *,
    cmap: str | None = None,
    opacity: float = OPACITY,
    percentile: float = PERCENTILE,
    zoom: int = 1,
) -> Array:
    """Lay the colors of one map over its image.

    Args:
        image: (3, H, W) in [0, 1].
        map_: (1, h, w) or (h, w) of any range; signed if a value is negative.
        cmap: Name of a matplotlib colormap, such as ``"jet"``; the glow of this module by default.
        opacity: Share of the map's color where the map is highest, in [0, 1].
        percentile: Upper limit of the colors, in (50, 100]. The lower limit is the opposite
            percentile, or the upper limit negated for a signed map. 100 takes the whole range.
        zoom: Whole factor by which image and map are enlarged.

    Returns:
        Array (zoom·H, zoom·W, 3) in [0, 1], as ``Axes.imshow`` takes it.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, ``cmap`` is unknown.

    Example:
        >>> import torch
        >>> from reid_explain.visualization import overlay
        >>> overlay(torch.rand(3, 64, 32), torch.rand(1, 8, 4), zoom=2).shape
        (128, 64, 3)
    """
    if not 0 <= opacity <= 1:
        raise InputError("opacity", opacity, "a number in [0, 1]")
    pixels = image_pixels(image, "image", zoom)
    values = map_values(map_, pixels, "map_")
    return color_scale([values], cmap, percentile).over(pixels, values, opacity)


def color_scale(
    values: Sequence[Array], cmap: str | None = None, percentile: float = PERCENTILE
) -> Scale:
    """Return the one scale of several maps (H, W)."""
    if not 50 < percentile <= 100:
        raise InputError("percentile", percentile, "a number in (50, 100]")
    if cmap is not None and cmap not in matplotlib.colormaps:
        raise InputError("cmap", repr(cmap), "the name of a matplotlib colormap, such as 'inferno'")
    pooled = np.concatenate([map_.ravel() for map_ in values])
    low, high = float(pooled.min()), float(pooled.max())
    largest = max(abs(low), abs(high))
    constant = high - low <= CONSTANT * largest
    signed = low < 0 and not constant
    if constant:
        low, high = high, high + (largest or 1.0)
    elif signed:
        high = float(np.percentile(np.abs(pooled), percentile)) or largest
        low = -high
    else:
        limits = np.percentile(pooled, [100 - percentile, percentile])
        if limits[1] - limits[0] > CONSTANT * largest:  # else only a few pixels stand out
            low, high = limits.tolist()
    default = SIGNED_GLOW if signed else GLOW
    return Scale(low, high, signed, default if cmap is None else matplotlib.colormaps[cmap])


def all_pixels(images: Tensors) -> list[Array]:
    """Return the images, at least one, as (H, W, 3), checked."""
    if len(images) == 0:
        raise InputError("images", "no image", "at least one image (3, H, W)")
    return [image_pixels(image, f"images[{i}]") for i, image in enumerate(images)]


def image_pixels(image: Tensor, argument: str, zoom: int = 1) -> Array:
    """Return the image as (zoom·H, zoom·W, 3), checked."""
    if not (isinstance(image, Tensor) and image.dim() == 3 and len(image) == 3 and image.numel()):
        raise InputError(argument, describe(image), "an image (3, H, W)")
    pixels = check_finite(argument, image).cpu().double()
    low, high = float(pixels.min()), float(pixels.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(argument, f"values from {low:.4g} to {high:.4g}", "values in [0, 1]")
    if zoom > 1:
        pixels = F.interpolate(pixels[None], scale_factor=zoom, mode="bicubic")[0]
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def layers(
    pixels: Sequence[Array], maps: Tensors, argument: str, cmap: str | None, shared: bool = False
) -> tuple[list[Array], list[Scale]]:
    """Return each image (H, W, 3) under its map, and the scales: their own, or a shared one."""
    check_each(argument, maps, pixels)
    pairs = zip(maps, pixels, strict=True)
    values = [map_values(map_, photo, f"{argument}[{i}]") for i, (map_, photo) in enumerate(pairs)]
    joint = color_scale(values, cmap)
    scales = [joint if shared else color_scale([map_], cmap) for map_ in values]
    return [s.over(p, v) for s, p, v in zip(scales, pixels, values, strict=True)], scales


def map_values(map_: Tensor, pixels: Array, argument: str) -> Array:
    """Return the map as (H, W), upsampled (bilinear) to the size of its image, checked."""
    if isinstance(map_, Tensor) and map_.dim() == 2:
        map_ = map_[None]
    if not (isinstance(map_, Tensor) and map_.dim() == 3 and len(map_) == 1 and map_.numel()):
        raise InputError(argument, describe(map_), "a map (1, h, w) or (h, w)")
    values = check_finite(argument, map_).cpu().double()[None]
    upsampled: Array = F.interpolate(values, pixels.shape[:2], mode="bilinear")[0, 0].numpy()
    return upsampled


def check_each(argument: str, values: Sized, others: Sized) -> None:
    """Raise unless there are as many values as others; a text is not many."""
    if isinstance(values, str) or len(values) != len(others):
        raise InputError(argument, len(values), f"{len(others)}, one each")
