"""PePU, head, factorised pooling and decomposition: by hand, by plain loops, in float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reid_explain import InputError
from reid_explain.amd.decomposition import (
    all_distances,
    attribute_distances,
    attribute_features,
    contributions,
)
from reid_explain.amd.network import AMDNetwork, AttributeHead, pepu
from reid_explain.models.pooling import (
    GeneralizedMeanPool,
    GlobalAveragePool,
    masked_means,
)

close = torch.testing.assert_close
double = partial(torch.tensor, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# PePU


@pytest.mark.parametrize(("kappa", "tau"), [(1.0, 0.5), (1 / 26, 0.5), (0.25, 0.3), (2.0, 1.0)])
def test_pepu_by_hand(kappa, tau):
    values = [-30.0, -2.5, -1e-3, 0.0, 1e-3, 0.7, 3.0, 99.0]
    expected = [kappa * (x + 1) ** tau if x > 0 else kappa * math.exp(x) for x in values]
    close(pepu(double(values), kappa, tau), double(expected), rtol=1e-14, atol=0)


def test_pepu_takes_the_square_root_by_default():
    assert pepu(double([8.0]), 1.0).item() == 3


def test_pepu_is_continuous_at_0_with_slope_kappa_before_and_kappa_tau_after():
    kappa, tau, step = 0.2, 0.5, 1e-9
    x = double([-step, 0.0, step]).requires_grad_()
    y = pepu(x, kappa, tau)
    y.sum().backward()
    close(y, double([kappa] * 3), atol=1e-9, rtol=0)
    close(x.grad, double([kappa, kappa, kappa * tau]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_pepu_overflows_nowhere(dtype):
    x = torch.tensor([-6e4, -1e3, -100.0, 100.0, 1e3, 6e4], dtype=dtype, requires_grad=True)
    y = pepu(x, 1 / 26)
    y.sum().backward()
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert (y >= 0).all()
    assert x.grad.isfinite().all()
    assert (x.grad[3:] > 0).all()


def test_pepu_gradients_are_finite_differences():
    assert torch.autograd.gradcheck(
        lambda x: pepu(x, 0.3, 0.4),
        double([-9.0, -0.5, -0.01, 0.01, 2.0, 50.0], requires_grad=True),
    )


@given(st.floats(-50, 1e3), st.floats(1e-6, 10), st.floats(0.1, 1.0))
def test_pepu_is_positive_increasing_and_proportional_to_kappa(x, step, tau):
    lower, upper = pepu(double([x, x + step]), 1.0, tau)
    assert 0 < lower < upper
    close(pepu(double([x]), 0.04, tau)[0], 0.04 * lower)


# Head and network


def test_head_is_two_convolutions_with_nothing_between_and_pepu():
    head = AttributeHead(16, 5).double()
    x = randn(2, 16, 4, 3)
    assert head.conv1.weight.shape == (2, 16, 3, 3)
    assert head.conv2.weight.shape == (5, 2, 1, 1)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.empty(2, 5, 4, 3, dtype=torch.float64)
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 4, 3))).tolist():
        window = padded[b, :, i : i + 3, j : j + 3]
        hidden = (head.conv1.weight * window).sum((1, 2, 3)) + head.conv1.bias
        expected[b, :, i, j] = head.conv2.weight[:, :, 0, 0] @ hidden + head.conv2.bias
    assert (expected > 0).any()
    assert (expected < 0).any()
    root = (expected.clamp(min=0) + 1).sqrt()
    close(head(x), torch.where(expected > 0, root, expected.exp()) / 5)


@pytest.mark.parametrize(
    ("channels", "hidden", "expected"), [(64, None, 8), (5, None, 1), (8, 3, 3)]
)
def test_hidden_channels_are_an_eighth_unless_told(channels, hidden, expected):
    head = AttributeHead(channels, 2, hidden)
    assert head.conv1.out_channels == head.conv2.in_channels == expected


@pytest.mark.parametrize("name", ["channels", "attributes", "hidden"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_numbers_of_the_head_are_at_least_1(name, value):
    arguments = {"channels": 8, "attributes": 2, "hidden": 4, name: value}
    with pytest.raises(InputError, match=f"^{name}: "):
        AttributeHead(**arguments)


class ConvNet(nn.Module):
    """Two stages and a pooled embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 4, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def embed(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def test_network_runs_its_stages_and_the_head():
    model = ConvNet()
    network = AMDNetwork(model, ["second"], 3, image_size=(9, 9))
    x = randn(2, 3, 9, 9).float()
    found = network(x)
    close(found.maps, network.head(model.second(model.first(x))))
    assert found.maps.shape == (2, 3, 4, 4)
    close(found.embeddings, model.embed(model.features(x)))
    products = model.features(x)[:, None] * found.maps[:, :, None]
    close(found.parts, products.mean((3, 4)))


def test_network_owns_what_is_trained_and_keeps_prototypes_and_frequencies_with_it():
    model = ConvNet()
    network = AMDNetwork(model, ["second"], 3, image_size=(9, 9))
    state = network.state_dict()
    assert {key.partition(".")[0] for key in state} == {
        *("stages", "head", "scale", "prototypes", "frequencies")
    }
    assert state["prototypes"].shape == (2, 3, 4)
    assert state["frequencies"].shape == (3,)
    assert state["prototypes"].isnan().all()
    assert state["frequencies"].isnan().all()
    assert {name.partition(".")[0] for name, _ in network.named_parameters()} == {"stages", "head"}


# Pooling


class Tail(nn.Module):
    """Pool and neck as a ReIDNet has them; the neck is not linear."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(6, 3, dtype=torch.float64)

    def neck(self, pooled: Tensor) -> Tensor:
        return self.linear(pooled).tanh()

    def embed(self, features: Tensor) -> Tensor:
        return self.neck(self.pool(features))


class Seam(nn.Module):
    """A user's target: it embeds, and shows no pool or neck."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.embed = tail.embed


def tail(name: str, p: float = 3.0) -> Tail:
    torch.manual_seed(0)
    return Tail(GlobalAveragePool() if name == "avg" else GeneralizedMeanPool(p).double())


def features_and_maps() -> tuple[Tensor, Tensor]:
    """Sparse features, as behind a ReLU, and positive maps."""
    return randn(2, 6, 4, 3).relu(), randn(2, 5, 4, 3, seed=1).exp() / 5


def test_masked_means_are_plain_loops():
    features, maps = features_and_maps()
    expected = torch.zeros(2, 5, 6, dtype=torch.float64)
    for b, k, c in torch.cartesian_prod(*map(torch.arange, (2, 5, 6))).tolist():
        products = [
            float(features[b, c, i, j]) * float(maps[b, k, i, j])
            for i in range(4)
            for j in range(3)
        ]
        expected[b, k, c] = sum(products) / 12
    close(masked_means(features, maps), expected)
    close(GlobalAveragePool().masked(features, maps), expected)


def test_plain_pools_by_hand():
    features = double([[[[1.0, 2.0]], [[0.0, 0.0]]]])
    close(GlobalAveragePool()(features), double([[1.5, 0.0]]))
    gem = GeneralizedMeanPool().double()
    close(gem(features), double([[4.5 ** (1 / 3), 1e-6]]))


@pytest.mark.parametrize(
    ("name", "p"), [("avg", None), ("gem", 1.0), ("gem", 2.5), ("gem", 3.0), ("gem", 6.5)]
)
def test_masked_pooling_is_the_pooled_product(name, p):
    pool = tail(name, p).pool
    features, maps = features_and_maps()
    features[0, 0] += 0.01
    naive = [pool(features * maps[:, k : k + 1]) for k in range(5)]
    # GeM's eps bounds other things, at most 1e-6 each
    close(pool.masked(features, maps), torch.stack(naive, 1), rtol=1e-9, atol=2e-6)
    features = features + 0.01
    naive = [pool(features * maps[:, k : k + 1]) for k in range(5)]
    close(pool.masked(features, maps), torch.stack(naive, 1))


@pytest.mark.parametrize("name", ["avg", "gem"])
def test_masked_pooling_of_a_dead_channel_is_about_0_with_finite_gradients(name):
    pool = tail(name).pool.float()
    features, maps = (part.float().requires_grad_() for part in features_and_maps())
    dead = features * torch.tensor([0.0, *[1.0] * 5])[:, None, None]
    pooled = pool.masked(dead, maps)
    assert pooled[:, :, 0].abs().max() < 1e-5
    pooled.sum().backward()
    assert features.grad.isfinite().all()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("name", ["avg", "gem"])
def test_attribute_features_and_gradients_are_those_of_the_products(name):
    target = tail(name)
    results = []
    for through in (target, Seam(target)):
        target.zero_grad()
        features, maps = (part.requires_grad_() for part in features_and_maps())
        parts = attribute_features(through, features, maps)
        assert parts.shape == (2, 5, 3)
        (parts * randn(2, 5, 3, seed=2)).sum().backward()
        assert (maps.grad != 0).any()
        shape = [p.grad.clone() for p in target.parameters()]
        # Where F is 0 its gradient is one-sided, and GeM's eps decides; elsewhere none does.
        results.append((parts, maps.grad, features.grad[features > 0], shape))
    close(*results, rtol=1e-6, atol=1e-9)
    by_hand = [target.embed(features * maps[:, k : k + 1]) for k in range(5)]
    close(results[0][0], torch.stack(by_hand, 1))


@pytest.mark.parametrize("name", ["avg", "gem"])
def test_gradients_of_masked_pooling_are_finite_differences(name):
    pool = tail(name).pool
    features, maps = (part[:1, :2].clone() + 0.1 for part in features_and_maps())
    inputs = (features.requires_grad_(), maps.requires_grad_())
    assert torch.autograd.gradcheck(pool.masked, inputs)


def test_masked_pooling_is_used_where_there_is_one():
    target = tail("gem")
    target.embed = None
    features, maps = features_and_maps()
    assert attribute_features(target, features, maps).shape == (2, 5, 3)


def test_a_target_with_masked_pooling_but_no_neck_embeds_each_product():
    whole = tail("avg")
    seam = Seam(whole)
    seam.pool = whole.pool
    features, maps = features_and_maps()
    close(attribute_features(seam, features, maps), attribute_features(whole, features, maps))


class Largest(TorchDispatchMode):
    """The most numbers that any result of an operation has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return out


@pytest.mark.parametrize("name", ["avg", "gem"])
def test_the_products_never_exist(name):
    target = tail(name)
    target.linear = nn.Identity()
    features = torch.rand(2, 64, 8, 4, requires_grad=True)
    maps = torch.rand(2, 16, 8, 4, requires_grad=True)
    target.pool.float()
    with Largest() as ours:
        attribute_features(target, features, maps).sum().backward()
    assert ours.numbers == features.numel()
    with Largest() as naive:
        (features[:, None] * maps[:, :, None]).sum()
    assert naive.numbers == 16 * features.numel()


# Distances, contributions, prototypes


def test_attribute_distances_are_plain_loops():
    query, gallery = randn(3, 4, 5), randn(3, 4, 5, seed=1)
    expected = [
        [math.dist(query[b, k].tolist(), gallery[b, k].tolist()) for k in range(4)]
        for b in range(3)
    ]
    close(attribute_distances(query, gallery), double(expected))


def test_all_distances_are_plain_loops():
    query, gallery = randn(4, 3, 5), randn(4, 6, 5, seed=1)
    expected = [
        [[math.dist(a, b) for b in theirs] for a in mine]
        for mine, theirs in zip(query.tolist(), gallery.tolist(), strict=True)
    ]
    close(all_distances(query, gallery), double(expected))
    close(all_distances(query[2], gallery[2]), double(expected[2]))


def test_distances_of_features_that_lie_close_together_do_not_cancel():
    query = torch.full((1, 40, 8), 1000.0)  # more than 25 rows: where torch takes the product
    gallery = query + torch.tensor([2.0**-10] + [0.0] * 7)
    assert (all_distances(query, gallery) == 2.0**-10).all()
    assert (attribute_distances(query, gallery) == 2.0**-10).all()


@pytest.mark.parametrize("function", [attribute_distances, all_distances])
def test_distance_of_an_image_to_itself_has_the_gradient_0(function):
    query = randn(2, 3, 4).requires_grad_()
    gallery = randn(2, 3, 4, seed=1)
    gallery[0] = query[0].detach()
    distances = function(query, gallery)
    distances.diagonal(dim1=-2, dim2=-1).sum().backward() if function is all_distances else (
        distances.sum().backward()
    )
    assert query.grad.isfinite().all()
    assert (query.grad[0] == 0).all()
    assert (query.grad[1] != 0).any()


def test_contributions_by_hand():
    distances = double([[1.0, 3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    expected = double([[0.125, 0.375, 0.0, 0.5], [0.25] * 4])
    assert torch.equal(contributions(distances), expected)
    assert torch.equal(contributions(distances[None]), expected[None])


def test_contributions_of_identical_images_have_finite_gradients():
    distances = double([[0.0, 0.0], [1.0, 3.0]], requires_grad=True)
    contributions(distances)[:, 0].sum().backward()
    close(distances.grad, double([[0.0, 0.0], [3 / 16, -1 / 16]]))


def test_contributions_of_no_attribute_are_refused():
    with pytest.raises(InputError, match=r"^distances: got \(3, 0\)"):
        contributions(torch.zeros(3, 0))


@pytest.mark.slow
@given(st.lists(st.floats(0, 1e6).map(lambda x: x if x > 1e-9 else 0.0), min_size=1, max_size=30))
def test_contributions_sum_to_1(distances):
    shares = contributions(double([distances]))
    assert (shares >= 0).all()
    assert shares.sum().item() == pytest.approx(1, abs=1e-12)
