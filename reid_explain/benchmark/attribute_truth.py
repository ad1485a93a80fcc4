"""What no real data set can measure: pairs that differ in one attribute, whose masks are known."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from reid_explain.amd import AMDInterpreter
from reid_explain.benchmark.tables import cell, interval, layout
from reid_explain.inputs import InputSpec
from reid_explain.metrics.localization import area, energy_inside

SMALLEST = 64
"""Pixels that have to change, and that a mask has to have, for a pair to count."""
TOP = 3
ROWS = {
    "first": "that attribute ranks first",
    "top": f"that attribute is in the top {TOP}",
    "contribution": "its contribution",
    "map_energy": "its map inside the true mask",
    "change_energy": "change of its map inside what changed",
}


class OneDifference(NamedTuple):
    """Two images (1, 3, H, W) of one scene that differ in one attribute, and where it shows.

    ``mask`` is where it shows in ``shown``, the one of the two that has it (the first, for
    attributes that show either way), ``change`` where the images differ, both (1, 1, H, W).
    """

    attribute: str
    identity: int
    original: Tensor
    changed: Tensor
    shown: Tensor
    mask: Tensor
    change: Tensor


def one_differences(
    world: Any, per_attribute: int, seed: int, spec: InputSpec
) -> Iterator[OneDifference]:
    """Yield test images with one attribute changed and no other, where both can be seen.

    A color is only taken away: another color put in its place would be a second difference.
    """
    from reid_explain.datasets.synthetic.attributes import toggle

    for number, attribute in enumerate(world.attribute_names):
        order, found = np.random.default_rng([seed, number]).permutation(len(world.query)), 0
        for record in (world.query[index] for index in order.tolist()):
            labels = world.labels[record.identity]
            if found == per_attribute:
                break
            if (np.asarray(toggle(labels, attribute)) != labels).sum() != 1:
                continue
            original, changed, _ = world.counterfactual(record, attribute)
            change = (original.image != changed.image).any(axis=2)
            views = [(view, view.attributes[number]) for view in (original, changed)]
            shown, mask = max(views, key=lambda view: view[1].any())
            if min(change.sum(), mask.sum()) >= SMALLEST:
                found += 1
                drawn = (Image.fromarray(view.image) for view in (original, changed, shown))
                images = (spec.to_tensor(image)[None] for image in drawn)
                regions = (resized(torch.from_numpy(part), spec.size) for part in (mask, change))
                yield OneDifference(attribute, record.identity, *images, *regions)


def resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (..., h, w) as (N, 1, height, width), nearest pixels."""
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).float()
    return functional.interpolate(flat, size, mode="nearest") > 0


def score(interpreter: AMDInterpreter, pair: OneDifference) -> dict[str, float]:
    """Return the scores of one pair, each 0 to 1."""
    k = interpreter.index(pair.attribute)
    found = interpreter.explain(pair.original, pair.changed)
    rank = int((found.contributions[0] > found.contributions[0, k]).sum())
    difference = (found.query_maps - found.gallery_maps)[:, k : k + 1].abs().cpu()
    own = interpreter.attribute(pair.shown, attribute=k).cpu()
    return {
        "first": float(rank == 0),
        "top": float(rank < TOP),
        "contribution": float(found.contributions[0, k]),
        "map_energy": float(energy_inside(own, pair.mask)),
        "mask_area": float(area(pair.mask)),
        "change_energy": float(energy_inside(difference, pair.change)),
        "change_area": float(area(pair.change)),
    }


def scores(interpreter: AMDInterpreter, world: Any, per_attribute: int, seed: int) -> pd.DataFrame:
    """Return the scores of each pair, a row with its attribute, by identity."""
    pairs = one_differences(world, per_attribute, seed, interpreter.spec)
    bar = tqdm(pairs, total=per_attribute * len(world.attribute_names), unit="pair")
    rows = [
        {"identity": pair.identity, "attribute": pair.attribute, **score(interpreter, pair)}
        for pair in bar
    ]
    return pd.DataFrame(rows).set_index("identity")


def summarize(table: pd.DataFrame) -> dict[str, Any]:
    """Return the number of pairs, and the mean of each score in percent with its interval."""
    numbers = table.drop(columns="attribute")
    return {"pairs": len(table), **{name: interval(100 * numbers[name]) for name in numbers}}


def as_table(summary: dict[str, Any], attributes: int) -> str:
    """Return the mean scores beside what chance gives."""
    chance = {"first": 1, "top": TOP, "contribution": 1}
    levels = {name: f"{100 * count / attributes:.1f}" for name, count in chance.items()}
    levels["map_energy"], levels["change_energy"] = (
        cell(summary[name]) for name in ("mask_area", "change_area")
    )
    title = ("pairs that differ in one attribute", f"{summary['pairs']} pairs, %", "chance")
    return layout([title, *((text, cell(summary[k]), levels[k]) for k, text in ROWS.items())])
