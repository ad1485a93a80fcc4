"""Whether maps are true: what they mark against what interventions do to the embedding.

    python benchmarks/causal.py
    python benchmarks/causal.py --world 1 --images 100 --methods ScoreFAM,GradFAM,Centre,Random

The drawn world can take a part of a person away, set another background, and give the reference
an attribute; all else stays, so the change of the embedding is the effect of that alone. The rows:
one for each image and method. Columns: see ``METRICS``; NaN where an image or a method has no such
value.

Source: Hesse et al., FunnyBirds, ICCV 2023, whose protocols these are, for embeddings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from reid_explain.benchmark.localization import mask_of
from reid_explain.benchmark.methods import Subject
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
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import Record
from reid_explain.errors import InputError
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.metrics.similarity import spearman
from reid_explain.statistics import kendall_w
from reid_explain.vectors import cosine

SMALLEST_PART = 64
"""Pixels of a part that has to be seen: 8 x 8."""
FEWEST_PARTS = 4
"""Parts that an image has to show to be ranked by."""
NO_EFFECT = 0.1
"""A part of no effect: below this share of the largest effect in the image."""
SWAPPED = {"upper": "upper color", "lower": "lower color"}
"""The garments, and the groups of attributes that the references of target sensitivity share."""


class Part(NamedTuple):
    """A part of the person in an image: where it shows (1, 1, H, W), and the image without it."""

    name: str
    shape: Tensor
    without: Tensor


def metric(name: str, better: Any, chance: Any = None, title: str = "") -> Metric:
    """Return a metric of a ``View`` under its method's name, in percent."""
    return Metric(
        name, lambda view: getattr(view, name)(), better=better, chance=chance, title=title
    )


SINGLE = (
    metric("single_deletion", "higher", "area_deletion"),
    metric("preservation", "higher"),
    metric("deletion", "higher"),
    metric("distractibility", "lower", "distractors_area"),
    metric("background", "lower", "background_area"),
)
PAIRED = (
    metric("target_sensitivity", "higher", 50),
    metric("random_reference", "higher", 0),
)
METRICS = (*SINGLE, *PAIRED)


