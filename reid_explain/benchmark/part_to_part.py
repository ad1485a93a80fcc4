"""Whether places that are said to match show the same part of the same person.

    python benchmarks/part_to_part.py --world 1

The same person is drawn in two cameras, and each pixel is known to show a piece of the body or of
what is worn. A place of the layer's map shows the pieces that cover at least a quarter of it, and
mainly the one that covers most of it where the person covers half. The rows: one for each pair of
images and method. Columns, in percent: see ``METRICS``, with their chances: of gallery places drawn
at random for the query places on the person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from reid_explain.benchmark.localization import mask_of
from reid_explain.benchmark.methods import Method, pair_methods
from reid_explain.benchmark.metrics import Metric
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import layout, metric_figure, metric_table, summary
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import Record
from reid_explain.errors import InputError
from reid_explain.explainers.pairs import (
    PairExplainer,
    PairExplanation,
    Places,
    Side,
    inner_products,
)
from reid_explain.vectors import cosine, unit

SHOWN = 0.25
"""Share of a place that a piece has to cover to be among those that it shows."""


def metric(name: str, chance: str | None = None, title: str = "") -> Metric:
    """Return a metric of a ``View`` under its method's name, in percent."""
    return Metric(
        name, lambda view: getattr(view, name)(), better="higher", chance=chance, title=title
    )


METRICS = (
    metric("same_part", "chance"),
    metric("main_part", "main_chance"),
    metric("on_person"),
    metric("nearest", "chance"),
    metric("mass", "chance"),
)


class FeatureCosine(PairExplainer):
    """The control that matches places by the cosine of the layer's features, and by that alone."""

    is_control = True

    def _pairs(self, _sides: Sequence[Side], places: Sequence[Places]) -> PairExplanation:
        first, second = places
        products = inner_products(*(self._weighted(side.vectors) for side in (first, second)))
        return PairExplanation(products, products, cosine(first.embeddings, second.embeddings))

    def _weighted(self, vectors: Tensor) -> Tensor:
        return unit(vectors)


class FeatureProduct(FeatureCosine):
    """Plain products of the layer's features, the similarity of their means.

    Source: Stylianou et al., Visualizing deep similarity networks, WACV 2019.
    """

    is_control = False

    def _weighted(self, vectors: Tensor) -> Tensor:
        length: Tensor = vectors.sum(dim=(1, 2), keepdim=True).norm(dim=3, keepdim=True)
        return vectors / length


