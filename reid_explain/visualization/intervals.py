"""Means with their intervals, side by side."""

from collections.abc import Mapping
from math import isfinite

from matplotlib.figure import Figure

from reid_explain.errors import InputError
from reid_explain.visualization.layout import CHARACTER, FONT_SIZE, longest_line, sized

MEAN, CHANCE = "#0072B2", "#666666"
ROW = 0.32  # height in inches


def interval_figure(
    intervals: Mapping[str, tuple[float, float, float]],
    label: str,
    *,
    chance: float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw means with their confidence intervals: one row for each name, in the order given.

    Args:
        intervals: For each name mean, low and high, as ``bootstrap_mean`` returns them.
        label: What the values are, with their unit.
        chance: The value that a map reaches which knows nothing, as a dashed line.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: There is no interval, or one is not finite and in the order low, mean, high.
    """
    if not intervals:
        raise InputError("intervals", "none", "at least one")
    for name, (mean, low, high) in intervals.items():
        if not (isfinite(high - low) and low <= mean <= high):
            expected = "finite (mean, low, high) with low <= mean <= high"
            raise InputError(f"intervals[{name!r}]", (mean, low, high), expected)
    width = 4.5 + CHARACTER * longest_line(list(intervals))
    figure = sized(figure, width, 0.7 + ROW * len(intervals))
    axis = figure.subplots()
    rows = range(len(intervals))
    means, lows, highs = zip(*intervals.values(), strict=True)
    axis.hlines(rows, lows, highs, color=MEAN, linewidth=2)
    axis.plot(means, rows, "o", color=MEAN, ms=5)
    if chance is not None:
        axis.axvline(chance, color=CHANCE, linestyle="--", linewidth=1, zorder=0)
        axis.annotate(
            "chance",
            (chance, 1),
            xytext=(0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            color=CHANCE,
            fontsize=FONT_SIZE - 1,
        )
    axis.set_yticks(rows, list(intervals))
    axis.set_ylim(len(intervals) - 0.5, -0.5)
    axis.set_xlabel(label, fontsize=FONT_SIZE)
    axis.tick_params(labelsize=FONT_SIZE - 1)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
