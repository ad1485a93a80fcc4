"""Whether attributes are true: contributions to a distance against what interventions do to it.

    python benchmarks/causal_attributes.py
    python benchmarks/causal_attributes.py --world 1 --pairs 100 --methods AttributeDirections

Of two people x and y, the effect of an attribute is how much nearer x comes to y when x is given
y's value of it, all else equal. The rows: one for each pair and method. Columns, of each group of
attributes: ``effect:GROUP`` and ``contribution:GROUP``, in percent of the distance;
``first:GROUP`` and ``top3:GROUP``, whether it ranks there where it alone differs; and over the
groups ``spearman``, ``first``, ``error``, ``one_first``, ``one_top3``, in percent. Of methods with
maps, ``inside:GROUP``, how much of a group's map lies on the pixels that its intervention changes,
and ``area:GROUP``, how much of the image those are: chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.amd import AMDInterpreter
from reid_explain.benchmark.causal import rank_correlation
from reid_explain.benchmark.methods import Explainable, Method
from reid_explain.benchmark.metrics import Metric
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import (
    cell,
    interval,
    layout,
    metric_figure,
    metric_table,
    summary,
)
from reid_explain.benchmark.task import Bench, Case, Report, Task
from reid_explain.checks import check_at_least, check_choice
from reid_explain.counterfactual import CounterfactualInterpreter
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record
from reid_explain.directions import AttributeDirections, CounterfactualDirections, membership
from reid_explain.errors import InputError
from reid_explain.explainers.layout import upsample
from reid_explain.fingerprints import probe_images
from reid_explain.registry import Registry
from reid_explain.retrieval import embed_records

FEWEST_GROUPS = 4
"""Groups of attributes that a pair has to differ in, to be ranked by."""
SMALLEST_CHANGE = 16
"""Pixels that an intervention has to change."""
FITTED_IMAGES = 2000
"""Training images that directions are fitted to: at least, and fewer than twice as many."""
MEAN_PAIRS = 60
"""Training pairs whose effects the control has the mean of."""
TOP = 3
KINDS = ("effect", "contribution", "first", "top3", "inside", "area")
"""What the rows have of each group of attributes."""
INSIDE = (("inside", "map where it changes"), ("area", "area of that"))

SHIPPED = Path(str(files("reid_explain"))) / "amd" / "weights" / "directions.safetensors"
"""The counterfactual directions of the shipped model."""


class Decomposed(NamedTuple):
    """Contributions (B, G) of groups to distances, in shares, and where, (B, G, h, w)."""

    contributions: Tensor
    maps: Tensor | None = None


Decompose = Callable[[Tensor, Tensor], Decomposed]
"""Queries and gallery images (B, 3, H, W) -> what makes them differ."""
DECOMPOSERS: Registry[Callable[[Bench], Decompose]] = Registry("reid_explain.decomposers")
"""By name, what makes a function of a pair of images for a bench."""
METRICS = (
    Metric("spearman", float, better="higher", chance=0, title="Spearman within a pair"),
    Metric("first", float, better="higher", chance="first_chance", title="first agrees"),
    Metric("error", float, better="lower"),
    Metric("one_first", float, better="higher", chance="one_chance", title="alone: first"),
    Metric("one_top3", float, better="higher", title="alone: top 3"),
    Metric("inside", float, better="higher", chance="area", title="map where it changes"),
)


def groups_of(world: Any) -> Mapping[str, Sequence[str]]:
    """Return the groups of attributes that a world's interventions change together."""
    from reid_explain.datasets.synthetic import GROUPS

    return GROUPS


