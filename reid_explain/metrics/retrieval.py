"""Retrieval under the camera rule: AP, CMC and mAP from the ranks of the matches.

The protocol of Market-1501 (Zheng et al., ICCV 2015): gallery images of the query's identity and
camera are junk, as is identity -1; identity 0 is a distractor, wrong for every query. A match is
a gallery image of the query's identity from another camera. AP needs only the rank of each
match, so the gallery is streamed and never sorted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reid_explain.checks import check_choice, check_finite, check_nonzero, described
from reid_explain.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY
from reid_explain.errors import InputError
from reid_explain.metrics.embedding import Embedded

METRICS = ("cosine", "euclidean")
INTERPOLATIONS = ("standard", "trapezoid")

# A distance and a gallery index share one int64: distances in [0, 1] take 37 bits, indices 25.
DISTANCE_STEPS = 2**36
INDEX_SPAN = 2**25
CHECK_BLOCK = 8192
FARTHEST = torch.iinfo(torch.int64).max


class RetrievalSummary(NamedTuple):
    """Means over the queries that have a match, in percent; ``cmc`` by rank."""

    mean_ap: float
    cmc: dict[int, float]
    queries: int
    excluded: int


def match_ranks(
    query: Embedded,
    gallery: Embedded,
    *,
    metric: str = "cosine",
    query_block: int = 256,
    gallery_block: int = 8192,
) -> list[Tensor]:
    """Return for each query the ranks of its matches among the valid gallery images.

    Distances are computed in float64 and compared in steps of 2^-36 of their range, so that the
    block sizes do not matter. Equal distances: the image that comes first in the gallery is the
    nearer one, as in a stable sort.

    Args:
        query: embeddings (Q, D), identities and cameras (Q,).
        gallery: embeddings (G, D), identities and cameras (G,); G below 2^25.
        metric: ``"cosine"`` or ``"euclidean"``.
        query_block: queries compared at a time.
        gallery_block: gallery images compared at a time.

    Returns:
        One ascending int64 tensor per query: the number of valid images nearer than each match,
        0 for the nearest; empty for a query without a match.

    Raises:
        InputError: shapes disagree, an embedding is not finite or, for cosine, zero.

    Example:
        >>> query = Embedded(torch.tensor([[1.0, 0.0]]), torch.tensor([7]), torch.tensor([1]))
        >>> gallery = Embedded(
        ...     torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]),
        ...     identities=torch.tensor([7, 3, 7, 7]),
        ...     cameras=torch.tensor([1, 2, 2, 3]),  # the first: the query's own camera, junk
        ... )
        >>> match_ranks(query, gallery)  # identity 3 is nearer than both matches
        [tensor([1, 2])]
    """
    check_embedded(query, gallery, metric)
    scale = _range(query.embeddings, gallery.embeddings, metric)
    ranks: list[Tensor] = []
    for start in range(0, len(query.embeddings), query_block):
        part = Embedded(*(column[start : start + query_block] for column in query))
        ranks += _block_ranks(part, gallery, metric, scale, gallery_block)
    return ranks


def ranks_by_distance(distances: Tensor, query: Embedded, gallery: Embedded) -> list[Tensor]:
    """Return what ``match_ranks`` returns, for distances that are no function of embeddings.

    Args:
        distances: (Q, G); of equal ones the first in the gallery is the nearer.
        query: identities and cameras (Q,); the embeddings are not read.
        gallery: identities and cameras (G,); the embeddings are not read.

    Raises:
        InputError: shapes disagree.
    """
    shape = (len(query.identities), len(gallery.identities))
    if tuple(distances.shape) != shape:
        raise InputError("distances", described(distances), f"one for each pair, {shape}")
    ranks = []
    for row, identity, camera in zip(distances, *query[1:], strict=True):
        match = torch.zeros(shape[1], dtype=torch.bool, device=distances.device)
        match[match_indices(identity, camera, gallery)] = True
        valid = match | ((gallery.identities != identity) & (gallery.identities != JUNK_IDENTITY))
        order = row.argsort(stable=True)
        ranks.append(match[order][valid[order]].nonzero()[:, 0])
    return ranks


def average_precision(ranks: Sequence[Tensor], interpolation: str = "standard") -> Tensor:
    """Return the average precision of each query, (Q,) float64; NaN without a match.

    With r_i the rank (from 0) of match i (from 0) of n:
    ``"standard"`` is the mean of (i+1)/(r_i+1), the precision at each match (torchreid,
    fast-reid); ``"trapezoid"`` the mean of ½[i/r_i + (i+1)/(r_i+1)], i/r_i = 1 at r_i = 0, the
    area of the original Market-1501 script.

    Args:
        ranks: ascending ranks of each query's matches, from ``match_ranks``.
        interpolation: ``"standard"`` or ``"trapezoid"``.

    Raises:
        InputError: another interpolation.

    Example:
        >>> average_precision([torch.tensor([0, 3]), torch.tensor([], dtype=torch.int64)])
        tensor([0.7500,    nan], dtype=torch.float64)
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    return torch.stack([_precisions(row.double(), interpolation).mean() for row in ranks])


