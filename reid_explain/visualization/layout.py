"""Where things go on a figure: panels with titles, and their colour bars."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reid_explain.errors import InputError
from reid_explain.visualization.colours import Array, Scale

FONT_SIZE = 9  # points
CHARACTER = 0.075  # width in inches
LINE = 0.16  # height in inches
PANEL_AREA = 3.0  # square inches


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a PNG (200 dots per inch) or PDF file, as the suffix says.

    Raises:
        InputError: The suffix is neither ``.png`` nor ``.pdf``.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from matplotlib.figure import Figure
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(), Path(folder, "empty.png"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['empty.png']
    """
    if Path(path).suffix.lower() not in (".png", ".pdf"):
        raise InputError("path", path, "a file name that ends in .png or .pdf")
    figure.savefig(path, dpi=200)


def panel_grid(
    figure: Figure | None,
    pixels: Sequence[Array],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    bars_beside: int,
) -> tuple[Figure, NDArray[np.object_]]:
    """Return a figure of bare titled axes (rows, columns), each with room for its titles."""
    aspect = max(photo.shape[1] / photo.shape[0] for photo in pixels)
    width, height = panel_size(aspect, column_titles)
    height = max(height, CHARACTER * longest_line(row_titles) + 0.1)
    figure = sized(
        figure,
        len(column_titles) * width + 0.25 + 0.75 * bars_beside,
        len(row_titles) * height + 0.35,
    )
    axes: NDArray[np.object_] = figure.subplots(len(row_titles), len(column_titles), squeeze=False)
    for axis in axes.flat:
        bare(axis)
    for axis, title in zip(axes[:, 0], row_titles, strict=True):
        axis.set_ylabel(title, fontsize=FONT_SIZE)
    for axis, title in zip(axes[0], column_titles, strict=True):
        axis.set_title(title, fontsize=FONT_SIZE)
    return figure, axes


def tiles(
    figure: Figure | None, aspect: float, titles: Sequence[str], columns: int, lines_below: int
) -> tuple[Figure, list[Axes]]:
    """Return a figure of bare axes, each with its title, in as many rows as they need.

    ``aspect`` is width over height of a panel, ``lines_below`` the lines of text below each.
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    width, height = panel_size(aspect, titles)
    lines = lines_below + lines_in(titles)
    figure = sized(figure, columns * width + 1.0, rows * (height + LINE * lines) + 0.1)
    # Unlike "constrained", at its place after one drawing where panels have a fixed aspect.
    figure.set_layout_engine("compressed", w_pad=0.06, h_pad=0.06)
    grid = figure.add_gridspec(rows, columns)
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(len(titles))]
    for axis, title in zip(axes, titles, strict=True):
        bare(axis).set_title(title, fontsize=FONT_SIZE)
    return figure, axes


def panel_size(aspect: float, titles: Sequence[str]) -> tuple[float, float]:
    """Return width and height of a panel, in inches, that is as wide as its titles."""
    width = max(sqrt(PANEL_AREA * aspect), CHARACTER * longest_line(titles)) + 0.1
    return width, sqrt(PANEL_AREA / aspect) + 0.1


def sized(figure: Figure | None, width: float, height: float) -> Figure:
    """Return a figure of this size, the one handed in or a new one, that leaves no overlaps."""
    figure = figure or Figure()
    figure.set_size_inches(width, height)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    return figure


def bare(axis: Axes) -> Axes:
    """Take ticks and frame away."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return axis


def lines_in(titles: Sequence[str]) -> int:
    """Return how many lines the highest title has."""
    return max(title.count("\n") + 1 for title in titles)


def longest_line(titles: Sequence[str]) -> int:
    """Return how many characters the longest line has."""
    return max(len(line) for title in titles for line in title.split("\n"))


def bar_beside(axis: Axes, scale: Scale, place: int = 0) -> Colorbar:
    """Add a colour bar right of a panel; ``place`` counts the bars beside the same panel."""
    return _bar(axis, (1.08 + 0.6 * place, 0, 0.1, 1), scale, "vertical")


def bar_below(axis: Axes, scale: Scale) -> None:
    """Add a colour bar below a panel, with its ends as numbers."""
    bar = _bar(axis, (0, -0.07, 1, 0.04), scale, "horizontal")
    low, high = bar.ax.get_xlim()
    bar.set_ticks([low, high], labels=[f"{low:.3g}", f"{high:.3g}"])
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")


def relative_bars(axis: Axes, scales: Sequence[Scale]) -> None:
    """Add a bar right of a panel for each kind of scale, where each map has a scale of its own."""
    kinds = {scale.signed: scale.colormap for scale in scales}
    for place, signed in enumerate(sorted(kinds)):
        relative = Scale(Normalize(-1 if signed else 0, 1), kinds[signed], signed)
        bar = bar_beside(axis, relative, place)
        if signed:
            bar.set_ticks([-1, 0, 1], labels=["-max", "0", "max"])
        else:
            bar.set_ticks([0, 1], labels=["lowest", "highest"])


def _bar(
    axis: Axes,
    bounds: tuple[float, float, float, float],
    scale: Scale,
    orientation: Literal["vertical", "horizontal"],
) -> Colorbar:
    bar_axis = axis.inset_axes(bounds)
    mappable = ScalarMappable(scale.norm, scale.colormap)
    bar = axis.figure.colorbar(mappable, cax=bar_axis, orientation=orientation)
    bar_axis.tick_params(labelsize=FONT_SIZE - 2)
    return bar
