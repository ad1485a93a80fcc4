"""Measured values with their intervals: dots, curves, and the log of a training."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from math import isfinite, isinf, isnan
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from reid_explain.errors import InputError
from reid_explain.visualization.layout import CHARACTER, FONT_SIZE, longest_line, plain, sized

# Okabe and Ito's colors, apart for every kind of color vision; the markers are so in gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GRAYS = ("#333333", "#777777", "#AAAAAA")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANEL = 4.2, 3.2  # inches
ROW, SHADE = 0.32, 0.13  # height in inches, opacity
EPOCH, LOSS, RATE = "epoch", "loss", "learning_rate"


class Curve(NamedTuple):
    """Values ``y`` (F,) at places ``x`` (F,), and their bounds if there are; or one point."""

    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


def interval_figure(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    chance: Mapping[str, float] | None = None,
    controls: Collection[str] = (),
    figure: Figure | None = None,
) -> Figure:
    """Draw means with their confidence intervals: a row per name, panels side by side.

    Args:
        panels: By the label of an x axis (what is measured, with its unit) and by name: mean, low
            and high, as ``bootstrap_mean`` returns them, NaN bounds too. A panel may lack names.
        chance: By panel, what a map scores that knows nothing: a dashed line.
        controls: Names to draw in gray.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: There is no interval, or one is not finite or not in order.
    """
    names = _names(panels)
    width = CHARACTER * longest_line(names) + 0.5 + 2.6 * len(panels)
    figure = sized(figure, width, 1.1 + ROW * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, intervals) in zip(axes, panels.items(), strict=True):
        for name, (mean, low, high) in intervals.items():
            if not isfinite(mean) or isinf(low) or isinf(high) or low > high:
                expected = "finite (mean, low, high) with low <= high; NaN for no bounds"
                raise InputError(f"panels[{label!r}][{name!r}]", (mean, low, high), expected)
            style = {"color": GRAYS[1] if name in controls else COLORS[0]}
            axis.hlines(names.index(name), low, high, lw=2, **style)
            axis.plot(mean, names.index(name), "s" if name in controls else "o", ms=5, **style)
        if chance is not None and label in chance:
            line = axis.axvline(chance[label], color="black", ls="--", lw=1, label="chance")
            _legend(axis, [line], "lower left", (0, 1))
        axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axis.grid(axis="x", alpha=0.25)
        plain(axis, label, "")
    return figure


def curves_figure(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    xlabel: str = "",
    ylabel: str = "",
    ticks: Mapping[float, str] | None = None,
    controls: Collection[str] = (),
    dotted: Mapping[str, Mapping[str, Curve]] | None = None,
    dotted_label: str = "",
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draw curves in panels, their intervals shaded; a single point has a bar.

    Args:
        panels: By the title of a panel and the name of a curve. A name looks the same everywhere.
        xlabel: What x is, with the unit.
        ylabel: What y is, with the unit.
        ticks: Names of places on the x axis.
        controls: Names of curves to draw in gray and dashed.
        dotted: By panel and name, further curves, dotted in the color of the name.
        dotted_label: What the dotted curves are, for instance random maps.
        columns: Panels in a row, which share their y axis; all by default.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No curve, or one whose places, values and bounds are not finite (F,).
    """
    styles = _styles(_names(panels), controls)
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    legend = 0.8 + CHARACTER * longest_line([*styles, dotted_label])
    figure = sized(figure, columns * PANEL[0] + legend, rows * PANEL[1])
    grid = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for name, curve in curves.items():
            _draw_curve(axis, f"panels[{title!r}][{name!r}]", curve, styles[name] | {"label": name})
        for name, curve in (dotted or {}).get(title, {}).items():
            look = {"color": styles[name]["color"], "ls": ":"}
            _draw_curve(axis, f"dotted[{title!r}][{name!r}]", curve, look)
        axis.set_title(title, fontsize=FONT_SIZE + 1)
        if ticks is not None:
            axis.set_xticks(list(ticks), list(ticks.values()), rotation=35, ha="right")
        axis.tick_params(labelbottom=True)  # also above a place without a panel
        axis.grid(alpha=0.25)
        plain(axis, xlabel, ylabel if axis in grid[:, 0] else "")
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    if dotted_label:
        handles.append(Line2D([], [], color="black", ls=":", label=dotted_label))
    _legend(grid[0, -1], handles, "upper left", (1.01, 1))
    return figure


