"""Measured figures with their intervals: curves of means, and one quantity against another.

A measurement is (mean, low, high), the last two the bounds of its interval, as
``reid_explain.metrics.intervals.bootstrap_mean`` returns it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from reid_explain.errors import InputError
from reid_explain.visualization.colours import Array
from reid_explain.visualization.layout import FONT_SIZE, sized
from reid_explain.visualization.training import COLOURS, MARKERS

Measurement = Sequence[float]

GREYS = ("#333333", "#777777", "#AAAAAA")
BAND = "#DDDDDD"
PANEL = 4.2, 3.5  # inches
LEGEND = 1.9
SHADE = 0.13


def curves_figure(
    places: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[Measurement]]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    ticks: Mapping[float, str] | None = None,
    controls: Collection[str] = (),
    bands: Mapping[str, ArrayLike] | None = None,
    band_label: str = "",
    shade: bool = True,
    figure: Figure | None = None,
) -> Figure:
    """Draw curves of means, with their intervals shaded, in panels side by side.

    Args:
        places: Where on the x axis the F measurements of each curve lie.
        panels: By the title of a panel and the name of a curve, F measurements (mean, low, high).
            A name has the same colour in every panel.
        xlabel: What the places are, with the unit.
        ylabel: What is measured, with the unit.
        ticks: Names of places, if they have any.
        controls: Names of curves to draw in grey and dashed.
        bands: By the title of a panel, curves (K, F); the band reaches from the lowest to the
            highest of them at each place.
        band_label: What the bands are, for the legend.
        shade: Whether to draw the intervals; those of many curves hide one another.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No panel or curve, not F finite measurements of three numbers, or a panel
            without a band of finite curves (K, F) where there are bands.
    """
    if not panels or not all(panels.values()):
        raise InputError("panels", "a panel without a curve", "at least one, with a curve in each")
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    styles = dict(zip(names, _styles(names, controls), strict=True))
    figure = sized(figure, len(panels) * PANEL[0] + LEGEND, PANEL[1])
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        if bands is not None:
            band = band_of(bands, title, len(places))
            axis.fill_between(places, band.min(0), band.max(0), color=BAND, label=band_label)
        for name, measurements in curves.items():
            argument = f"panels[{title!r}][{name!r}]"
            mean, low, high = measured(argument, measurements, len(places)).T
            if shade:
                axis.fill_between(places, low, high, fc=styles[name]["color"], alpha=SHADE, lw=0)
            axis.plot(places, mean, label=name, **styles[name])
        axis.set_title(title, fontsize=FONT_SIZE + 1)
        axis.set_xlabel(xlabel, fontsize=FONT_SIZE)
        if ticks is not None:
            axis.set_xticks(list(ticks), list(ticks.values()), rotation=35, ha="right")
        _plain(axis)
    axes[0].set_ylabel(ylabel, fontsize=FONT_SIZE)
    _legend(axes[-1])
    return figure


def scatter_figure(
    points: Mapping[str, tuple[Measurement, Measurement]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    controls: Collection[str] = (),
    figure: Figure | None = None,
) -> Figure:
    """Draw one quantity against another, a point for each name, with both intervals as a cross.

    Args:
        points: By name, the measurements (mean, low, high) of x and of y.
        xlabel: What x is, with the unit.
        ylabel: What y is, with the unit.
        controls: Names of points to draw in grey.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No point, or one that is not twice three finite numbers.
    """
    if not points:
        raise InputError("points", "no point", "at least one")
    figure = sized(figure, PANEL[0] + LEGEND, PANEL[1])
    axis = figure.subplots()
    for (name, point), style in zip(points.items(), _styles(points, controls), strict=True):
        (x, *x_bounds), (y, *y_bounds) = measured(f"points[{name!r}]", point, 2).tolist()
        style = style | {"ls": "", "ms": 7}
        axis.errorbar(x, y, _reach(y, y_bounds), _reach(x, x_bounds), label=name, lw=1, **style)
    axis.set_xlabel(xlabel, fontsize=FONT_SIZE)
    axis.set_ylabel(ylabel, fontsize=FONT_SIZE)
    _plain(axis)
    _cross(axis)
    _legend(axis)
    return figure


def measured(argument: str, measurements: Sequence[Measurement], number: int) -> Array:
    """Return measurements as (number, 3), checked."""
    expected = f"{number} times (mean, low, high), finite"
    try:
        values = np.asarray(measurements, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(argument, repr(measurements), expected) from error
    if values.shape != (number, 3) or not np.isfinite(values).all():
        raise InputError(argument, f"values {values.shape}", expected)
    return values


def band_of(bands: Mapping[str, ArrayLike], title: str, number: int) -> Array:
    """Return the curves (K, number) of one panel's band, checked."""
    curves = np.asarray(bands.get(title, ()), dtype=np.float64)
    if curves.ndim != 2 or curves.shape[1] != number or not np.isfinite(curves).all():
        raise InputError(f"bands[{title!r}]", f"values {curves.shape}", f"finite (K, {number})")
    return curves


def _styles(names: Collection[str], controls: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield a line style for each name."""
    coloured, grey = count(), count()
    for place, name in enumerate(names):
        marker = MARKERS[place % len(MARKERS)]
        if name in controls:
            color, line = GREYS[next(grey) % len(GREYS)], "--"
        else:
            color, line = COLOURS[next(coloured) % len(COLOURS)], "-"
        yield {"color": color, "ls": line, "marker": marker, "ms": 4}


def _reach(mean: float, bounds: Sequence[float]) -> list[list[float]]:
    """Return how far an interval reaches below and above its mean, as matplotlib takes it."""
    return [[max(mean - bounds[0], 0)], [max(bounds[1] - mean, 0)]]


def _plain(axis: Axes) -> None:
    axis.tick_params(labelsize=FONT_SIZE - 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _cross(axis: Axes) -> None:
    """Draw the lines where x and y are 0, if the points lie on both sides of them."""
    for (low, high), line in ((axis.get_xlim(), axis.axvline), (axis.get_ylim(), axis.axhline)):
        if low < 0 < high:
            line(0, color="black", lw=0.8, zorder=0)


def _legend(axis: Axes) -> None:
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=FONT_SIZE - 1, frameon=False)
