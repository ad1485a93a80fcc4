"""The figures of one query and each method: drops of the paper's masks, and at equal areas."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from faithfulness_report import CURVE_FIGURES, Example, curve_figure
from methods import FULL_IMAGE, Explain
from subjects import Subject
from targets import Target
from torch import Tensor
from torch.nn.functional import normalize

from reid_explain import InputError
from reid_explain.datasets import to_tensor
from reid_explain.datasets.records import (
    DISTRACTOR_IDENTITY,
    JUNK_IDENTITY,
    Record,
    ReIDDataset,
)
from reid_explain.explainers.layout import upsample
from reid_explain.fills import FILLS
from reid_explain.metrics.embedding import Embedded
from reid_explain.metrics.faithfulness import (
    AREA_FRACTIONS,
    composite,
    drop,
    explanation_mask,
    increase,
    kept_area,
    match_similarity,
    random_phase_maps,
    top_area_masks,
)
from reid_explain.metrics.retrieval import average_precision, match_ranks


class Figures(NamedTuple):
    """What retrieval says of N images, (N,), under the names of the drops that they give."""

    as_drop: Tensor
    """Mean cosine with the matches."""
    ap_drop: Tensor
    """Average precision."""


class Search(NamedTuple):
    """A data set with the embeddings of its queries and of its gallery."""

    dataset: ReIDDataset
    query: Embedded
    gallery: Embedded

    def figures(self, number: int, embeddings: Tensor) -> Figures:
        """Return the figures of embeddings (N, D) that stand in for that of one query."""
        count = len(embeddings)
        asked = Embedded(
            embeddings,
            self.query.identities[number].expand(count),
            self.query.cameras[number].expand(count),
        )
        ranks = match_ranks(asked, self.gallery)
        return Figures(match_similarity(asked, self.gallery), average_precision(ranks))

    def first_in_rank(self, number: int) -> Record:
        """Return the valid gallery image that is nearest to a query."""
        own, gallery = self.query, self.gallery
        same = gallery.identities == own.identities[number]
        junk = (same & (gallery.cameras == own.cameras[number])) | (
            gallery.identities == JUNK_IDENTITY
        )
        cosine = normalize(gallery.embeddings) @ normalize(own.embeddings[number], dim=0)
        return self.dataset.gallery[int(cosine.masked_fill(junk, -torch.inf).argmax())]

    def of_another_person(self, number: int, seed: int) -> Record:
        """Return a gallery image of another person than a query's, chosen at random."""
        nobody = (self.dataset.query[number].identity, JUNK_IDENTITY, DISTRACTOR_IDENTITY)
        others = [record for record in self.dataset.gallery if record.identity not in nobody]
        if not others:
            raise InputError("--root", "a gallery of one person", "several people")
        generator = torch.Generator().manual_seed(seed + number)
        return others[int(torch.randint(len(others), (), generator=generator))]

    def image(self, record: Record) -> Tensor:
        """Return the image of a record, (1, 3, H, W)."""
        return to_tensor(self.dataset.load(record))[None]