class Effects(NamedTuple):
    """A pair, and what interventions do to it.

    ``query`` and ``gallery`` (1, 3, H, W); ``changed`` (N, 3, H, W), the query with N of the
    gallery's values; ``groups`` (N,), which; ``embeddings`` (2 + N, D) of all these images in this
    order; ``effects`` (N,), shares of the distance.
    """

    query: Tensor
    gallery: Tensor
    changed: Tensor
    groups: list[int]
    embeddings: Tensor
    effects: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CausalAttributes(Task):
    """Whether attributes are true: contributions to a distance against what interventions do.

    Within each pair, contributions and effects of the groups that differ are compared: their rank
    correlation, whether the first agrees, the mean absolute error in points. Beside it, the query
    against itself with one group changed: whether that group ranks first, and among the top 3.
    MeanEffect is a control: the mean effects of other people, the same for every pair.

    Args:
        pairs: how many, of different people, chosen at random
    """

    pairs: int = 60

    name: ClassVar[str] = "causal_attributes"

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return pairs of a query and a gallery image of another person."""
        check_at_least("pairs", self.pairs, 1)
        if not hasattr(bench.dataset, "intervene"):
            expected = "a world that can intervene: synthetic"
            raise InputError("dataset", bench.dataset.name, expected)
        pairs = random_pairs(bench.dataset.query, bench.people, self.seed)
        found: list[Case] = []
        for query, gallery in pairs:
            if len(differing(bench, query, gallery)) >= FEWEST_GROUPS:
                name = f"{bench.name(query)}:{bench.name(gallery)}"
                found.append(Case(name, query.identity, (query, gallery)))
            if len(found) == self.pairs:
                break
        return found

    def columns(self, bench: Bench, method: str) -> Sequence[str]:
        """Return the columns over the groups, and those of each."""
        names = groups_of(bench.dataset)
        chance = ("first_chance", "one_chance", "area")
        by_group = [f"{kind}:{name}" for kind in KINDS for name in names]
        return (*(metric.name for metric in METRICS), *chance, *by_group)

    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return what a method says of one pair, beside its effects."""
        pair = bench.current = bench.current or effects_of(bench, *case.data)
        return scores(pair, cast(Any, bench.explain[method]), [*groups_of(bench.dataset)])

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent with chance, and contributions and effects by group."""
        tables, names = by_method(frame), [*groups_of(bench.dataset)]
        methods: dict[str, dict[str, Any]] = {
            name: {m.name: summary(own, m) for m in METRICS} for name, own in tables.items()
        }
        for name, own in tables.items():
            methods[name]["groups"] = {
                group: {kind: interval(own[f"{kind}:{group}"]) for kind in KINDS} for group in names
            }
        first = next(iter(methods.values()))["groups"]
        lines = [["mean contribution, %", "true effect", *methods]]
        for group in names:
            own = (cell(found["groups"][group]["contribution"]) for found in methods.values())
            lines.append([group, cell(first[group]["effect"]), *own])
        further = [lines]
        for kind, title in (("first", "alone: first"), ("top3", "alone: top 3"), *INSIDE):
            rows = [[f"{title}, %", *methods]]
            for group in names:
                rows.append([group, *(cell(m["groups"][group][kind]) for m in methods.values())])
            further.append(rows)
        text = (
            f"{layout(metric_table(methods, METRICS, bench.controls, 'in %'))}\n"
            f"[95 % bootstrap interval over the identities of {len(cases)} pairs]; + where the "
            f"lead over chance excludes 0; * control\n\n"
            + "\n\n".join(layout(rows) for rows in further)
        )
        draw = metric_figure(methods, METRICS, bench.controls)
        return Report({"pairs": len(cases), "methods": methods}, text, {self.name: draw})

    def _choose(self, bench: Bench, wanted: Sequence[Explainable]) -> None:
        """Take the decomposers that suit the target, or those that are wanted."""
        for name in wanted or DECOMPOSERS:
            if ":" not in str(name):
                check_choice("methods", name, [*DECOMPOSERS])
            make = DECOMPOSERS.resolve(str(name))
            try:
                bench.explain[str(name)] = make(bench)
            except InputError as error:
                if wanted:
                    raise
                bench.skipped[str(name)] = str(error)
            else:
                bench.methods[str(name)] = Method(str(name), make)


def random_pairs(
    queries: Sequence[Record], gallery: Sequence[Record], seed: int
) -> list[tuple[Record, Record]]:
    """Return every query once or more, in random order, each with a random other person."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number in torch.randperm(len(queries), generator=generator).tolist() * 4:
        other = gallery[int(torch.randint(len(gallery), (), generator=generator))]
        if other.identity != queries[number].identity:
            pairs.append((queries[number], other))
    return pairs


