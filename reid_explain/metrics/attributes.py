"""How well attribute distances rank the attributes that differ: X-mAP and its floors (AMD, 4.3).

One value per pair of images; means come after.
"""

import torch
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError


def ranked_precision(scores: Tensor, relevant: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Return the average precision of the relevant attributes, ranked by descending score.

    .. math:: AP = \frac{1}{|R|} \sum_{k \in R} \frac{\text{relevant among the first } n_k}{n_k}

    with n_k the rank of attribute k, from 1. X-mAP_e is the mean of it with the distances d^k as
    scores and the exclusive attributes as relevant, X-mAP_c with -d^k and the common ones.

    Args:
        scores: (..., M); of equal scores the first counts as the higher.
        relevant: (..., M), bool; another shape or dtype raises ``InputError``.
        known: (..., M), bool; other attributes are left out of the ranking. All by default.

    Returns:
        (...), float32, 0 to 1; NaN where nothing is relevant.

    Example:
        >>> ranked_precision(torch.tensor([0.1, 0.5, 0.2]), torch.tensor([False, True, True]))
        tensor(1.)
    """
    for name, mask in (("relevant", relevant), ("known", known)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape[-1:] != scores.shape[-1:]):
            raise InputError(name, describe(mask), f"bool (..., {scores.shape[-1]})")
    if known is not None:
        scores = scores.masked_fill(~known, -torch.inf)
        relevant = relevant & known
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    hits = relevant.expand(scores.shape).gather(-1, order).float()
    places = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    precision: Tensor = (hits * hits.cumsum(-1) / places).sum(-1) / hits.sum(-1)
    return precision


def random_precision(relevant: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Return the expected average precision of a random order: the first floor.

    .. math:: E[AP] = \frac{1}{M}\left[H_M + \frac{R - 1}{M - 1}(M - H_M)\right],
        \quad H_M = \sum_{n=1}^{M} \frac{1}{n}

    for bool ``relevant`` (..., M), R of them true in each row, and ``known`` (..., M), all by
    default, which M counts. It is (...), float32; NaN where nothing is relevant.

    Example:
        >>> random_precision(torch.tensor([False, True, False, True]))
        tensor(0.6806)
    """
    known = torch.ones_like(relevant) if known is None else known
    count = known.sum(-1)
    hits = (relevant & known).sum(-1).float()
    places = torch.arange(1, known.shape[-1] + 1, device=known.device)
    harmonic = torch.cat([torch.zeros(1, device=known.device), (1 / places).cumsum(0)])[count]
    after = (hits - 1) / (count - 1).clamp(min=1) * (count - harmonic)
    return torch.where(hits > 0, (harmonic + after) / count.clamp(min=1), torch.nan)


def frequencies(labels: Tensor) -> Tensor:
    """Return p, the share of identities that have each attribute, (M,) float32.

    Labels (N, M) are 1 or 2 (yes), and 0 where unknown, which does not count.
    """
    return (labels == 2).sum(0) / (labels > 0).sum(0).clamp(min=1)


def disagreement(p: Tensor) -> Tensor:
    """Return 2p(1-p), how often two identities differ in each attribute, (M,): the second floor.

    Example:
        >>> disagreement(torch.tensor([0.5, 0.1]))
        tensor([0.5000, 0.1800])
    """
    return 2 * p * (1 - p)
