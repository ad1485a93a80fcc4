"""Means and ratios with confidence intervals, by the bootstrap over identities.

Queries of one identity are alike, so identities are resampled: intervals over queries cover the
truth in some 80 % of cases where they promise 95. The interval is studentized (bootstrap-t):
percentile intervals are too narrow with few identities, and lopsided with skewed values.
``benchmarks/coverage.py`` shows it.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5; Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (resampling of clusters).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError

Array = NDArray[np.float64]

RESAMPLES = 2000
CACHED_GROUPS = 4096
LEAST_VARIANCE = 0.1


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Tensor, groups: Tensor | None = None, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of ``values`` with its confidence interval.

    For the difference of two methods hand in the differences, value by value: the interval is
    then paired. What has no value (NaN) is to be left out before, with its group.

    Args:
        values: (n,), one per query, image or pair.
        groups: identity of each value, (n,) of whole numbers; None if values are independent.
        confidence: share of cases in which the interval is to cover the truth, in (0, 1).
        seed: for the resampling, by a generator of its own.

    Returns:
        Mean and bounds; the bounds are NaN for a single group, which says nothing of others.

    Raises:
        InputError: there is no value, one is not finite, or an argument is out of its range.

    Example:
        >>> ours, baseline = torch.tensor([0.5, 0.7, 0.6, 0.8]), torch.tensor([0.4, 0.5, 0.5, 0.5])
        >>> [round(value, 2) for value in bootstrap_mean(ours - baseline)]  # paired, by query
        [0.18, 0.05, 0.41]
    """
    return _interval("values", values, torch.ones_like(values), groups, confidence, seed)


