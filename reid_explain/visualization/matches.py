"""Two images, and lines between the places that go together."""

from collections.abc import Sequence

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.visualization.colors import image_pixels
from reid_explain.visualization.layout import draw_grid

LEAST_WIDTH, MOST_WIDTH, DOT = 0.8, 2.4, 6  # points


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

    Colors go with the height in the query, so that lines of one part of it look alike; the wider
    a line, the larger its contribution.

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
    figure, axes = draw_grid(figure, [sides], titles)
    heights = places[0][:, 0].cpu().double().numpy()
    colors = matplotlib.colormaps["turbo"](0.05 + 0.9 * _ranks(heights))
    largest = np.abs(contributions).max(initial=0) or 1.0
    widths = LEAST_WIDTH + (MOST_WIDTH - LEAST_WIDTH) * np.abs(contributions) / largest
    for number, (color, width) in enumerate(zip(colors, widths, strict=True)):
        centers = []
        for axis, pixels, each, grid in zip(axes[0], sides, places, grids, strict=True):
            size = np.array(pixels.shape[:2]) / grid
            y, x = (each[number].cpu().double().numpy() + 0.5) * size - 0.5
            axis.plot(x, y, "o", color=color, markersize=DOT, markeredgecolor="white", zorder=3)
            centers.append((x, y))
        line = ConnectionPatch(
            centers[0], centers[1], "data", "data", axesA=axes[0][0], axesB=axes[0][1]
        )
        outline = [effects.Stroke(linewidth=width + 1, foreground="white"), effects.Normal()]
        line.set(color=color, linewidth=width, path_effects=outline, in_layout=False)
        figure.add_artist(line)
    return figure


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values, in [0, 1]."""
    order = values.argsort(kind="stable").argsort(kind="stable")
    return np.asarray(order / max(len(values) - 1, 1))