def differing(bench: Bench, query: Record, gallery: Record) -> list[int]:
    """Return the groups in which two records' people differ, by their labels."""
    labels: Any = bench.dataset.labels
    names = list(bench.dataset.attribute_names)
    one, other = labels[query.identity], labels[gallery.identity]
    return [
        number
        for number, members in enumerate(groups_of(bench.dataset).values())
        if any(one[names.index(name)] != other[names.index(name)] for name in members)
    ]


def effects_of(bench: Bench, query: Record, gallery: Record) -> Effects:
    """Intervene on a query for each group that differs and shows; return the effects."""
    world, spec = cast(Any, bench.dataset), bench.target.spec
    names, original = [*groups_of(world)], world.render(query).image
    changed, groups = [], []
    for number in differing(bench, query, gallery):
        image = world.intervene(query, {names[number]: gallery}).image
        if (image != original).any(axis=2).sum() >= SMALLEST_CHANGE:
            changed.append(spec.to_tensor(Image.fromarray(image)))
            groups.append(number)
    one, other = bench.image(query), bench.image(gallery)
    images = torch.stack(changed) if changed else one[:0]
    embeddings = bench.target.embed(torch.cat([one, other, images]))
    (own, goal), moved = embeddings[:2].double(), embeddings[2:].double()
    distance = (own - goal).norm()
    effects = (distance - (moved - goal).norm(dim=1)) / distance
    return Effects(one, other, images, groups, embeddings, effects.numpy())


def scores(pair: Effects, decompose: Decompose, names: Sequence[str]) -> dict[str, float]:
    """Return the columns of one method on one pair."""
    groups, nan = pair.groups, float("nan")
    found = dict.fromkeys([*(metric.name for metric in METRICS), "area"], nan)
    chance = {"first_chance": 100 / max(len(groups), 1), "one_chance": 100 / len(names)}
    by_group = {f"{kind}:{name}": nan for kind in KINDS for name in names}
    if not groups:
        return {**found, **chance, **by_group}
    decomposed = decompose(pair.query, pair.gallery)
    contributions = decomposed.contributions[0].double().numpy()
    own = contributions[groups]
    found["spearman"] = 100 * rank_correlation(own, pair.effects)
    found["first"] = 100 * float(own.argmax() == pair.effects.argmax())
    found["error"] = 100 * float(np.abs(own - pair.effects).mean())
    alone = decompose(pair.query.expand_as(pair.changed), pair.changed).contributions
    ranks = (alone > alone.gather(1, torch.tensor(groups)[:, None])).sum(1).tolist()
    found["one_first"] = 100 * float(np.mean([rank == 0 for rank in ranks]))
    found["one_top3"] = 100 * float(np.mean([rank < TOP for rank in ranks]))
    inside, area = inside_changes(pair, decomposed.maps)
    found["inside"], found["area"] = 100 * float(inside.mean()), 100 * float(area.mean())
    first, top = ([rank < most for rank in ranks] for most in (1, TOP))
    columns: Any = (pair.effects, own, first, top, inside, area)
    for kind, values in zip(KINDS, columns, strict=True):
        for group, value in zip(groups, values, strict=True):
            by_group[f"{kind}:{names[group]}"] = 100 * float(value)
    return {**found, **chance, **by_group}


