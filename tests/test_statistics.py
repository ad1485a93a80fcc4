"""Intervals: closed forms, an oracle in plain loops, symmetries, and coverage."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from reid_explain import InputError
from reid_explain.statistics import bootstrap_mean, bootstrap_ratio, kendall_w, studentized

NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_a_constant_ratio_has_no_width():
    """Ratios were bootstrapped over fixed counts: 90.0 [4.8, 199.3] for pairs that are all 0.9."""
    counts = torch.tensor([1.0, 100, 3, 7, 250, 2]).double()
    assert bootstrap_ratio(90 * counts, counts) == pytest.approx((90, 90, 90))
    assert bootstrap_mean(torch.full((20,), 0.3).double()) == pytest.approx((0.3, 0.3, 0.3))
    assert bootstrap_mean(torch.zeros(20)) == (0, 0, 0)


def test_equal_values_of_an_identity_count_once():
    values, groups = normal(30), torch.arange(30)
    expected = bootstrap_mean(values)
    assert bootstrap_mean(values.repeat(5), groups.repeat(5)) == pytest.approx(expected)
    assert bootstrap_mean(values, groups) == pytest.approx(expected)
    naive = bootstrap_mean(values.repeat(5))
    assert naive.high - naive.low < 0.5 * (expected.high - expected.low)


@pytest.mark.slow
@given(st.integers(0, 100), st.floats(0.1, 10), st.floats(-10, 10))
def test_an_interval_moves_with_its_values(seed, scale, offset):
    values, groups = normal(40, seed=seed), torch.arange(40) % 13
    one = torch.tensor(bootstrap_mean(values, groups))
    other = torch.tensor(bootstrap_mean(scale * values + offset, groups))
    torch.testing.assert_close(other, scale * one + offset)
    mirrored = bootstrap_mean(-values, groups)
    assert (-mirrored.mean, -mirrored.high, -mirrored.low) == pytest.approx(one.tolist())
    ratio = bootstrap_ratio(values * 3, torch.full((40,), 3.0), groups)
    assert ratio == pytest.approx(one.tolist())


def plain_interval(top, bottom, resamples=4000):
    """Bootstrap-t of a ratio of sums over groups, one resample at a time."""
    rng = np.random.default_rng(1)

    def ratio_and_variance(rows):
        a, b = top[rows], bottom[rows]
        ratio = a.sum() / b.sum()
        return ratio, len(a) * (a - ratio * b).var(ddof=1) / b.sum() ** 2

    ratio, variance = ratio_and_variance(np.arange(len(top)))
    places = []
    for _ in range(resamples):
        own_ratio, own = ratio_and_variance(rng.integers(len(top), size=len(top)))
        places.append((own_ratio - ratio) / np.sqrt(max(own, 0.1 * variance)))
    low, high = np.quantile(places, [0.025, 0.975])
    return ratio, ratio - high * variance**0.5, ratio - low * variance**0.5


def test_agrees_with_plain_loops():
    groups = torch.arange(120) % 30
    tops, bottoms = normal(120).exp(), torch.rand(120, generator=torch.Generator().manual_seed(1))
    bottoms = bottoms.double() + 0.2
    sums = [np.bincount(groups.numpy(), values.numpy()) for values in (tops, bottoms)]
    expected = plain_interval(*sums)
    width = expected[2] - expected[1]
    ours = bootstrap_ratio(tops, bottoms, groups)
    assert ours.mean == pytest.approx(expected[0])
    assert ours == pytest.approx(expected, abs=0.04 * width)


def test_student_s_interval_for_normal_values():
    values = normal(60)
    half = 2.0010 * float(values.std()) / 60**0.5  # the quantile of t with 59 degrees of freedom
    mean = float(values.mean())
    assert bootstrap_mean(values) == pytest.approx((mean, mean - half, mean + half), abs=0.1 * half)
    wide = bootstrap_mean(values, confidence=0.99)
    assert wide.low < bootstrap_mean(values).low < bootstrap_mean(values).high < wide.high


def test_order_dtype_seed_and_global_state():
    values, groups = normal(50), torch.arange(50) % 12
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = bootstrap_mean(values, groups)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert bootstrap_mean(values[order], groups[order]) == pytest.approx(one)
    assert bootstrap_mean(values.requires_grad_(), 7 * groups - 3) == one
    assert bootstrap_mean(values.float(), groups) == pytest.approx(one, rel=1e-5)
    assert bootstrap_mean(values, groups, seed=1) != one
    assert torch.equal(state[0], torch.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert pickle.loads(pickle.dumps(one)) == one


def test_many_groups_give_the_same_interval_without_the_cache(monkeypatch):
    values = normal(40)
    cached = bootstrap_mean(values)
    monkeypatch.setattr("reid_explain.statistics.CACHED_GROUPS", 39)
    assert bootstrap_mean(values) == pytest.approx(cached)


def test_a_single_identity_says_nothing_of_others():
    expected = pytest.approx((2, NAN, NAN), nan_ok=True)
    assert bootstrap_mean(torch.tensor([1.0, 3.0]), torch.tensor([5, 5])) == expected


def test_a_rare_value_has_finite_bounds():
    values = torch.zeros(25)
    values[3] = 1
    interval = bootstrap_mean(values)
    assert interval.low <= 0.04 < interval.high < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(0),), "values: got"),
        ((torch.zeros(2, 2),), "values: got"),
        ((torch.tensor([1, NAN]),), "values: got"),
        ((torch.ones(2), torch.tensor([0.5, 1.0])), "groups: got"),
        ((torch.ones(2), torch.tensor([1])), "groups: got"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        bootstrap_mean(*arguments)


def test_bad_ratios_and_confidence():
    one = torch.ones(2)
    for wrong in (torch.zeros(2), -one, torch.ones(3), one * NAN):
        with pytest.raises(InputError, match="denominators: got"):
            bootstrap_ratio(one, wrong)
    with pytest.raises(InputError, match="numerators: got"):
        bootstrap_ratio(one * NAN, one)
    with pytest.raises(InputError, match="confidence: got 95"):
        bootstrap_mean(one, confidence=95)


@pytest.mark.slow
@pytest.mark.parametrize("identities", [25, 60])
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("drops", [False, True])
def test_intervals_cover_the_truth_as_often_as_they_say(identities, queries, drops):
    """An effect of the identity as large as the noise; drops have half of their mass at 0."""
    rng = np.random.default_rng(0)
    samples = 1500
    values = rng.normal(size=(identities, samples, 1))
    values = values + rng.normal(size=(identities, samples, queries))
    truth = 0.0
    if drops:
        values, truth = values.clip(min=0), 1 / np.pi**0.5
    _, low, high = studentized(values.sum(2), np.full((identities, samples), float(queries)))
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.93 <= covered <= 0.972  # 95 % with a standard error of 0.6


def test_kendalls_w_by_hand():
    scores = torch.tensor([[1.0, 2, 3, 4], [1, 3, 2, 4], [2, 2.5, 2.9, 1.0]])
    ranks = [[1, 2, 3, 4], [1, 3, 2, 4], [2, 3, 4, 1]]
    sums = [sum(column) for column in zip(*ranks, strict=True)]
    spread = sum((value - sum(sums) / 4) ** 2 for value in sums)
    assert kendall_w(scores) == pytest.approx(12 * spread / (9 * 60))


def test_kendalls_w_of_two_rankings_is_spearmans_correlation():
    scores = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    scores[0, :3] = 0.5  # ties
    rho = spearmanr(*scores.numpy()).statistic
    assert kendall_w(scores) == pytest.approx((rho + 1) / 2, abs=0.02)


def test_kendalls_w_of_no_rankings():
    with pytest.raises(InputError, match="scores"):
        kendall_w(torch.ones(2, 4))
    with pytest.raises(InputError, match="scores"):
        kendall_w(torch.ones(1, 4))
