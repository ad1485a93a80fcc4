"""Why two images are as far apart as they are: a distance split into attributes."""

from collections.abc import Iterable, Sequence
from math import isfinite
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import check_at_least, check_finite, described
from reid_explain.errors import InputError
from reid_explain.visualization.attributes import (
    ALPHA,
    TITLE_WIDTH,
    attribute_names,
    attribute_rows,
    attribute_shares,
    percent,
)
from reid_explain.visualization.colours import (
    Array,
    blend,
    colour_scale,
    image_pixels,
    map_values,
)
from reid_explain.visualization.layout import (
    FONT_SIZE,
    LINE,
    bar_below,
    bare,
    lines_in,
    panel_size,
    sized,
)

COLUMNS = 8
LABEL_WIDTH = 28  # characters
NARROWEST = 3.6  # inches
# Okabe and Ito's colours, apart for every kind of colour vision.
UNMARKED, DIFFERS, SAME, OTHERS = "#0072B2", "#D55E00", "#56B4E9", "#999999"


def attribute_pair_figure(
    query: Tensor,
    gallery: Tensor,
    query_maps: Tensor,
    gallery_maps: Tensor,
    contributions: Tensor,
    attributes: Sequence[str],
    *,
    top: int = 3,
    distance: float | Tensor | None = None,
    reconstructed: float | Tensor | None = None,
    labels: Tensor | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw why two images are as far apart as they are: which attributes, how much, where.

    Above, the maps of the attributes that contribute most, on both images; the two maps of an
    attribute share a colour scale, so that their colours compare. Below, the contributions.

    Args:
        query: Image (3, H, W) in [0, 1].
        gallery: The other image, (3, H, W) in [0, 1]; its size may differ.
        query_maps: Maps A^k of the query, (M, h, w), upsampled to the image.
        gallery_maps: Maps of the gallery image, (M, h, w).
        contributions: Shares r^k of the distance, (M,), in [0, 1].
        attributes: The M names.
        top: How many attributes to show, those that contribute most first, at most M; the others
            are one bar.
        distance: Distance d of the two images, for the title.
        reconstructed: Sum d̂ of the distances of the attributes, for the title.
        labels: In which attributes the two people truly differ, (M,) bool, for the bars.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of maps,
            contributions, labels and names differ, ``top`` is less than 1.

    Source: AMD (Chen et al., ICCV 2021), figure 4.
    """
    names = attribute_names(attributes)
    check_at_least("top", top, 1)
    shares = attribute_shares("contributions", contributions, names)
    if labels is not None:
        labels = attribute_rows("labels", labels, names, "bool", 1)
    order = shares.argsort(descending=True, stable=True)[:top].tolist()
    sides = [
        _side("query", query, query_maps, names, order),
        _side("gallery", gallery, gallery_maps, names, order),
    ]
    heading = _heading(distance, reconstructed, len(names))
    titles = [f"{fill(names[k], TITLE_WIDTH)}\n{percent(shares[k])}" for k in order]
    bars = _bars(shares, names, order, labels)

    columns = min(len(order), COLUMNS)
    rows = -(-len(order) // columns)
    aspect = max(side.photo.shape[1] / side.photo.shape[0] for side in sides)
    width, height = panel_size(aspect, titles)
    upper = LINE * lines_in([heading]) + rows * (2 * height + LINE * (lines_in(titles) + 2))
    lower = LINE * (4 + len(bars) * (0.5 + lines_in([bar.label for bar in bars])))
    figure = sized(figure, max((1 + columns) * width + 0.3, NARROWEST), upper + lower)
    ratios = (upper, lower)
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)
    axes = above.subplots(2 * rows, 1 + columns, squeeze=False)
    for axis in axes.flat:
        bare(axis)
    for row in range(0, 2 * rows, 2):
        _draw_images(axes[row : row + 2, 0], sides)
    for place, title in enumerate(titles):
        row, column = 2 * (place // columns), 1 + place % columns
        _draw_maps(axes[row : row + 2, column], sides, place, title)
    _draw_bars(below.subplots(), bars)
    if heading:
        figure.suptitle(heading, fontsize=FONT_SIZE + 1)
    return figure


class _Side(NamedTuple):
    """One image of a pair, (H, W, 3), and its maps, (H, W), of the attributes that are shown."""

    name: str
    photo: Array
    maps: list[Array]


class _Bar(NamedTuple):
    label: str
    share: float
    note: str
    colour: str


def _side(
    name: str, image: Tensor, maps: Tensor, names: Sequence[str], order: Sequence[int]
) -> _Side:
    photo = image_pixels(image, name)
    argument = f"{name}_maps"
    maps = check_finite(argument, attribute_rows(argument, maps, names, "float", 3))
    return _Side(name, photo, [map_values(maps[k], photo, argument) for k in order])


def _draw_images(axes: Iterable[Axes], sides: Sequence[_Side]) -> None:
    for axis, side in zip(axes, sides, strict=True):
        axis.imshow(side.photo)
        axis.set_ylabel(side.name, fontsize=FONT_SIZE)


def _draw_maps(axes: NDArray[np.object_], sides: Sequence[_Side], place: int, title: str) -> None:
    """Draw the maps of one attribute on both images, in the same colours."""
    scale = colour_scale([side.maps[place] for side in sides], None)
    for axis, side in zip(axes, sides, strict=True):
        axis.imshow(blend(side.photo, side.maps[place], scale, ALPHA))
    axes[0].set_title(title, fontsize=FONT_SIZE)
    bar_below(axes[1], scale)


def _bars(
    shares: Tensor, names: Sequence[str], order: Sequence[int], labels: Tensor | None
) -> list[_Bar]:
    """Return a bar per shown attribute and one for all others."""
    bars = []
    for k in order:
        label, share = fill(names[k], LABEL_WIDTH), float(shares[k])
        if labels is None:
            bars.append(_Bar(label, share, percent(share), UNMARKED))
        else:
            word, colour = ("differs", DIFFERS) if labels[k] else ("same", SAME)
            bars.append(_Bar(label, share, f"{percent(share)}, {word}", colour))
    others = [k for k in range(len(names)) if k not in order]
    if others:
        share = float(shares[others].sum())
        note = percent(share)
        if labels is not None:
            count = int(labels[others].sum())
            note += f", {count} {'differs' if count == 1 else 'differ'}"
        label = "1 other" if len(others) == 1 else f"{len(others)} others"
        bars.append(_Bar(label, share, note, OTHERS))
    return bars


def _draw_bars(axis: Axes, bars: Sequence[_Bar]) -> None:
    drawn = axis.barh(
        range(len(bars)),
        [bar.share for bar in bars],
        color=[bar.colour for bar in bars],
        height=0.7,
    )
    axis.bar_label(drawn, [bar.note for bar in bars], padding=3, fontsize=FONT_SIZE - 1)
    axis.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axis.set_xlim(0, max(bar.share for bar in bars) or 1)
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axis.set_xlabel("share of the distance", fontsize=FONT_SIZE)
    axis.tick_params(labelsize=FONT_SIZE - 1)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)


def _heading(
    distance: float | Tensor | None, reconstructed: float | Tensor | None, attributes: int
) -> str:
    """Return what the title says of the distance and the sum over the attributes."""
    lines = []
    d = None if distance is None else _length("distance", distance)
    if d is not None:
        lines.append(f"distance {d:.4g}")
    if reconstructed is not None:
        total = _length("reconstructed", reconstructed)
        lines.append(f"sum of {attributes} attributes {total:.4g}")
        if d:
            lines[-1] += f" ({100 * (total / d - 1):+.1f} %)"
    return "\n".join(lines)


def _length(argument: str, value: float | Tensor) -> float:
    expected = "one finite number of at least 0"
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(argument, described(value), expected) from error
    if not (isfinite(number) and number >= 0):
        raise InputError(argument, number, expected)
    return number
