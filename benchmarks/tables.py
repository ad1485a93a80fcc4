"""Tables on the screen, and what every results.json says of its making."""

import platform
from collections.abc import Sequence
from typing import Any

import captum
import torch
import torchvision
from methods import CONTROLS

import reid_explain


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
