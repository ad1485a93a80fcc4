"""Maps over their images: one explanation, methods side by side, rank lists; and plain pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.visualization.colors import Tensors, all_pixels, check_each, image_pixels, layers
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
    words = ["" if right is None else "\nright" if right else "\nwrong" for right in correct]
    titles = [title + word for title, word in zip(titles, words, strict=True)]
    figure, axes = draw_grid(figure, [pixels, over], titles, ["image", "map"], scales)
    for axis, right in zip(axes[0], correct, strict=True):
        if right is not None:
            axis.spines[:].set(visible=True, color=RIGHT if right else WRONG, linewidth=3)
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
