"""The loss of AMD: plain loops over the pairs, every edge case, and finite differences."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reid_explain import InputError
from reid_explain.amd.decomposition import attribute_distances, contributions
from reid_explain.amd.loss import (
    AMDLoss,
    PairLabels,
    distillation_loss,
    pair_labels,
    prior_bound,
    prior_each_loss,
    prior_share,
    prior_total_loss,
)

close = torch.testing.assert_close
# The bounds depend on labels alone and are float32.
close32 = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)


def random_pairs(pairs: int = 12, attributes: int = 7, seed: int = 0, unknown: bool = True):
    generator = torch.Generator().manual_seed(seed)
    shape = (pairs, attributes)
    distances = torch.rand(shape, generator=generator, dtype=torch.float64) ** 3 + 0.01
    target = distances.sum(1) * (0.5 + torch.rand(pairs, generator=generator, dtype=torch.float64))
    first, second = torch.randint(0 if unknown else 1, 3, (2, *shape), generator=generator)
    second[0] = first[0]
    first[1], second[1] = 1, 2
    first[2] = 0
    return distances, target, first, second


def labels_of(exclusive: int, common: int, unknown: int = 0) -> PairLabels:
    first = torch.tensor([[2] * exclusive + [1] * common + [0] * unknown])
    second = torch.tensor([[1] * exclusive + [1] * common + [2] * unknown])
    return pair_labels(first, second)


def plain_share(exclusive: int, known: int, nu: float) -> float:
    return (exclusive / known) ** nu if known else 0.0


def plain_bound(exclusive: int, known: int, nu: float) -> float:
    if exclusive == 0:
        return 2 / max(known, 1)
    if exclusive == known:
        return 1 / (math.sqrt(2) * known)
    s = plain_share(exclusive, known, nu)
    return math.sqrt(s * (1 - s) / (exclusive * (known - exclusive)))


def plain_loss(distances, target, first, second, nu):
    """L_d, L_p1 and L_p2 of DESIGN.md, pair by pair and attribute by attribute."""
    distillation, total, each = [], [], []
    for row, d, a, b in zip(
        distances.tolist(), target.tolist(), first.tolist(), second.tolist(), strict=True
    ):
        known = [k for k in range(len(row)) if a[k] and b[k]]
        exclusive = [k for k in known if a[k] != b[k]]
        common = [k for k in known if a[k] == b[k]]
        shares = [x / sum(row) for x in row]
        s = plain_share(len(exclusive), len(known), nu)
        bound = plain_bound(len(exclusive), len(known), nu)
        distillation.append(abs(d - sum(row)))
        total.append(
            max(s - sum(shares[k] for k in exclusive), 0)
            + max(sum(shares[k] for k in common) - (1 - s), 0)
        )
        each.append(
            sum(max(bound - shares[k], 0) for k in exclusive)
            + sum(max(shares[k] - bound, 0) for k in common)
        )
    mean = sum(target.tolist()) / len(target)
    pairs = len(total)
    return sum(distillation) / pairs / mean, sum(total) / pairs, sum(each) / pairs


@pytest.mark.parametrize("nu", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_the_three_terms_are_plain_loops(nu, seed):
    distances, target, first, second = random_pairs(seed=seed)
    expected = plain_loss(distances, target, first, second, nu)
    assert min(expected) > 0.01
    labels, shares = pair_labels(first, second), contributions(distances)
    close(distillation_loss(distances, target).item(), expected[0])
    close32(prior_total_loss(shares, labels, nu).item(), expected[1])
    close32(prior_each_loss(shares, labels, nu).item(), expected[2])
    terms = AMDLoss(2.0, 3.0, 7.0, nu)(distances, target, labels)
    assert list(terms) == ["distillation", "prior_total", "prior_each"]
    weighted = [w * x for w, x in zip((2.0, 3.0, 7.0), expected, strict=True)]
    close32([term.item() for term in terms.values()], weighted)
    assert all(term.dtype == torch.float64 for term in terms.values())


def test_default_weights_are_the_papers():
    distances, target, first, second = random_pairs()
    labels = pair_labels(first, second)
    default = AMDLoss()(distances, target, labels)
    close(default, AMDLoss(1.0, 10.0, 50.0, 0.5)(distances, target, labels))
    shares = contributions(distances)
    close(default["prior_total"], 10 * prior_total_loss(shares, labels))
    close(default["prior_each"], 50 * prior_each_loss(shares, labels))


def test_pair_labels_by_hand():
    first = torch.tensor([[1, 1, 2, 2, 0, 0, 0, 1, 2]])
    second = torch.tensor([[1, 2, 1, 2, 0, 1, 2, 0, 0]])
    exclusive, common = pair_labels(first, second)
    assert exclusive.tolist() == [[False, True, True, *[False] * 6]]
    assert common.tolist() == [[True, False, False, True, *[False] * 5]]


@pytest.mark.parametrize("nu", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("attributes", [2, 5, 26])
def test_bound_is_the_papers_pair_of_bounds(nu, attributes):
    for count in range(1, attributes):
        labels = labels_of(count, attributes - count, unknown=3)
        s = (count / attributes) ** nu
        rest = attributes - count
        strength = 0.5 * math.log(rest * s / (count * (1 - s)))
        lower = math.exp(-strength) * s / count
        upper = math.exp(strength) * (1 - s) / rest
        assert lower == pytest.approx(upper, rel=1e-12)
        assert prior_share(labels, nu).item() == pytest.approx(s, rel=1e-6)
        assert prior_bound(labels, nu).item() == pytest.approx(lower, rel=2e-6)


@pytest.mark.parametrize("known", [1, 2, 26])
def test_bounds_without_exclusive_and_without_common_attributes(known):
    none, every = labels_of(0, known, unknown=2), labels_of(known, 0, unknown=2)
    assert prior_share(none).item() == 0
    assert prior_share(every).item() == 1
    assert prior_bound(none).item() == pytest.approx(2 / known)
    assert prior_bound(every).item() == pytest.approx(1 / (2**0.5 * known))


def test_without_exclusive_attributes_only_shares_above_2_over_m_cost():
    labels = labels_of(0, 4)
    shares = torch.tensor([[0.6, 0.4, 0.0, 0.0]], dtype=torch.float64)
    assert prior_total_loss(shares, labels).item() == 0
    close32(prior_each_loss(shares, labels).item(), 0.1)
    assert prior_each_loss(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), labels).item() == 0


def test_without_common_attributes_each_is_to_be_above_its_bound():
    labels = labels_of(4, 0)
    shares = torch.tensor([[0.7, 0.1, 0.2, 0.0]], dtype=torch.float64)
    bound = 1 / (2**0.5 * 4)
    assert prior_total_loss(shares, labels).item() == 0
    close32(prior_each_loss(shares, labels).item(), bound - 0.1 + bound)


@pytest.mark.parametrize("labels", [labels_of(1, 0), labels_of(0, 1)], ids=["differs", "agrees"])
def test_one_attribute_costs_distillation_alone(labels):
    terms = AMDLoss()(torch.tensor([[3.0]]), torch.tensor([4.0]), labels)
    assert [term.item() for term in terms.values()] == [0.25, 0, 0]


def test_a_pair_of_unknown_attributes_costs_distillation_alone():
    labels = labels_of(0, 0, unknown=3)
    terms = AMDLoss()(torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([8.0]), labels)
    assert [term.item() for term in terms.values()] == [0.5, 0, 0]


def test_unknown_attributes_are_left_out_of_count_and_sums():
    shares = torch.tensor([[0.1, 0.2, 0.4, 0.3]], dtype=torch.float64)
    labels = labels_of(1, 2, unknown=1)
    s = (1 / 3) ** 0.5
    bound = math.sqrt(s * (1 - s) / 2)
    close32(prior_total_loss(shares, labels).item(), s - 0.1 + 0.6 - (1 - s))
    close32(prior_each_loss(shares, labels).item(), bound - 0.1 + 0.4 - bound)


@pytest.mark.parametrize("same", [slice(0, 1), slice(None)], ids=["one pair", "every pair"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_images_have_finite_loss_and_gradient(same, dtype):
    _, _, first, second = random_pairs(pairs=4, attributes=5)
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(4, 5, 3, generator=generator, dtype=dtype)
    gallery = torch.randn(4, 5, 3, generator=generator, dtype=dtype)
    gallery[same] = query[same]
    query.requires_grad_()
    distances = attribute_distances(query, gallery)
    target = distances.detach().sum(1) * 1.5
    terms = AMDLoss()(distances, target, pair_labels(first, second))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert query.grad.isfinite().all()
    assert (query.grad[same] == 0).all()
    assert same == slice(None) or (query.grad[1:] != 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_finite_differences(seed):
    distances, target, first, second = random_pairs(pairs=6, attributes=5, seed=seed)
    labels = pair_labels(first, second)

    def terms(distances: Tensor) -> tuple[Tensor, ...]:
        return tuple(AMDLoss()(distances, target, labels).values())

    assert torch.autograd.gradcheck(terms, distances.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_promoted_also_under_autocast(dtype):
    distances, target, first, second = random_pairs()
    labels = pair_labels(first, second)
    distances, target = distances.to(dtype), target.to(dtype)
    expected = AMDLoss()(distances.float(), target.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        terms = AMDLoss()(distances, target, labels)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert torch.equal(term, expected[name])


@pytest.mark.slow
@given(
    st.integers(1, 12),
    st.integers(0, 12),
    st.floats(0.1, 0.9),
    st.integers(0, 3),
)
def test_the_ideal_shares_cost_nothing(exclusive, common, nu, unknown):
    labels = labels_of(exclusive, common, unknown)
    s = prior_share(labels, nu).double()
    shares = torch.zeros(1, exclusive + common + unknown, dtype=torch.float64)
    shares[labels.exclusive] = s / exclusive
    if common:
        shares[labels.common] = (1 - s) / common
    assert prior_total_loss(shares, labels, nu).item() <= 1e-6
    assert prior_each_loss(shares, labels, nu).item() <= 1e-6


@pytest.mark.slow
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_terms_know_no_unit_order_of_attributes_or_side_of_a_pair(seed, unit):
    distances, target, first, second = random_pairs(seed=seed)
    expected = AMDLoss()(distances, target, pair_labels(first, second))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    scaled = AMDLoss()(distances * unit, target * unit, pair_labels(first, second))
    permuted = AMDLoss()(
        distances[:, order], target, pair_labels(first[:, order], second[:, order])
    )
    close(scaled, expected)
    close(permuted, expected)
    close(AMDLoss()(distances, target, pair_labels(second, first)), expected)


@pytest.mark.parametrize("name", ["distillation", "alpha", "beta"])
@pytest.mark.parametrize("value", [-1e-9, float("nan")])
def test_weights_are_not_negative(name, value):
    with pytest.raises(InputError, match=f"^{name}: "):
        AMDLoss(**{name: value})


@pytest.mark.parametrize("nu", [0, 1, -0.5, float("nan")])
def test_nu_lies_between_0_and_1(nu):
    with pytest.raises(InputError, match="^nu: "):
        AMDLoss(nu=nu)


def test_a_weight_of_0_is_allowed():
    distances, target, first, second = random_pairs()
    terms = AMDLoss(0, 0, 0)(distances, target, pair_labels(first, second))
    assert [term.item() for term in terms.values()] == [0, 0, 0]
