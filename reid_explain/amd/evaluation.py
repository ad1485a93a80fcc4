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
from reid_explain.retrieval import Embedded, RetrievalSummary, ranks_by_distance, summarize
from reid_explain.statistics import Interval, bootstrap_ratio

QUERY_BLOCK = 256


class DecomposedRecords(NamedTuple):
    """N decomposed images, with what is known of them.

    ``embedded``: the model's embeddings (N, D), identities, cameras and roles (N,);
    ``parts``: f^k, (N, M, D);
    ``labels``: true attributes (N, M), 1 or 2, and 0 where unknown, as for distractors;
    ``predicted``: the interpreter's prediction of them, (N, M).
    """

    embedded: Embedded
    parts: Tensor
    labels: Tensor
    predicted: Tensor

    def rows(self, index: Tensor | slice) -> "DecomposedRecords":
        """Return the records that ``index`` (indices, bool or a slice) picks."""
        return DecomposedRecords(self.embedded.rows(index), *(part[index] for part in self[1:]))

    def without_parts(self) -> "DecomposedRecords":
        """Return the records without their attribute-guided features, which fill the memory."""
        return self._replace(parts=self.parts.new_empty(len(self.parts), 0, 0))

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
    """Decompose ``records`` in blocks of at most ``batch_size``, on the CPU, with a progress bar.

    Args:
        interpreter: a trained ``AMDInterpreter``.
        dataset: loads the images and knows the attributes, which are matched by name: those
            that it does not label are unknown.
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


class AttributeRanking(NamedTuple):
    """X-mAP in percent with its interval, and its two floors."""

    interpreter: Interval
    fixed_order: float
    random_order: float


class Evaluation(NamedTuple):
    """The results of the paper's tables 1 to 3, and the floors beside them.

    ``adre``: average distance reconstruction error, percent;
    ``bias``: mean of (d̂ - d) / d, percent: the part of that error that all pairs share;
    ``exclusive``, ``common``: X-mAP_e and X-mAP_c;
    ``pairs``: number of pairs that the X-mAP average;
    ``accuracy``: balanced accuracy of the predicted attributes, (M,), percent, NaN where the
    test identities do not have both labels;
    ``identities``: of the queries, (Q,);
    ``ranks``: of each query's matches, by what ranks the gallery: ``"target"`` d,
    ``"reconstructed"`` d̂, ``"reweighted"`` equation 12 with predicted exclusive attributes,
    ``"oracle"`` equation 12 with those of the labels of the test identities;
    ``retrieval``: CMC and mAP of each of these.
    """

    adre: Interval
    bias: Interval
    exclusive: AttributeRanking
    common: AttributeRanking
    pairs: int
    accuracy: Tensor
    identities: Tensor
    ranks: dict[str, list[Tensor]]
    retrieval: dict[str, RetrievalSummary]


def evaluate(
    query: Iterable[DecomposedRecords],
    gallery: Iterable[DecomposedRecords],
    frequencies: Tensor,
    *,
    gamma: float = 1.0,
) -> Evaluation:
    """Compare query and gallery images with all attribute distances of every pair.

    The average distance reconstruction error is the mean of ``|d - d̂| / d`` over all pairs with
    d > 0. The X-mAP are means over the pairs of different identities that differ in an attribute;
    distractors have no labels and stay out of them. Intervals are bootstrapped over the
    identities of the queries, sums and numbers of pairs together.

    Memory: the attribute-guided features of all queries twice, those of one gallery block, and
    four float32 numbers per pair.

    Args:
        query: blocks of the query images.
        gallery: blocks of the gallery images, of any sizes; junk is left out.
        frequencies: share of the training identities that have each attribute, (M,), for the
            fixed order.
        gamma: weight of the largest exclusive distance in equation 12, 1 in the paper.

    Raises:
        InputError: no image, or no query with a match.

    Source: AMD (Chen et al., ICCV 2021), section 4.3 and equation 12.
    """
    queries = DecomposedRecords.joined("query", query)
    features = queries.parts.transpose(0, 1)
    center = features.mean(dim=1, keepdim=True)
    features, queries = features - center, queries.without_parts()
    means = PairMeans(queries.embedded.identities)
    columns, known = [], []
    for block in gallery:
        block = block.rows(block.embedded.roles != Role.JUNK.value)
        known.append(block.without_parts())
        parts = block.parts.transpose(0, 1) - center
        compared = []
        for start in range(0, len(queries.labels), QUERY_BLOCK):
            rows = slice(start, start + QUERY_BLOCK)
            pairs = compare(queries.rows(rows), features[:, rows], known[-1], parts)
            means.add(rows, pairs)
            compared.append(pairs[:4])
        columns.append([torch.cat(part) for part in zip(*compared, strict=True)])
    images = DecomposedRecords.joined("gallery", known)
    d, reconstructed, predicted, oracle = (torch.cat(p, 1) for p in zip(*columns, strict=True))
    distances = {"target": d, "reconstructed": reconstructed}
    distances |= {"reweighted": d + gamma * predicted, "oracle": d + gamma * oracle}
    ranks = {
        name: ranks_by_distance(values, queries.embedded, images.embedded)
        for name, values in distances.items()
    }
    exclusive, common = floors(queries, images, disagreement(frequencies))
    both = DecomposedRecords.joined("query", [queries, images])
    return Evaluation(
        adre=means.of("error"),
        bias=means.of("bias"),
        exclusive=AttributeRanking(means.of("exclusive"), *exclusive),
        common=AttributeRanking(means.of("common"), *common),
        pairs=int(means.counts["exclusive"].sum()),
        accuracy=balanced_accuracy(both.predicted, both.labels),
        identities=queries.embedded.identities,
        ranks=ranks,
        retrieval={name: summarize(rows) for name, rows in ranks.items()},
    )


class Pairs(NamedTuple):
    """Every query with every image of a block, (Q, G) each; NaN where undefined.

    d, d̂, the largest d^e over predicted and over true exclusive attributes; |d - d̂| / d and
    (d̂ - d) / d; the AP of the exclusive and of the common attributes.
    """

    distance: Tensor
    reconstructed: Tensor
    predicted: Tensor
    oracle: Tensor
    error: Tensor
    bias: Tensor
    exclusive: Tensor
    common: Tensor


def compare(
    query: DecomposedRecords, query_parts: Tensor, gallery: DecomposedRecords, parts: Tensor
) -> Pairs:
    """Compare queries with gallery images, whose centered f^k are (M, Q, D) and (M, G, D)."""
    # From differences: of one image twice it is exactly 0, and the error has no meaning.
    distance = all_distances(query.embedded.embeddings, gallery.embedded.embeddings)
    each = product_distances(query_parts, parts).permute(1, 2, 0)
    reconstructed = each.sum(2)
    bias = ((reconstructed - distance) / distance).masked_fill(distance == 0, torch.nan)
    predicted = pair_labels(query.predicted[:, None], gallery.predicted[None])
    labels = pair_labels(query.labels[:, None], gallery.labels[None])
    largest = [largest_exclusive(each, part) for part in (predicted, labels)]
    same = query.embedded.identities[:, None] == gallery.embedded.identities
    precision = [part.masked_fill(same, torch.nan) for part in pair_precision(each, labels)]
    return Pairs._make([distance, reconstructed, *largest, bias.abs(), bias, *precision])


class PairMeans:
    """Means over pairs, from the sums and numbers of each query; ``identities`` are theirs."""

    def __init__(self, identities: Tensor) -> None:
        self.identities = identities
        zeros = torch.zeros(len(identities), dtype=torch.float64)
        self.sums = {name: zeros.clone() for name in Pairs._fields[4:]}
        self.counts = {name: zeros.clone() for name in self.sums}

    def add(self, rows: slice, pairs: Pairs) -> None:
        """Add the pairs of the queries of ``rows``."""
        for name in self.sums:
            values = getattr(pairs, name)
            self.sums[name][rows] += values.double().nansum(1).cpu()
            self.counts[name][rows] += (~values.isnan()).sum(1).cpu()

    def of(self, name: str) -> Interval:
        """Return the mean over all pairs in percent, its interval over the identities."""
        sums, counts = self.sums[name], self.counts[name]
        if not counts.any():
            return Interval(torch.nan, torch.nan, torch.nan)
        return bootstrap_ratio(100 * sums, counts, self.identities)


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
) -> Iterator[tuple[float, float]]:
    """Return X-mAP_e and X-mAP_c, in percent, each of one fixed order and of a random order."""
    (query, query_counts), (gallery, gallery_counts) = map(people, (queries, images))
    labels = pair_labels(query[:, None, 1:], gallery[None, :, 1:])
    known = labels.exclusive | labels.common
    fixed = pair_precision(order.to(known.device).expand(known.shape), labels)
    undefined = fixed[0].isnan()
    random = (random_precision(part, known).masked_fill(undefined, torch.nan) for part in labels)
    weights = query_counts[:, None] * gallery_counts * (query[:, :1] != gallery[:, 0])

    def mean(values: Tensor) -> float:
        weight = weights.masked_fill(values.isnan(), 0).double()
        return float(100 * (values.nan_to_num() * weight).sum() / weight.sum())

    return zip(map(mean, fixed), map(mean, random), strict=True)


def people(records: DecomposedRecords) -> tuple[Tensor, Tensor]:
    """Return identity and labels of each person, (N, 1 + M), and the number of images, (N,)."""
    rows = torch.cat([records.embedded.identities[:, None], records.labels], dim=1)
    distinct: tuple[Tensor, Tensor] = torch.unique(rows, dim=0, return_counts=True)
    return distinct


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the mean recall of the two labels, in percent, (M,); NaN where one does not occur."""
    recalls = [
        ((predicted == value) & (labels == value)).sum(0) / (labels == value).sum(0).double()
        for value in (1, 2)
    ]
    return 100 * torch.stack(recalls).mean(0)
