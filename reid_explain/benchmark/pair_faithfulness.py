"""Whether the explanation of a match is true: what is left of the match without what it marks.

    python benchmarks/pair_faithfulness.py
    python benchmarks/pair_faithfulness.py --dataset market1501 --root DIR --weights FILE
    python benchmarks/pair_faithfulness.py --parts auc --queries 500

A query comes with its nearest true match in another camera (the right image), the nearest image of
somebody else (the wrong one), and a true match and an image of somebody else that are equally
similar to it. The rows: one for each query and method. Columns: ``deletion`` and ``keeping``, in
hundredths of the cosine, and ``flips``, in percent, the means over fills of ``MEASURE:FILL``;
``random_`` and these, of random maps as smooth as the method's; ``all``, what deletion and keeping
are of whole images; ``specific``, what deletion loses with maps of the same images for a stranger
as reference; ``auc:SCALAR``, 100 where the true one of the equally similar images has more of it,
50 where as much. NaN where a query has no such images.

Pixels are replaced in one image at a time, beside the other as it is: s is the cosine of the pair,
b that of one image filled and the other whole; deletion is s less the cosine without the marked
pixels, keeping the cosine with them alone less b, and ``all`` s - b; each is a mean over both
sides. Where one fill replaces pixels of both images at once, the fills resemble each other as much
as the images do, and more is kept than there was. With different fills, masks still have the shape
of a person in common.

Methods are those that need references. One whose ``attribute`` takes ``against`` is asked why a
reference is nearer than another; of the rest it is the difference of the maps for both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from reid_explain.benchmark.methods import Method, Subject, all_methods
from reid_explain.benchmark.metrics import Metric
from reid_explain.benchmark.part_to_part import FeatureProduct
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import (
    cell,
    interval,
    layout,
    metric_figure,
    metric_table,
    named,
    summary,
)
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least, check_choice
from reid_explain.datasets.records import Record
from reid_explain.explainers.extremal import ExtremalDescent
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.explainers.score import ScoreWeighting
from reid_explain.fills import AREAS, FILLS
from reid_explain.metrics.faithfulness import composite, random_phase_maps, top_area_masks
from reid_explain.objectives import Cosine, Margin
from reid_explain.retrieval.embedded import relevance
from reid_explain.vectors import cosine

Part = Literal["deletion", "flips", "reference", "auc"]
SPECIFIC = "specific"
"""The column of how much deletion loses with another reference."""
ALL = "all"
"""The column of what deletion and keeping can reach."""
MEASURES: Mapping[Part, Sequence[str]] = {
    "deletion": ("deletion", "keeping"),
    "flips": ("flips",),
    "reference": (),
    "auc": (),
}
REMOVED = AREAS[1:4]
"""Shares of an image that are removed, or kept: 10, 20, 30 %."""
CALIPER = 0.01
"""The most by which similarities differ that count as equal."""
PREFIXES = ("", "random_")
"""Of the columns of a method, and of random maps as smooth as its."""


class OfPairs:
    """An algorithm that is asked why images are alike, or why one is nearer than another."""

    needs = ("references",)
    algorithm: ClassVar[Callable[..., Any]]
    settings: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, forward_func: Any, layer: Any) -> None:
        self.explainer = self.algorithm(forward_func, layer, **self.settings)

    def attribute(
        self,
        inputs: Tensor,
        references: Tensor,
        interpolate_mode: str | None = "bilinear",
        against: Tensor | None = None,
    ) -> Any:
        """Return maps of the cosine to references, or of its margin over that to others."""
        objective = Cosine(references) if against is None else Margin(references, against)
        return self.explainer.attribute(inputs, objective, interpolate_mode=interpolate_mode)


class ScorePair(OfPairs):
    """Score weighting of the cosine, or margin."""

    cost = "channels"
    algorithm = ScoreWeighting


class ExtremalPair(OfPairs):
    """Extremal descent of the cosine, or margin, in its fast setting."""

    cost = "descent"
    algorithm = ExtremalDescent
    settings: ClassVar[Mapping[str, Any]] = {"rounds": 1, "descents": 4}


class ExtremalPairBoth(ExtremalPair):
    """The same, of what areas keep and of what is lost without them."""

    settings: ClassVar[Mapping[str, Any]] = {**ExtremalPair.settings, "effect": "both"}


OWN = (FeatureProduct, ScorePair, ExtremalPair, ExtremalPairBoth)
"""The methods that are of this benchmark alone."""


@dataclass(frozen=True, kw_only=True)
class PairFaithfulness(Task):
    """Whether the explanation of a match is true: what is left without what it marks.

    Deletion: how far the cosine of two images falls when the highest 10, 20 and 30 % of the map of
    one are replaced. Keeping: how far it rises above that of a filled image when they alone stay.
    Both are means over the two sides. Flips: how often a wrong image overtakes the right one when
    what the query's map of their margin marks is replaced. All are means over areas and fills,
    beside random maps as smooth as the method's. Reference: how much less the cosine falls by maps
    of the same images for a stranger; 0 where maps do not depend on what they explain. AUC: how
    often of two equally similar images the right one has more of a scalar of its explanation; 50 is
    chance.

    Args:
        queries: how many, chosen at random
        parts: deletion (and keeping), flips, reference, auc

    Source: Lu et al., Towards visual saliency explanations of face verification, WACV 2024, for
    deletion and insertion in both images of a pair; there they are masked together.
    """

    queries: int = 40
    parts: tuple[Part, ...] = tuple(MEASURES)

    name: ClassVar[str] = "pair_faithfulness"
    free: ClassVar[tuple[str, ...]] = ("parts",)

    def known(self) -> dict[str, Method]:
        """Return the methods that explain pairs, and controls."""
        found = all_methods(*OWN).items()
        return {n: m for n, m in found if m.fact("is_control") or "references" in m.needs}

    def runs(self, method: Method) -> bool:
        """Tell whether a method runs unless told otherwise: those of one pass."""
        return bool(method.fact("cost", "pass") == "pass")

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return queries that have a match."""
        check_at_least("queries", self.queries, 1)
        for part in self.parts:
            check_choice("parts", part, tuple(MEASURES))
        records = bench.dataset.query
        numbers = shuffled(bench.matched(), self.seed)[: self.queries]
        return [Case(bench.name(records[n]), records[n].identity, n) for n in numbers]

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the columns of the parts."""
        measured = [c for m in self._measures for prefix in PREFIXES for c in each(prefix + m)]
        measured += [ALL] * ("deletion" in self.parts)
        measured += each(SPECIFIC) * ("reference" in self.parts)
        scalars = scalars_of(bench.methods[method]) if "auc" in self.parts else ()
        return [*measured, *(f"auc:{name}" for name in scalars)]

    @property
    def _measures(self) -> list[str]:
        return [measure for part in self.parts for measure in MEASURES[part]]

    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return what the parts say of a method's explanations of one query."""
        retrieved = bench.current = bench.current or Retrieved(bench, case.data, self.seed)
        view = View(retrieved, method)
        return {k: v for part in self.parts for k, v in getattr(view, part)().items()}

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent beside random maps, who leads by how much, and AUCs."""
        tables = by_method(frame)
        measures = [_metric(name, f"random_{name}") for name in self._measures]
        specific = [_metric(SPECIFIC, 0)] * ("reference" in self.parts)
        aucs = [_metric(f"auc:{n}", 50, n) for n in SCALARS if "auc" in self.parts]
        metrics = [*measures, *specific, *aucs]
        methods: dict[str, dict[str, Any]] = {
            name: {m.name: summary(own, m) if m.name in own else None for m in metrics}
            for name, own in tables.items()
        }
        rivals = {name: own for name, own in tables.items() if name not in bench.controls}
        leads = {name: lead({n: own[name] for n, own in rivals.items()}) for name in self._measures}
        results: dict[str, Any] = {"queries": len(cases), "methods": methods, "leads": leads}
        text = []
        if measures:
            text += [layout(_beside_random(methods, measures, bench.controls))]
            text += [f"{measure}: {said}" for measure, said in leads.items() if said]
        if "deletion" in self.parts:
            whole = interval(next(iter(tables.values()))[ALL])
            results |= {ALL: whole}
            text += [f"deletion and keeping of all pixels: {cell(whole)}"]
        if specific:
            text += [layout(metric_table(methods, specific, bench.controls))]
        if aucs:
            pairs = int(next(iter(tables.values()))["auc:similarity"].count())
            text += [layout(metric_table(methods, aucs, bench.controls, f"AUC, {pairs} queries"))]
        text.append(
            "Flips and AUC in %, all else in hundredths of the cosine, with 95 % bootstrap "
            f"intervals over the identities of {len(cases)} queries; (random maps of the same "
            "smoothness); + where the lead over these or chance excludes 0; * control"
        )
        draw = metric_figure(methods, metrics, bench.controls)
        return Report(results, "\n".join(text), {self.name: draw})


def _metric(column: str, chance: float | str, title: str = "") -> Metric:
    return Metric(column, itemgetter(column), better="higher", chance=chance, title=title)


def _beside_random(
    methods: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric], controls: Sequence[str]
) -> list[list[str]]:
    """Return the lines of a table of measures, each with that of random maps."""
    lines = [["", *(metric.title for metric in metrics)]]
    for name, found in methods.items():
        own = [found[metric.name] for metric in metrics]
        cells = (f"{cell(v)} ({v['chance']:.1f})" if v else "-" for v in own)
        lines.append([named(name, controls), *cells])
    return lines


def lead(rows: Mapping[str, pd.Series]) -> str:
    """Say which method has the highest mean, and its paired leads over the others, in order."""
    first, *others = sorted(rows, key=lambda name: -rows[name].mean())
    leads = (f"{name} by {cell(interval(rows[first] - rows[name]))}" for name in others)
    return f"{first} leads {', '.join(leads)}" if others else ""


def each(measure: str) -> list[str]:
    """Return the columns of a measure: the mean over fills, and under each."""
    return [measure, *(f"{measure}:{fill}" for fill in FILLS)]


def values(measure: str, shares: Tensor) -> dict[str, float]:
    """Return the columns of a measure, times 100, from numbers (fills, areas)."""
    means = 100 * shares.mean(dim=1)
    return dict(zip(each(measure), [float(means.mean()), *means.tolist()], strict=True))


def equally_similar(right: Tensor, wrong: Tensor) -> tuple[int, int] | None:
    """Return which right and which wrong one have equal similarities, (R,) and (W,), if any.

    It is the highest right one that has a wrong one within ``CALIPER``, and the nearest of these.
    """
    gaps, partners = (right[:, None] - wrong).abs().min(dim=1)
    equal = gaps <= CALIPER
    if not equal.any():
        return None
    place = int(right.where(equal, -torch.inf).argmax())
    return place, int(partners[place])


class Side(NamedTuple):
    """An image (1, 3, H, W), and what may replace its pixels."""

    image: Tensor
    fills: Mapping[str, Tensor]


class Retrieved:
    """A query, the images that it is explained with, and how similar they are."""

    def __init__(self, bench: Bench, number: int, seed: int) -> None:
        self.bench, self.seed = bench, seed + number
        record, gallery = bench.dataset.query[number], bench.dataset.gallery
        own = bench.queries.rows(slice(number, number + 1))
        match, valid = (mask[0] for mask in relevance(own, bench.embedded))
        similarity = cosine(own.embeddings, bench.embedded.embeddings)
        right, wrong = (mask.nonzero()[:, 0] for mask in (match, valid & ~match))
        nearest = [int(rows[similarity[rows].argmax()]) for rows in (right, wrong)]
        self.embedding, self.goals = own.embeddings, bench.embedded.embeddings[nearest]
        self.similarity, other = similarity[nearest].tolist()
        self.is_right = self.similarity > other
        self.records = record, *(gallery[n] for n in nearest)
        self.image = bench.image(record)
        places = equally_similar(similarity[right], similarity[wrong])
        rows = [] if places is None else [int(right[places[0]]), int(wrong[places[1]])]
        self.equal = [(bench.image(gallery[n]), float(similarity[n])) for n in rows]
        """The right and the wrong image that are equally similar, and how much; or nothing."""

    @cached_property
    def query(self) -> Side:
        """The query."""
        return self._side(self.records[0])

    @cached_property
    def right(self) -> Side:
        """The nearest true match."""
        return self._side(self.records[1])

    @cached_property
    def wrong(self) -> Tensor:
        """The nearest image of somebody else."""
        return self.bench.image(self.records[2])

    @cached_property
    def stranger(self) -> Tensor:
        """An image of somebody else at random."""
        return self.bench.image(self.bench.stranger(self.records[0], self.seed))

    def _side(self, record: Record) -> Side:
        image = self.bench.image(record)
        fills = {name: fill(image, self.stranger) for name, fill in FILLS.items()}
        return Side(image, fills)

    @cached_property
    def filled(self) -> Tensor:
        """The cosines (fills,) of either image filled with the other whole, mean over both."""
        images = [torch.cat([*side.fills.values()]) for side in (self.query, self.right)]
        return self.beside_other([self.bench.target.embed(each) for each in images])

    def beside_other(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Return the cosines (...) of what became of the query and of the right image, (..., D).

        It is compared with the other image as it is; the mean over both sides.
        """
        others = self.goals[0], self.embedding[0]
        sides = [
            cosine(each.flatten(0, -2), other[None]).view(each.shape[:-1])
            for each, other in zip(embeddings, others, strict=True)
        ]
        return (sides[0] + sides[1]) / 2

    def random(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return a random map as smooth as each (1, 1, h, w)."""
        return [random_phase_maps(m, [2 * self.seed + n]) for n, m in enumerate(maps)]

    def left(self, side: Side, map_: Tensor, *, keep: bool = False) -> Tensor:
        """Return embeddings (fills, areas, D) without the highest pixels, or with them alone."""
        highest = top_area_masks(self.bench.full_size(map_), REMOVED)[0]
        masks = highest if keep else ~highest
        whole = side.image.expand(len(masks), -1, -1, -1)
        images = [composite(whole, masks, fill.expand_as(whole)) for fill in side.fills.values()]
        return self.bench.target.embed(torch.cat(images)).view(len(images), len(masks), -1)


class View:
    """What each part says of a method's explanations of a query."""

    def __init__(self, retrieved: Retrieved, name: str) -> None:
        self.retrieved, self.bench = retrieved, retrieved.bench
        self.method, self.explain = self.bench.methods[name], self.bench.explain[name]

    def map(self, image: Tensor, reference: Tensor, **options: Any) -> Tensor:
        """Return the map (1, 1, h, w) of an image for a reference: what makes them similar."""
        found: Tensor = self.explain(Subject(image, reference), interpolate_mode=None, **options)
        return -found if self.method.fact("of_distance") else found

    def margin(self) -> Tensor:
        """Return the query's map of why the right image is nearer than the wrong one."""
        found = self.retrieved
        right = found.right.image
        if self.method.takes("against"):
            return self.map(found.image, right, against=found.wrong)
        map_ = self.map(found.image, right)
        return map_ if self.method.fact("is_control") else map_ - self.map(found.image, found.wrong)

    def deletion(self) -> dict[str, float]:
        """Return how far the cosine falls without what a map marks, and rises with that alone."""
        found = self.retrieved
        sides = found.query, found.right
        maps = [self.map(one.image, other.image) for one, other in (sides, sides[::-1])]
        measured = {ALL: 100 * float(found.similarity - found.filled.mean())}
        for prefix, own in zip(PREFIXES, (maps, found.random(maps)), strict=True):
            for name, keep in (("deletion", False), ("keeping", True)):
                ends = [found.left(*end, keep=keep) for end in zip(sides, own, strict=True)]
                left = found.beside_other(ends)
                change = left - found.filled[:, None] if keep else found.similarity - left
                measured |= values(prefix + name, change)
        return measured

    def reference(self) -> dict[str, float]:
        """Return how much less the cosine falls by maps of the same images for a stranger."""
        found = self.retrieved
        sides = found.query, found.right
        left = []
        for others in ((found.right.image, found.image), (found.stranger, found.stranger)):
            maps = [self.map(s.image, other) for s, other in zip(sides, others, strict=True)]
            ends = [found.left(*end) for end in zip(sides, maps, strict=True)]
            left.append(found.beside_other(ends))
        return values(SPECIFIC, left[1] - left[0])

    def flips(self) -> dict[str, float]:
        """Return in how many areas and fills the wrong image overtakes the right one."""
        found = self.retrieved
        if not found.is_right:
            return {c: float("nan") for prefix in PREFIXES for c in each(f"{prefix}flips")}
        maps = [self.margin()]
        measured: dict[str, float] = {}
        for prefix, own in zip(PREFIXES, (maps, found.random(maps)), strict=True):
            left = found.left(found.query, *own)
            right, wrong = (cosine(left, goal) for goal in found.goals)
            measured |= values(f"{prefix}flips", (wrong > right).double())
        return measured

    def auc(self) -> dict[str, float]:
        """Return which scalars are higher for the right one of two equally similar images."""
        found = [self.scalars(*each) for each in self.retrieved.equal]
        if not found:
            return {f"auc:{name}": float("nan") for name in scalars_of(self.method)}
        right, wrong = found
        return {f"auc:{n}": 100.0 * (v > wrong[n]) + 50 * (v == wrong[n]) for n, v in right.items()}

    def scalars(self, image: Tensor, similarity: float) -> dict[str, float]:
        """Return what the explanation of the query with an image comes to, in single numbers."""
        query = self.retrieved.image
        maps = self.map(query, image), self.map(image, query)
        found = {"similarity": similarity, **{n: scalar(*maps) for n, scalar in OF_MAPS.items()}}
        if self.method.of_places:
            sides = (each.to(self.bench.target.device) for each in (query, image))
            explanation = self.method.build(self.bench.target).explain(*sides)
            found |= {name: scalar(explanation) for name, scalar in OF_PLACES.items()}
        return found


def scalars_of(method: Method) -> list[str]:
    """Return the names of the scalars that a method's explanations have."""
    return ["similarity", *OF_MAPS, *(OF_PLACES if method.of_places else ())]


def heights(one: Tensor, other: Tensor) -> float:
    """Return the cosine of what two maps (1, 1, h, w) have in each row, of what is positive."""
    return float(cosine(*(map_.double().clamp_min(0).mean(dim=(0, 1, 3)) for map_ in (one, other))))


def focus(one: Tensor, other: Tensor) -> float:
    """Return how far two maps are from flat: 1 less their mean entropy over its largest value."""
    entropies = []
    for map_ in (one, other):
        shares = map_.double().clamp_min(0).flatten()
        shares = shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
        entropies.append(-torch.xlogy(shares, shares).sum() / math.log(len(shares)))
    return 1 - float(sum(entropies)) / 2


def first_ten(explanation: PairExplanation) -> float:
    """Return how much of the positive contributions the ten strongest matches have."""
    (matches,) = explanation.top(10)
    return float(matches.contributions.sum() / explanation.contributions.clamp_min(0).sum())


def alike(explanation: PairExplanation) -> float:
    """Return the mean affinity of the ten strongest matches."""
    (matches,) = explanation.top(10)
    rows = (*matches.query.unbind(1), *matches.gallery.unbind(1))
    return float(explanation.affinity[0][rows].mean())


OF_MAPS: Mapping[str, Callable[[Tensor, Tensor], float]] = {"heights": heights, "focus": focus}
"""Name -> function of the maps of both images to a number."""
OF_PLACES: Mapping[str, Callable[[PairExplanation], float]] = {
    "first ten": first_ten,
    "alike": alike,
}
"""Name -> function of an explanation of pairs of places to a number."""
SCALARS = ("similarity", *OF_MAPS, *OF_PLACES)
