"""How alike maps are: of two methods, two seeds of one, two references, two models.

    python benchmarks/agreement.py --methods ScoreFAM GradFAM
    python benchmarks/agreement.py --methods "AmortizedFAM(head='A')" "AmortizedFAM(head='B')"
    python benchmarks/agreement.py --weights FILE --methods RAM --other FILE --other-methods RAM

The rows: one for each query and method. Columns, Spearman correlations of two maps at the size of
the image:

- ``METHOD``: by this method and by that.
- ``another image``: of this query and of another one; what all maps have in common.
- ``another person``: of the query as similar to a match and as similar to another person, where
  the method takes references; below 1 where the map follows them.
- ``other:METHOD``: by this method and, on the other model, by that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import pandas as pd
from torch import Tensor

from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.benchmark.methods import Explain, all_methods, find_methods
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import cell, interval, layout
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import Record
from reid_explain.errors import InputError
from reid_explain.explainers.layout import upsample
from reid_explain.metrics.similarity import spearman

ANOTHER_IMAGE = "another image"
ANOTHER_PERSON = "another person"


@dataclass(frozen=True, kw_only=True)
class Agreement(Task):
    """How alike maps are: of two methods, two seeds of one, two references, two models.

    Args:
        images: how many queries, chosen at random
        other: weights of another model, which explains the same queries
        other_methods: methods on the other model
    """

    images: int = 16
    other: str | None = None
    other_methods: tuple[str, ...] = ()

    name: ClassVar[str] = "agreement"

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return some queries that have a match, each with another one."""
        check_at_least("images", self.images, 2)
        if (self.other is None) != (not self.other_methods):
            came = f"{list(self.other_methods)}, and {self.other} as the other model"
            raise InputError("other_methods", came, "methods and a model, or neither")
        records = [bench.dataset.query[n] for n in shuffled(bench.matched(), self.seed)]
        chosen = records[: self.images]
        pairs = zip(chosen, chosen[1:] + chosen[:1], strict=True)
        return [Case(bench.name(pair[0]), pair[0].identity, pair) for pair in pairs]

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the other methods and what else a map is compared with."""
        others = [name for name in bench.methods if name != method]
        references = [ANOTHER_PERSON] if bench.methods[method].takes("references") else []
        other_model = [f"other:{name}" for name in self.other_methods]
        return [*others, ANOTHER_IMAGE, *references, *other_model]

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return how alike a method's map of a query is to each of the others."""
        query, another = case.data
        kept: dict[str, Tensor] = bench.current or self._maps(bench, query)
        bench.current = kept
        own = kept[method]
        maps = {name: map_ for name, map_ in kept.items() if name != method}
        maps[ANOTHER_IMAGE] = map_of(bench, another, method)
        found = {name: alike(own, map_) for name, map_ in maps.items()}
        if bench.methods[method].takes("references"):
            match, stranger = bench.match(query), bench.stranger(query, self.seed)
            pair = (map_of(bench, query, method, other) for other in (match, stranger))
            found[ANOTHER_PERSON] = alike(*pair)
        return found

    def _maps(self, bench: Bench, query: Record) -> dict[str, Tensor]:
        """Return the maps of a query by all methods, on the other model, too."""
        maps = {name: map_of(bench, query, name) for name in bench.methods}
        if self.other is not None:
            target, explain = on_other(Path(self.other), self.other_methods)
            second = Bench(target, bench.dataset, bench.group, explain)
            maps |= {f"other:{name}": map_of(second, query, name) for name in self.other_methods}
        return maps

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return the means over the queries, and the least."""
        methods = {
            name: {
                column: {**(interval(own[column]) or {}), "least": float(own[column].min())}
                for column in self.columns(bench, name)
            }
            for name, own in by_method(frame).items()
        }
        lines = [["Spearman of the maps of", "and of", "mean", "least"]]
        for name, found in methods.items():
            for column, value in found.items():
                lines.append([name, column, cell(value, 2), f"{value['least']:.2f}"])
        note = f"{len(cases)} queries, with 95 % intervals over identities"
        return Report({"methods": methods}, f"{layout(lines)}\n{note}")


def map_of(bench: Bench, query: Record, method: str, reference: Record | None = None) -> Tensor:
    """Return the map (1, 1, H, W) of a method, of a pair where it takes one."""
    subject, given = bench.subject(query), {}
    if reference is not None:
        given["references"] = bench.image(reference).to(bench.target.device)
    return bench.full_size(bench.explain[method](subject, interpolate_mode=None, **given))


@cache
def on_other(weights: Path, names: tuple[str, ...]) -> tuple[Target, dict[str, Explain]]:
    """Return another model and methods on it."""
    target = TargetOptions(weights=weights).open()
    methods = find_methods(names, all_methods())
    return target, {name: method.on(target) for name, method in methods.items()}


def alike(one: Tensor, other: Tensor) -> float:
    """Return the Spearman correlation of two maps, the second at the size of the first."""
    size = (one.shape[2], one.shape[3])
    return float(spearman(one, upsample(other, size) if other.shape != one.shape else other))
