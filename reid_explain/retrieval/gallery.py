"""A gallery that is prepared once, and what queries find in it."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from reid_explain.checks import check_choice, check_finite, check_nonzero, describe
from reid_explain.errors import InputError
from reid_explain.retrieval.embedded import JUNK, Embedded, relevance
from reid_explain.retrieval.scores import average_precision
from reid_explain.vectors import unit

METRICS = ("cosine", "euclidean")
STEPS = 2.0**34
QUERY_BLOCK = 256
LARGEST_BLOCK = 2**18  # A score and a place in a block share the 53 bits of a float64.


class RetrievalScores(NamedTuple):
    """Mean cosine with the matches and average precision of queries, both (Q,) float64."""

    match_similarity: Tensor
    average_precision: Tensor


class Group(NamedTuple):
    """Consecutive queries of one identity and camera, and where in the gallery they match."""

    rows: slice
    matches: Tensor
    junk: Tensor


class Gallery:
    """Images to search in, prepared once.

    Similarities are computed in float64 and compared in steps of 2^-34 of their range, 6e-11:
    far above rounding, which differs with the sizes of blocks and between devices, and far below
    the precision of float32. Of images at equal distances the first in the gallery is nearer.

    Args:
        embedded: embeddings (G, D) with their columns.
        metric: ``"cosine"`` or ``"euclidean"``.
        device: where the embeddings are kept, in float64, and compared.
        block: gallery images compared at a time, with up to 256 queries: it bounds the memory.

    Raises:
        InputError: here and in every method, if shapes disagree or an embedding is not finite
            or, for cosine, zero.

    Example:
        >>> query = Embedded(torch.tensor([[1.0, 0.0]]), torch.tensor([7]), torch.tensor([1]))
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> identities, cameras = torch.tensor([7, 3, 7, 7]), torch.tensor([1, 2, 2, 3])
        >>> gallery = Gallery(Embedded(embeddings, identities, cameras))  # the first is junk
        >>> gallery.ranks(query), gallery.nearest(query)  # identity 3 is nearer than both matches
        ([tensor([1, 2])], tensor([[1]]))
    """

    def __init__(
        self,
        embedded: Embedded,
        *,
        metric: str = "cosine",
        device: torch.device | str = "cpu",
        block: int = 8192,
    ) -> None:
        check_choice("metric", metric, METRICS)
        if not 1 <= block <= LARGEST_BLOCK:
            raise InputError("block", block, f"1 to {LARGEST_BLOCK}")
        self.metric, self.device, self.block = metric, torch.device(device), block
        self.width = embedded.embeddings.shape[-1]
        self._check("gallery", embedded)
        embedded = embedded.to(self.device)
        self._indices = (embedded.roles != JUNK).nonzero()[:, 0]
        embedded = embedded.rows(self._indices)
        self._embedded = embedded._replace(embeddings=self._directions(embedded.embeddings))
        self._squares = self._embedded.embeddings.norm(dim=1).square()
        self._reach = self._squares.amax().sqrt() if len(self._squares) else self._squares.sum()

    def ranks(self, query: Embedded) -> list[Tensor]:
        """Return how many valid images are nearer than each match, for queries (Q, D).

        It is one ascending int64 tensor per query, on the gallery's device; 0 is the nearest
        image, and a query without a match has none.
        """
        query = self._prepared(query)
        found: dict[int, Tensor] = {}
        for order, groups in self._groups(query):
            ranks_of_groups = self._ranks(query.embeddings[order], groups)
            for group, ranks in zip(groups, ranks_of_groups, strict=True):
                found |= zip(order[group.rows].tolist(), ranks, strict=True)
        return [found[row] for row in range(len(found))]

    def match_similarity(self, query: Embedded) -> Tensor:
        """Return each query's mean cosine with its matches, (Q,) float64; NaN without a match.

        FAM's equation 15 has the sum in place of the mean: the number of matches cancels in AS
        Drop. The cosine with a zero embedding is 0.
        """
        query = self._prepared(query)
        means = torch.empty_like(query.embeddings[:, 0])
        for order, groups in self._groups(query):
            for group in groups:
                rows = order[group.rows]
                matches = unit(self._embedded.embeddings[group.matches])
                means[rows] = (unit(query.embeddings[rows]) @ matches.T).mean(dim=1)
        return means

    def scores(self, query: Embedded, interpolation: str = "standard") -> RetrievalScores:
        """Return what ``match_similarity`` and ``average_precision`` say of each query."""
        precision = average_precision(self.ranks(query), interpolation)
        return RetrievalScores(self.match_similarity(query), precision)

    def nearest(self, query: Embedded, k: int = 1) -> Tensor:
        """Return the indices (Q, k) of the gallery images nearest to each query, junk left out.

        Fewer than k valid images for a query raise ``InputError``.
        """
        query = self._prepared(query)
        rows = []
        for start in range(0, len(query.roles), QUERY_BLOCK):
            part = query.rows(slice(start, start + QUERY_BLOCK))
            _, valid = relevance(part, self._embedded)
            fewest = int(valid.sum(dim=1).min())
            if not 1 <= k <= fewest:
                raise InputError("k", k, f"1 to {fewest}, the images valid for every query")
            scores = self._scores(part.embeddings, slice(None)).masked_fill_(~valid, -torch.inf)
            order = scores.sort(dim=1, descending=True, stable=True).indices
            rows.append(self._indices[order[:, :k]])
        return torch.cat(rows)

    def _groups(self, query: Embedded) -> Iterator[tuple[Tensor, list[Group]]]:
        """Yield blocks of the queries' indices, sorted by identity and camera, and their groups."""
        people = torch.stack([query.identities, query.cameras, query.roles], dim=1)
        _, number = torch.unique(people, dim=0, return_inverse=True)
        for order in number.argsort(stable=True).split(QUERY_BLOCK):
            groups, start = [], 0
            for size in torch.unique_consecutive(number[order], return_counts=True)[1].tolist():
                match, valid = relevance(query.rows(order[start : start + 1]), self._embedded)
                matches, junk = (mask[0].nonzero()[:, 0] for mask in (match, ~valid))
                groups.append(Group(slice(start, start + size), matches, junk))
                start += size
            yield order, groups

    def _ranks(self, queries: Tensor, groups: list[Group]) -> list[Tensor]:
        """Return the ascending ranks (R, K) of the matches of each group of queries (Q, D)."""
        own = [self._scores(queries[group.rows], group.matches) for group in groups]
        nearer = [torch.zeros_like(scores, dtype=torch.int64) for scores in own]
        for start in range(0, len(self._indices), self.block):
            keys = self._scores(queries, slice(start, start + self.block)).mul_(self.block)
            width = keys.shape[1]
            keys -= torch.arange(width, device=self.device)  # Of equal scores the first is higher.
            for group in groups:
                inside = (group.junk >= start) & (group.junk < start + width)
                keys[group.rows, group.junk[inside] - start] = -torch.inf
            if keys.device.type == "cpu":
                keys.numpy().sort(axis=1)  # In place, vectorized.
            else:
                keys = keys.sort(dim=1).values
            for group, scores, counts in zip(groups, own, nearer, strict=True):
                thresholds = scores * self.block - (group.matches - start).clamp(0, width)
                counts += width - torch.searchsorted(keys[group.rows], thresholds, right=True)
        return [counts.sort(dim=1).values for counts in nearer]

    def _scores(self, queries: Tensor, rows: Tensor | slice) -> Tensor:
        """Return whole numbers (Q, G) in float64, higher where ``rows`` are nearer to queries."""
        gallery = self._embedded.embeddings[rows]
        if self.metric == "cosine":
            return torch.mm(queries * STEPS, gallery.T).round_()
        spans = (queries.norm(dim=1) + self._reach).square()
        steps = STEPS / spans.clamp_min(torch.finfo(torch.float64).tiny)
        products = torch.mm(queries * (2 * steps[:, None]), gallery.T)
        return products.addr_(steps, self._squares[rows], alpha=-1).round_()

    def _prepared(self, query: Embedded) -> Embedded:
        """Return checked queries on the gallery's device, with embeddings as the gallery's."""
        self._check("query", query)
        query = query.to(self.device)
        return query._replace(embeddings=self._directions(query.embeddings))

    def _directions(self, embeddings: Tensor) -> Tensor:
        """Return float64 embeddings (N, D), for cosine at unit length."""
        parts = torch.split(embeddings.detach(), self.block)
        double = (part.double() for part in parts)
        return torch.cat([unit(part) if self.metric == "cosine" else part for part in double])

    def _check(self, argument: str, embedded: Embedded) -> None:
        """Raise unless shapes agree and embeddings are finite and, for cosine, not zero."""
        count = len(embedded.identities)
        shapes = [tuple(column.shape) for column in embedded]
        if shapes != [(count, self.width), *[(count,)] * 3] or not count:
            expected = f"(N, {self.width}), (N,), (N,) and (N,), N from 1"
            raise InputError(argument, f"shapes {shapes}", expected)
        for rows in torch.split(embedded.embeddings, self.block):
            check_finite(argument, rows)
        if self.metric == "cosine":
            check_nonzero(argument, embedded.embeddings)


def ranks_by_distance(distances: Tensor, query: Embedded, gallery: Embedded) -> list[Tensor]:
    """Return what ``Gallery.ranks`` returns, from distances (Q, G) of any kind.

    Of equal distances the first in the gallery is nearer; the embeddings are not read. Shapes
    that disagree raise ``InputError``.
    """
    shape = (len(query.identities), len(gallery.identities))
    if tuple(distances.shape) != shape:
        raise InputError("distances", describe(distances), f"one for each pair, {shape}")
    ranks = []
    for number, row in enumerate(distances):
        match, valid = relevance(query.rows(slice(number, number + 1)), gallery)
        order = row.argsort(stable=True)
        ranks.append(match[0, order][valid[0, order]].nonzero()[:, 0])
    return ranks
