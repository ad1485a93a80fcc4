"""Panels on a figure, with their titles and one color bar."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import geometric_mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reid_explain.errors import InputError
from reid_explain.visualization.colors import Scale, check_each

FONT_SIZE = 9  # points
CHARACTER, LINE = 0.075, 0.16  # width, height in inches
PANEL_AREA = 3.0  # square inches
PAPER = 0.6  # gray behind a color bar


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG (200 dots per inch) or PDF file, as the suffix says.

    Raises:
        InputError: The suffix is neither ``.png`` nor ``.pdf``.
    """
    if Path(path).suffix.lower() not in (".png", ".pdf"):
        raise InputError("path", path, "a file name that ends in .png or .pdf")
    figure.savefig(path, dpi=200)


def draw_grid(
    figure: Figure | None,
    grid: Sequence[Sequence[NDArray[np.generic] | None]],
    titles: Sequence[str] | None,
    row_titles: Sequence[str] | None = None,
    scales: Sequence[Scale] = (),
    below: float = 0,
) -> tuple[Figure, NDArray[np.object_]]:
    """Draw arrays (H, W, 3) in rows and columns; return the figure and its axes.

    ``titles`` are of the columns or of all places, ``scales`` of the maps in the arrays; ``below``
    is the height in inches of a further row that stays empty. Each row is as high as its array of
    the least aspect needs at the width of a column.
    """
    rows, columns = len(grid), len(grid[0])
    titles = [""] * columns if titles is None else titles
    row_titles = [""] * rows if row_titles is None else row_titles
    if len(titles) != rows * columns:
        check_each("titles", titles, grid[0])
    check_each("row_titles", row_titles, grid)
    aspects = [[a.shape[1] / a.shape[0] for a in row if a is not None] or [0.5] for row in grid]
    panel = sqrt(PANEL_AREA * geometric_mean(aspect for row in aspects for aspect in row))
    width = max(panel, CHARACTER * longest_line(titles)) + 0.1
    least = CHARACTER * longest_line(row_titles)
    heights = [max(panel / min(row), least) + 0.1 for row in aspects]
    lines = LINE * (1 + max(title.count("\n") for title in titles)) * len(titles) / columns
    figure = sized(figure, columns * width + 1 + (below > 0), sum(heights) + lines + 0.1 + below)
    ratios = [height + lines / rows for height in heights] + [below] * (below > 0)
    places = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    axes = np.array([figure.add_subplot(places[k]) for k in range(rows * columns)], dtype=object)
    for axis, array in zip(axes, (array for row in grid for array in row), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        if array is not None:
            axis.imshow(array, interpolation="lanczos")
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=FONT_SIZE)
    for axis, title in zip(axes[::columns], row_titles, strict=True):
        axis.set_ylabel(title, fontsize=FONT_SIZE)
    if scales:
        _color_bar(axes[columns - 1], scales)
    if not below:  # Settled after one drawing where panels have a fixed aspect.
        figure.set_layout_engine("compressed", w_pad=0.06, h_pad=0.06)
    return figure, axes.reshape(rows, columns)


def sized(figure: Figure | None, width: float, height: float) -> Figure:
    """Return a figure of this size, the one handed in or a new one, that leaves no overlaps."""
    figure = figure or Figure()
    figure.set_size_inches(width, height)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    return figure


def longest_line(titles: Sequence[str]) -> int:
    """Return how many characters the longest line has."""
    return max((len(line) for title in titles for line in title.split("\n")), default=0)


def plain(axis: Axes, xlabel: str, ylabel: str) -> None:
    """Label an axis of a chart."""
    axis.set_xlabel(xlabel, fontsize=FONT_SIZE)
    axis.set_ylabel(ylabel, fontsize=FONT_SIZE)
    axis.tick_params(labelsize=FONT_SIZE - 1)
    axis.spines[["top", "right"]].set_visible(False)


def _color_bar(axis: Axes, scales: Sequence[Scale]) -> None:
    """Add one color bar right of a panel: with numbers if all maps share a scale, else words."""
    scale = next((scale for scale in scales if scale.signed), scales[0])
    values = np.linspace(scale.low, scale.high, 256)
    colors = ListedColormap(scale.over(np.full((256, 3), PAPER), values))
    mappable = ScalarMappable(Normalize(scale.low, scale.high), colors)
    bar = axis.figure.colorbar(mappable, cax=axis.inset_axes((1.08, 0, 0.1, 1)))
    bar.ax.tick_params(labelsize=FONT_SIZE - 2)
    if len(scales) == 1 or any(other != scale for other in scales):
        words = {scale.low: "negative", 0.0: "low"} if scale.signed else {scale.low: "low"}
        words[scale.high] = "high"
        bar.set_ticks(list(words), labels=list(words.values()))
