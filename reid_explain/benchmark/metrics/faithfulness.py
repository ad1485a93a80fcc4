"""Does the embedding survive on what a map keeps: the FAM paper's figures, and equal areas.

In percent. Those that are measured by name only, each beside random maps as smooth as the map:

- ``keeping``: AS Drop when the top pixels are kept, the mean over the areas and fills of
  area_matched: lower is better.
- ``removal``: AS Drop when the top pixels are replaced, likewise: higher is better.
- ``insertion_auc``: area under the similarity to the matches while the top pixels replace the
  blurred image, in percent of the image's own lead over the blurred image.
- ``deletion_auc``: the same while the blurred image replaces the top pixels: lower is better.
- ``road``: AS Drop when the top 5 to 30 % are replaced by noisy linear imputation; alone without
  random maps, for each image is a linear system: higher is better.

Sources: Wu et al., FAM, CVPR 2022, section 4.2; Petsiuk et al., RISE, BMVC 2018 (insertion,
deletion); Rong et al., ROAD, ICML 2022 (imputation).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.fills import AREAS, FILLS
from reid_explain.metrics.faithfulness import area_under_curve, increase, kept_area
from reid_explain.retrieval import RetrievalScores

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
    for key, scores in view.kept_at_equal_areas.items():
        prefix, fill = key.split(":")
        for drop in DROPS:
            values = view.drops(drop, fill, scores).tolist()
            measured |= zip(curve_columns(drop, fill, prefix), values, strict=True)
    return measured


def _mean_drops(view: Any, name: str, scores: Mapping[str, RetrievalScores]) -> dict[str, float]:
    """Return the AS Drop of the map and of the random one, means over fills and areas."""
    drops: dict[str, list[Tensor]] = {prefix: [] for prefix in PREFIXES}
    for key, found in scores.items():
        prefix, fill = key.split(":")
        drops[prefix].append(view.drops("as_drop", fill, found))
    return {f"{prefix}{name}": float(torch.stack(own).mean()) for prefix, own in drops.items()}


def _keeping(view: Any) -> dict[str, float]:
    return _mean_drops(view, "keeping", view.kept_at_equal_areas)


def _removal(view: Any) -> dict[str, float]:
    return _mean_drops(view, "removal", view.at_areas(AREAS, FILLS, removed=True))


def _road(view: Any) -> dict[str, float]:
    scores = view.imputed_at_areas(AREAS[:4])
    return {"road": float(view.drops("as_drop", "blur", scores).mean())}


def _curve(view: Any, name: str, removed: bool) -> dict[str, float]:
    """Return the area under the similarity to the matches, of the map and of the random one."""
    steps = torch.linspace(0, 1, STEPS + 1)
    blank, whole = (s.match_similarity for s in (view.query.blank["blur"], view.original))
    ends = (whole, blank) if removed else (blank, whole)
    measured = {}
    inner = steps[1:-1].tolist()
    for key, scores in view.at_areas(inner, ["blur"], removed=removed).items():
        similarity = torch.cat([ends[0], scores.match_similarity, ends[1]])
        share = (area_under_curve(steps, similarity) - blank) / (whole - blank)
        value = 100 * share.where(whole > blank, torch.nan)
        measured[f"{key.partition(':')[0]}{name}"] = value.item()
    return measured


STEPS = 8
"""Parts of the image that insertion and deletion replace one after the other."""
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
for _name, _of, _better in (
    ("keeping", _keeping, "lower"),
    ("removal", _removal, "higher"),
    ("insertion_auc", partial(_curve, name="insertion_auc", removed=False), "higher"),
    ("deletion_auc", partial(_curve, name="deletion_auc", removed=True), "lower"),
):
    _columns = (_name, f"random_{_name}")
    _given: dict[str, Any] = {"needs": ("map", "matches"), "better": _better, "by_name": True}
    METRICS.register(Metric(_name, _of, chance=_columns[1], columns=_columns, **_given))
METRICS.register(Metric("road", _road, better="higher", needs=("map", "matches"), by_name=True))
for _metric in (
    Metric("ap_increase", _ap_increase, better="higher", needs=PAPER, title="AP Increase"),
    Metric("kept_area", lambda view: 100 * kept_area(view.mask).item(), needs=("mask",)),
    Metric("area_matched", _area_matched, needs=("map", "matches"), columns=CURVES),
    Metric("seconds", lambda view: view.seconds, unit="s", needs=("seconds",)),
):
    METRICS.register(_metric)
