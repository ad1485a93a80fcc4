"""Heatmaps on their images: one explanation, or methods side by side."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.visualization.colours import (
    Array,
    Tensors,
    all_pixels,
    all_values,
    blend,
    check_one_per_image,
    colour_scale,
    image_pixels,
    map_values,
)
from reid_explain.visualization.layout import bar_below, bar_beside, panel_grid, relative_bars


def overlay(image: Tensor, map_: Tensor, *, cmap: str | None = None, alpha: float = 0.5) -> Array:
    """Lay the colours of one map over its image.

    Args:
        image: (3, H, W) in [0, 1].
        map_: (1, h, w) or (h, w) of any range, signed or not; upsampled to H×W.
        cmap: Name of a colormap; by default ``DIVERGING`` for signed maps, else ``SEQUENTIAL``.
        alpha: Share of the map's colour in each pixel, in [0, 1].

    Returns:
        Array (H, W, 3) in [0, 1], as ``Axes.imshow`` takes it.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, ``cmap`` is unknown.

    Example:
        >>> import torch
        >>> from reid_explain.visualization import overlay
        >>> overlay(torch.rand(3, 64, 32), torch.rand(1, 8, 4)).shape
        (64, 32, 3)
    """
    pixels = image_pixels(image, "image")
    values = map_values(map_, pixels, "map_")
    return blend(pixels, values, colour_scale([values], cmap), alpha)


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
        cmap: Name of a colormap; by default ``DIVERGING`` for signed maps, else ``SEQUENTIAL``.
        alpha: Share of the map's colour in the overlay, in [0, 1].
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of images,
            maps and titles differ, ``cmap`` is unknown.

    Example:
        >>> import torch
        >>> from reid_explain.visualization import explanation_figure
        >>> images, maps = torch.rand(2, 3, 64, 32), torch.rand(2, 1, 8, 4)
        >>> figure = explanation_figure(images, maps, titles=["query", "rank 1"])
        >>> len(figure.axes)  # two columns of image, map and overlay
        6
    """
    pixels = all_pixels(images)
    values = all_values(maps, pixels, "maps")
    titles = [""] * len(pixels) if titles is None else titles
    check_one_per_image("titles", titles, pixels)
    if shared_scale:
        scales = [colour_scale(values, cmap)] * len(values)
    else:
        scales = [colour_scale([map_], cmap) for map_ in values]

    rows = ["image", "map", "overlay"]
    figure, axes = panel_grid(figure, pixels, rows, titles, bars_beside=int(shared_scale))
    for column, photo, map_, scale in zip(axes.T, pixels, values, scales, strict=True):
        column[0].imshow(photo)
        column[1].imshow(map_, norm=scale.norm, cmap=scale.colormap)
        column[2].imshow(blend(photo, map_, scale, alpha))
        if not shared_scale:
            bar_below(column[2], scale)
    if shared_scale:
        bar_beside(axes[1, -1], scales[0])
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
        cmap: Name of a colormap; by default ``DIVERGING`` for signed maps, else ``SEQUENTIAL``.
        alpha: Share of the map's colour in the overlays, in [0, 1].
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of images,
            maps and titles differ, ``maps`` is empty, ``cmap`` is unknown.
    """
    pixels = all_pixels(images)
    if not maps:
        raise InputError("maps", "no method", "the maps of at least one method")
    values = {name: all_values(maps[name], pixels, f"maps[{name!r}]") for name in maps}
    titles = [""] * len(pixels) if titles is None else titles
    check_one_per_image("titles", titles, pixels)
    scales = {name: [colour_scale([map_], cmap) for map_ in values[name]] for name in values}
    signs = {scale.signed for row in scales.values() for scale in row}

    figure, axes = panel_grid(figure, pixels, titles, ["", *values], bars_beside=len(signs))
    for axis, photo in zip(axes[:, 0], pixels, strict=True):
        axis.imshow(photo)
    for name, column in zip(values, axes.T[1:], strict=True):
        panels = zip(column, pixels, values[name], scales[name], strict=True)
        for axis, photo, map_, scale in panels:
            axis.imshow(blend(photo, map_, scale, alpha))
    relative_bars(axes[0, -1], [scale for row in scales.values() for scale in row])
    return figure
