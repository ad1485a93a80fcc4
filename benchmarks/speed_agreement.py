"""How far Score-FAM's shortcuts are from its exact map on trained networks."""

from collections.abc import Iterator
from typing import Any

import torch
from run_folder import Rows
from scipy.stats import spearmanr
from speed_groupings import GROUPINGS
from speed_report import DROPS
from speed_subjects import Network, Sample
from speed_time import CLUSTERS, activation_of, on
from torch import Tensor

from reid_explain import ScoreFAM
from reid_explain.explainers.landmarks import channel_range, weighted_sum
from reid_explain.fills import unit_range

TOLERANCES = (0.05, 0.02)
GROUPED = (16, 32, 64)
"""The clusters at which groupings are compared."""
DONE = "exact bfloat16"
"""The shortcut that ends the rows of an image."""
AGREEMENT = ("max_abs", "spearman", *DROPS, "forwards")


def compare(
    rows: Rows, name: str, network: Network, sample: Sample, device: str, groupings: bool
) -> None:
    """Write a row for each shortcut on one image; drops are differences, in points."""
    if (name, sample.name, DONE) in rows:
        return
    network, images = on(network, torch.device(device)), sample.images.to(device)
    exact, scores = ScoreFAM(network.model, network.layer).attribute(
        images, interpolate_mode=None, return_scores=True
    )
    own = sample.drops(exact) if sample.drops else {}

    def add(way: str, map_: Tensor, forwards: int) -> None:
        drops = sample.drops(map_) if sample.drops else {}
        apart = {
            figure: 100 * (drops[figure] - own[figure]) if drops else float("nan")
            for figure in DROPS
        }
        row = agreement(exact, map_) | apart | {"forwards": forwards}
        rows.add((name, sample.name, way), row)

    if groupings:
        for found in grouped(network, images, scores):
            add(*found)
    for found in shortcuts(network, images):
        add(*found)


def agreement(exact: Tensor, map_: Tensor) -> dict[str, float]:
    """Return the largest difference of two maps (1, 1, h, w) in [0, 1], and their Spearman."""
    apart = (unit_range(exact) - unit_range(map_)).abs().max()
    ranks = spearmanr(exact.flatten().cpu().numpy(), map_.flatten().cpu().numpy())
    return {"max_abs": apart.item(), "spearman": float(ranks.statistic)}


def shortcuts(network: Network, images: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """Yield each shortcut with its map at the layer's resolution and its masked images."""

    def explained(**options: Any) -> tuple[Tensor, int]:
        seen: list[int] = []
        count = network.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        try:
            explainer = ScoreFAM(network.model, network.layer, **options)
            map_ = explainer.attribute(images, interpolate_mode=None)
        finally:
            count.remove()
        return map_, sum(seen) - 2  # the image and its baseline

    for tolerance in TOLERANCES:
        yield f"tolerance {tolerance}", *explained(tolerance=tolerance)
    for count in CLUSTERS:
        options = {"max_scored_channels": count, "autocast_dtype": torch.bfloat16}
        yield f"{count} clusters bfloat16", *explained(**options)
    yield DONE, *explained(autocast_dtype=torch.bfloat16)


def grouped(network: Network, images: Tensor, scores: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """Yield each grouping of the channels with its map and how many scores it knows."""
    activation = activation_of(network, images)
    live = int((channel_range(activation) > 0).sum())
    for count in GROUPED:
        for way, grouping in GROUPINGS.items():
            guess = grouping(network, images, activation, scores, min(count, live))
            yield f"{count} {way}", weighted_sum(guess, activation).relu(), min(count, live)
