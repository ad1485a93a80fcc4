"""Maps over their images: one explanation, methods side by side, rank lists; and plain pictures."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.visualization.colors import (
    Array,
    Tensors,
    all_pixels,
    check_each,
    image_pixels,
    layers,
)
from reid_explain.visualization.layout import draw_grid

# Okabe and Ito's colors, apart for every kind of color vision; the titles say it in words.
RIGHT, WRONG = "#009E73", "#D55E00"


def explanation_figure(
    images: Tensors,
    maps: Tensors,
    *,
    titles: Sequence[str] | None = None,
    correct: Sequence[bool | None] | None = None,
    shared_scale: bool = False,
    cmap: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw a pair, or a query and its rank list: each image above itself under its map.

    Args:
        images: N images (3, H, W) in [0, 1]: a batch (N, 3, H, W) or a sequence, of any sizes.
        maps: Their N maps, (N, 1, h, w) or a sequence of (1, h, w) or (h, w).
        titles: N titles, for instance rank and similarity.
        correct: Of each image whether it shows the query's identity, for frame and title, or None.
        shared_scale: One color scale for all maps, so that colors compare between images.
        cmap: Name of a matplotlib colormap; by default the glow of ``overlay``.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit, or ``cmap`` is unknown.
    """
    pixels = all_pixels(images)
    over, scales = layers(pixels, maps, "maps", cmap, shared_scale)
    titles = [""] * len(pixels) if titles is None else titles
    correct = [None] * len(pixels) if correct is None else correct
    check_each("titles", titles, pixels)
    check_each("correct", correct, pixels)
    titles = [title + _verdict(right) for title, right in zip(titles, correct, strict=True)]
    figure, axes = draw_grid(figure, [pixels, over], titles, ["image", "map"], scales)
    for axis, right in zip(axes[0], correct, strict=True):
        _frame(axis, right)
    return figure


def _verdict(right: bool | None) -> str:
    return "" if right is None else "\nright" if right else "\nwrong"


def _frame(axis: Axes, right: bool | None) -> None:
    """Draw the frame of a right or a wrong image of a rank list."""
    if right is not None:
        axis.spines[:].set(visible=True, color=RIGHT if right else WRONG, linewidth=3)


def rank_figure(
    query: Tensor,
    gallery: Tensors,
    similarities: Sequence[float],
    maps: Tensors,
    *,
    correct: Sequence[bool | None] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw a rank list with its margins: by how much, and why, each image is above the next.

    Args:
        query: An image (3, H, W) in [0, 1].
        gallery: K images in their order, (K, 3, H, W) or a sequence of (3, H, W) of any sizes.
        similarities: K numbers that do not increase.
        maps: The query's maps of the K - 1 margins, (K - 1, 1, h, w) or a sequence, as
            explainers return them for ``Margin``. They share one color scale.
        correct: Of each gallery image whether it shows the query's identity, for its frame, or
            None.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range, order or number of items does not fit.
    """
    own, others = image_pixels(query, "query"), all_pixels(gallery)
    correct = [None] * len(others) if correct is None else correct
    check_each("similarities", similarities, others)
    check_each("correct", correct, others)
    margins = [float(a) - float(b) for a, b in pairwise(similarities)]
    if not margins or min(margins) < 0:
        raise InputError("similarities", list(similarities), "at least 2, the highest first")
    over, scales = layers([own] * len(margins), maps, "maps", None, shared=True)
    words = [f"{n}\n{float(s):.3f}" for n, s in enumerate(similarities, 1)]
    titles = ["query", *(t + w for t, w in zip(words, map(_verdict, correct), strict=True))]
    notes = ["", *(f"{n} over {n + 1}\n+{m:.3f}" for n, m in enumerate(margins, 1)), ""]
    grid: list[list[Array | None]] = [[own, *others], [None, *over, None]]
    figure, axes = draw_grid(figure, grid, [*titles, *notes], None, scales)
    for axis, right in zip(axes[0, 1:], correct, strict=True):
        _frame(axis, right)
    return figure


def comparison_figure(
    images: Tensors,
    maps: Mapping[str, Tensors],
    *,
    titles: Sequence[str] | None = None,
    cmap: str | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw methods side by side: one row per image, one column of overlays per method.

    Methods have units of their own, so each map has its own color scale.

    Args:
        images: N images (3, H, W) in [0, 1]: a batch (N, 3, H, W) or a sequence, of any sizes.
        maps: By name, the N maps of a method, (N, 1, h, w) or a sequence of (1, h, w) or (h, w).
        titles: N titles of the images.
        cmap: Name of a matplotlib colormap; by default the glow of ``overlay``.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit, or ``cmap`` is unknown.
    """
    if not maps:
        raise InputError("maps", "no method", "the maps of at least one method")
    columns, scales = [all_pixels(images)], []
    for name in maps:
        over, own = layers(columns[0], maps[name], f"maps[{name!r}]", cmap)
        columns.append(over)
        scales += own
    check_each("titles", columns[0] if titles is None else titles, columns[0])
    grid = list(zip(*columns, strict=True))
    return draw_grid(figure, grid, ["", *maps], titles, scales)[0]


def picture_figure(
    rows: Sequence[Sequence[Tensor | NDArray[np.generic] | None]],
    *,
    titles: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw pictures in rows and columns.

    Args:
        rows: Rows of equal length: images (3, H, W) in [0, 1], arrays (H, W, 3) of bytes or in
            [0, 1], as ``overlay`` returns them, or None for an empty place.
        titles: Titles of the columns.
        row_titles: Titles of the rows.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit.
    """
    lengths = [len(row) for row in rows]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise InputError("rows", lengths, "rows of equal length, at least 1")
    grid = [[image_pixels(p, "rows") if isinstance(p, Tensor) else p for p in row] for row in rows]
    return draw_grid(figure, grid, titles, row_titles)[0]