def inside_changes(pair: Effects, maps: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the share of maps (1, G, h, w) on the pixels that change, and of the image, (N,)."""
    changed = (pair.changed != pair.query).any(dim=1).float()
    area = changed.mean(dim=(1, 2))
    if maps is None:
        return torch.full_like(area, torch.nan), torch.full_like(area, torch.nan)
    own = upsample(maps[:, pair.groups], (changed.shape[1], changed.shape[2]), "bilinear")[0]
    return (own * changed).sum(dim=(1, 2)) / own.sum(dim=(1, 2)).clamp(min=1e-12), area


def amd(bench: Bench) -> Decompose:
    """Return the contributions of the AMD interpreter of a target, summed by group."""
    interpreter = AMDInterpreter.for_target(bench.target)
    members = membership(interpreter.attributes, groups_of(bench.dataset))

    def decompose(query: Tensor, gallery: Tensor) -> Decomposed:
        found = interpreter.explain(query, gallery, interpolate_mode=None)
        maps = torch.einsum("bmhw,gm->bghw", found.query_maps.cpu(), members)
        return Decomposed(found.contributions.cpu() @ members.T, maps)

    return decompose


def attribute_directions(bench: Bench) -> Decompose:
    """Return the contributions of directions that are fitted to the training split's labels."""
    dataset, groups = bench.dataset, groups_of(bench.dataset)
    step = max(len(dataset.train) // FITTED_IMAGES, 1)
    records = dataset.train[::step]
    labels = record_labels(dataset, records, dataset.attribute_names)
    target = bench.target
    embedded = embed_records(target.embed, dataset, records, spec=target.spec)
    fitted = AttributeDirections.fit(embedded.embeddings, labels, dataset.attribute_names)

    def decompose(query: Tensor, gallery: Tensor) -> Decomposed:
        first, second = (bench.target.embed(images) for images in (query, gallery))
        return Decomposed(fitted.explain(first, second, groups=groups).contributions)

    return decompose


def shipped_directions(bench: Bench) -> CounterfactualDirections:
    """Return the shipped maps, which know the shipped model alone."""
    probes = probe_images(bench.target.spec.size, torch.empty(0))
    try:
        return CounterfactualDirections.load(SHIPPED, fingerprint=bench.target.embed(probes))
    except InputError as error:
        came = f"no directions for {bench.target.label}"
        expected = "the shipped model; python benchmarks/fit_directions.py for another"
        raise InputError("methods", came, expected) from error


def counterfactual_directions(bench: Bench) -> Decompose:
    """Return the contributions of the shipped maps."""
    fitted = shipped_directions(bench)

    def decompose(query: Tensor, gallery: Tensor) -> Decomposed:
        first, second = (bench.target.embed(images) for images in (query, gallery))
        return Decomposed(fitted.explain(first, second).contributions)

    return decompose


def mean_effect(bench: Bench) -> Decompose:
    """Return the mean effects of pairs of the training split: the same for every pair."""
    count = len(groups_of(bench.dataset))
    sums, counts = np.zeros(count), np.zeros(count)
    for query, gallery in random_pairs(bench.dataset.train, bench.dataset.train, 1)[:MEAN_PAIRS]:
        found = effects_of(bench, query, gallery)
        sums[found.groups] += found.effects
        counts[found.groups] += 1
    mean = torch.from_numpy(sums / np.maximum(counts, 1))
    return lambda query, gallery: Decomposed(mean.expand(len(query), -1))


def counterfactual_interpreter(bench: Bench, **settings: Any) -> Decompose:
    """Return the contributions of edits, and where those change the image."""
    interpreter = CounterfactualInterpreter.for_target(bench.target, **settings)

    def decompose(query: Tensor, gallery: Tensor) -> Decomposed:
        device = bench.target.device
        found = interpreter.explain(query.to(device), gallery.to(device))
        return Decomposed(found.contributions.cpu(), found.maps.cpu())

    return decompose


def counterfactual_mean(bench: Bench) -> Decompose:
    """Return the mean of the contributions of edits and of the shipped maps."""
    return counterfactual_interpreter(bench, directions=shipped_directions(bench))


mean_effect.is_control = True  # type: ignore[attr-defined]
for _name, _make in (
    ("AMDInterpreter", amd),
    ("AttributeDirections", attribute_directions),
    ("CounterfactualDirections", counterfactual_directions),
    ("CounterfactualInterpreter", counterfactual_interpreter),
    ("CounterfactualMean", counterfactual_mean),
    ("MeanEffect", mean_effect),
):
    DECOMPOSERS.register(_make, name=_name)
