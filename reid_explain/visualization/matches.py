"""Two images, and lines between the places that go together."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from matplotlib.text import Text
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.visualization.colors import image_pixels
from reid_explain.visualization.layout import draw_grid

LEAST_WIDTH, MOST_WIDTH, DOT, DIGIT = 0.8, 2.4, 9, 6  # points
MOST_NUMBERED = 20
LUMINANCE, DARK = np.array([0.299, 0.587, 0.114]), 0.55
"""Of red, green and blue; below which a color takes a white number."""


def matches_figure(
    query: Tensor,
    gallery: Tensor,
    matches: Sequence[Tensor],
    grids: Sequence[tuple[int, int]],
    *,
    titles: Sequence[str] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw a pair of images with a line of its own color for each match.

    The ends of up to 20 matches are numbered in their order; the wider a line, the larger its
    contribution. Colors go with the height in the query, so that lines of one part of it look
    alike. Images that are wider than high stand one above the other, and colors go across.

    Args:
        query: An image (3, H, W) in [0, 1].
        gallery: Another, of any size.
        matches: Rows and columns (n, 2) of places in the query and in the gallery image, and
            contributions (n,): an item of :meth:`.PairExplanation.top`.
        grids: Height and width of the maps in which these places are, (h, w) and (h', w').
        titles: Two titles.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape, range or number of items does not fit.
    """
    sides = [image_pixels(query, "query"), image_pixels(gallery, "gallery")]
    places, contributions = matches[:2], matches[2].detach().cpu().double().numpy()
    for each, (h, w) in zip(places, grids, strict=True):
        inside = each.shape == (len(contributions), 2)
        if not inside or not bool(((each >= 0) & (each.cpu() < each.new_tensor([h, w]))).all()):
            expected = f"rows and columns ({len(contributions)}, 2) in {h} x {w} places"
            raise InputError("matches", describe(each), expected)
    stacked = all(side.shape[1] > side.shape[0] for side in sides)
    if stacked:
        figure, axes = draw_grid(figure, [[side] for side in sides], None, titles)
    else:
        figure, axes = draw_grid(figure, [sides], titles)
    along = places[0][:, int(stacked)].cpu().double().numpy()
    colors = matplotlib.colormaps["turbo"](0.05 + 0.9 * _ranks(along))
    ends = axes.ravel()
    largest = np.abs(contributions).max(initial=0) or 1.0
    widths = LEAST_WIDTH + (MOST_WIDTH - LEAST_WIDTH) * np.abs(contributions) / largest
    for number, (color, width) in enumerate(zip(map(to_hex, colors), widths, strict=True)):
        centers = []
        for pixels, each, grid in zip(sides, places, grids, strict=True):
            size = np.array(pixels.shape[:2]) / grid
            y, x = (each[number].cpu().double().numpy() + 0.5) * size - 0.5
            centers.append((x, y))
        first, second = centers
        line = ConnectionPatch(first, second, "data", "data", axesA=ends[0], axesB=ends[1])
        outline = [effects.Stroke(linewidth=width + 1, foreground="white"), effects.Normal()]
        line.set(color=color, linewidth=width, path_effects=outline, in_layout=False, zorder=1)
        figure.add_artist(line)
        text = str(number + 1) if len(colors) <= MOST_NUMBERED else ""
        for axis, center in zip(ends, centers, strict=True):
            for artist in _dot(axis, center, color, text):
                figure.add_artist(artist)
    return figure


def _dot(axis: Axes, center: tuple[float, float], color: str, text: str) -> tuple[Artist, ...]:
    """Return the end of a line with its number; on the figure both are above all lines."""
    x, y = center
    size = DOT if text else DOT * 2 / 3
    place: Any = {"transform": axis.transData, "in_layout": False}
    disk = Line2D([x], [y], marker="o", color=color, ms=size, mec="white", zorder=2, **place)
    ink = "white" if to_rgb(color) @ LUMINANCE < DARK else "black"
    style: Any = {"ha": "center", "va": "center_baseline", "fontsize": DIGIT, "weight": "bold"}
    return disk, Text(x, y, text, color=ink, zorder=3, **place, **style)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values, in [0, 1]."""
    order = values.argsort(kind="stable").argsort(kind="stable")
    return np.asarray(order / max(len(values) - 1, 1))
