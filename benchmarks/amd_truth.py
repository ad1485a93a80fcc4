"""What no real data set can measure: pairs that differ in one attribute, whose masks are known."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from subjects import as_batch
from tables import cell, interval, layout
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.datasets.synthetic.attributes import toggle
from reid_explain.metrics.localization import area, energy_inside

SMALLEST = 64
"""Pixels that have to change, and that a mask has to have, for a pair to count."""
TOP = 3


class OneDifference(NamedTuple):
    """Two images (1, 3, H, W) of one scene that differ in one attribute, and where it shows.

    ``mask``, (1, 1, H, W), is where the attribute shows in ``shown``, the one of the two images
    that has it (the first, for attributes that show either way).
    """

    attribute: str
    original: Tensor
    changed: Tensor
    shown: Tensor
    mask: Tensor
    change: Tensor


def one_differences(world: SyntheticReID, per_attribute: int, seed: int) -> Iterator[OneDifference]:
    """Yield test images with one attribute changed and no other, where both can be seen.

    A colour is only taken away: another colour put in its place would be a second difference.
    """
    for number, attribute in enumerate(world.attribute_names):
        order = np.random.default_rng([seed, number]).permutation(len(world.query))
        found = 0
        for index in order.tolist():
            if found == per_attribute:
                break
            record = world.query[index]
            labels = world.labels[record.identity]
            if (np.asarray(toggle(labels, attribute)) != labels).sum() != 1:
                continue
            original, changed, _ = world.counterfactual(record, attribute)
            change = (original.image != changed.image).any(axis=2)
            masks = [view.attributes[number] for view in (original, changed)]
            shown, mask = max(
                zip((original, changed), masks, strict=True), key=lambda pair: pair[1].any()
            )
            if min(change.sum(), mask.sum()) < SMALLEST:
                continue
            found += 1
            yield OneDifference(
                attribute,
                *(as_batch(view.image) for view in (original, changed, shown)),
                torch.from_numpy(mask)[None, None],
                torch.from_numpy(change)[None, None],
            )


def score(interpreter: AMDInterpreter, pair: OneDifference) -> dict[str, float]:
    """Return the figures of one pair, each 0 to 1."""
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


def evaluate_truth(
    interpreter: AMDInterpreter, world: SyntheticReID, per_attribute: int, seed: int
) -> list[dict[str, float | str]]:
    """Return one row of figures per pair."""
    total = per_attribute * len(world.attribute_names)
    pairs = tqdm(one_differences(world, per_attribute, seed), total=total, unit="pair")
    return [{"attribute": pair.attribute, **score(interpreter, pair)} for pair in pairs]


def summarise(rows: list[dict[str, float | str]]) -> dict[str, object]:
    """Return the mean of each figure, in percent, with its interval, and the number of pairs."""
    names = [name for name in rows[0] if name != "attribute"]
    figures = {name: interval([100 * float(row[name]) for row in rows]) for name in names}
    return {"pairs": len(rows), **figures}


def as_table(summary: dict[str, object], attributes: int) -> str:
    """Return the figures beside what chance gives."""
    figure = {name: cell(value) for name, value in summary.items() if isinstance(value, dict)}
    lines = [
        ("pairs that differ in one attribute", f"{summary['pairs']} pairs, %", "chance"),
        ("that attribute ranks first", figure["first"], f"{100 / attributes:.1f}"),
        (f"that attribute is in the top {TOP}", figure["top"], f"{100 * TOP / attributes:.1f}"),
        ("its contribution", figure["contribution"], f"{100 / attributes:.1f}"),
        ("its map inside the true mask", figure["map_energy"], figure["mask_area"]),
        ("change of its map inside what changed", figure["change_energy"], figure["change_area"]),
    ]
    return layout(lines)
