"""How faithful are maps: the FAM paper's table 2, with controls, at equal areas.

    python benchmarks/faithfulness.py
    python benchmarks/faithfulness.py --dataset market1501 --root DIR --weights FILE
    torchrun --nproc_per_node 2 benchmarks/faithfulness.py ...

The rows: one for each query and method. Columns, in percent (0 to 100) but for ``seconds``:
``as_drop``, ``ap_drop``, ``ap_increase``, ``kept_area``; ``DROP:FILL:AREA``, a drop when the top
AREA of the pixels are kept and the rest is the fill; ``random_DROP:FILL:AREA``, that of random
maps as smooth as the method's; ``seconds`` for a map. NaN where a query has no value.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from reid_explain.benchmark.faithfulness_report import report
from reid_explain.benchmark.methods import FullImage, Method, Subject, all_methods
from reid_explain.benchmark.metrics import columns_of, find_metrics, measure_all
from reid_explain.benchmark.remembered import digest
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.fills import AREAS, FILLS
from reid_explain.metrics.faithfulness import (
    composite,
    drop,
    explanation_mask,
    random_phase_maps,
    top_area_masks,
)
from reid_explain.metrics.imputation import imputed
from reid_explain.retrieval import Embedded, RetrievalScores

SCORES = {"as_drop": "match_similarity", "ap_drop": "average_precision"}
"""What of a query's retrieval each drop is the loss of."""
OFFERS = ("map", "mask", "matches", "fills", "seconds")
SYNTHETIC_QUERIES = 40
"""Queries of a run without arguments: it stays under five minutes on two cores."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Task):
    """How faithful are maps: the FAM paper's table 2, with controls, at equal areas.

    The paper's figures (AS Drop, AP Drop, AP Increase) reward maps that keep more of the image. So
    each method also meets random maps of its own smoothness, at equal kept areas and under several
    fills. A method that does not beat them has explained nothing, and the table says so.

    Args:
        queries: how many, chosen at random; by default all that have a match, 40 of synthetic
        metrics: names or module:NAME; by default all but those that take many passes: keeping,
            removal, insertion_auc, deletion_auc, road
        examples: how many queries are drawn with their maps
    """

    queries: int | None = None
    metrics: tuple[str, ...] = ()
    examples: int = 3

    name: ClassVar[str] = "faithfulness"
    free: ClassVar[tuple[str, ...]] = ("metrics", "examples")

    def known(self) -> dict[str, Method]:
        """Return the registered methods, and the full image."""
        return all_methods(FullImage)

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return the queries: those with a match, or a random choice of them."""
        if self.queries is not None:
            check_at_least("queries", self.queries, 1)
        records, usable = bench.dataset.query, bench.matched()
        few = self.queries is None and bench.dataset.name == "synthetic"
        count = SYNTHETIC_QUERIES if few else self.queries
        numbers = sorted(shuffled(usable, self.seed)[:count])
        return [Case(bench.name(records[n]), records[n].identity, n) for n in numbers]

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the columns of all metrics."""
        return columns_of(find_metrics(self.metrics, OFFERS))

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return what the metrics say of a method's map of one query."""
        query = bench.current = bench.current or Query(bench, case.data, self.seed)
        return measure_all(find_metrics(self.metrics, OFFERS), query.explained_by(method))

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return the tables, results and figures of all rows."""
        examples = (Query(bench, case.data, self.seed) for case in cases[: self.examples])
        return report(bench, find_metrics(self.metrics, OFFERS), frame, examples)


class Query:
    """A query, what may fill its image (1, 3, H, W), and how both are retrieved."""

    def __init__(self, bench: Bench, number: int, seed: int) -> None:
        self.bench = bench
        self.seed = seed + number
        self.record = bench.dataset.query[number]
        self.embedded = bench.queries.rows(slice(number, number + 1))
        self.images = bench.image(self.record)
        other = bench.image(bench.stranger(self.record, self.seed))
        self.fills = {name: fill(self.images, other) for name, fill in FILLS.items()}
        self.original = self.scores(self.images)
        blank = self.scores(torch.cat([*self.fills.values()]))
        each = map(RetrievalScores, *(torch.split(column, 1) for column in blank))
        self.blank = dict(zip(self.fills, each, strict=True))
        self._known: dict[tuple[str, bytes], Tensor] = {}

    @cached_property
    def subject(self) -> Subject:
        """The image, the first in rank among the valid gallery images, and the predicted class."""
        first = self.bench.dataset.gallery[int(self.bench.gallery.nearest(self.embedded))]
        predicted = self.bench.target.predicted(self.images)
        return Subject(self.images, self.bench.image(first), predicted)

    def explained_by(self, name: str) -> "View":
        """Return the view of a method's map, at the layer's resolution where it can."""
        subject = self.subject
        started = time.perf_counter()
        map_ = self.bench.explain[name](subject, interpolate_mode=None)
        return View(self, map_, time.perf_counter() - started)

    def scores(self, images: Tensor) -> RetrievalScores:
        """Return how images (N, 3, H, W) are retrieved that stand in for the query, (N,) each."""
        columns = (column.expand(len(images)) for column in self.embedded[1:])
        return self.bench.gallery.scores(Embedded(self.bench.embed(images), *columns))

    def under(self, masks: Tensor, fills: Sequence[str]) -> RetrievalScores:
        """Return how this image is retrieved under masks (N, 1, H, W), bool, each over its fill.

        What it meets again, as the same pixels are highest for two methods, takes no pass.
        """
        keys = [(fill, digest(mask)) for fill, mask in zip(fills, masks, strict=True)]
        new = {key: n for n, key in enumerate(keys) if key not in self._known}
        if new:
            pixels = torch.cat([self.fills[fill] for fill, _ in new])
            images = self.images.expand_as(pixels)
            scores = self.scores(composite(images, masks[[*new.values()]], pixels))
            self._known |= zip(new, torch.stack(scores, dim=1), strict=True)
        return RetrievalScores(*torch.stack([self._known[key] for key in keys]).unbind(1))


class View:
    """What a metric may ask of a method's map of one query.

    ``images`` (1, 3, H, W) is the query, ``fills`` what may replace its pixels, ``original`` its
    ``RetrievalScores`` (1,); ``raw`` (1, 1, h, w) is the map as the method gives it, None for the
    full image, and ``seconds`` what it took.
    """

    def __init__(self, query: Query, raw: Tensor | None, seconds: float) -> None:
        self.query, self.raw, self.seconds = query, raw, seconds
        self.images, self.fills, self.original = query.images, query.fills, query.original
        self.embedding = query.embedded.embeddings

    @cached_property
    def map(self) -> Tensor | None:
        """The map at the size of the image, (1, 1, H, W)."""
        return None if self.raw is None else self.query.bench.full_size(self.raw)

    @cached_property
    def mask(self) -> Tensor:
        """The paper's explanation mask (1, 1, H, W) in [0, 1]; ones for the full image."""
        whole = torch.ones_like(self.images[:, :1])
        return whole if self.map is None else explanation_mask(self.map)

    @cached_property
    def kept(self) -> Tensor:
        """The paper's explanation map: what the mask keeps, over the blurred image."""
        return composite(self.images, self.mask, self.fills["blur"])

    @cached_property
    def explained(self) -> RetrievalScores:
        """How the paper's explanation map is retrieved, (1,) each."""
        return self.scores(self.kept)

    @cached_property
    def kept_at_equal_areas(self) -> dict[str, RetrievalScores]:
        """How the top pixels are retrieved at ``AREAS`` under all fills, see ``at_areas``."""
        return self.at_areas(AREAS, FILLS)

    def at_areas(
        self, areas: Sequence[float], fills: Iterable[str], *, removed: bool = False
    ) -> dict[str, RetrievalScores]:
        """Return how the top pixels are retrieved over a fill, or all others, (areas,) each.

        By ``:FILL``, and ``random_:FILL`` for a random map that is as smooth.
        """
        assert self.raw is not None
        fills = [*fills]
        random = random_phase_maps(self.raw, [self.query.seed])
        maps = torch.cat([self.query.bench.full_size(map_) for map_ in (self.raw, random)])
        masks = top_area_masks(maps, areas)[:, None].expand(-1, len(fills), -1, -1, -1, -1)
        names = [f"{prefix}:{fill}" for prefix in ("", "random_") for fill in fills]
        each = [fill for fill in 2 * fills for _ in areas]
        scores = self.query.under(masks.flatten(0, 2) ^ removed, each)
        columns = (torch.split(column, len(areas)) for column in scores)
        return dict(zip(names, map(RetrievalScores, *columns), strict=True))

    def imputed_at_areas(self, areas: Sequence[float]) -> RetrievalScores:
        """Return how images are retrieved whose top pixels are ``imputed``, (areas,) each."""
        assert self.map is not None
        kept = ~top_area_masks(self.map, areas)[0]
        images = self.images.expand(len(kept), -1, -1, -1)
        return self.scores(imputed(images, kept, seed=self.query.seed))

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings (N, D) of images (N, 3, H, W)."""
        return self.query.bench.embed(images)

    def scores(self, images: Tensor) -> RetrievalScores:
        """Return how images (N, 3, H, W) are retrieved that stand in for the query, (N,) each."""
        return self.query.scores(images)

    def drops(self, name: str, fill: str, scores: RetrievalScores) -> Tensor:
        """Return a drop in percent, (N,), of masked images over one fill."""
        three = (self.original, scores, self.query.blank[fill])
        original, kept, blank = (getattr(each, SCORES[name]) for each in three)
        return 100 * drop(original, kept[None], blank)[0]
