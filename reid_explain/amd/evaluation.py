"""How faithful an interpreter is to its target, and how well it ranks attributes (AMD, 4.3).

The gallery is streamed: of each block only the distances of its pairs stay.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reid_explain.amd.decomposition import all_distances
from reid_explain.amd.loss import PairLabels, pair_labels
from reid_explain.errors import InputError
from reid_explain.metrics.attributes import disagreement, random_precision, ranked_precision
from reid_explain.metrics.embedding import Embedded
from reid_explain.metrics.intervals import Interval, bootstrap_mean
from reid_explain.metrics.retrieval import RetrievalSummary, ranks_by_distance, summarize

QUERY_BLOCK = 256


class DecomposedRecords(NamedTuple):
    """What an interpreter made of N images, with what is known of them.

    ``embedded``: the target's embeddings (N, D), identities and cameras (N,);
    ``parts``: f^k, (N, M, D);
    ``labels``: true attributes (N, M), 1 or 2, and 0 where unknown, as for distractors;
    ``predicted``: the interpreter's own idea of them, (N, M).
    """

    embedded: Embedded
    parts: Tensor
    labels: Tensor
    predicted: Tensor


class AttributeRanking(NamedTuple):
    """X-mAP in percent with its interval, and its two floors."""

    interpreter: Interval
    fixed_order: float
    random_order: float


class Evaluation(NamedTuple):
    """The figures of the paper's tables 1 to 3 and the floors beside them.

    ``adre``: average distance reconstruction error, percent;
    ``bias``: mean of (d̂ - d) / d, percent: how much of that error all pairs have in common;
    ``target``, ``reconstructed``: retrieval with d and with d̂;
    ``reweighted``, ``oracle``: retrieval with equation 12, where the exclusive attributes are
    predicted, and where they are read off the labels of the test identities;
    ``exclusive``, ``common``: X-mAP_e and X-mAP_c;
    ``pairs``: how many pairs the X-mAP are means of;
    ``accuracy``: balanced accuracy of the predicted attributes, (M,), percent, NaN where the
    test identities do not have both labels;
    ``ranks``: of each query's matches, by the name of the retrieval, for figures per query.
    """

    adre: Interval
    bias: Interval
    target: RetrievalSummary
    reconstructed: RetrievalSummary
    reweighted: RetrievalSummary
    oracle: RetrievalSummary
    exclusive: AttributeRanking
    common: AttributeRanking
    pairs: int
    accuracy: Tensor
    ranks: dict[str, list[Tensor]]


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
    distractors have no labels and stay out of them. Intervals are bootstrapped over queries.

    Memory: the attribute-guided features of all queries twice, those of one gallery block, and
    four float32 numbers per pair.

    Args:
        query: blocks of the query images.
        gallery: blocks of the gallery images, in any sizes; junk is left out.
        frequencies: share of the training identities that have each attribute, (M,), for the
            fixed order.
        gamma: weight of the largest exclusive distance in equation 12, 1 in the paper.

    Raises:
        InputError: no image, or no query with a match.

    Source: AMD (Chen et al., ICCV 2021), section 4.3 and equation 12.
    """
    asked, features = gather(query)
    center = features.mean(dim=1, keepdim=True)
    features -= center
    sums = PairSums(len(asked.labels))
    columns: list[PairColumns] = []
    kept: list[Known] = []
    for block in map(without_junk, gallery):
        columns.append(compare(asked, features, block, center, sums))
        kept.append(Known(block.embedded, block.labels, block.predicted))
    if not columns:
        raise InputError("gallery", "no image", "at least one")
    found = Known.joined(kept)
    d, reconstructed, predicted, oracle = side_by_side(columns)

    def ranks_of(distances: Tensor) -> list[Tensor]:
        return ranks_by_distance(distances, asked.embedded, found.embedded)

    ranks = {
        "target": ranks_of(d),
        "reconstructed": ranks_of(reconstructed),
        "reweighted": ranks_of(d + gamma * predicted),
        "oracle": ranks_of(d + gamma * oracle),
    }
    exclusive, common = floors(asked, found, disagreement(frequencies))
    return Evaluation(
        adre=sums.mean("error"),
        bias=sums.mean("bias"),
        target=summarize(ranks["target"]),
        reconstructed=summarize(ranks["reconstructed"]),
        reweighted=summarize(ranks["reweighted"]),
        oracle=summarize(ranks["oracle"]),
        exclusive=AttributeRanking(sums.mean("exclusive"), *exclusive),
        common=AttributeRanking(sums.mean("common"), *common),
        pairs=int(sums.counts["exclusive"].sum()),
        accuracy=balanced_accuracy(
            torch.cat([asked.predicted, found.predicted]), torch.cat([asked.labels, found.labels])
        ),
        ranks=ranks,
    )


class Known(NamedTuple):
    """What stays of a block: everything but the attribute-guided features."""

    embedded: Embedded
    labels: Tensor
    predicted: Tensor

    @classmethod
    def joined(cls, parts: Sequence["Known"]) -> "Known":
        """Return the blocks as one."""
        embedded, labels, predicted = zip(*parts, strict=True)
        columns = (torch.cat(column) for column in zip(*embedded, strict=True))
        return cls(Embedded(*columns), torch.cat(labels), torch.cat(predicted))


class PairColumns(NamedTuple):
    """Of every query and the images of one block, (Q, G): d, d̂ and the largest exclusive d^e."""

    distance: Tensor
    reconstructed: Tensor
    predicted: Tensor
    oracle: Tensor


