"""Whether maps point at the person, and at what differs between two images.

    python benchmarks/localization.py

The rows: one for each image and changed attribute, and method. Columns, in percent:
``person_energy``, ``person_pointing``, ``change_energy``, ``change_pointing``, and chance:
``person_area``, ``change_area``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.benchmark.methods import Subject
from reid_explain.benchmark.metrics import columns_of, find_metrics, measure_all
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import layout, metric_figure, metric_table, summary
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec

SMALLEST_REGION = 64
"""Pixels that have to change for a pair to count: 8 x 8, one cell of the usual layer."""


class Pair(NamedTuple):
    """An image (1, 3, H, W), the same with one attribute changed, a match, the truth, the class."""

    original: Tensor
    changed: Tensor
    match: Tensor
    person: Tensor
    change: Tensor
    classes: Tensor | None


class View(NamedTuple):
    """A method's map of an image and of a difference, and where these lie, all (1, 1, H, W)."""

    map: Tensor
    difference: Tensor
    person: Tensor
    change: Tensor


@dataclass(frozen=True, kw_only=True)
class Localization(Task):
    """Whether maps point at the person, and at what differs between two images.

    The synthetic world knows both: each image comes with the mask of its person, and with a
    counterfactual, the same image with one attribute changed, and the region that changed. Measured
    is the share of a map's energy inside the person, and whether its peak is there; and the same
    for the map of the difference in the changed region. The latter is the absolute change of the
    map when the image changes or, with methods that need one, the reference; a method that
    explains differences is asked for this one (ExtremalFAM). Chance is the region's share of the
    image: what a constant map scores.

    Args:
        pairs: how many for each attribute
        metrics: names or module:NAME; by default all that are registered
    """

    pairs: int = 2
    metrics: tuple[str, ...] = ()

    name: ClassVar[str] = "localization"
    remembers = True

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return query images with each attribute changed, where the change can be seen."""
        check_at_least("pairs", self.pairs, 1)
        world: Any = bench.dataset
        if not hasattr(world, "counterfactual"):
            raise InputError("dataset", world.name, "one that knows the truth: synthetic")
        names = world.attribute_names
        found = []
        for number, attribute in enumerate(names):
            records = shuffled(world.query, self.seed * len(names) + number)
            matched = (record for record in records if bench.match(record) is not None)
            visible = (record for record in matched if _shows(world, record, attribute))
            for record in islice(visible, self.pairs):
                name = f"{record.path.name}:{attribute}"
                found.append(Case(name, record.identity, (record, attribute)))
        return found

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the columns of all metrics."""
        return columns_of(find_metrics(self.metrics, View._fields))

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return what the metrics say of a method's maps of one pair."""
        pair = bench.current = bench.current or pair_of(bench, *case.data)
        view = View(*maps_of(bench, method, pair), pair.person, pair.change)
        return measure_all(find_metrics(self.metrics, View._fields), view)

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent, chance, and the paired lead over chance."""
        metrics = find_metrics(self.metrics, View._fields)
        methods = {
            name: {metric.name: summary(own, metric) for metric in metrics}
            for name, own in by_method(frame).items()
        }
        text = (
            f"{layout(metric_table(methods, metrics, bench.controls, 'in %'))}\n"
            f"[95 % bootstrap interval over the identities of {len(cases)} pairs]; + where the "
            "lead over chance, pair by pair, excludes 0; * control"
        )
        draw = metric_figure(methods, metrics, bench.controls)
        return Report({"pairs": len(cases), "methods": methods}, text, {self.name: draw})


def pair_of(bench: Bench, record: Any, attribute: str) -> Pair:
    """Return the pair of a record and an attribute, as the target takes images."""
    world: Any = bench.dataset
    spec = bench.target.spec
    original, changed, region = world.counterfactual(record, attribute)
    image, other = (spec.to_tensor(Image.fromarray(v.image))[None] for v in (original, changed))
    person, change = (mask_of(mask, spec) for mask in (original.person, region))
    match = bench.match(record)
    assert match is not None
    classes = bench.target.predicted(image)
    return Pair(image, other, bench.image(match), person, change, classes)


def maps_of(bench: Bench, name: str, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return the map of the image and the map of the difference, both (1, 1, H, W)."""
    method, explain = bench.methods[name], bench.explain[name]

    def map_of(images: Tensor, reference: Tensor, **options: Any) -> Tensor:
        return bench.full_size(explain(Subject(images, reference, pair.classes), **options))

    own = map_of(pair.original, pair.match)
    if method.takes("explains"):
        return own, map_of(
            pair.original, pair.match, references=pair.changed, explains="difference"
        )
    if "references" in method.needs:
        before = map_of(pair.original, pair.original)
        return own, (before - map_of(pair.original, pair.changed)).abs()
    return own, (own - map_of(pair.changed, pair.match)).abs()


def _shows(world: Any, record: Any, attribute: str) -> bool:
    original, changed, _ = world.counterfactual(record, attribute)
    return bool((original.image != changed.image).any(axis=2).sum() >= SMALLEST_REGION)


def mask_of(mask: NDArray[np.bool_], spec: InputSpec) -> Tensor:
    """Return a mask (H, W) as ``spec`` fits images, (1, 1, height, width) bool."""
    fitted = spec.fit(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB"))
    return torch.from_numpy(np.asarray(fitted)[None, None, :, :, 0] > 127)
