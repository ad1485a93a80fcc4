"""Heatmaps on their images: tensors in, matplotlib figures out.

From values to colours: a map is upsampled to its image (bilinear), and the colours run from its
lowest to its highest value. A map with negative values is signed evidence: its colours run from
-m to m, m the largest absolute value, so that the middle colour is zero. A constant map points at
nothing and is drawn in the lowest colour throughout.

``cmap`` names a matplotlib colormap for every map; by default it is :data:`SEQUENTIAL`, and
:data:`DIVERGING` for signed maps, both perceptually ordered. The papers use ``"jet"``.

A figure is a plain :class:`matplotlib.figure.Figure` that pyplot does not know: nothing to close,
safe in threads and servers. Pass ``figure=plt.figure()`` to have pyplot (a notebook,
sphinx-gallery) show it.
"""

from collections.abc import Mapping, Sequence, Sized
from math import sqrt
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import matplotlib
import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import check_finite, described
from reid_explain.errors import InputError

__all__ = ["comparison_figure", "explanation_figure", "overlay", "save_figure"]

SEQUENTIAL = "inferno"
DIVERGING = "coolwarm"

Array: TypeAlias = NDArray[np.float64]
Tensors: TypeAlias = Tensor | Sequence[Tensor]

_FONT_SIZE = 9  # points
_CHARACTER = 0.075  # width in inches
_PANEL_AREA = 3.0  # square inches
_IMAGE_ROUNDING = 1e-3
_CONSTANT = 1e-6


def overlay(image: Tensor, map_: Tensor, *, cmap: str | None = None, alpha: float = 0.5) -> Array:
    """Lay the colours of one map over its image.

    Args:
        image: (3, H, W) in [0, 1].
        map_: (1, h, w) or (h, w) of any range, signed or not; upsampled to H×W.
        cmap: Name of a colormap; the default is described in the module.
        alpha: Share of the map's colour in each pixel, in [0, 1].

    Returns:
        Array (H, W, 3) in [0, 1], as ``Axes.imshow`` takes it.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, ``cmap`` is unknown.
    """
    pixels = _pixels(image, "image")
    values = _values(map_, pixels, "map_")
    return _blend(pixels, values, _scale([values], cmap), alpha)


def explanation_figure(
    images: Tensors,
    maps: Tensors,
    *,
    titles: Sequence[str] | None = None,
    shared_scale: bool = False,
    cmap: str | None = None,
    alpha: float = 0.5,
    figure: Figure | None = None,
) -> Figure:
    """Draw a query and its references: one column per image, with image, map and overlay.

    Args:
        images: N images (3, H, W) in [0, 1], the query first: a batch (N, 3, H, W) or a sequence,
            whose sizes may differ.
        maps: Their N maps, (N, 1, h, w) or a sequence of (1, h, w) or (h, w).
        titles: N titles, for instance rank and similarity.
        shared_scale: One colour scale, from the lowest to the highest value of all maps, so that
            colours compare between images. Otherwise each map has its own scale and colour bar.
        cmap: Name of a colormap; the default is described in the module.
        alpha: Share of the map's colour in the overlay, in [0, 1].
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of images,
            maps and titles differ, ``cmap`` is unknown.
    """
    pixels = _all_pixels(images)
    values = _all_values(maps, pixels, "maps")
    titles = [""] * len(pixels) if titles is None else titles
    _one_per_image("titles", titles, pixels)
    if shared_scale:
        scales = [_scale(values, cmap)] * len(values)
    else:
        scales = [_scale([map_], cmap) for map_ in values]

    rows = ["image", "map", "overlay"]
    figure, axes = _grid(figure, pixels, rows, titles, bars_beside=int(shared_scale))
    for column, photo, map_, scale in zip(axes.T, pixels, values, scales, strict=True):
        column[0].imshow(photo)
        column[1].imshow(map_, norm=scale.norm, cmap=scale.colormap)
        column[2].imshow(_blend(photo, map_, scale, alpha))
        if not shared_scale:
            _bar_below(column[2], scale)
    if shared_scale:
        _bar_beside(axes[1, -1], scales[0])
    return figure


