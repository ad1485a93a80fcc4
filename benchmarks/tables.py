"""Figures with intervals, as tables on the screen and in results.json, which says how made."""

import platform
from collections.abc import Sequence
from typing import Any

import captum
import numpy as np
import torch
import torchvision
from methods import CONTROLS
from numpy.typing import ArrayLike

import reid_explain
from reid_explain.statistics import bootstrap_mean


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def named(method: str) -> str:
    """Return a method's name, marked if it is a control."""
    return method + (" *" if method in CONTROLS else "")


def interval(values: ArrayLike) -> dict[str, Any]:
    """Return the mean of values (n,) with its 95 % bootstrap interval."""
    mean, low, high = bootstrap_mean(torch.from_numpy(np.asarray(values, dtype=np.float64)))
    return {"mean": mean, "interval": [low, high]}


def error_bars(figures: Sequence[dict[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Return the means, and how far each interval reaches below and above, for matplotlib."""
    means = [figure["mean"] for figure in figures]
    bounds = [figure["interval"] for figure in figures]
    below = [mean - low for mean, (low, _) in zip(means, bounds, strict=True)]
    above = [high - mean for mean, (_, high) in zip(means, bounds, strict=True)]
    return means, [below, above]


def cell(value: dict[str, Any] | None, digits: int = 1) -> str:
    """Return a mean with its interval."""
    if value is None:
        return "-"
    low, high = value["interval"]
    return f"{value['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {
        "reid_explain": reid_explain.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "captum": captum.__version__,
        "python": platform.python_version(),
    }