def tradeoff_figure(
    points: Mapping[str, Curve],
    *,
    xlabel: str = "",
    ylabel: str = "",
    controls: Collection[str] = (),
    figure: Figure | None = None,
) -> Figure:
    """Draw what each name costs against what it loses, and the front: none is better in both.

    Names stand in the order of their losses, those of the front in bold.

    Args:
        points: By name, its cost x (1,), above 0, on a log scale; its loss y (1,), lower is better,
            with bounds if there are.
        xlabel: What x is, with the unit.
        ylabel: What y is, with the unit.
        controls: Names to draw in gray; they are in no front.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No point, a cost that is not above 0, or one that is no finite point.
    """
    at = {name: _point(f"points[{name!r}]", points[name]) for name in _names({"": points})}
    names = sorted(at, key=lambda name: at[name][1])
    width = PANEL[0] + 1 + CHARACTER * longest_line(names)
    figure = sized(figure, width, max(PANEL[1], 1 + 0.8 * ROW * len(names)))
    axis = figure.subplots()
    axis.set_xscale("log")
    for name, style in _styles(names, controls).items():
        _draw_curve(axis, name, points[name], {**style, "ls": "", "ms": 6, "label": name})
    dots = [*axis.lines]
    able = {name: at[name] for name in names if name not in controls}
    front = {n: p for n, p in able.items() if not any(_better(q, p) for q in able.values())}
    if front:
        steps = zip(*sorted(front.values()), strict=True)
        axis.step(*steps, where="post", color=GRAYS[2], lw=1.5, zorder=0)
    legend = _legend(axis, dots[::-1], "upper left", (1.03, 1.0))
    for text in legend.get_texts():
        text.set_fontweight("bold" if text.get_text() in front else "normal")
    axis.grid(alpha=0.25)
    plain(axis, xlabel, ylabel)
    return figure


def training_figure(log: Sequence[Mapping[str, float]], *, figure: Figure | None = None) -> Figure:
    """Draw the loss and its terms over the epochs, and the learning rate.

    Args:
        log: A row per epoch: ``epoch``, ``loss``, ``learning_rate``, and terms of the loss. A row
            may lack a term, or have NaN. ``seconds`` are not drawn.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No row, one without epoch, loss or learning rate, or a value that is no number.
    """
    for i, row in enumerate(log):
        if {EPOCH, LOSS, RATE} - row.keys() or not all(isinstance(v, Real) for v in row.values()):
            raise InputError(f"log[{i}]", dict(row), f"numbers of {EPOCH}, {LOSS}, {RATE}, ...")
    panels: dict[str, dict[str, Curve]] = {LOSS: {}, RATE: {}}
    measured = [{k: v for k, v in row.items() if k == EPOCH or not isnan(v)} for row in log]
    for name in dict.fromkeys(name for row in measured for name in row):
        rows = [row for row in measured if name in row]
        curve = Curve([row[EPOCH] for row in rows], [row[name] for row in rows])
        if name not in (EPOCH, "seconds"):
            panels[RATE if name == RATE else LOSS][name] = curve
    drawn = curves_figure(panels, xlabel="epoch", columns=1, figure=figure)
    drawn.axes[0].locator_params(axis="x", integer=True, min_n_ticks=1)
    return drawn


def _point(argument: str, curve: Curve) -> tuple[float, float]:
    """Return the cost and the loss of a curve of one point."""
    x, y = (np.asarray(values, dtype=np.float64) for values in curve[:2])
    if x.size != 1 or y.size != 1 or not (np.isfinite(y).all() and np.isfinite(x).all() and x > 0):
        raise InputError(argument, repr(curve), "one finite loss y, at a finite cost x above 0")
    return float(x.item()), float(y.item())


def _better(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether a point (cost, loss) is as low as another in both, and not the same."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def _names(panels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of all panels in order."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if not names:
        raise InputError("panels", "nothing to draw", "at least one panel with a name in it")
    return names


def _styles(names: Sequence[str], controls: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return a line style for each name."""
    colors, grays, markers = cycle(COLORS), cycle(GRAYS), cycle(MARKERS)
    looks = [(next(grays), "--") if name in controls else (next(colors), "-") for name in names]
    return {
        name: {"color": color, "ls": line, "marker": next(markers), "ms": 4}
        for name, (color, line) in zip(names, looks, strict=True)
    }


def _draw_curve(axis: Axes, argument: str, curve: Curve, style: Mapping[str, Any]) -> None:
    given = [np.atleast_1d(np.asarray(values)) for values in curve if values is not None]
    fits = len({values.shape for values in given}) == 1 and given[0].size and given[0].ndim == 1
    if not fits or not np.isfinite(np.array(given[:2], dtype=np.float64)).all():
        raise InputError(argument, repr(curve), "finite numbers (F,) in each field")
    x, y, *more = given
    axis.plot(x, y, **style)
    if len(more) == 2 and len(x) == 1:
        axis.vlines(x, more[0], more[1], color=style["color"], lw=1)
    elif len(more) == 2:
        axis.fill_between(x, more[0], more[1], fc=style["color"], alpha=SHADE, lw=0)


def _legend(
    axis: Axes, handles: Sequence[Line2D], corner: str, place: tuple[float, float]
) -> Legend:
    style: dict[str, Any] = {"loc": corner, "bbox_to_anchor": place, "frameon": False}
    return axis.legend(handles=handles, fontsize=FONT_SIZE - 1, borderaxespad=0, **style)
