"""AP, CMC and mAP from ranks: of each query, the ascending ranks of its matches, from 0."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reid_explain.checks import check_choice
from reid_explain.errors import InputError

INTERPOLATIONS = ("standard", "trapezoid")


class RetrievalSummary(NamedTuple):
    """Means over the queries that have a match, in percent; ``cmc`` by rank."""

    mean_ap: float
    cmc: dict[int, float]
    queries: int
    excluded: int


def average_precision(ranks: Sequence[Tensor], interpolation: str = "standard") -> Tensor:
    """Return the average precision of each query, (Q,) float64; NaN without a match.

    With r_i the rank (from 0) of match i (from 0) of n:
    ``"standard"`` is the mean of (i+1)/(r_i+1), the precision at each match (torchreid,
    fast-reid); ``"trapezoid"`` the mean of ½[i/r_i + (i+1)/(r_i+1)], i/r_i = 1 at r_i = 0, the
    area of the original Market-1501 script. Another ``interpolation`` raises ``InputError``.

    Example:
        >>> average_precision([torch.tensor([0, 3]), torch.tensor([], dtype=torch.int64)])
        tensor([0.7500,    nan], dtype=torch.float64)
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    matches = torch.tensor([len(row) for row in ranks], device=ranks[0].device)
    padded = pad_sequence(list(ranks), batch_first=True).double()
    hits = torch.arange(padded.shape[1], dtype=padded.dtype, device=padded.device)
    precision = (hits + 1) / (padded + 1)
    if interpolation == "trapezoid":
        before = torch.where(padded > 0, hits / padded.clamp(min=1), 1.0)
        precision = (before + precision) / 2
    return precision.masked_fill(hits >= matches[:, None], 0).sum(dim=1) / matches


def cumulative_matches(ranks: Sequence[Tensor], at: Sequence[int] = (1, 5, 10)) -> Tensor:
    """Return whether a match is among the first k, for each query and k of ``at``, from 1.

    It is (Q, len(at)) float64 of 0 and 1; NaN for a query without a match. A k below 1 raises
    ``InputError``.

    Example:
        >>> cumulative_matches([torch.tensor([0, 3]), torch.tensor([2])], at=(1, 5))
        tensor([[1., 1.],
                [0., 1.]], dtype=torch.float64)
    """
    if not at or min(at) < 1:
        raise InputError("at", tuple(at), "ranks from 1")
    nearest = [float(row[0]) if len(row) else torch.nan for row in ranks]
    first = torch.tensor(nearest, dtype=torch.float64)
    hits = (first[:, None] < torch.tensor(at)).double()
    return hits.masked_fill(first.isnan()[:, None], torch.nan)


def summarize(
    ranks: Sequence[Tensor], at: Sequence[int] = (1, 5, 10), interpolation: str = "standard"
) -> RetrievalSummary:
    """Return mAP and CMC, in percent; ``InputError`` if no query has a match.

    Example:
        >>> summarize([torch.tensor([0, 3]), torch.tensor([3])], at=(1, 5))
        RetrievalSummary(mean_ap=50.0, cmc={1: 50.0, 5: 100.0}, queries=2, excluded=0)
    """
    precision = average_precision(ranks, interpolation)
    excluded = int(precision.isnan().sum())
    if excluded == len(ranks):
        raise InputError("ranks", f"{excluded} queries without a match", "a query with a match")
    cmc = (100 * cumulative_matches(ranks, at).nanmean(0)).tolist()
    mean_ap = 100 * float(precision.nanmean())
    return RetrievalSummary(mean_ap, dict(zip(at, cmc, strict=True)), len(ranks), excluded)
