"""Where attributes are seen, on average and against the truth. Long names are broken into lines."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import check_at_least, check_finite, described
from reid_explain.errors import InputError
from reid_explain.visualization.colours import (
    Array,
    Tensors,
    blend,
    colour_scale,
    image_pixels,
    map_values,
)
from reid_explain.visualization.layout import FONT_SIZE, relative_bars, tiles

ALPHA = 0.5
TITLE_WIDTH = 16  # characters
ABSENT = "#EEEEEE"
ROUNDING = 1e-3


def attribute_maps_figure(
    maps: Tensor,
    attributes: Sequence[str],
    *,
    images: Tensors | None = None,
    counts: Tensor | None = None,
    columns: int = 9,
    figure: Figure | None = None,
) -> Figure:
    """Draw where attributes are seen on average: one panel per attribute.

    Each map has its own colour scale.

    Args:
        maps: Average map of each attribute over the images that have it, (M, h, w); all NaN for
            an attribute that no image has, whose panel stays empty.
        attributes: The M names.
        images: Average image of each attribute to lay the map over, (M, 3, H, W) in [0, 1] or a
            sequence of M; ``average.expand(M, -1, -1, -1)`` lays all over the same. That of an
            attribute that no image has is not looked at.
        counts: How many images each map is the average of, (M,), whole numbers.
        columns: Panels in a row.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a map is infinite or partly NaN, the numbers of
            maps, names, images and counts differ, ``columns`` is less than 1.

    Source: AMD (Chen et al., ICCV 2021), supplementary material.
    """
    names = attribute_names(attributes)
    attribute_rows("maps", maps, names, "float", 3)
    check_at_least("columns", columns, 1)
    absent = maps.isnan().flatten(1).all(1).tolist()
    present = [k for k in range(len(names)) if not absent[k]]
    if images is not None and len(images) != len(names):
        raise InputError("images", len(images), f"{len(names)}, one per attribute")
    photos: dict[int, Array] = {}
    values: dict[int, Array] = {}
    for k in present:
        if images is None:
            values[k] = check_finite(f"maps[{k}]", maps[k]).cpu().double().numpy()
        else:
            photos[k] = image_pixels(images[k], f"images[{k}]")
            values[k] = map_values(maps[k], photos[k], f"maps[{k}]")
    titles = [fill(name, TITLE_WIDTH) for name in names]
    if counts is not None:
        numbers = attribute_rows("counts", counts, names, "int", 1).tolist()
        titles = [
            f"{title}\n{n} image{'s' * (n != 1)}" for title, n in zip(titles, numbers, strict=True)
        ]
    height, width = next(iter(values.values())).shape if values else maps.shape[1:]

    figure, axes = tiles(figure, width / height, titles, columns, lines_below=0)
    scales = {k: colour_scale([values[k]], None) for k in present}
    for k, axis in enumerate(axes):
        if absent[k]:
            _draw_absent(axis, height / width)
        elif images is None:
            axis.imshow(values[k], norm=scales[k].norm, cmap=scales[k].colormap)
        else:
            axis.imshow(blend(photos[k], values[k], scales[k], ALPHA))
    relative_bars(axes[min(columns, len(axes)) - 1], list(scales.values()))
    return figure


def attribute_masks_figure(
    image: Tensor,
    maps: Tensor,
    masks: Tensor,
    attributes: Sequence[str],
    energies: Tensor,
    chances: Tensor,
    *,
    columns: int = 9,
    figure: Figure | None = None,
) -> Figure:
    """Draw the maps of one image's attributes with the outlines of where they truly show.

    Each map has its own colour scale. Below it, the share of the map that lies inside the
    outline, and the share of the image that does: what a constant map has inside.

    Args:
        image: (3, H, W) in [0, 1].
        maps: Map of each attribute, (K, h, w), upsampled to the image.
        masks: Where each attribute shows, (K, H, W) bool; one without a pixel has no outline,
            and the panel says so.
        attributes: The K names.
        energies: Share of each map inside its mask, (K,), in [0, 1]
            (``reid_explain.metrics.localisation.energy_inside``).
        chances: Share of the image inside each mask, (K,), in [0, 1] (``area``, beside it).
        columns: Panels in a row, with that of the image itself, which is the first.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of maps,
            masks, names and shares differ, ``columns`` is less than 1.
    """
    names = attribute_names(attributes)
    photo = image_pixels(image, "image")
    attribute_rows("maps", maps, names, "float", 3)
    values = [map_values(map_, photo, f"maps[{k}]") for k, map_ in enumerate(maps)]
    masks = attribute_rows("masks", masks, names, "bool", 3)
    if masks.shape[1:] != photo.shape[:2]:
        raise InputError("masks", described(masks), f"the size of the image, {photo.shape[:2]}")
    inside = attribute_shares("energies", energies, names)
    chance = attribute_shares("chances", chances, names)
    check_at_least("columns", columns, 1)

    titles = ["image", *(fill(name, TITLE_WIDTH) for name in names)]
    aspect = photo.shape[1] / photo.shape[0]
    figure, axes = tiles(figure, aspect, titles, columns, lines_below=2)
    axes[0].imshow(photo)
    scales = [colour_scale([map_], None) for map_ in values]
    for k, axis in enumerate(axes[1:]):
        axis.imshow(blend(photo, values[k], scales[k], ALPHA))
        mask = masks[k].cpu().numpy()
        text = "does not show"
        if mask.any():
            _draw_outline(axis, mask)
            text = f"{percent(inside[k])} inside\n{percent(chance[k])} by chance"
        axis.set_xlabel(text, fontsize=FONT_SIZE)
    relative_bars(axes[min(columns, len(axes)) - 1], scales)
    return figure


def _draw_absent(axis: Axes, height: float) -> None:
    """Say that no image has an attribute, on a panel of this height over its width."""
    axis.set_box_aspect(height)
    axis.set_facecolor(ABSENT)
    axis.text(
        *(0.5, 0.5, "no image"),
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
    )


def _draw_outline(axis: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the outline of a mask (H, W), white on black: it shows on every colour."""
    rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
    limits = axis.get_xlim(), axis.get_ylim()
    for colour, width in (("black", 2.2), ("white", 1.0)):
        axis.contour(columns, rows, np.pad(mask, 1), [0.5], colors=colour, linewidths=width)
    axis.set(xlim=limits[0], ylim=limits[1])


