"""A query's rank list: what came first, whether it is right, and why it came there."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reid_explain.checks import described
from reid_explain.errors import InputError
from reid_explain.visualization.colours import (
    Tensors,
    all_pixels,
    all_values,
    blend,
    check_one_per_image,
    colour_scale,
    finite,
    image_pixels,
)
from reid_explain.visualization.layout import bar_beside, panel_grid

# Okabe and Ito's colours, apart for every kind of colour vision; the titles say it in words.
RIGHT, WRONG = "#009E73", "#D55E00"


def rank_list_figure(
    query: Tensor,
    gallery: Tensors,
    maps: Tensors,
    scores: Tensor,
    correct: Tensor,
    *,
    ranks: Sequence[int] | None = None,
    score_name: str = "cosine",
    cmap: str | None = None,
    alpha: float = 0.5,
    figure: Figure | None = None,
) -> Figure:
    """Draw a query and images of its rank list, each with its map below.

    The frame of an image says whether it is right. All maps are on one colour scale, from the
    lowest to the highest value of all, so that colours compare along the list.

    Args:
        query: Image (3, H, W) in [0, 1].
        gallery: N images (3, H, W) in [0, 1], the first in rank first: a batch (N, 3, H, W) or a
            sequence, whose sizes may differ.
        maps: Their N maps, (N, 1, h, w) or a sequence of (1, h, w) or (h, w).
        scores: What they were ranked by, (N,).
        correct: Whether each shows the query's identity, (N,) bool.
        ranks: Their N ranks; 1 to N by default.
        score_name: What the scores are.
        cmap: Name of a colormap; by default ``DIVERGING`` for signed maps, else ``SEQUENTIAL``.
        alpha: Share of the map's colour in the overlay, in [0, 1].
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: A shape or range is wrong, a value is NaN or infinite, the numbers of images,
            maps, scores, marks and ranks differ, ``cmap`` is unknown.
    """
    pixels = all_pixels(gallery)
    values = all_values(maps, pixels, "maps")
    check_one_per_image("scores", scores, pixels)
    check_one_per_image("correct", correct, pixels)
    if correct.dtype != torch.bool:
        raise InputError("correct", described(correct), f"({len(pixels)},) bool")
    ranks = range(1, len(pixels) + 1) if ranks is None else ranks
    check_one_per_image("ranks", ranks, pixels)
    marks = [("right", RIGHT) if right else ("wrong", WRONG) for right in correct.tolist()]
    titles = [
        f"{rank}: {mark}\n{score_name} {score:.2f}"
        for rank, (mark, _), score in zip(
            ranks, marks, finite("scores", scores).tolist(), strict=True
        )
    ]
    photo, scale = image_pixels(query, "query"), colour_scale(values, cmap)

    everyone = [photo, *pixels]
    figure, axes = panel_grid(figure, everyone, ["", ""], ["query", *titles], bars_beside=1)
    for axis, pixel in zip(axes[0], everyone, strict=True):
        axis.imshow(pixel)
    for axis, (_, colour) in zip(axes[0, 1:], marks, strict=True):
        _frame(axis, colour)
    for axis, pixel, map_ in zip(axes[1, 1:], pixels, values, strict=True):
        axis.imshow(blend(pixel, map_, scale, alpha))
    bar_beside(axes[1, -1], scale)
    return figure


def _frame(axis: Axes, colour: str) -> None:
    axis.spines[:].set(visible=True, color=colour, linewidth=3)
