"""What the explanation of a pair costs beside one forward and backward pass of its images.

    python benchmarks/pair_cost.py --model bot
    python benchmarks/pair_cost.py --model bot --gallery 100 --pairs 1

All methods explain one query with its gallery images after the other, in turns; the first turn
warms up and does not count. The rows: one for each query and method. Columns:

- ``seconds``: of the explanation.
- ``pass_seconds``: of one forward and backward pass, to the pixels, of the same images, measured
  beside it, in batches that fill the device.
- ``mib``: peak memory of the explanation beyond what was taken before, the model, say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from reid_explain.benchmark.methods import Method, pair_methods
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.speed import device_name, measured
from reid_explain.benchmark.tables import layout
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Bench, Case, Report, Task
from reid_explain.checks import check_at_least
from reid_explain.errors import InputError
from reid_explain.memory_format import images_per_forward


@dataclass(frozen=True, kw_only=True)
class PairCost(Task):
    """What the explanation of a pair costs beside one forward and backward pass of its images.

    Args:
        pairs: number of queries, each of which is a turn; one more warms up
        gallery: number of gallery images that a query is explained with in one call
    """

    pairs: int = 5
    gallery: int = 1

    name: ClassVar[str] = "pair_cost"
    gives: ClassVar[Sequence[str]] = ("seconds", "pass_seconds", "mib")
    untrained: ClassVar[bool] = True

    def known(self) -> dict[str, Method]:
        """Return the methods that explain pairs of places."""
        return pair_methods()

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return the first queries."""
        check_at_least("pairs", self.pairs, 1)
        check_at_least("gallery", self.gallery, 1)
        for argument, wanted, records in (
            ("pairs", self.pairs + 1, bench.dataset.query),
            ("gallery", self.gallery, bench.dataset.gallery),
        ):
            if wanted > len(records):
                raise InputError(argument, f"{wanted} images", f"at most {len(records)}")
        first = bench.dataset.query[: self.pairs + 1]
        return [Case(bench.name(r), r.identity, r) for r in first]

    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return what a method costs on one query."""
        target = bench.target
        query = bench.image(case.data).to(target.device)
        records = bench.dataset.gallery[: self.gallery]
        gallery = torch.cat([bench.image(record) for record in records]).to(target.device)
        explain = partial(bench.methods[method].build(target).explain, query, gallery)
        _, (seconds, _, mib) = measured(explain, target.device)
        images = torch.cat([query, gallery])
        _, (pass_seconds, *_) = measured(partial(one_pass, target, images), target.device)
        return {"seconds": seconds, "pass_seconds": pass_seconds, "mib": mib}

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return medians over the turns, of ratios within them, and the largest memory."""
        counted = by_method(frame[frame["case"] != cases[0].name])
        methods = {
            name: {
                "seconds": float(own["seconds"].median()),
                "passes": float((own["seconds"] / own["pass_seconds"]).median()),
                "mib": float(own["mib"].max()),
            }
            for name, own in counted.items()
        }
        where = device_name(bench.target.device)
        lines = [[f"{bench.target.label}, {where}", "seconds", "÷ passes", "MiB"]]
        lines += [[n, *(f"{value:.3g}" for value in own.values())] for n, own in methods.items()]
        note = f"medians of {len(cases) - 1} queries with {self.gallery} gallery images in one call"
        return Report(
            {"device": where, "gallery": self.gallery, "methods": methods},
            f"{layout(lines)}\n{note}; largest memory",
        )


def one_pass(target: Target, images: Tensor) -> None:
    """Pass images forward and the sum of their embeddings back to the pixels, batch by batch."""
    for batch in torch.split(images, images_per_forward(images)):
        pixels = batch.contiguous(memory_format=torch.channels_last).requires_grad_()
        torch.autograd.grad(target.embedding(pixels).sum(), pixels)
