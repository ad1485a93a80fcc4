"""What may fool Extremal FAM: under which fills its lead is real, and what the seed decides.

    python benchmarks/extremal.py
    python benchmarks/extremal.py --dataset market1501 --root DIR --weights FILE --queries 8

The rows: one for each query and method. Columns: gains in points under each fill, and
``agreement``, a correlation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from reid_explain.benchmark.methods import Method, Subject, all_methods
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import cell, interval, layout
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Bench, Case, Report, Task
from reid_explain.checks import check_at_least
from reid_explain.explainers.descent import FILL_KINDS, random_fill
from reid_explain.fills import FILLS, content_generator
from reid_explain.metrics.faithfulness import composite, top_area_masks
from reid_explain.metrics.similarity import spearman

GAINS = (*(f"met: {kind}" for kind in FILL_KINDS), *FILLS)
FILL_SEED = 2**31
"""Of the fills here: another one than any that a method was given."""


@dataclass(frozen=True, kw_only=True)
class Extremal(Task):
    """What may fool Extremal FAM: under which fills its lead is real, and what the seed decides.

    A gain is how much more of the embedding the highest 5 to 70 % of the map keep than those of the
    channel mean: the difference of the cosines with the whole image, in points, under each kind of
    fill that the descents meet (met) and each of the faithfulness benchmark, of which another image
    and shuffled patches are never met. A lead is worth what of it holds under fills that were never
    met. Agreement is the Spearman correlation of the maps of two seeds.

    Args:
        queries: how many, chosen at random
    """

    queries: int = 8

    name: ClassVar[str] = "extremal"
    gives = (*GAINS, "agreement")

    def known(self) -> dict[str, Method]:
        """Return the methods that descend."""
        methods = all_methods().items()
        return {name: method for name, method in methods if method.fact("cost") == "descent"}

    def runs(self, method: Method) -> bool:
        """Run them all."""
        return True

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return some queries, each with an image of another person."""
        check_at_least("queries", self.queries, 1)
        records = bench.dataset.query
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for number in torch.randperm(len(records), generator=generator)[: self.queries].tolist():
            query = records[number]
            others = [r for r in bench.dataset.gallery if r.identity != query.identity]
            other = others[int(torch.randint(len(others), (), generator=generator))]
            found.append(Case(bench.name(query), query.identity, (query, other)))
        return found

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return the gains of a method on one query, and the agreement of two seeds."""
        return gains(bench.target, bench.methods[method], *map(bench.image, case.data))

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return the means over the queries, and the least agreement."""
        methods: dict[str, Any] = {
            name: {
                **{column: interval(own[column]) for column in self.gives},
                "least_agreement": float(own["agreement"].min()),
            }
            for name, own in by_method(frame).items()
        }
        lines = [["gain in points", *methods]]
        lines += [[gain, *(cell(found[gain]) for found in methods.values())] for gain in GAINS]
        lines.append(["agreement", *(cell(found["agreement"], 2) for found in methods.values())])
        lines.append(["least", *(f"{m['least_agreement']:.2f}" for m in methods.values())])
        return Report({"methods": methods}, layout(lines), {})


def gains(target: Target, method: Method, images: Tensor, other: Tensor) -> dict[str, float]:
    """Return the columns of one method on one image (1, 3, H, W)."""
    one, second = (method.on(target, seed=seed)(Subject(images)) for seed in (0, 1))
    mean = all_methods()["ActivationMean"].on(target)(Subject(images))
    generator = content_generator(images[0], FILL_SEED)
    met = {f"met: {kind}": random_fill(images[0], generator, kind)[None] for kind in FILL_KINDS}
    fills = met | {kind: fill(images, other) for kind, fill in FILLS.items()}
    own, reference = (kept(target, map_, images, fills) for map_ in (one, mean))
    leads = {kind: 100 * (own[kind] - reference[kind]) for kind in fills}
    return leads | {"agreement": spearman(one, second).item()}


def kept(
    target: Target, map_: Tensor, images: Tensor, fills: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the mean cosine of an image with what the highest 5 to 70 % of a map keep of it."""
    masks = top_area_masks(map_)[0]
    whole = images.expand(len(masks), -1, -1, -1)
    goal = target.embed(images)
    found = {}
    for kind, fill in fills.items():
        masked = composite(whole, masks, fill.expand_as(whole))
        found[kind] = cosine_similarity(target.embed(masked), goal).mean().item()
    return found