class Query(NamedTuple):
    """A query image (1, 3, H, W), what may fill it, and the figures of both."""

    number: int
    images: Tensor
    fills: dict[str, Tensor]
    original: Figures
    blank: dict[str, Figures]

    def drops(self, fill: str, explained: Figures) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each drop and the drops (N,) of masked images over one fill."""
        figures = zip(Figures._fields, self.original, explained, self.blank[fill], strict=True)
        for name, whole, kept, lost in figures:
            yield name, drop(whole, kept[None], lost)[0]


class Scorer:
    """Scores methods on one query at a time.

    Args:
        target: What is explained.
        search: What the query is looked for in.
        methods: On the target, by name.
        seed: Of random choices.
    """

    def __init__(
        self, target: Target, search: Search, methods: Mapping[str, Explain], seed: int
    ) -> None:
        self.target = target
        self.search = search
        self.methods = methods
        self.seed = seed

    def score(self, number: int, names: Sequence[str]) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield the figures of each method of ``names`` for one query."""
        subject, query = self._subject(number), self._query(number)
        for name in names:
            started = time.perf_counter()
            raw = None if name == FULL_IMAGE else self._raw_map(name, subject)
            seconds = time.perf_counter() - started
            figures = self._paper_figures(query, raw) | {"seconds": seconds}
            yield name, figures | self._curves(query, raw)

    def example(self, number: int) -> Example:
        """Return one query's image, and each method's map and explanation map."""
        subject = self._subject(number)
        images = subject.images
        blur = FILLS["blur"](images, images)
        raw = {name: self._raw_map(name, subject) for name in self.methods}
        maps = {name: upsample(map_, size_of(images)) for name, map_ in raw.items()}
        kept = {n: composite(images, mask_of(map_, images), blur) for n, map_ in raw.items()}
        return Example(images, maps, kept)

    def _paper_figures(self, query: Query, raw: Tensor | None) -> dict[str, float]:
        """Return the FAM paper's figures of one map, and the area that its mask keeps."""
        mask = mask_of(raw, query.images)
        explained = self._figures(query.number, composite(query.images, mask, query.fills["blur"]))
        return {
            **{name: shares.item() for name, shares in query.drops("blur", explained)},
            "ap_increase": increase(query.original.ap_drop, explained.ap_drop).item(),
            "kept_area": kept_area(mask).item(),
        }

    def _curves(self, query: Query, raw: Tensor | None) -> dict[str, float]:
        """Return the drops at equal areas, of the method and of random maps as smooth as its."""
        if raw is None:
            return dict.fromkeys(CURVE_FIGURES, float("nan"))
        found: dict[str, float] = {}
        random = random_phase_maps(raw, [self.seed + query.number])
        for kind, map_ in (("method", raw), ("random", random)):
            masks = top_area_masks(upsample(map_, size_of(query.images)))[0]
            images = query.images.expand(len(masks), -1, -1, -1)
            for fill, pixels in query.fills.items():
                masked = composite(images, masks, pixels.expand_as(images))
                explained = self._figures(query.number, masked)
                for metric, shares in query.drops(fill, explained):
                    names = (curve_figure(kind, metric, fill, a) for a in AREA_FRACTIONS)
                    found |= zip(names, shares.tolist(), strict=True)
        return found

    def _raw_map(self, name: str, subject: Subject) -> Tensor:
        """Return a method's map at the layer's resolution."""
        map_: Tensor = self.methods[name](subject, interpolate_mode=None)
        return map_.cpu()

    def _figures(self, number: int, images: Tensor) -> Figures:
        """Return the figures of images (N, 3, H, W) that stand in for one query."""
        return self.search.figures(number, self.target.embed(images))

    def _subject(self, number: int) -> Subject:
        """Return one query with the first in rank among its valid gallery images."""
        images = self.search.image(self.search.dataset.query[number])
        reference = self.search.image(self.search.first_in_rank(number))
        return Subject(images, reference, self.target.predicted(images))

    def _query(self, number: int) -> Query:
        """Return one query with what its drops are measured against."""
        images = self.search.image(self.search.dataset.query[number])
        other = self.search.image(self.search.of_another_person(number, self.seed))
        fills = {name: fill(images, other) for name, fill in FILLS.items()}
        blank = {name: self._figures(number, fill) for name, fill in fills.items()}
        return Query(number, images, fills, self._figures(number, images), blank)


def mask_of(raw: Tensor | None, images: Tensor) -> Tensor:
    """Return the explanation mask of a map at the layer's resolution; ones for no map."""
    if raw is None:
        return torch.ones_like(images[:, :1])
    return explanation_mask(upsample(raw, size_of(images)))


def size_of(images: Tensor) -> tuple[int, int]:
    """Return height and width."""
    return images.shape[2], images.shape[3]