def cumulative_matches(ranks: Sequence[Tensor], at: Sequence[int] = (1, 5, 10)) -> Tensor:
    """Return whether a match is among the first k, for each query and k of ``at``.

    Args:
        ranks: ascending ranks of each query's matches, from ``match_ranks``.
        at: the values of k, from 1.

    Returns:
        (Q, len(at)) float64 of 0 and 1; NaN for a query without a match.

    Raises:
        InputError: a k below 1.

    Example:
        >>> cumulative_matches([torch.tensor([0, 3]), torch.tensor([2])], at=(1, 5))
        tensor([[1., 1.],
                [0., 1.]], dtype=torch.float64)
    """
    if not at or min(at) < 1:
        raise InputError("at", tuple(at), "ranks from 1")
    nearest = [float(row[0]) if len(row) else torch.nan for row in ranks]
    first = torch.tensor(nearest, dtype=torch.float64)
    found = (first[:, None] < torch.tensor(at)).double()
    return found.masked_fill(first.isnan()[:, None], torch.nan)


def summarize(
    ranks: Sequence[Tensor], at: Sequence[int] = (1, 5, 10), interpolation: str = "standard"
) -> RetrievalSummary:
    """Return mAP and CMC, in percent, over the queries that have a match.

    Raises:
        InputError: no query has a match.

    Example:
        >>> summarize([torch.tensor([0, 3]), torch.tensor([3])], at=(1, 5))
        RetrievalSummary(mean_ap=50.0, cmc={1: 50.0, 5: 100.0}, queries=2, excluded=0)
    """
    precision = average_precision(ranks, interpolation)
    excluded = int(precision.isnan().sum())
    if excluded == len(ranks):
        raise InputError("ranks", f"{excluded} queries without a match", "a query with a match")
    cmc = 100 * cumulative_matches(ranks, at).nanmean(0)
    return RetrievalSummary(
        mean_ap=100 * float(precision.nanmean()),
        cmc=dict(zip(at, cmc.tolist(), strict=True)),
        queries=len(ranks),
        excluded=excluded,
    )


def _precisions(ranks: Tensor, interpolation: str) -> Tensor:
    hits = torch.arange(len(ranks), dtype=ranks.dtype, device=ranks.device)
    at_match = (hits + 1) / (ranks + 1)
    if interpolation == "standard":
        return at_match
    before = torch.where(ranks > 0, hits / ranks.clamp(min=1), 1.0)
    return (before + at_match) / 2