@dataclass(frozen=True, kw_only=True)
class PartToPart(Task):
    """Whether places that are said to match show the same part of the same person.

    Of the strongest matches between two images of a person, the share that join places that show
    the same piece of body, clothes or belongings; that whose main pieces are the same; that lie on
    the person at both ends. For each query place on the person: whether its best place in the
    gallery image shows a piece that it shows; and how much of its positive contributions go to
    such places. Matches that are missing count as wrong.

    Args:
        pairs: how many pairs, chosen at random
        k: how many matches of each
    """

    pairs: int = 50
    k: int = 10

    name: ClassVar[str] = "part_to_part"
    gives: ClassVar[Sequence[str]] = (*(m.name for m in METRICS), "chance", "main_chance")

    def known(self) -> dict[str, Method]:
        """Return the methods that explain pairs of places."""
        return pair_methods(FeatureProduct, FeatureCosine)

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return queries with a match in another camera."""
        check_at_least("pairs", self.pairs, 1)
        check_at_least("k", self.k, 1)
        if not hasattr(bench.dataset, "pieces"):
            expected = "one that knows what each pixel shows: synthetic"
            raise InputError("dataset", bench.dataset.name, expected)
        matched = [r for r in shuffled(bench.dataset.query, self.seed) if bench.match(r)]
        return [Case(bench.name(r), r.identity, r) for r in matched[: self.pairs]]

    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return how many of a method's matches join the same parts."""
        match = bench.match(case.data)
        assert match is not None
        query, gallery = (bench.image(r).to(bench.target.device) for r in (case.data, match))
        explanation = bench.methods[method].build(bench.target).explain(query, gallery)
        _, h, w, other_h, other_w = explanation.contributions.shape
        sides = Truth.of(bench, case.data, (h, w)), Truth.of(bench, match, (other_h, other_w))
        view = View(explanation, *sides, self.k)
        return {name: 100 * float(getattr(view, name)()) for name in self.gives}

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent, chance, and the paired lead over chance."""
        methods: dict[str, dict[str, Any]] = {
            name: {m.name: summary(own, m) for m in METRICS}
            for name, own in by_method(frame).items()
        }
        text = (
            f"{layout(metric_table(methods, METRICS, bench.controls, 'in %'))}\n"
            f"[95 % bootstrap interval over the identities of {len(cases)} pairs]; + where the "
            "lead over chance excludes 0; * control"
        )
        draw = metric_figure(methods, METRICS, bench.controls)
        return Report({"pairs": len(cases), "methods": methods}, text, {self.name: draw})


class Truth(NamedTuple):
    """What places show: pieces (Z, pieces) bool, and mainly: the piece (Z,), -1 off the person."""

    shows: Tensor
    main: Tensor

    @classmethod
    def of(cls, bench: Bench, record: Record, places: tuple[int, int]) -> "Truth":
        """Return what a grid of places shows of the person of a record."""
        world: Any = bench.dataset
        spec = bench.target.spec
        masks = [mask_of(mask, spec)[0] for mask in world.pieces(record).values()]
        pieces = adaptive_avg_pool2d(torch.cat(masks).float(), places).flatten(1).T
        person = mask_of(world.render(record).person, spec)[0].float()
        covered = adaptive_avg_pool2d(person, places).flatten()
        return cls(pieces >= SHOWN, pieces.argmax(dim=1).where(covered >= 0.5, -1))


class View:
    """The explanation of one pair against what its places show; shares in [0, 1]."""

    def __init__(self, explanation: PairExplanation, query: Truth, gallery: Truth, k: int) -> None:
        self.explanation, self.k = explanation, k
        self.person = query.main >= 0
        self.shared = (query.shows.float() @ gallery.shows.float().T) > 0
        self.main = (query.main[:, None] == gallery.main) & self.person[:, None]
        self.both = self.person[:, None] & (gallery.main >= 0)
        (matches,) = explanation.top(k)
        rows, columns = explanation.contributions.shape[2], explanation.contributions.shape[4]
        self.query = matches.query.cpu() @ torch.tensor([rows, 1])
        self.gallery = matches.gallery.cpu() @ torch.tensor([columns, 1])

    def same_part(self) -> float:
        """Return how many matches join places that show a piece in common."""
        return self._of_matches(self.shared)

    def main_part(self) -> float:
        """Return how many matches join places whose main piece is the same."""
        return self._of_matches(self.main)

    def on_person(self) -> float:
        """Return how many matches lie on the person at both ends."""
        return self._of_matches(self.both)

    def nearest(self) -> float:
        """Return for how many places on the person the best gallery place shares a piece."""
        best = self.explanation.affinity.cpu().flatten(3).flatten(1, 2)[0].argmax(dim=1)
        right = self.shared.gather(1, best[:, None])[:, 0]
        return float(right[self.person].float().mean())

    def mass(self) -> float:
        """Return how much of the positive contributions of the person join a common piece."""
        table = self.explanation.contributions.cpu().flatten(3).flatten(1, 2)[0]
        positive = table.clamp(min=0)[self.person].double()
        return float((positive * self.shared[self.person]).sum() / positive.sum())

    def chance(self) -> float:
        """Return how many gallery places share a piece with a query place on the person."""
        return float(self.shared[self.person].float().mean())

    def main_chance(self) -> float:
        """Return how many gallery places have the main piece of a query place on the person."""
        return float(self.main[self.person].float().mean())

    def _of_matches(self, right: Tensor) -> float:
        return float(right[self.query, self.gallery].sum()) / self.k
