"""Means with confidence intervals, by the bootstrap over queries, images or pairs."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reid_explain.checks import check_at_least, described
from reid_explain.errors import InputError


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of ``values`` (n,) with its percentile bootstrap interval.

    For the difference of two methods hand in the differences, value by value: the interval is
    then paired.

    Args:
        values: One value per query, image or pair.
        confidence: Share of the resampled means between the bounds, in (0, 1).
        resamples: Number of samples of n values drawn with replacement.
        seed: Of the local generator; the same values and seed give the same bounds.

    Raises:
        InputError: If there is no value, or one is NaN or infinite.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Example:
        >>> ours, theirs = torch.tensor([0.5, 0.7, 0.6, 0.8]), torch.tensor([0.4, 0.5, 0.5, 0.5])
        >>> lead = bootstrap_mean(ours - theirs)  # paired: the difference, query by query
        >>> round(lead.mean, 3), round(lead.low, 3), round(lead.high, 3)
        (0.175, 0.1, 0.25)
    """
    check_at_least("resamples", resamples, 1)
    if values.dim() != 1 or len(values) == 0 or not torch.isfinite(values).all():
        raise InputError("values", described(values), "finite values (n,) with n of at least 1")
    sample = values.detach().double().cpu().numpy()
    generator = np.random.default_rng(seed)
    means = [
        sample[generator.integers(len(sample), size=len(sample))].mean() for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high))
