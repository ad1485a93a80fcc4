"""How faithful an interpreter is to its target, and how well it ranks attributes (AMD, 4.3).

The gallery is streamed: only the distances of its pairs are kept of each block.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.decomposition import all_distances
from reid_explain.amd.loss import PairLabels, pair_labels
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset, Role
from reid_explain.errors import InputError
from reid_explain.metrics.attributes import disagreement, random_precision, ranked_precision
from reid_explain.retrieval.embedded import Embedded
from reid_explain.retrieval.gallery import ranks_by_distance
from reid_explain.retrieval.scores import average_precision, cumulative_matches, summarize
from reid_explain.statistics import Interval, bootstrap_mean, bootstrap_ratio

COMPARED = 2**23
"""Attribute distances compared at a time, which bounds the memory."""


class DecomposedRecords(NamedTuple):
    """N decomposed images: embeddings (N, D) with columns (N,), and ``parts`` f^k, (N, M, D).

    ``labels`` are the true attributes (N, M), 1 or 2, and 0 where unknown, as for distractors;
    ``predicted`` what the interpreter takes them for.
    """

    embedded: Embedded
    parts: Tensor
    labels: Tensor
    predicted: Tensor

    def rows(self, index: Tensor | slice) -> "DecomposedRecords":
        """Return the records that ``index`` (indices, bool or a slice) picks."""
        return DecomposedRecords(self.embedded.rows(index), *(part[index] for part in self[1:]))

    @classmethod
    def joined(cls, name: str, blocks: Iterable["DecomposedRecords"]) -> "DecomposedRecords":
        """Return all blocks in one; ``name`` is the argument that holds them."""
        if not (blocks := list(blocks)):
            raise InputError(name, "no image", "at least one")
        embedded, *columns = zip(*blocks, strict=True)
        return cls(Embedded.concatenated(embedded), *map(torch.cat, columns))


def decompose_records(
    interpreter: Any,
    dataset: ReIDDataset,
    records: Sequence[Record],
    *,
    batch_size: int = 64,
    workers: int = 0,
    description: str = "decompose",
) -> Iterator[DecomposedRecords]:
    """Decompose ``records`` in blocks, on the CPU, with a progress bar.

    Args:
        interpreter: a trained ``AMDInterpreter``.
        dataset: loads the images and labels attributes, matched by name; others are unknown.
        records: which images, in this order.
        batch_size: images per block.
        workers: processes that load images; 0 loads in this one.
        description: of the bar.

    Raises:
        InputError: no record, an image that cannot be read, or an identity without labels.
    """
    if not records:
        raise InputError("records", "none", "at least one record")
    labels = record_labels(dataset, records, interpreter.attributes)
    images_of = RecordDataset(dataset, records, interpreter.spec)
    loader = DataLoader(images_of, batch_size, num_workers=workers)
    for number, (images, _, _) in enumerate(tqdm(loader, desc=description, unit="batch")):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        embeddings, parts, _ = interpreter.decompose(images)
        predicted = interpreter.predict(parts).cpu()
        embedded = Embedded.of(embeddings.cpu(), records[rows])
        yield DecomposedRecords(embedded, parts.cpu(), labels[rows], predicted)


def evaluate(
    query: Iterable[DecomposedRecords],
    gallery: Iterable[DecomposedRecords],
    frequencies: Tensor,
    *,
    gamma: float = 1.0,
) -> dict[str, Any]:
    """Compare every query with every gallery image by all attribute distances.

    The average distance reconstruction error is the mean of ``|d - d̂| / d`` over all pairs with
    d > 0. The X-mAP are means over the pairs of different identities that differ in an attribute;
    distractors have no labels and stay out of them. Intervals are bootstrapped over the
    identities of the queries, sums and numbers of pairs together. Memory: the features f^k of
    all queries twice, those of one gallery block, and four float32 numbers per pair.

    Args:
        query: blocks of the query images.
        gallery: blocks of the gallery images, of any sizes; junk is left out.
        frequencies: share of the training identities that have each attribute, (M,), for the
            fixed order.
        gamma: weight of the largest exclusive distance in equation 12, 1 in the paper.

    Returns:
        Plain data in percent, None where undefined, means with their intervals:

        - ``ADRE``, and ``bias``, the mean of (d̂ - d) / d: the part that all pairs share;
        - ``X-mAP_e``, ``X-mAP_c``: of the ``interpreter``, and the floors ``fixed_order`` and
          ``random_order``; ``pairs``: the number of pairs that they average;
        - ``retrieval``: CMC and mAP by what ranks the gallery: ``target`` d, ``reconstructed`` d̂,
          ``reweighted`` equation 12 with predicted exclusive attributes, ``oracle`` with true
          ones; ``gain`` over the target, and ``per_query``;
        - ``balanced_accuracy`` of the predicted attributes, M numbers.

    Raises:
        InputError: no image, or no query with a match.

    Source: AMD (Chen et al., ICCV 2021), section 4.3 and equation 12.
    """
    queries = DecomposedRecords.joined("query", query)
    center = queries.parts.mean(dim=0)
    queries = queries._replace(parts=queries.parts - center)
    step = max(1, COMPARED // queries.parts[..., 0].numel())
    kept: list[Tensor] = []
    known, sums, counts = [], *torch.zeros(2, 4, 1, dtype=torch.float64)
    for block in gallery:
        block = block.rows(block.embedded.roles != Role.JUNK.value)
        block = block._replace(parts=block.parts - center)
        for start in range(0, len(block.labels), step):
            images = block.rows(slice(start, start + step))
            distances, scores = compare(queries, images)
            kept.append(distances)
            sums = sums + scores.double().nansum(2).cpu()
            counts = counts + (~scores.isnan()).sum(2).cpu()
            known.append(images._replace(parts=images.parts.new_empty(len(images.parts), 0, 0)))
    images, people = DecomposedRecords.joined("gallery", known), queries.embedded.identities
    adre, bias, exclusive, common = (
        interval(bootstrap_ratio(100 * row, count, people)) if count.any() else None
        for row, count in zip(sums, counts, strict=True)
    )
    floors_e, floors_c = floors(queries, images, disagreement(frequencies))
    labels = ((one.predicted, one.labels) for one in (queries, images))
    return {
        **retrieval_results(queries, images, torch.cat(kept, dim=2), gamma),
        "ADRE": adre,
        "bias": bias,
        "X-mAP_e": {"interpreter": exclusive, **floors_e},
        "X-mAP_c": {"interpreter": common, **floors_c},
        "pairs": int(counts[2].sum()),
        "balanced_accuracy": numbers(balanced_accuracy(*map(torch.cat, zip(*labels, strict=True)))),
    }


def retrieval_results(
    queries: DecomposedRecords, images: DecomposedRecords, distances: Tensor, gamma: float
) -> dict[str, Any]:
    """Return CMC and mAP by what ranks the gallery, from the distances (4, Q, G) of ``compare``."""
    d, reconstructed, predicted, oracle = distances
    ways = {"target": d, "reconstructed": reconstructed}
    ways |= {"reweighted": d + gamma * predicted, "oracle": d + gamma * oracle}
    results: dict[str, Any] = {"retrieval": {}, "gain": {}, "per_query": {}}
    target: dict[str, Tensor] = {}
    for way, values in ways.items():
        ranks = ranks_by_distance(values, queries.embedded, images.embedded)
        summary = summarize(ranks)
        rates = {f"rank{k}": rate for k, rate in summary.cmc.items()}
        results["retrieval"][way] = {**rates, "mAP": summary.mean_ap}
        hits, precision = cumulative_matches(ranks, (1,))[:, 0], average_precision(ranks)
        each = {"rank1": 100 * hits, "mAP": 100 * precision}
        results["per_query"][way] = {name: numbers(part) for name, part in each.items()}
        if target:
            matched = ~precision.isnan()
            people = queries.embedded.identities[matched]
            results["gain"][way] = {
                name: interval(bootstrap_mean((part - target[name])[matched], people))
                for name, part in each.items()
            }
        target = target or each
    return results


def interval(found: Interval) -> dict[str, Any]:
    """Return a mean with its interval as plain data."""
    return {"mean": found.mean, "interval": [found.low, found.high]}


def numbers(values: Tensor) -> list[float | None]:
    """Return values (n,) as plain data, None in place of NaN."""
    return [None if value != value else value for value in values.tolist()]


def compare(queries: DecomposedRecords, images: DecomposedRecords) -> tuple[Tensor, Tensor]:
    """Compare every query with every image; their f^k are centered.

    Returns:
        Distances (4, Q, G): d, d̂, the largest d^e over predicted and over true exclusive
        attributes; and scores (4, Q, G), NaN where undefined: |d - d̂| / d and (d̂ - d) / d, the
        AP of the exclusive and of the common attributes.
    """
    # From differences: of one image twice it is exactly 0, and the error has no meaning.
    distance = all_distances(queries.embedded.embeddings, images.embedded.embeddings)
    parts = (one.parts.transpose(0, 1) for one in (queries, images))
    each = product_distances(*parts).permute(1, 2, 0)
    reconstructed = each.sum(2)
    bias = ((reconstructed - distance) / distance).masked_fill(distance == 0, torch.nan)
    predicted = pair_labels(queries.predicted[:, None], images.predicted[None])
    labels = pair_labels(queries.labels[:, None], images.labels[None])
    largest = [largest_exclusive(each, part) for part in (predicted, labels)]
    same = queries.embedded.identities[:, None] == images.embedded.identities
    precision = [part.masked_fill(same, torch.nan) for part in pair_precision(each, labels)]
    distances = torch.stack([distance, reconstructed, *largest])
    return distances, torch.stack([bias.abs(), bias, *precision])


def product_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Return Euclidean distances (..., Q, G) of centered rows, by matrix products."""
    squares = query.square().sum(-1)[..., :, None] + gallery.square().sum(-1)[..., None, :]
    products = query @ gallery.transpose(-1, -2)
    return squares.sub_(products, alpha=2).clamp_(min=0).sqrt_()