def _block_ranks(
    query: Embedded, gallery: Embedded, metric: str, scale: float, gallery_block: int
) -> list[Tensor]:
    matches = [match_indices(i, c, gallery) for i, c in zip(*query[1:], strict=True)]
    width = max(map(len, matches))
    if width == 0:
        return matches
    matched = torch.full((len(matches), width), FARTHEST, device=query.embeddings.device)
    for row, (embedding, indices) in enumerate(zip(query.embeddings, matches, strict=True)):
        keys = _keys(embedding[None], gallery.embeddings[indices], indices, metric, scale)
        matched[row, : len(indices)] = keys[0].sort().values
    nearer = torch.zeros_like(matched)
    for start in range(0, len(gallery.embeddings), gallery_block):
        part = Embedded(*(column[start : start + gallery_block] for column in gallery))
        nearer += _count_nearer(query, part, start, matched, metric, scale)
    ranks = nearer + torch.arange(width, device=nearer.device)
    return [row[: len(indices)] for row, indices in zip(ranks, matches, strict=True)]


def match_indices(identity: Tensor, camera: Tensor, gallery: Embedded) -> Tensor:
    """Return the rows (K,) of the gallery that match one query: its identity, another camera.

    Args:
        identity: of the query, (); junk and distractors match nothing.
        camera: of the query, ().
        gallery: embeddings (G, D), identities and cameras (G,).
    """
    if identity in (JUNK_IDENTITY, DISTRACTOR_IDENTITY):
        return torch.zeros(0, dtype=torch.int64, device=identity.device)
    found = (gallery.identities == identity) & (gallery.cameras != camera)
    return found.nonzero()[:, 0]


def _count_nearer(
    query: Embedded, part: Embedded, start: int, matched: Tensor, metric: str, scale: float
) -> Tensor:
    """Return how many wrong images of one gallery block are nearer than each match, (Q, K)."""
    indices = torch.arange(start, start + len(part.embeddings), device=matched.device)
    keys = _keys(query.embeddings, part.embeddings, indices, metric, scale)
    same = part.identities == query.identities[:, None]
    keys = keys.masked_fill(same | (part.identities == JUNK_IDENTITY), FARTHEST)
    rows, width = matched.shape
    place = torch.searchsorted(matched, keys, right=True)
    place += torch.arange(rows, device=matched.device)[:, None] * (width + 1)
    histogram = torch.bincount(place.flatten(), minlength=rows * (width + 1))
    return histogram.view(rows, width + 1)[:, :width].cumsum(1)


def _keys(query: Tensor, gallery: Tensor, indices: Tensor, metric: str, scale: float) -> Tensor:
    """Return int64 keys (Q, G) that sort as (distance, gallery index) does."""
    query, gallery = query.double(), gallery.double()
    if metric == "cosine":
        query, gallery = (x / x.norm(dim=1, keepdim=True) for x in (query, gallery))
        distance = 1 - query @ gallery.T
    else:
        squares = (query**2).sum(1)[:, None] + (gallery**2).sum(1)
        distance = squares - 2 * query @ gallery.T
    steps = (distance * (DISTANCE_STEPS / scale)).round().clamp(0, DISTANCE_STEPS).long()
    return steps * INDEX_SPAN + indices


def _range(query: Tensor, gallery: Tensor, metric: str) -> float:
    """Return the largest distance that can occur (squared for euclidean)."""
    if metric == "cosine":
        return 2.0
    norms = [float(x.norm(dim=1).max()) for x in (query, gallery)]
    return sum(norms) ** 2 or 1.0


def check_embedded(query: Embedded, gallery: Embedded, metric: str) -> None:
    """Raise unless shapes agree and embeddings are finite and, for cosine, not zero."""
    check_choice("metric", metric, METRICS)
    width = query.embeddings.shape[-1]
    for name, part in (("query", query), ("gallery", gallery)):
        embeddings, identities, _ = part
        count = len(identities)
        shapes = [tuple(column.shape) for column in part]
        if shapes != [(count, width), (count,), (count,)] or not count:
            raise InputError(name, f"shapes {shapes}", f"(N, {width}), (N,) and (N,), N from 1")
        for start in range(0, count, CHECK_BLOCK):
            check_finite(name, embeddings[start : start + CHECK_BLOCK])
        if metric == "cosine":
            check_nonzero(name, embeddings)
    if len(gallery.embeddings) >= INDEX_SPAN:
        raise InputError("gallery", f"{len(gallery.embeddings)} images", f"below {INDEX_SPAN}")
