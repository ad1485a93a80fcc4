r"""Scores of many masks from the scores of a few: where to measure, and what follows for the rest.

Channels repeat each other, and a score changes smoothly with the mask. So scores are taken as a
Gaussian process over masks (kriging): with the distance r of two masks as points of [0, 1]^Z,

.. math:: k(r) = (1 + \sqrt{3} r / \ell) \exp(-\sqrt{3} r / \ell),

the Matérn kernel of smoothness 3/2, and the length :math:`\ell` three times the root mean square
distance of two masks. The same process says which masks to measure (``landmarks``) and predicts
the scores of the others (``predicted``). Nothing here is random, and nothing looks at a model.

Sources: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equations 2.25 and
2.26; Harbrecht et al., On the low-rank approximation by the pivoted Cholesky decomposition, 2012.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reid_explain.fills import unit_range

Measure = Callable[[Tensor], Tensor]
"""Which channels, (B, K) bool -> their scores (B, K), 0 elsewhere."""

LENGTH = 3.0
"""The kernel's length in root mean square distances."""
NUGGET = 1e-2
"""The variance of what is not smooth, beside the process's 1."""


def channel_range(activation: Tensor) -> Tensor:
    """Return the largest minus the smallest value of each channel of (B, K, h, w), (B, K)."""
    return activation.amax(dim=(2, 3)) - activation.amin(dim=(2, 3))


def weighted_sum(scores: Tensor, activation: Tensor) -> Tensor:
    """Return the sum (B, 1, h, w) of channels (B, K, h, w) with the softmax of scores (B, K)."""
    weights = scores.softmax(dim=1)[:, :, None, None]
    return (weights * activation).sum(dim=1, keepdim=True)


def sampled_scores(
    measure: Measure, activation: Tensor, count: int, tolerance: float | None = None
) -> Tensor:
    """Return the scores (B, K) of all channels, from those of some.

    With a tolerance, the number of channels that are measured doubles, image by image, until the
    map stretched to [0, 1] moves nowhere by more than that. The last map is nearer to the exact
    one than this estimate, as a rule: it is what the map before was off.

    Args:
        measure: Scores the channels of its choice.
        activation: (B, K, h, w).
        count: How many channels of each image are measured, or are at first.
        tolerance: In (0, 1]; None for no more than ``count``.
    """
    span = channel_range(activation)
    live = span > 0
    masks = unit_range(activation).flatten(2)
    most = max(1, int(live.sum(dim=1).max()))
    known, settled = torch.zeros_like(live), torch.zeros_like(live[:, :1])
    scores = result = torch.zeros_like(span)
    before = None
    while True:
        count = min(count, most)
        chosen = landmarks(masks, span, count)
        wanted = torch.zeros_like(live).scatter(1, chosen, True) & live & ~known & ~settled
        scores = scores + measure(wanted)
        known = known | wanted
        guess = predicted(masks, chosen, scores.gather(1, chosen)).where(live, 0)
        result = result.where(settled, guess)
        if tolerance is None or count == most:
            return result
        map_ = unit_range(weighted_sum(result, activation).relu())
        if before is not None:
            moved = (map_ - before).abs().amax(dim=(2, 3))
            settled = settled | (moved <= tolerance)
            if settled.all():
                return result
        before = map_
        count *= 2


def kernel(a: Tensor, b: Tensor, length: Tensor) -> Tensor:
    """Return the covariances (B, m, n) of the scores of masks (B, m, Z) and (B, n, Z).

    ``length`` is (B, 1, 1).
    """
    distance = math.sqrt(3) * torch.cdist(a, b) / length
    return (1 + distance) * torch.exp(-distance)


def kernel_length(masks: Tensor) -> Tensor:
    """Return the kernel's length (B, 1, 1) for masks (B, K, Z); 1 if they are all the same."""
    mean_square = 2 * masks.var(dim=1, correction=0).sum(dim=1)[:, None, None]
    return LENGTH * mean_square.sqrt().where(mean_square > 0, torch.ones_like(mean_square))


def landmarks(masks: Tensor, importance: Tensor, count: int) -> Tensor:
    """Return the channels to measure, (B, count), the most telling first.

    Each one in turn is where importance times the standard deviation of the score, given the
    channels before it, is largest. So fewer landmarks are the first ones of more.

    Args:
        masks: (B, K, Z), in [0, 1].
        importance: (B, K), at least 0: what an error of the score does to the result. No channel
            of importance 0 comes before one that has any.
        count: At most K.
    """
    batch = torch.arange(len(masks), device=masks.device)
    length = kernel_length(masks)
    variance = torch.ones_like(importance)
    factor = masks.new_zeros(*importance.shape, count)
    chosen = torch.zeros_like(importance, dtype=torch.bool)
    order = []
    for step in range(count):
        gain = (importance.square() * variance).masked_fill(importance == 0, -1)
        channel = gain.masked_fill(chosen, -2).argmax(dim=1)
        column = kernel(masks, masks[batch, channel][:, None], length)[:, :, 0]
        known = torch.einsum("bkt,bt->bk", factor, factor[batch, channel])
        scale = (variance[batch, channel] + NUGGET).sqrt()[:, None]
        factor[:, :, step] = (column - known) / scale
        variance = (variance - factor[:, :, step].square()).clamp_min(0)
        chosen[batch, channel] = True
        order.append(channel)
    return torch.stack(order, dim=1)


def predicted(masks: Tensor, measured: Tensor, scores: Tensor) -> Tensor:
    """Return the scores (B, K) of all masks; those that were measured stay what they are.

    Args:
        masks: (B, K, Z), in [0, 1].
        measured: The n channels whose score is known, (B, n).
        scores: (B, n).
    """
    length = kernel_length(masks)
    known = masks.gather(1, measured[:, :, None].expand(-1, -1, masks.shape[2]))
    covariance = kernel(known, known, length)
    covariance.diagonal(dim1=1, dim2=2).add_(NUGGET)
    ones = torch.ones_like(scores)
    solved = torch.linalg.solve(covariance, torch.stack([scores, ones], dim=2))
    mean = solved[:, :, :1].sum(dim=1, keepdim=True) / solved[:, :, 1:].sum(dim=1, keepdim=True)
    weights = solved[:, :, :1] - mean * solved[:, :, 1:]
    guessed: Tensor = (mean + kernel(masks, known, length) @ weights)[:, :, 0]
    return guessed.scatter(1, measured, scores)
