"""Means and ratios with confidence intervals, by the bootstrap over identities."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reid_explain.checks import described
from reid_explain.errors import InputError


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Tensor,
    groups: Tensor | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of values (n,) with its interval, resampling whole groups (n,)."""
    return bootstrap_ratio(
        values, torch.ones_like(values), groups, confidence=confidence, seed=seed
    )


def bootstrap_ratio(
    numerators: Tensor,
    denominators: Tensor,
    groups: Tensor | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the ratio of sums of (n,) and (n,) with its interval, resampling groups (n,)."""
    for values in (numerators, denominators):
        if values.dim() != 1 or len(values) == 0 or not torch.isfinite(values).all():
            raise InputError("values", described(values), "finite values (n,) with n from 1")
    index = (
        torch.arange(len(numerators))
        if groups is None
        else torch.unique(groups, return_inverse=True)[1]
    )
    sums = np.stack(
        [np.bincount(index.numpy(), v.double().numpy()) for v in (numerators, denominators)]
    )
    generator = np.random.default_rng(seed)
    count = sums.shape[1]
    resampled = sums[:, generator.integers(count, size=(2000, count))].sum(axis=2)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled[0] / resampled[1], [tail, 1 - tail])
    top, bottom = sums.sum(axis=1)
    return Interval(float(top / bottom), float(low), float(high))