@dataclass(frozen=True, kw_only=True)
class Causal(Task):
    """Whether maps are true: what they mark against what interventions do to the embedding.

    Single deletion: rank correlation of the map's mass on each part of the person with the change
    of what is explained when that part is gone; chance is that of the parts' areas, for large parts
    matter more. Preservation: the cosine that is left when only the
    better half of the parts stays; deletion: the cosine that is lost without that half.
    Distractibility: the share of the parts' mass on parts that change next to nothing. Background:
    the mass on it. Target sensitivity: of two references that share one garment's color each, the
    map for the one has more mass on that garment. Random reference: how much the map changes when
    the reference is another person, 0 for not at all.

    Args:
        images: how many queries, chosen at random
        faithfulness: output folder of faithfulness.py: does its order of methods agree
    """

    images: int = 40
    faithfulness: Path | None = None

    name: ClassVar[str] = "causal"
    remembers = True
    free: ClassVar[tuple[str, ...]] = ("faithfulness",)

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return queries that show enough parts."""
        check_at_least("images", self.images, 1)
        if not hasattr(bench.dataset, "remove"):
            expected = "a world that can intervene: synthetic"
            raise InputError("dataset", bench.dataset.name, expected)
        found: list[Case] = []
        for record in shuffled(bench.dataset.query, self.seed):
            if len(found) == self.images:
                break
            if bench.match(record) is not None and len(removals(bench, record)) >= FEWEST_PARTS:
                found.append(Case(bench.name(record), record.identity, record))
        return found

    def columns(self, bench: Bench, method: str) -> Sequence[str]:
        """Return the names of the metrics, chance and the true effect of the background."""
        pairs = PAIRED if "references" in bench.methods[method].needs else ()
        chance = ("area_deletion", "distractors_area", "background_area", "background_effect")
        return (*(m.name for m in (*SINGLE, *pairs)), *chance)

    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return what interventions say of a method's maps of one image."""
        scene = bench.current = bench.current or Scene(bench, case.data, self.seed)
        view = View(scene, method)
        return {name: float(getattr(view, name)()) for name in self.columns(bench, method)}

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent with chance, and the verdict on each method."""
        tables = by_method(frame)
        methods: dict[str, dict[str, Any]] = {
            name: {m.name: summary(own, m) if m.name in own else None for m in METRICS}
            for name, own in tables.items()
        }
        for name, found in methods.items():
            found["verdict"] = verdict(tables, name, bench.controls)
        lines = metric_table(methods, METRICS, bench.controls, "in %")
        for line, found in zip(lines[1:], methods.values(), strict=False):
            line.append(found["verdict"])
        lines[0].append("single deletion beats")
        lines[-1] += [""] * (len(lines[0]) - len(lines[-1]))
        effect = next(iter(tables.values()))["background_effect"]
        text = (
            f"{layout(lines)}\n[95 % bootstrap interval over the identities of {len(cases)} "
            "images]; + where the lead over chance excludes 0; * control\n"
            f"True effect of another background: {cell(interval(effect))} % of the cosine."
        )
        results: dict[str, Any] = {"images": len(cases), "methods": methods}
        if self.faithfulness is not None:
            results["agreement"] = agreement(methods, self.faithfulness)
            text += "\n" + "\n".join(results["agreement"].values())
        draw = metric_figure(methods, METRICS, bench.controls)
        return Report(results, text, {self.name: draw})


def agreement(methods: Mapping[str, Any], run: Path) -> dict[str, str]:
    """Say how well the order of methods by each metric agrees with that by AS Drop at equal areas.

    Raises:
        InputError: If the folder is no finished run of faithfulness.py.
    """
    try:
        there = json.loads((run / "results.json").read_text(encoding="utf-8"))["methods"]
        drops = {
            name: np.mean(
                [fill["as_drop"]["area"]["mean"] for fill in own["area_matched"].values()]
            )
            for name, own in there.items()
            if all(fill["as_drop"]["area"] for fill in own["area_matched"].values())
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        expected = "the output folder of a finished faithfulness.py"
        raise InputError("faithfulness", f"{run} ({error})", expected) from error
    found = {}
    for metric in SINGLE:
        names = [name for name in methods if name in drops and methods[name][metric.name]]
        if len(names) > 1:
            sign = -1 if metric.better == "lower" else 1
            own = [sign * methods[name][metric.name]["mean"] for name in names]
            w = kendall_w(torch.tensor([own, [-drops[name] for name in names]]))
            found[metric.name] = (
                f"Kendall's W of {metric.title} and AS Drop at equal areas, {len(names)} methods: "
                f"{w:.2f} (0.5 for unrelated orders)"
            )
    return found


def verdict(tables: Mapping[str, pd.DataFrame], name: str, controls: Sequence[str]) -> str:
    """Say which controls a method beats in single deletion, image by image."""
    if name in controls:
        return ""
    own = tables[name]["single_deletion"]
    leads = {c: interval(own - tables[c]["single_deletion"]) for c in controls if c in tables}
    won = [c for c, lead in leads.items() if lead and (lead["interval"][0] or 0) > 0]
    return "all controls" if leads and len(won) == len(leads) else ", ".join(won) or "no control"


def removals(bench: Bench, record: Record) -> dict[str, Any]:
    """Return a record without each part that can be seen, as the world removes it."""
    from reid_explain.datasets.synthetic.truth import PARTS

    world: Any = bench.dataset
    found = {part: world.remove(record, part) for part in PARTS}
    return {part: gone for part, gone in found.items() if gone.shape.sum() >= SMALLEST_PART}


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's correlation of two series; 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)


class Scene:
    """An image (1, 3, H, W), what interventions make of it, and what these do to the embedding."""

    def __init__(self, bench: Bench, record: Record, seed: int) -> None:
        self.bench, self.record, self.world = bench, record, cast(Any, bench.dataset)
        self.spec = bench.target.spec
        rendering = self.world.render(record)
        self.image = self.tensor(rendering.image)
        self.person = mask_of(rendering.person, self.spec)
        self.other = bench.stranger(record, seed)
        self.match = bench.match(record) or record
        self.parts = [
            Part(name, mask_of(gone.shape, self.spec), self.tensor(gone.changed.image))
            for name, gone in removals(bench, record).items()
        ]
        swapped = self.tensor(self.world.swap_background(record, self.other).image)
        whole = [self.image, bench.image(self.match), swapped]
        embeddings = bench.target.embed(torch.cat([*whole, *(p.without for p in self.parts)]))
        (own, match, background), without = embeddings[:3], embeddings[3:]
        self.embedding = own
        self.effects = {
            "embedding": 1 - cosine(without, own[None]),
            "similarity": cosine(own, match) - cosine(without, match[None]),
        }
        self.background_effect = float(1 - cosine(background, own))

    def tensor(self, image: NDArray[np.uint8]) -> Tensor:
        """Return a drawn image as the target takes it, (1, 3, H, W)."""
        return self.spec.to_tensor(Image.fromarray(image))[None]

    @cached_property
    def classes(self) -> Tensor | None:
        """The predicted class (1,) of the image; None without classes."""
        return self.bench.target.predicted(self.image)

    def cosine_without(self, parts: Sequence[str]) -> float:
        """Return the cosine of the embedding with that of the image without some parts."""
        key = tuple(sorted(parts))
        if key not in self._cosines:
            image = self.tensor(self.world.remove(self.record, *key).changed.image)
            embedding = self.bench.target.embed(image)[0]
            self._cosines[key] = float(cosine(embedding, self.embedding))
        return self._cosines[key]

    @cached_property
    def _cosines(self) -> dict[tuple[str, ...], float]:
        return {}

    @cached_property
    def sharing(self) -> dict[str, Tensor]:
        """The other person's image with this person's color of each garment, by part."""
        return {
            part: self.tensor(self.world.intervene(self.other, {group: self.record}).image)
            for part, group in SWAPPED.items()
        }


class View:
    """A method's map of a scene, and what each metric makes of it; in percent."""

    def __init__(self, scene: Scene, method: str) -> None:
        self.scene, self.method = scene, method
        self.needs_reference = "references" in scene.bench.methods[method].needs
        effects = scene.effects["similarity" if self.needs_reference else "embedding"]
        self.effects = effects.numpy()
        self.map = self.map_for(scene.bench.image(scene.match))
        self.areas = np.array([float(area(part.shape)) for part in scene.parts])
        self.mass = np.array([self.mass_on(self.map, part) for part in scene.parts])

    def map_for(self, reference: Tensor) -> Tensor:
        """Return the map (1, 1, H, W) for a reference image."""
        scene = self.scene
        subject = Subject(scene.image, reference, scene.classes)
        map_ = scene.bench.explain[self.method](subject)
        return scene.bench.full_size(map_)

    @staticmethod
    def mass_on(map_: Tensor, part: Part) -> float:
        """Return the share of a map's positive mass on a part."""
        return float(energy_inside(map_, part.shape))

    @cached_property
    def best(self) -> list[str]:
        """The better half of the parts by the map's mass."""
        order = np.argsort(-self.mass, kind="stable")[: (len(self.mass) + 1) // 2]
        return [self.scene.parts[n].name for n in order]

    def single_deletion(self) -> float:
        """Return the rank correlation of mass and effect over the parts, times 100."""
        return 100 * rank_correlation(self.mass, self.effects)

    def area_deletion(self) -> float:
        """Return the rank correlation of area and effect, times 100: a constant map's."""
        return 100 * rank_correlation(self.areas, self.effects)

    def preservation(self) -> float:
        """Return the cosine of the embedding with that of the better half of the parts."""
        rest = [part.name for part in self.scene.parts if part.name not in self.best]
        return 100 * self.scene.cosine_without(rest)

    def deletion(self) -> float:
        """Return how much of the cosine goes with the better half of the parts."""
        return 100 * (1 - self.scene.cosine_without(self.best))

    @property
    def _distractors(self) -> list[bool]:
        return list(np.abs(self.effects) < NO_EFFECT * np.abs(self.effects).max())

    def distractibility(self) -> float:
        """Return the share of the parts' mass on parts of no effect; NaN where all have one."""
        chosen, total = self.mass[self._distractors], self.mass.sum()
        return 100 * float(chosen.sum() / total) if len(chosen) and total > 0 else float("nan")

    def distractors_area(self) -> float:
        """Return the share of the parts' pixels on parts of no effect: chance."""
        chosen = self.areas[self._distractors]
        return 100 * float(chosen.sum() / self.areas.sum()) if len(chosen) else float("nan")

    def background(self) -> float:
        """Return the share of the map's mass off the person."""
        return 100 * float(energy_inside(self.map, ~self.scene.person))

    def background_area(self) -> float:
        """Return the share of the image off the person: chance."""
        return 100 * float(area(~self.scene.person))

    def background_effect(self) -> float:
        """Return how much of the cosine goes with another background."""
        return 100 * self.scene.background_effect

    def target_sensitivity(self) -> float:
        """Return in how many garments the reference that shares it has more of the map there."""
        parts = {part.name: part for part in self.scene.parts}
        maps = {name: self.map_for(image) for name, image in self.scene.sharing.items()}
        won = []
        for name in [name for name in SWAPPED if name in parts]:
            (other,) = [n for n in SWAPPED if n != name]
            own, foil = (self.mass_on(maps[n], parts[name]) for n in (name, other))
            won.append(float(own > foil) + 0.5 * float(own == foil))
        return 100 * float(np.mean(won)) if won else float("nan")

    def random_reference(self) -> float:
        """Return 1 minus the rank correlation of the maps for a match and for somebody else."""
        other = self.map_for(self.scene.bench.image(self.scene.other))
        return 100 * (1 - float(spearman(self.map, other)))