def bootstrap_ratio(
    numerators: Tensor,
    denominators: Tensor,
    groups: Tensor | None = None,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the ratio of two sums with its confidence interval; both are resampled together.

    A mean over pairs, kept by query, is such a ratio: the query's sum over its pairs is the
    numerator, their number the denominator. Arguments and errors as of ``bootstrap_mean``.

    Args:
        numerators: (n,).
        denominators: (n,), at least 0, not all 0.
        groups: (n,) or None.
        confidence: in (0, 1).
        seed: for the resampling.

    Example:
        >>> bootstrap_ratio(torch.tensor([8.0, 2.0, 1.0]), torch.tensor([10.0, 4.0, 8.0])).mean
        0.5
    """
    return _interval("numerators", numerators, denominators, groups, confidence, seed)


def kendall_w(scores: Tensor) -> float:
    r"""Return Kendall's coefficient of concordance W of m rankings of n things, in [0, 1].

    .. math:: W = \frac{12 \sum_i (R_i - \bar R)^2}{m^2 (n^3 - n) - m \sum_j T_j},
        \quad T_j = \sum_g (t_g^3 - t_g)

    with R_i the sum of thing i's ranks and t_g the sizes of the ties of ranking j. 1: all agree; 0:
    nothing in common (two rankings that are each other's reverse).

    Args:
        scores: (m, n), higher is better in every row; m and n of at least 2.

    Raises:
        InputError: Another shape, or rows that are all ties.

    Example:
        >>> kendall_w(torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
        1.0
        >>> kendall_w(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
        0.0
    """
    if scores.dim() != 2 or min(scores.shape) < 2:
        raise InputError("scores", describe(scores), "(m, n), both at least 2")
    from scipy.stats import rankdata  # here: it takes long to import, and few need it

    raters, things = scores.shape
    ranks = np.stack([rankdata(row) for row in scores.double().numpy()])
    sums = ranks.sum(axis=0)
    sizes = [np.unique(row, return_counts=True)[1].astype(float) for row in ranks]
    ties = sum(float((size**3 - size).sum()) for size in sizes)
    most = raters**2 * (things**3 - things) - raters * ties
    if most <= 0:
        raise InputError("scores", "rows that are all ties", "rankings")
    return float(12 * ((sums - sums.mean()) ** 2).sum() / most)


def rank_agreement(
    tables: Sequence[Tensor], *, confidence: float = 0.95, resamples: int = 500, seed: int = 0
) -> Interval:
    """Return Kendall's W of the column means of m tables, with a bootstrap interval over rows.

    The mean of Spearman's correlations of all pairs of tables is (m W - 1) / (m - 1). Tables of
    equally many rows are resampled alike, as befits two measurements of the same identities. The
    interval is one of percentiles: noise lowers W, so that it may lie below the estimate.

    Args:
        tables: m of (identities, n), higher is better; NaN for no value. n things are ranked.
        confidence: in (0, 1).
        resamples: how many.
        seed: for the resampling.

    Raises:
        InputError: As of ``kendall_w``.

    Example:
        >>> one = torch.tensor([[1.0, 2.0, 3.0], [1.1, 2.1, 3.1]])
        >>> [round(value, 2) for value in rank_agreement([one, one + 1])]
        [1.0, 1.0, 1.0]
    """

    def concordance(rows: Sequence[Any]) -> float:
        pairs = zip(tables, rows, strict=True)
        return kendall_w(torch.stack([table.double()[own].nanmean(0) for table, own in pairs]))

    found = []
    for number in range(resamples):
        draws = [
            np.random.default_rng([seed, number]).integers(len(table), size=len(table))
            for table in tables
        ]
        found.append(concordance(draws))
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(concordance([slice(None)] * len(tables)), float(low), float(high))


def _interval(
    argument: str,
    numerators: Tensor,
    denominators: Tensor,
    groups: Tensor | None,
    confidence: float,
    seed: int,
) -> Interval:
    numbers = torch.arange(len(numerators)) if groups is None else groups
    shape = numerators.shape
    if len(shape) != 1 or not len(numerators) or not torch.isfinite(numerators).all():
        raise InputError(argument, describe(numerators), "finite values (n,) with n of at least 1")
    usable = torch.isfinite(denominators).all() and bool((denominators >= 0).all())
    if denominators.shape != shape or not usable or not denominators.any():
        raise InputError("denominators", describe(denominators), f"{tuple(shape)}, at least 0")
    if numbers.shape != shape or numbers.is_floating_point():
        raise InputError("groups", describe(numbers), f"whole numbers {tuple(shape)}")
    if not 0 < confidence < 1:
        raise InputError("confidence", confidence, "a share in (0, 1)")
    distinct, index = torch.unique(numbers.cpu(), return_inverse=True)
    values = torch.stack([numerators, denominators]).detach().double().cpu()
    sums = torch.zeros(2, len(distinct), 1, dtype=torch.float64)
    sums.index_add_(1, index, values[..., None])
    bounds = studentized(sums[0].numpy(), sums[1].numpy(), confidence, seed)
    return Interval(*(bound.item() for bound in bounds))


def studentized(
    numerators: Array, denominators: Array, confidence: float = 0.95, seed: int = 0
) -> tuple[Any, Any, Any]:
    """Return ratios of sums over groups, and their bootstrap-t bounds: three arrays (k,).

    With r the ratio and s its standard error by linearization, r* and s* those of a resample: the
    bounds are r - s q, q the quantiles of (r* - r) / s*. The square of s* counts as at least a
    tenth of that of s, so that a resample of equal groups, whose s* is 0, has a finite place.

    Args:
        numerators: sums of each of G groups, (G, k), for k samples at once.
        denominators: (G, k).
        confidence: in (0, 1).
        seed: for the resampling.
    """
    count = len(numerators)
    ratio = numerators.sum(0) / denominators.sum(0)
    if count == 1:
        return ratio, ratio * np.nan, ratio * np.nan
    residuals = numerators - ratio * denominators
    own = _variance((residuals**2).sum(0), denominators.sum(0), count)
    products = [residuals, denominators, residuals**2, residuals * denominators, denominators**2]
    e, d, ee, ed, dd = np.split(_resampled(np.hstack(products), seed), len(products), axis=1)
    shift = np.divide(e, d, out=np.zeros_like(e), where=d > 0)
    squares = ee - 2 * shift * ed + shift**2 * dd
    spread = np.sqrt(np.maximum(_variance(squares, d, count), LEAST_VARIANCE * own))
    places = np.divide(shift, spread, out=np.zeros_like(e), where=spread > 0)
    tail = (1 - confidence) / 2
    least, most = np.quantile(places, [tail, 1 - tail], axis=0) * np.sqrt(own)
    return ratio, ratio - most, ratio - least


def _variance(squares: Array, denominators: Array, count: int) -> Array:
    """Return the variance of a ratio, by linearization, from the sum of its squared residuals."""
    total = denominators.clip(min=np.finfo(np.float64).tiny)
    variance: Array = squares * (count / (count - 1)) / total**2
    return variance


def _resampled(columns: Array, seed: int) -> Array:
    """Return the sums of columns (G, m) over resamples of G rows, (RESAMPLES, m)."""
    count = len(columns)
    if count <= CACHED_GROUPS:
        return _all_weights(count, seed) @ columns
    return np.concatenate([weights @ columns for weights in _weights(count, seed)])


@lru_cache(maxsize=4)
def _all_weights(count: int, seed: int) -> Array:
    return np.concatenate([*_weights(count, seed)])


def _weights(count: int, seed: int) -> Iterator[Array]:
    """Yield how often each of ``count`` groups is drawn, (r, count), for r resamples at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, 2**18 // count)
    for start in range(0, RESAMPLES, block):
        rows = np.arange(min(block, RESAMPLES - start))[:, None]
        draws = generator.integers(count, size=(len(rows), count)) + count * rows
        weights = np.bincount(draws.ravel(), minlength=count * len(rows))
        yield weights.reshape(len(rows), count).astype(np.float64)