def side_by_side(columns: list[PairColumns]) -> PairColumns:
    """Return the blocks of the gallery as one, and empty the list: nothing is held twice."""
    parts = [list(part) for part in zip(*columns, strict=True)]
    columns.clear()
    return PairColumns(*(torch.cat(parts.pop(0), dim=1) for _ in PairColumns._fields))


class PairSums:
    """Sums over pairs, kept apart by query."""

    def __init__(self, queries: int) -> None:
        names = ("error", "bias", "exclusive", "common")
        self.sums = {name: torch.zeros(queries, dtype=torch.float64) for name in names}
        self.counts = {name: torch.zeros(queries, dtype=torch.float64) for name in names}

    def add(self, name: str, rows: slice, values: Tensor) -> None:
        """Add values (Q, G), except NaN, to the queries of ``rows``."""
        self.sums[name][rows] += values.double().nansum(1).cpu()
        self.counts[name][rows] += (~values.isnan()).sum(1).cpu()

    def mean(self, name: str) -> Interval:
        """Return the mean over all pairs, in percent, with an interval over the queries."""
        count = self.counts[name].sum()
        if not count:
            return Interval(float("nan"), float("nan"), float("nan"))
        # The mean of these values over the queries is the mean over the pairs.
        return bootstrap_mean(100 * self.sums[name] * len(self.sums[name]) / count)


def gather(query: Iterable[DecomposedRecords]) -> tuple[Known, Tensor]:
    """Return what is known of all queries, and their features as (M, Q, D)."""
    known, features = [], []
    for block in query:
        known.append(Known(block.embedded, block.labels, block.predicted))
        features.append(block.parts.transpose(0, 1))
    if not known:
        raise InputError("query", "no image", "at least one")
    return Known.joined(known), torch.cat(features, dim=1)


def without_junk(block: DecomposedRecords) -> DecomposedRecords:
    """Return the images of a block that belong to somebody."""
    kept = block.embedded.identities >= 0
    embedded = Embedded(*(column[kept] for column in block.embedded))
    return DecomposedRecords(embedded, *(column[kept] for column in block[1:]))


def compare(
    asked: Known, features: Tensor, block: DecomposedRecords, center: Tensor, sums: PairSums
) -> PairColumns:
    """Compare every query with one block of the gallery, and add to the sums."""
    theirs = block.parts.transpose(0, 1) - center
    parts = []
    for start in range(0, len(asked.labels), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        # From differences: of one image twice it is exactly 0, and the error has no meaning.
        distance = all_distances(asked.embedded.embeddings[rows], block.embedded.embeddings)
        each = product_distances(features[:, rows], theirs).permute(1, 2, 0)
        columns = PairColumns(
            distance,
            each.sum(2),
            largest_exclusive(each, labels_of_pairs(asked.predicted[rows], block.predicted)),
            largest_exclusive(each, labels_of_pairs(asked.labels[rows], block.labels)),
        )
        parts.append(columns)
        excess = (columns.reconstructed - distance) / distance
        excess = excess.masked_fill(distance == 0, torch.nan)
        sums.add("error", rows, excess.abs())
        sums.add("bias", rows, excess)
        other = asked.embedded.identities[rows, None] != block.embedded.identities
        precision = pair_precision(each, labels_of_pairs(asked.labels[rows], block.labels))
        for name, values in zip(("exclusive", "common"), precision, strict=True):
            sums.add(name, rows, values.masked_fill(~other, torch.nan))
    return PairColumns(*(torch.cat(column) for column in zip(*parts, strict=True)))


def product_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Return Euclidean distances (..., Q, G) of rows that are centred, by matrix products."""
    squares = query.square().sum(-1)[..., :, None] + gallery.square().sum(-1)[..., None, :]
    products = query @ gallery.transpose(-1, -2)
    return squares.sub_(products, alpha=2).clamp_(min=0).sqrt_()


def labels_of_pairs(query: Tensor, gallery: Tensor) -> PairLabels:
    """Return the pair labels, each (Q, G, M), of labels (Q, M) and (G, M)."""
    return pair_labels(query[:, None], gallery[None])


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
    asked: Known, found: Known, order: Tensor
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return X-mAP_e and X-mAP_c, in percent, each of one fixed order and of a random order."""
    query, query_counts = people(asked)
    gallery, gallery_counts = people(found)
    labels = labels_of_pairs(query[:, 1:], gallery[:, 1:])
    known = labels.exclusive | labels.common
    weights = query_counts[:, None] * gallery_counts * (query[:, :1] != gallery[:, 0])
    fixed = pair_precision(order.to(known.device).expand(known.shape), labels)
    nothing = fixed[0].isnan()
    random = (random_precision(part, known).masked_fill(nothing, torch.nan) for part in labels)

    def mean(values: Tensor) -> float:
        weight = weights.masked_fill(values.isnan(), 0).double()
        return float(100 * (values.nan_to_num() * weight).sum() / weight.sum())

    exclusive, common = zip(map(mean, fixed), map(mean, random), strict=True)
    return exclusive, common


def people(known: Known) -> tuple[Tensor, Tensor]:
    """Return identity and labels of each person, (N, 1 + M), and how many images there are."""
    rows = torch.cat([known.embedded.identities[:, None], known.labels], dim=1)
    distinct: tuple[Tensor, Tensor] = torch.unique(rows, dim=0, return_counts=True)
    return distinct


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the mean share, in percent, of the images of each label that are predicted so, (M,).

    NaN where one of the labels does not occur.
    """
    shares = [
        ((predicted == value) & (labels == value)).sum(0) / (labels == value).sum(0).double()
        for value in (1, 2)
    ]
    return 100 * torch.stack(shares).mean(0)
