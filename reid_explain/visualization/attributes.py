"""Where attributes show, and how a distance splits into them."""

from collections.abc import Sequence
from textwrap import fill

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from reid_explain.checks import check_at_least, check_finite, describe
from reid_explain.errors import InputError
from reid_explain.visualization.colors import (
    ROUNDING,
    Array,
    Scale,
    Tensors,
    check_each,
    color_scale,
    image_pixels,
    layers,
    map_values,
)
from reid_explain.visualization.layout import FONT_SIZE, LINE, draw_grid, plain

NAME_WIDTH, COLUMNS = 16, 9  # characters in a line, panels in a row
# Okabe and Ito's colors, apart for every kind of color vision; the notes say it in words.
UNMARKED, DIFFERS, SAME, OTHERS = "#0072B2", "#D55E00", "#56B4E9", "#999999"


def attribute_maps_figure(
    maps: Tensor,
    attributes: Sequence[str],
    images: Tensors,
    *,
    masks: Tensor | None = None,
    notes: Sequence[str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw where attributes show: one panel per attribute, each with its own color scale.

    Args:
        maps: Map of each attribute, (M, h, w); all NaN where there is none: an empty panel.
        attributes: The M names.
        images: One image (3, H, W) in [0, 1] under all maps, which is the first panel too; or M
            images, for instance averages, (M, 3, H, W) or a sequence.
        masks: Where each attribute truly shows, (M, H, W) bool, drawn as outlines.
        notes: M texts below the names.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit, a map is partly NaN.

    Source: AMD (Chen et al., ICCV 2021), supplementary material.
    """
    single = images if isinstance(images, Tensor) and images.dim() == 3 else None
    photos = images if single is None else [single] * len(maps)
    notes = [""] * len(maps) if notes is None else notes
    for argument, given in (("attributes", attributes), ("images", photos), ("notes", notes)):
        check_each(argument, given, maps)
    titles = [
        f"{fill(k, NAME_WIDTH)}\n{note}".rstrip() for k, note in zip(attributes, notes, strict=True)
    ]
    panels: list[Array | None] = [None] * len(maps)
    scales: list[Scale] = []
    for k, map_ in enumerate(maps):
        if not (map_.numel() and map_.isnan().all()):
            pixels = image_pixels(photos[k], f"images[{k}]")
            values = map_values(map_, pixels, f"maps[{k}]")
            scales.append(color_scale([values]))
            panels[k] = scales[-1].over(pixels, values)
    if masks is not None:
        check_each("masks", masks, maps)
        panels = [p if p is None else _outlined(p, m) for p, m in zip(panels, masks, strict=True)]
    if single is not None:
        panels, titles = [image_pixels(single, "images"), *panels], ["image", *titles]
    columns = -(-len(panels) // -(-len(panels) // COLUMNS))  # rows of about equal length
    empty = -len(panels) % columns
    panels, titles = panels + [None] * empty, titles + [""] * empty
    grid = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return draw_grid(figure, grid, titles, scales=scales)[0]


def attribute_pair_figure(
    query: Tensor,
    gallery: Tensor,
    query_maps: Tensor,
    gallery_maps: Tensor,
    contributions: Tensor,
    attributes: Sequence[str],
    *,
    top: int = 3,
    title: str = "",
    labels: Tensor | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw why two images are as far apart as they are: which attributes, how much, where.

    Above, the maps of the attributes that contribute most; the two maps of an attribute share a
    color scale. Below, the contributions.

    Args:
        query: Image (3, H, W) in [0, 1].
        gallery: The other image, (3, H, W) in [0, 1], of any size.
        query_maps: Maps A^k of the query, (M, h, w).
        gallery_maps: Maps of the gallery image, (M, h, w).
        contributions: Shares r^k of the distance, (M,), in [0, 1].
        attributes: The M names.
        top: How many attributes to show, at most M; the others are one bar.
        title: Title of the figure, for instance the distance.
        labels: In which attributes the two people truly differ, (M,) bool, for the bars.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit, a value is not finite.

    Source: AMD (Chen et al., ICCV 2021), figure 4.
    """
    check_at_least("top", top, 1)
    check_each("attributes", attributes, list(attributes))  # no text
    check_each("contributions", contributions, attributes)
    shares = check_finite("contributions", contributions).cpu()
    if shares.dim() != 1 or shares.min() < -ROUNDING or shares.max() > 1 + ROUNDING:
        raise InputError("contributions", shares.tolist(), "shares (M,) in [0, 1]")
    order = shares.argsort(descending=True, stable=True)[:top].tolist()
    if labels is not None and (labels.dtype != torch.bool or labels.shape != shares.shape):
        raise InputError("labels", describe(labels), f"({len(attributes)},) bool")
    photos = [image_pixels(query, "query"), image_pixels(gallery, "gallery")]
    columns, scales = [photos], []
    check_each("query_maps", query_maps, attributes)
    check_each("gallery_maps", gallery_maps, attributes)
    for k in order:
        pair = [query_maps[k], gallery_maps[k]]
        over, shared = layers(photos, pair, f"maps of {attributes[k]}", None, shared=True)
        columns.append(over)
        scales += shared[:1]
    titles = ["", *(f"{fill(attributes[k], NAME_WIDTH)}\n{float(shares[k]):.1%}" for k in order)]
    grid = list(zip(*columns, strict=True))
    below = LINE * (8 + sum(0.5 + name.count("\n") for name in [title, *titles]))
    figure, axes = draw_grid(figure, grid, titles, ["query", "gallery"], scales, below)
    axis = figure.add_subplot(axes[0, 0].get_gridspec()[-1, :])
    _draw_bars(axis, shares, attributes, order, labels)
    figure.suptitle(title, fontsize=FONT_SIZE + 1)
    return figure


def _draw_bars(
    axis: Axes, shares: Tensor, names: Sequence[str], order: Sequence[int], labels: Tensor | None
) -> None:
    """Draw a bar per shown attribute, and one for all others."""
    lengths, colors = shares[order].tolist(), [UNMARKED] * len(order)
    notes = [f"{length:.1%}" for length in lengths]
    if labels is not None:
        colors = [DIFFERS if labels[k] else SAME for k in order]
        notes = [f"{float(shares[k]):.1%}, {'differs' if labels[k] else 'same'}" for k in order]
    rows = [fill(names[k], NAME_WIDTH) for k in order]
    others = [k for k in range(len(names)) if k not in order]
    if others:
        lengths.append(float(shares[others].sum()))
        number = "" if labels is None else f", {int(labels[others].sum())} of them differ"
        notes.append(f"{lengths[-1]:.1%}{number}")
        colors.append(OTHERS)
        rows.append(f"{len(others)} others")
    bars = axis.barh(range(len(rows)), lengths, color=colors, height=0.7)
    axis.bar_label(bars, notes, padding=3, fontsize=FONT_SIZE - 1)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlim=(0, max(lengths) or 1), ylim=(len(rows) - 0.5, -0.5))
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    plain(axis, "share of the distance", "")


def _outlined(picture: Array, mask: Tensor) -> Array:
    """Return a picture (H, W, 3) with the outline of a mask (H, W): it shows on every color."""
    if mask.dtype != torch.bool or mask.shape != picture.shape[:2]:
        raise InputError("masks", describe(mask), f"bool of the images' size, {picture.shape[:2]}")
    inside = mask.cpu().numpy()
    drawn: Array = picture.copy()
    drawn[binary_dilation(inside) & ~inside] = 0
    drawn[inside & ~binary_erosion(inside)] = 1
    return drawn