def largest_exclusive(distances: Tensor, labels: PairLabels) -> Tensor:
    """Return max_e d^e, (Q, G), of distances (Q, G, M); 0 where no attribute is exclusive."""
    return distances.masked_fill(~labels.exclusive, 0).amax(-1)


def pair_precision(scores: Tensor, labels: PairLabels) -> tuple[Tensor, Tensor]:
    """Return the AP of the exclusive attributes (descending) and of the common (ascending).

    Both are NaN for a pair without an exclusive attribute.
    """
    known = labels.exclusive | labels.common
    exclusive = ranked_precision(scores, labels.exclusive, known)
    common = ranked_precision(-scores, labels.common, known)
    return exclusive, common.masked_fill(exclusive.isnan(), torch.nan)


def floors(
    queries: DecomposedRecords, images: DecomposedRecords, order: Tensor
) -> Iterator[dict[str, float | None]]:
    """Return X-mAP_e and X-mAP_c, in percent, each of one fixed order and of a random order."""
    people = (torch.column_stack([r.embedded.identities, r.labels]) for r in (queries, images))
    (query, query_counts), (gallery, gallery_counts) = (
        torch.unique(rows, dim=0, return_counts=True) for rows in people
    )
    labels = pair_labels(query[:, None, 1:], gallery[None, :, 1:])
    known = labels.exclusive | labels.common
    fixed = pair_precision(order.to(known.device).expand(known.shape), labels)
    undefined = fixed[0].isnan()
    random = (random_precision(part, known).masked_fill(undefined, torch.nan) for part in labels)
    weights = query_counts[:, None] * gallery_counts * (query[:, :1] != gallery[:, 0])

    def mean(values: Tensor) -> float | None:
        weight = weights.masked_fill(values.isnan(), 0).double()
        return numbers(100 * (values.nan_to_num() * weight).sum()[None] / weight.sum())[0]

    means = zip(map(mean, fixed), map(mean, random), strict=True)
    return ({"fixed_order": one, "random_order": other} for one, other in means)


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the mean recall of the two labels, in percent, (M,); NaN where one does not occur."""
    truths = torch.stack([labels == value for value in (1, 2)])
    found = truths & (predicted == labels)
    return 100 * (found.sum(1) / truths.sum(1).double()).mean(0)