def attribute_names(attributes: Sequence[str]) -> list[str]:
    """Return the names, of which there have to be some."""
    if isinstance(attributes, str) or len(attributes) == 0:
        raise InputError("attributes", repr(attributes), "the names of at least one attribute")
    return list(attributes)


def attribute_rows(
    argument: str, values: Tensor, names: Sequence[str], kind: str, dimensions: int
) -> Tensor:
    """Return ``values`` if there is one for each name, of a kind and with so many dimensions."""
    shape = f"({len(names)}{', H, W' * (dimensions == 3)})"
    fits = (
        isinstance(values, Tensor)
        and values.dim() == dimensions
        and len(values) == len(names)
        and values.numel() > 0
        and _kind(values) == kind
    )
    if not fits:
        raise InputError(argument, described(values), f"one per attribute, {shape} {kind}")
    return values


def attribute_shares(argument: str, values: Tensor, names: Sequence[str]) -> Tensor:
    """Return ``values`` if there is a share in [0, 1] for each name."""
    shares = check_finite(argument, attribute_rows(argument, values, names, "float", 1))
    low, high = float(shares.min()), float(shares.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(argument, f"values from {low:.4g} to {high:.4g}", "shares in [0, 1]")
    return shares.cpu().double().clamp(0, 1)


def percent(share: float | Tensor) -> str:
    """Return a share in percent."""
    return f"{100 * float(share):.1f} %"


def _kind(values: Tensor) -> str:
    if values.is_floating_point():
        return "float"
    return "bool" if values.dtype == torch.bool else "int"
