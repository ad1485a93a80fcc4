"""How a training went."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import isfinite, isnan, nan
from numbers import Real

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reid_explain.errors import InputError
from reid_explain.visualization.layout import FONT_SIZE, sized

EPOCH, LOSS, VALIDATION, RATE = "epoch", "loss", "validation_loss", "learning_rate"
SECONDS = "seconds"
# Okabe and Ito's colours, apart for every kind of colour vision; the markers are so in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = 12


def training_figure(log: Sequence[Mapping[str, float]], *, figure: Figure | None = None) -> Figure:
    """Draw the loss and its terms over the epochs, and the learning rate below.

    Args:
        log: A row per epoch, as ``train_interpreter`` returns them: ``epoch``, ``loss``,
            ``learning_rate`` and, if there are, ``validation_loss`` and ``seconds``; all else
            are terms of the loss. A line has a gap where a row has no value, or NaN.
        figure: Empty figure to draw into, which is resized; a new one by default.

    Raises:
        InputError: No row, a row without epoch, loss or learning rate, or a value that is no
            number.
    """
    _check_log(log)
    columns = {name: [row.get(name, nan) for row in log] for row in log for name in row}
    epochs, loss, rates = (columns.pop(name) for name in (EPOCH, LOSS, RATE))
    validation, seconds = columns.pop(VALIDATION, []), columns.pop(SECONDS, [])

    figure = sized(figure, 7.0, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot(epochs, loss, color="black", marker=".", label=LOSS)
    if any(not isnan(value) for value in validation):
        _draw_validation(above, epochs, validation)
    for (name, values), colour, marker in zip(
        columns.items(), cycle(COLOURS), cycle(MARKERS), strict=False
    ):
        every = -(-len(log) // MARKS)
        above.plot(epochs, values, color=colour, marker=marker, markevery=every, ms=4, label=name)
    below.plot(epochs, rates, color="black", marker=".")
    below.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    _label(above, below, max(rates))
    above.set_title(_duration(len(log), seconds), fontsize=FONT_SIZE + 1)
    return figure


def _draw_validation(axis: Axes, epochs: Sequence[float], losses: Sequence[float]) -> None:
    """Draw the validation loss, and a star where it is lowest."""
    lowest, best = min(
        (loss, epoch) for loss, epoch in zip(losses, epochs, strict=True) if not isnan(loss)
    )
    axis.plot(epochs, losses, "--", color="#666666", marker=".", label=VALIDATION)
    label = f"lowest, epoch {best:g}"
    axis.plot(best, lowest, "*", color="#666666", ms=13, mec="black", label=label, zorder=3)


def _label(losses: Axes, rates: Axes, highest: float) -> None:
    losses.set_ylabel("loss", fontsize=FONT_SIZE)
    losses.set_ylim(bottom=min(0, losses.get_ylim()[0]))
    losses.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=FONT_SIZE - 1, frameon=False)
    rates.set_ylabel("learning\nrate", fontsize=FONT_SIZE)
    rates.set_ylim(0, 1.15 * highest or 1)
    rates.set_yticks([0, highest], labels=["0", f"{highest:.3g}"])
    rates.set_xlabel("epoch", fontsize=FONT_SIZE)
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in (losses, rates):
        axis.tick_params(labelsize=FONT_SIZE - 1)
        axis.spines[["top", "right"]].set_visible(False)


def _duration(epochs: int, seconds: Sequence[float]) -> str:
    """Return how many epochs there were and, if every one was timed, how long they took."""
    text = f"{epochs} epoch{'s' * (epochs != 1)}"
    total = sum(seconds)
    if not seconds or isnan(total):
        return text
    if total < 120:
        return f"{text} in {total:.3g} s"
    return f"{text} in {total / 60:.3g} min" if total < 7200 else f"{text} in {total / 3600:.3g} h"


def _check_log(log: Sequence[Mapping[str, float]]) -> None:
    if len(log) == 0:
        raise InputError("log", "no row", "a row per epoch")
    for i, row in enumerate(log):
        missing = [name for name in (EPOCH, LOSS, RATE) if name not in row]
        if missing:
            raise InputError(f"log[{i}]", f"no {', '.join(missing)}", "epoch, loss, learning_rate")
        for name, value in row.items():
            if not isinstance(value, Real) or (name in (EPOCH, RATE) and not isfinite(value)):
                raise InputError(f"log[{i}][{name!r}]", repr(value), "a number")
