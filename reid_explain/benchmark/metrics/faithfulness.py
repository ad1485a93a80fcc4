"""Does the embedding survive on what a map keeps: the FAM paper's figures, and equal areas.

Source: Wu et al., FAM, CVPR 2022, section 4.2. In percent. The views have ``drops``.
"""

from functools import partial
from typing import Any

from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.fills import AREAS, FILLS
from reid_explain.metrics.faithfulness import increase, kept_area

DROPS = {"as_drop": "AS Drop", "ap_drop": "AP Drop"}
PREFIXES = ("", "random_")
"""Of the columns of a method, and of random maps as smooth as its."""


def curve_columns(drop: str, fill: str, prefix: str = "") -> list[str]:
    """Return the columns of a drop at equal areas under one fill, by kept area."""
    return [f"{prefix}{drop}:{fill}:{fraction:g}" for fraction in AREAS]


def _drop(view: Any, drop: str) -> float:
    return float(view.drops(drop, "blur", view.explained))


def _ap_increase(view: Any) -> float:
    before, after = (s.average_precision for s in (view.original, view.explained))
    return 100 * increase(before, after).item()


def _area_matched(view: Any) -> dict[str, float]:
    measured: dict[str, float] = {}
    for key, scores in view.at_equal_areas.items():
        prefix, fill = key.split(":")
        for drop in DROPS:
            values = view.drops(drop, fill, scores).tolist()
            measured |= zip(curve_columns(drop, fill, prefix), values, strict=True)
    return measured


CURVES = tuple(
    column
    for prefix in PREFIXES
    for fill in FILLS
    for drop in DROPS
    for column in curve_columns(drop, fill, prefix)
)
PAPER = ("matches",)
for _name, _title in DROPS.items():
    _measure = partial(_drop, drop=_name)
    METRICS.register(Metric(_name, _measure, better="lower", needs=PAPER, title=_title))
for _metric in (
    Metric("ap_increase", _ap_increase, better="higher", needs=PAPER, title="AP Increase"),
    Metric("kept_area", lambda view: 100 * kept_area(view.mask).item(), needs=("mask",)),
    Metric("area_matched", _area_matched, needs=("map", "matches"), columns=CURVES),
    Metric("seconds", lambda view: view.seconds, unit="s", needs=("seconds",)),
):
    METRICS.register(_metric)