def comparison_figure(
    images: Tensors,
    maps: Mapping[str, Tensors],
    *,
    titles: Sequence[str] | None = None,
    cmap: str | None = None,
    alpha: float = 0.5,
    figure: Figure | None = None,
) -> Figure:
    """Draw methods side by side: one row per image, one column of overlays per method.

    Methods have units of their own, so each map has its own colour scale.

    Args:
        images: N images (3, H, W) in [0, 1]: a batch (N, 3, H, W) or a sequence.
        maps: For each method, by name, the N maps, (N, 1, h, w) or a sequence of (1, h, w) or
            (h, w).
        titles: N titles of the images.
        cmap: Name of a colormap; the default is described in the module.
        alpha: Share of the map's colour in the overlays, in [0, 1].
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of images,
            maps and titles differ, ``maps`` is empty, ``cmap`` is unknown.
    """
    pixels = _all_pixels(images)
    if not maps:
        raise InputError("maps", "no method", "the maps of at least one method")
    values = {name: _all_values(maps[name], pixels, f"maps[{name!r}]") for name in maps}
    titles = [""] * len(pixels) if titles is None else titles
    _one_per_image("titles", titles, pixels)
    scales = {name: [_scale([map_], cmap) for map_ in values[name]] for name in values}
    kinds = {scale.signed: scale.colormap for row in scales.values() for scale in row}

    figure, axes = _grid(figure, pixels, titles, ["", *values], bars_beside=len(kinds))
    for axis, photo in zip(axes[:, 0], pixels, strict=True):
        axis.imshow(photo)
    for name, column in zip(values, axes.T[1:], strict=True):
        panels = zip(column, pixels, values[name], scales[name], strict=True)
        for axis, photo, map_, scale in panels:
            axis.imshow(_blend(photo, map_, scale, alpha))
    for place, signed in enumerate(sorted(kinds)):
        relative = _Scale(Normalize(-1 if signed else 0, 1), kinds[signed], signed)
        bar = _bar_beside(axes[0, -1], relative, place)
        if signed:
            bar.set_ticks([-1, 0, 1], labels=["-max", "0", "max"])
        else:
            bar.set_ticks([0, 1], labels=["lowest", "highest"])
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG (200 dots per inch) or PDF file, as the suffix says.

    Raises:
        InputError: The suffix is neither ``.png`` nor ``.pdf``.
    """
    if Path(path).suffix.lower() not in (".png", ".pdf"):
        raise InputError("path", path, "a file name that ends in .png or .pdf")
    figure.savefig(path, dpi=200)


class _Scale(NamedTuple):
    """From values to colours."""

    norm: Normalize
    colormap: Colormap
    signed: bool


def _scale(values: Sequence[Array], cmap: str | None) -> _Scale:
    low = min(float(map_.min()) for map_ in values)
    high = max(float(map_.max()) for map_ in values)
    largest = max(abs(low), abs(high))
    constant = high - low <= _CONSTANT * largest
    signed = low < 0 and not constant
    if cmap is None:
        cmap = DIVERGING if signed else SEQUENTIAL
    if constant:
        norm = Normalize(high, high + (largest or 1.0))
    elif signed:
        norm = Normalize(-largest, largest)
    else:
        norm = Normalize(low, high)
    return _Scale(norm, _colormap(cmap), signed)


def _colormap(name: str) -> Colormap:
    if name not in matplotlib.colormaps:
        raise InputError("cmap", repr(name), "the name of a matplotlib colormap, such as 'inferno'")
    return matplotlib.colormaps[name]


def _blend(pixels: Array, values: Array, scale: _Scale, alpha: float) -> Array:
    if not 0 <= alpha <= 1:
        raise InputError("alpha", alpha, "a number in [0, 1]")
    colours = np.asarray(scale.colormap(scale.norm(values)), dtype=np.float64)[..., :3]
    return (1 - alpha) * pixels + alpha * colours


def _all_pixels(images: Tensors) -> list[Array]:
    if len(images) == 0:
        raise InputError("images", "no image", "at least one image (3, H, W)")
    return [_pixels(image, f"images[{i}]") for i, image in enumerate(images)]


def _pixels(image: Tensor, argument: str) -> Array:
    """Return the image as (H, W, 3), checked."""
    if not (isinstance(image, Tensor) and image.dim() == 3 and len(image) == 3 and image.numel()):
        raise InputError(argument, described(image), "an image (3, H, W)")
    pixels = _finite(argument, image)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -_IMAGE_ROUNDING or high > 1 + _IMAGE_ROUNDING:
        raise InputError(argument, f"values from {low:.4g} to {high:.4g}", "values in [0, 1]")
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def _all_values(maps: Tensors, pixels: Sequence[Array], argument: str) -> list[Array]:
    _one_per_image(argument, maps, pixels)
    return [
        _values(map_, photo, f"{argument}[{i}]")
        for i, (map_, photo) in enumerate(zip(maps, pixels, strict=True))
    ]


def _values(map_: Tensor, pixels: Array, argument: str) -> Array:
    """Return the map as (H, W), the size of its image, checked."""
    if isinstance(map_, Tensor) and map_.dim() == 2:
        map_ = map_[None]
    if not (isinstance(map_, Tensor) and map_.dim() == 3 and len(map_) == 1 and map_.numel()):
        raise InputError(argument, described(map_), "a map (1, h, w) or (h, w)")
    values = _finite(argument, map_)[None]
    upsampled: Array = F.interpolate(values, pixels.shape[:2], mode="bilinear")[0, 0].numpy()
    return upsampled


def _finite(argument: str, values: Tensor) -> Tensor:
    return check_finite(argument, values).cpu().double()


def _one_per_image(argument: str, values: Sized, pixels: Sequence[Array]) -> None:
    if len(values) != len(pixels):
        raise InputError(argument, len(values), f"{len(pixels)}, one per image")


def _grid(
    figure: Figure | None,
    pixels: Sequence[Array],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    bars_beside: int,
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure of bare titled axes (rows, columns), each with room for its titles."""
    aspect = max(photo.shape[1] / photo.shape[0] for photo in pixels)
    width = max(sqrt(_PANEL_AREA * aspect), _CHARACTER * _longest_line(column_titles)) + 0.1
    height = max(sqrt(_PANEL_AREA / aspect), _CHARACTER * _longest_line(row_titles)) + 0.1
    figure = figure or Figure()
    figure.set_size_inches(
        len(column_titles) * width + 0.25 + 0.75 * bars_beside, len(row_titles) * height + 0.35
    )
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    axes: NDArray[np.object_] = figure.subplots(len(row_titles), len(column_titles), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[:, 0], row_titles, strict=True):
        axis.set_ylabel(title, fontsize=_FONT_SIZE)
    for axis, title in zip(axes[0], column_titles, strict=True):
        axis.set_title(title, fontsize=_FONT_SIZE)
    return figure, axes


def _longest_line(titles: Sequence[str]) -> int:
    return max(len(line) for title in titles for line in title.split("\n"))


def _bar_beside(axis: Axes, scale: _Scale, place: int = 0) -> Colorbar:
    """Add a colour bar right of a panel; ``place`` counts the bars beside the same panel."""
    return _bar(axis, (1.08 + 0.6 * place, 0, 0.1, 1), scale, "vertical")


def _bar_below(axis: Axes, scale: _Scale) -> None:
    """Add a colour bar below a panel, with its ends as numbers."""
    bar = _bar(axis, (0, -0.07, 1, 0.04), scale, "horizontal")
    low, high = bar.ax.get_xlim()
    bar.set_ticks([low, high], labels=[f"{low:.3g}", f"{high:.3g}"])
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")


def _bar(
    axis: Axes,
    bounds: tuple[float, float, float, float],
    scale: _Scale,
    orientation: Literal["vertical", "horizontal"],
) -> Colorbar:
    bar_axis = axis.inset_axes(bounds)
    mappable = ScalarMappable(scale.norm, scale.colormap)
    bar = axis.figure.colorbar(mappable, cax=bar_axis, orientation=orientation)
    bar_axis.tick_params(labelsize=_FONT_SIZE - 2)
    return bar
