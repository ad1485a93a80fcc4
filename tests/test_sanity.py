"""Likeness of maps against SciPy, scikit-image and hand; randomization that leaves nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import HeadNet, images
from scipy.stats import pearsonr, spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn
from torchvision.models import VisionTransformer

from reid_explain import GradFAM, InputError
from reid_explain.metrics.faithfulness import weight_entropy
from reid_explain.metrics.randomization import (
    cascading_randomization,
    executed_layers,
    independent_randomization,
)
from reid_explain.metrics.similarity import hog_similarity, spearman, ssim
from reid_explain.models.osnet import OSNet
from reid_explain.models.pooling import GeneralizedMeanPool
from reid_explain.models.reid import ReIDNet
from reid_explain.testing import assert_same, state_of

SIMILARITIES = (ssim, spearman, hog_similarity)
RANDOMIZATIONS = (cascading_randomization, independent_randomization)
every_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
every_randomization = pytest.mark.parametrize("randomization", RANDOMIZATIONS)
close = torch.testing.assert_close


def maps_of(seed: int, size: tuple[int, int] = (50, 60), batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 6, 5, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


def stretched(map_: torch.Tensor) -> np.ndarray:
    values = map_[0].numpy()
    return (values - values.min()) / (values.max() - values.min())


# Similarity of maps


@pytest.mark.parametrize("size", [(50, 60), (20, 9), (5, 4), (3, 3)])
def test_similarities_agree_with_their_libraries(size):
    a, b = maps_of(1, size), maps_of(2, size)
    b[0] = 0.7 * a[0] + 0.3 * b[0]
    window = {50: 7, 20: 7, 5: 3, 3: 3}[size[0]]
    cell = {50: 16, 20: 3, 5: 1, 3: 1}[size[0]]

    def hogs(map_: np.ndarray) -> np.ndarray:
        return hog(map_, pixels_per_cell=(cell, cell), cells_per_block=(3, 3))

    for i in range(2):
        one, other = stretched(a[i]), stretched(b[i])
        expected = structural_similarity(one, other, win_size=window, data_range=1)
        assert ssim(a, b)[i] == pytest.approx(expected)
        assert spearman(a, b)[i] == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
        expected = pearsonr(hogs(one), hogs(other)).statistic
        assert hog_similarity(a, b)[i] == pytest.approx(expected)


def test_spearman_by_hand():
    a = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[None, None]
    b = torch.tensor([[1.0, 2, 3], [4, 5, 6], [9, 8, 7]])[None, None]
    # 1 - 6 (2² + 2²) / (9 (9² - 1))
    assert spearman(a, b).tolist() == [pytest.approx(1 - 48 / 720)]
    assert spearman(a, -a).tolist() == [pytest.approx(-1)]
    assert spearman(a, a**3).tolist() == [pytest.approx(1)]
    # Ties share their mean rank: ranks 2 2 2 5 5 5 8 8 8 against 1 to 9.
    rows = torch.tensor([1.0, 2, 3]).repeat_interleave(3).view(1, 1, 3, 3)
    assert spearman(a, rows).tolist() == [pytest.approx(54 / math.sqrt(60 * 54))]


@every_similarity
def test_equal_maps_are_alike_whatever_their_scale(similarity):
    a, b = maps_of(1), maps_of(2)
    close(similarity(a, a), torch.ones(2).double())
    close(similarity(a, 4 * a), torch.ones(2).double())
    # Not closer: gradients on the border of two orientations fall to either by rounding.
    close(similarity(a, 3 * a - 1), torch.ones(2).double(), atol=1e-2, rtol=0)
    assert similarity(a, b).dtype == torch.float64
    assert (similarity(a, b) < 0.9).all()
    close(similarity(a, b), similarity(b, a))
    close(similarity(a, b), similarity(5 * a + 2, b), atol=1e-2, rtol=0)
    close(similarity(a.flip(0), b.flip(0)), similarity(a, b).flip(0))
    assert similarity(a.float(), b.float()) == pytest.approx(similarity(a, b), abs=1e-2)


@every_similarity
def test_constant_maps(similarity):
    a, constant = maps_of(1), torch.full((2, 1, 50, 60), 0.3).double()
    close(similarity(constant, constant), torch.ones(2).double())
    close(similarity(constant, 5 + constant), torch.ones(2).double())
    if similarity is not ssim:
        assert similarity(a, constant).eq(0).all()
    assert (similarity(a, constant).abs() < 0.2).all()


@every_similarity
def test_maps_that_do_not_fit(similarity):
    a = maps_of(1)
    with pytest.raises(InputError, match="b: got.*the shape of a"):
        similarity(a, a[:1])
    with pytest.raises(InputError, match="a: got.*at least 3 x 3"):
        similarity(a[..., :2], a[..., :2])
    with pytest.raises(InputError, match="b: got.*NaN"):
        similarity(a, a * float("nan"))
    with pytest.raises(InputError, match="a: got.*maps"):
        similarity(a.expand(-1, 3, -1, -1), a)


def test_weight_entropy_by_hand():
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    close(weight_entropy(weights), torch.tensor([1, 0, 0.5]).double())
    skew = torch.tensor([[0.1, 0.9]]).double()
    expected = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9)) / math.log(2)
    assert weight_entropy(skew).tolist() == [pytest.approx(expected)]
    assert weight_entropy(torch.ones(2, 1)).tolist() == [1, 1]


@given(st.integers(0, 50), st.integers(2, 40), st.floats(0.01, 30))
def test_weight_entropy_is_a_share_and_symmetric(seed, channels, spread):
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(3, channels, generator=generator) * spread).softmax(dim=1)
    entropy = weight_entropy(weights)
    assert ((entropy >= 0) & (entropy <= 1 + 1e-6)).all()
    close(weight_entropy(weights.flip(1)), entropy)


@pytest.mark.parametrize(
    "weights",
    [torch.ones(1, 2), torch.tensor([[1.5, -0.5]]), torch.ones(1), torch.tensor([[math.nan, 1]])],
)
def test_weights_are_a_distribution(weights):
    with pytest.raises(InputError, match="weights: got"):
        weight_entropy(weights)


# The order of layers


def vision_transformer() -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=5, num_classes=3)
    nn.init.normal_(net.class_token)
    nn.init.normal_(net.heads.head.weight)
    return net


TRANSFORMER_LAYERS = [
    "conv_proj",
    "class_token",
    "encoder.pos_embedding",
    "encoder.layers.encoder_layer_0.ln_1",
    "encoder.layers.encoder_layer_0.self_attention.in_proj",
    "encoder.layers.encoder_layer_0.self_attention.out_proj",
    "encoder.layers.encoder_layer_0.ln_2",
    "encoder.layers.encoder_layer_0.mlp.0",
    "encoder.layers.encoder_layer_0.mlp.3",
    "encoder.ln",
    "heads.head",
]


def names(net: nn.Module, x: torch.Tensor, **kwargs) -> list[str]:
    return [layer.name for layer in executed_layers(net, x, **kwargs)]


def test_a_transformer_has_tokens_and_projections():
    net = vision_transformer()
    assert names(net, images(1, (8, 8)).float()) == TRANSFORMER_LAYERS


def test_torchs_own_encoder_layer_hides_nothing():
    """Its fast path, in eval mode without gradients, calls none of its modules."""
    net = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True)
    expected = ["self_attn.in_proj", "self_attn.out_proj", "norm1", "linear1", "linear2", "norm2"]
    assert sorted(names(net, torch.rand(2, 3, 4))) == sorted(expected)


class Backwards(nn.Module):
    """Runs its layers against the order of their definition, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(3, 2)
        self.pool = GeneralizedMeanPool()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.twice = nn.Conv2d(3, 3, 1, bias=False)
        self.scale = nn.Parameter(torch.tensor([2.0, 1.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.last.weight.dtype).view(-1, *self.scale.shape, *x.shape[2:])
        x = self.norm(self.twice(self.twice(x)))
        return self.last(self.scale * self.pool(x.abs()))


def test_the_order_is_that_of_use():
    order = ["twice", "norm", "pool.p", "scale", "last"]
    net, x = Backwards(), images(1).float()
    assert names(net, x) == order
    assert list(cascading_randomization(net, x)) == order[::-1]
    assert list(independent_randomization(net, x)) == order[::-1]


def test_the_classifier_counts_where_logits_are_explained():
    net, x = ReIDNet("resnet18", num_classes=3, pooling="gem", width=1 / 64), images(1, (32, 32))
    x = x.float()
    embedding = names(net, x)
    assert embedding[:2] == ["backbone.conv1", "backbone.bn1"]
    assert embedding[-2:] == ["pool.p", "neck"]
    logits = names(net, x, forward_func=lambda x: net.classify(net(x)))
    assert logits == [*embedding, "classifier"]


def test_every_weight_of_a_real_network_belongs_to_one_layer():
    net = OSNet(0.25)
    layers = executed_layers(net, torch.rand(1, 3, 32, 16))
    owned = [layer.module.get_parameter(own) for layer in layers for own in layer.parameters]
    assert len(owned) == len({id(p) for p in owned}) == len(list(net.parameters()))


def test_tied_weights_are_one_layer_where_they_come_first():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert names(net, torch.rand(1, 3)) == ["0", "1", "2"]
    net[1].bias = None
    assert names(net, torch.rand(1, 3)) == ["0", "2"]


def test_the_pass_that_finds_layers_is_an_evaluation():
    net, seen = HeadNet(), []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append((torch.is_grad_enabled(), any(m.training for m in net.modules())))
        return net(x)

    executed_layers(net, images(2), forward)
    assert seen == [(False, False)]
    assert all(module.training for module in net.modules())


def test_a_model_without_layers():
    with pytest.raises(InputError, match="model: got a ReLU without a layer in use"):
        next(cascading_randomization(nn.ReLU(), images(1)))
    with pytest.raises(InputError, match="model: got a Linear without a layer"):
        executed_layers(nn.Linear(2, 2), images(1), lambda x: x)


# What randomization does


def learnt() -> HeadNet:
    """A model with modes, gradients and flags of all kinds, far from its initial values."""
    net = HeadNet()
    net.relu.eval()
    nn.init.constant_(net.norm.weight, 1.7)
    nn.init.constant_(net.norm.bias, -0.4)
    net.conv.bias.requires_grad_(False)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    net.register_buffer("fleeting", torch.tensor([3.0]), persistent=False)
    return net


LAYERS = {
    "head": ["head.weight", "head.bias"],
    "norm": ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"],
    "second": ["second.weight", "second.bias"],
    "conv": ["conv.weight", "conv.bias"],
}


def copied(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    now = net.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


@every_randomization
def test_what_changes_at_each_step_and_that_nothing_stays(randomization):
    net, x = learnt(), images(2)
    before, values, rng = state_of(net), copied(net), torch.get_rng_state()
    expected: set[str] = set()
    steps = []
    for name in randomization(net, x):
        steps.append(name)
        own = set(LAYERS[name])
        expected = expected | own if randomization is cascading_randomization else own
        assert changed(values, net) == expected
        assert torch.is_grad_enabled()
        for key in ("modes", "hooks", "flags"):
            assert state_of(net)[key] == before[key]
    assert steps == ["head", "norm", "second", "conv"]
    assert_same(before, state_of(net))
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(net.fleeting, torch.tensor([3.0]))


class BoomError(RuntimeError):
    pass


@every_randomization
def test_nothing_stays_after_a_break_an_exception_or_a_close(randomization):
    net, x = learnt(), images(2)
    before, values = state_of(net), copied(net)
    for _ in randomization(net, x):
        net.train()(x)  # the caller moves the running statistics
        net.relu.eval()
        net.fleeting += 1
        break
    assert_same(before, state_of(net))
    assert net.fleeting == 3
    try:
        for _ in randomization(net, x):
            raise BoomError
    except BoomError:
        assert_same(before, state_of(net))
    steps = randomization(net, x)
    next(steps)
    next(steps)
    assert changed(values, net)
    steps.close()
    assert_same(before, state_of(net))


@every_randomization
def test_nothing_stays_after_an_exception_in_the_model(randomization):
    net = learnt()
    before = state_of(net)

    def forward(x: torch.Tensor) -> None:
        net(x)
        net.norm.running_mean += 1
        raise BoomError

    with pytest.raises(BoomError):
        next(randomization(net, images(2), forward_func=forward))
    assert_same(before, state_of(net))


def values_at(randomization, net: nn.Module, x: torch.Tensor, at: str, **kwargs) -> dict:
    for name in randomization(net, x, **kwargs):
        if name == at:
            return {key: value.clone() for key, value in net.state_dict().items()}
    raise AssertionError(at)


def test_the_weights_depend_on_the_seed_and_the_name_alone():
    net, x = learnt(), images(2)
    torch.manual_seed(1)
    first = values_at(cascading_randomization, net, x, "conv")
    torch.manual_seed(2)
    again = values_at(cascading_randomization, net, x[:1], "conv")
    alone = values_at(independent_randomization, net, x, "second")
    other = values_at(cascading_randomization, net, x, "conv", seed=1)
    single = values_at(cascading_randomization, learnt().float(), x.float(), "conv")
    for name in ("conv.weight", "second.bias", "head.weight"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert torch.equal(first[name].float(), single[name])
    assert torch.equal(alone["second.weight"], first["second.weight"])
    assert not torch.equal(first["second.bias"][:5], first["conv.bias"])


@every_randomization
def test_layers_of_one_size_differ_and_no_kind_needs_the_global_state(randomization):
    twins = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for _ in randomization(twins, torch.rand(1, 3)):
        assert not torch.equal(twins[0].weight, twins[1].weight)
    net, x = vision_transformer(), images(1, (8, 8)).float()
    before, rng = state_of(net), torch.get_rng_state()
    assert list(randomization(net, x)) == TRANSFORMER_LAYERS[::-1]
    assert torch.equal(rng, torch.get_rng_state())
    assert_same(before, state_of(net))


def test_a_layer_becomes_what_pytorch_makes_of_a_new_one():
    net = nn.Sequential(
        nn.Conv2d(16, 32, 3, groups=2), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(32, 400)
    )
    for parameter in net.parameters():
        nn.init.constant_(parameter, 9)
    net[1].running_mean.fill_(4)
    net[1].num_batches_tracked.fill_(7)
    x = torch.rand(1, 16, 3, 3)
    now = values_at(cascading_randomization, net, x, "0")
    fresh = {"0": nn.Conv2d(16, 32, 3, groups=2), "3": nn.Linear(32, 400)}
    for name, module in fresh.items():
        for own, reference in module.state_dict().items():
            values, bound = now[f"{name}.{own}"], reference.abs().max()
            assert values.abs().max() == pytest.approx(float(bound), rel=0.15)
            assert values.std() == pytest.approx(float(reference.std()), rel=0.25)
    expected = nn.BatchNorm2d(32).state_dict()
    assert all(torch.equal(now[f"1.{own}"], value) for own, value in expected.items())


def test_attention_becomes_what_pytorch_makes_of_it():
    for sizes in ({}, {"kdim": 8, "vdim": 8}):
        net = nn.MultiheadAttention(64, 2, **sizes)
        for parameter in net.parameters():
            nn.init.constant_(parameter, 9)
        x = torch.rand(3, 1, 64)
        other = torch.rand(3, 1, sizes.get("kdim", 64))
        now = values_at(
            cascading_randomization,
            net,
            x,
            "in_proj",
            forward_func=lambda x, net=net, other=other: net(x, other, other),
        )
        for own, reference in nn.MultiheadAttention(64, 2, **sizes).state_dict().items():
            if "weight" in own:
                assert now[own].std() == pytest.approx(float(reference.std()), rel=0.1), own
                assert now[own].max() == pytest.approx(float(reference.max()), rel=0.1), own
        assert now["in_proj_bias"].eq(0).all()


def test_bare_parameters_become_random_at_their_own_scale():
    net, x = vision_transformer(), images(1, (8, 8)).float()
    nn.init.constant_(net.class_token, 5)
    nn.init.zeros_(net.encoder.pos_embedding)
    now = values_at(independent_randomization, net, x, "class_token")["class_token"]
    assert now.unique().numel() == 4
    assert 1 < now.abs().mean() < 15
    name = "encoder.pos_embedding"
    now = values_at(independent_randomization, net, x, name)[name]
    assert now.std() == pytest.approx(0.02, rel=0.5)
    pool = GeneralizedMeanPool(3.0)
    exponents = [
        float(values_at(cascading_randomization, pool, x.abs(), "p", seed=seed)["p"])
        for seed in range(20)
    ]
    assert len(set(exponents)) == 20
    assert 1.5 <= min(exponents) < 2.2
    assert 4 < max(exponents) <= 6


def test_explainers_of_the_model_see_each_step():
    net, x = learnt().eval(), images(2)
    explainer = GradFAM(net, "relu")
    own = explainer.attribute(x)
    maps = [explainer.attribute(x) for _ in cascading_randomization(net, x)]
    for earlier, later in zip([own, *maps], maps, strict=False):
        assert not torch.allclose(earlier, later)
    close(explainer.attribute(x), own)


def test_inference_mode_is_no_hindrance():
    net, x = learnt(), images(2)
    before = state_of(net)
    with torch.inference_mode():
        assert list(cascading_randomization(net, x)) == list(LAYERS)
    assert_same(before, state_of(net))
    net(x).sum().backward()  # the weights are still normal tensors
