"""The formulas of the explainers, against closed forms and independent oracles in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import DictNet, HeadNet, PooledNet, images
from torch import Tensor, nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    Centre,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    Random,
    ScoreCAM,
    ScoreFAM,
    blurred,
)

close = torch.testing.assert_close
X, G = images(3), images(3, seed=7)


def activation(net: PooledNet, x: Tensor) -> Tensor:
    return F.relu(F.conv2d(x, net.conv.weight, net.conv.bias, stride=2, padding=1)).detach()


def weighted(weights: Tensor, maps: Tensor) -> Tensor:
    return torch.einsum("bk,bkhw->bhw", weights, maps)[:, None]


def resized(maps: Tensor) -> Tensor:
    return F.interpolate(maps, X.shape[2:], mode="bilinear", align_corners=False)


# Closed forms on the pooled net: v = mean A, so dv_k / dA^k_ij = 1 / Z


def test_grad_fam_closed_form():
    net = PooledNet()
    a = activation(net, X)
    v, z = a.mean((2, 3)), a[0, 0].numel()
    expected = weighted(v / v.norm(dim=1, keepdim=True) / z, a).relu()
    close(GradFAM(net, net.relu).attribute(X, interpolate_mode=None), expected)
    close(GradFAM(net, "relu").attribute(X), resized(expected))


def test_ram_closed_form():
    net = PooledNet()
    a, v = activation(net, X), activation(net, G).mean((2, 3))
    expected = weighted(v / v.norm(dim=1, keepdim=True), a)
    ram = RAM(net, net.relu)
    close(ram.attribute(X, references=G, interpolate_mode=None), expected)
    close(ram.attribute(X, references=v, interpolate_mode=None), expected)
    # the map adds up to the similarity it explains: FAM, equation 4
    similarity = (net(X) * v).sum(1) / v.norm(dim=1)
    close(expected.mean((1, 2, 3)), similarity.detach())


def test_ram_is_signed():
    net = PooledNet()
    signed = RAM(net, net.relu).attribute(X, references=-torch.ones(1, 5, dtype=torch.float64))
    assert (signed < 0).any()


def test_grad_ram_is_ram_over_z_on_a_pooled_net():
    net = PooledNet()
    ram = RAM(net, net.relu).attribute(X, references=G, interpolate_mode=None)
    grad_ram = GradRAM(net, net.relu).attribute(X, references=G, interpolate_mode=None)
    close(grad_ram, ram.relu() / ram[0, 0].numel())


def test_cg_ram_closed_form():
    net = PooledNet()
    a = activation(net, X)
    v, g, z = a.mean((2, 3)), activation(net, G).mean((2, 3)), a[0, 0].numel()
    unit_v, unit_g = F.normalize(v), F.normalize(g)
    cos = (unit_v * unit_g).sum(1, keepdim=True)
    expected = weighted((unit_g - cos * unit_v) / v.norm(dim=1, keepdim=True) / z, a).relu()
    close(CGRAM(net, net.relu).attribute(X, references=G, interpolate_mode=None), expected)


def test_cg_ram_of_an_image_with_itself_vanishes():
    net = PooledNet()
    assert CGRAM(net, net.relu).attribute(X, references=X).abs().max() < 1e-12


def test_activation_mean_closed_form():
    net = PooledNet()
    expected = activation(net, X).mean(1, keepdim=True)
    close(ActivationMean(net, net.relu).attribute(X, interpolate_mode=None), expected)


@pytest.mark.parametrize("target", [None, 2, [0, 2, 1], torch.tensor([0, 2, 1]), torch.tensor(1)])
def test_grad_cam_closed_form(target):
    net = PooledNet()
    head = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    a = activation(net, X)
    classes = a.mean((2, 3)) @ head
    chosen = classes.argmax(1) if target is None else torch.as_tensor(target).expand(3)
    expected = weighted(head.T[chosen] / a[0, 0].numel(), a).relu()
    explainer = GradCAM(lambda x: net(x) @ head, net.relu)
    close(explainer.attribute(X, target=target, interpolate_mode=None), expected)


# Independent oracles


def test_grad_fam_is_captums_grad_cam_of_the_norm():
    net = HeadNet().eval()
    oracle = LayerGradCam(lambda x: net(x).norm(dim=1), net.relu).attribute(X)
    close(GradFAM(net, net.relu).attribute(X, interpolate_mode=None), oracle.detach().relu())


def test_grad_cam_is_captums():
    net = HeadNet().eval()
    oracle = LayerGradCam(net, net.relu).attribute(X, target=[1, 0, 3], relu_attributions=True)
    ours = GradCAM(net, net.relu).attribute(X, target=[1, 0, 3], interpolate_mode=None)
    close(ours, oracle.detach())


def masked_by_hand(net: PooledNet, x: Tensor, baseline: Tensor, score) -> tuple[Tensor, Tensor]:
    """Score-FAM and Score-CAM, one image and one channel at a time."""
    a = activation(net, x[None])[0]
    scores = []
    for channel in a:
        mask = F.interpolate(channel[None, None], x.shape[1:], mode="bilinear")[0, 0]
        span = mask.max() - mask.min()
        mask = (mask - mask.min()) / span if channel.max() > channel.min() else mask * 0
        scores.append(score(x * mask + baseline * (1 - mask)) - score(baseline))
    weights = torch.exp(torch.stack(scores))
    weights = weights / weights.sum()
    return torch.relu(sum(w * c for w, c in zip(weights, a, strict=True)))[None], torch.stack(
        scores
    )


@pytest.mark.parametrize("perturbations_per_eval", [1, 4, 100])
@pytest.mark.parametrize("dead", [False, True])
def test_score_fam_is_a_plain_loop(perturbations_per_eval, dead):
    net = HeadNet().eval()
    if dead:  # a channel that is constant, and one that is constant but not zero
        net.conv.weight.data[1], net.conv.bias.data[1] = 0, -1
        net.conv.weight.data[3], net.conv.bias.data[3] = 0, 0.3
    maps, scores = ScoreFAM(net, net.relu).attribute(
        X,
        perturbations_per_eval=perturbations_per_eval,
        interpolate_mode=None,
        return_scores=True,
    )
    with torch.no_grad():
        for i, (x, baseline) in enumerate(zip(X, blurred(X), strict=True)):

            def score(image, x=x):
                return F.cosine_similarity(net(image[None]), net(x[None]))[0]

            expected, expected_scores = masked_by_hand(net, x, baseline, score)
            close(maps[i], expected)
            close(scores[i], expected_scores)
    if dead:
        assert (scores[:, [1, 3]] == 0).all()


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_score_cam_is_a_plain_loop(kind):
    net = HeadNet().eval()
    target = [2, 0, 1]
    maps = ScoreCAM(net, net.relu, score=kind).attribute(
        X, target=target, baselines=0.25, interpolate_mode=None
    )
    with torch.no_grad():
        for i, x in enumerate(X):

            def score(image, i=i):
                logits = net(image[None])[0]
                return (logits.softmax(0) if kind == "probability" else logits)[target[i]]

            expected, _ = masked_by_hand(net, x, torch.full_like(x, 0.25), score)
            close(maps[i], expected)


def test_score_cam_takes_the_predicted_class_by_default():
    net = HeadNet().eval()
    predicted = net(X).argmax(1)
    close(
        ScoreCAM(net, net.relu).attribute(X),
        ScoreCAM(net, net.relu).attribute(X, target=predicted),
    )


def test_blur_by_hand():
    x = images(1, (40, 30))
    offsets = range(-25, 26)
    kernel = torch.tensor([math.exp(-0.5 * (o / 50) ** 2) for o in offsets], dtype=torch.float64)
    kernel = kernel / kernel.sum()
    padded = F.pad(x, (25, 25, 25, 25), mode="reflect")
    window = torch.outer(kernel, kernel).expand(3, 1, 51, 51)
    close(blurred(x), F.conv2d(padded, window, groups=3))


@pytest.mark.parametrize(("size", "kernel"), [((40, 30), 51), ((40, 20), 39), ((2, 9), 3)])
def test_blur_kernel_shrinks_to_what_fits(size, kernel):
    x = images(1, size)
    close(blurred(x), blurred(x, kernel_size=kernel))
    assert blurred(images(1, (1, 5))).isfinite().all()


# What holds for every explainer

EXPLAINERS = {
    "GradFAM": (GradFAM, {}),
    "ScoreFAM": (ScoreFAM, {}),
    "GradRAM": (GradRAM, {"references": G}),
    "CGRAM": (CGRAM, {"references": G}),
    "RAM": (RAM, {"references": G}),
    "GradCAM": (GradCAM, {}),
    "ScoreCAM": (ScoreCAM, {}),
    "ActivationMean": (ActivationMean, {}),
}


def explain(name: str, x: Tensor, layer: str = "relu", net: nn.Module | None = None, **kwargs):
    explainer, data = EXPLAINERS[name]
    net = net or (PooledNet() if name == "RAM" else HeadNet())
    data = {key: value.to(x.dtype) for key, value in data.items()}
    return explainer(net, layer).attribute(x, **data, **kwargs)


@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_float_dtype(name, dtype):
    net = (PooledNet() if name == "RAM" else HeadNet()).to(dtype)
    maps = explain(name, X.to(dtype), net=net)
    assert maps.dtype == torch.promote_types(dtype, torch.float32)
    assert maps.shape == (3, 1, 12, 8)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    exact = explain(name, X)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 0.15)
    assert (maps.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.parametrize("name", EXPLAINERS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", None])
def test_interpolate_modes(name, mode):
    raw = explain(name, X, interpolate_mode=None)
    assert raw.shape == (3, 1, 6, 4)
    if mode is not None:
        kwargs = {} if mode == "nearest" else {"align_corners": False}
        raw = F.interpolate(raw, (12, 8), mode=mode, **kwargs)
    close(explain(name, X, interpolate_mode=mode), raw)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_batch_is_its_images_one_by_one(name):
    explainer, data = EXPLAINERS[name]
    net = PooledNet() if name == "RAM" else HeadNet()
    maps = explainer(net, net.relu).attribute(X, **data)
    for i in range(3):
        alone = {key: value[i : i + 1] for key, value in data.items()}
        close(explainer(net, net.relu).attribute(X[i : i + 1], **alone), maps[i : i + 1])


@pytest.mark.parametrize("name", sorted(set(EXPLAINERS) - {"RAM"}))
def test_layers_followed_by_an_in_place_operation(name):
    """What is explained is the layer's own output, not what an in-place ReLU makes of it."""

    def net(inplace: bool) -> nn.Sequential:
        plain = PooledNet()
        model = nn.Sequential(plain.conv, nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1))
        return model.append(nn.Flatten())

    close(explain(name, X, "0", net(inplace=True)), explain(name, X, "0", net(inplace=False)))


@pytest.mark.parametrize("name", sorted(set(EXPLAINERS) - {"RAM"}))
def test_the_embedding_is_what_forward_func_picks(name):
    explainer, data = EXPLAINERS[name]
    net, plain = DictNet().eval(), HeadNet().eval()
    picked = explainer(lambda x: net(x)["embedding"], net.relu).attribute(X, **data)
    close(picked, explainer(plain, plain.relu).attribute(X, **data))


@pytest.mark.parametrize("name", sorted(set(EXPLAINERS) - {"RAM"}))
def test_additional_forward_args_follow_their_image(name):
    explainer, data = EXPLAINERS[name]
    net = HeadNet()
    shift = torch.tensor([0.0, 3.0, -2.0], dtype=torch.float64)
    maps = explainer(net, net.relu).attribute(X, additional_forward_args=shift, **data)
    for i in range(3):
        alone = {key: value[i : i + 1] for key, value in data.items()}
        one = explainer(net, net.relu).attribute(
            X[i : i + 1], additional_forward_args=(shift[i : i + 1],), **alone
        )
        close(one, maps[i : i + 1])


@pytest.mark.parametrize("name", EXPLAINERS)
def test_frozen_models_and_callers_without_gradients(name):
    net = (PooledNet() if name == "RAM" else HeadNet()).requires_grad_(False)
    expected = explain(name, X)
    with torch.no_grad():
        close(explain(name, X, net=net), expected)
    with torch.inference_mode():
        close(explain(name, X.clone(), net=net).clone(), expected)


@pytest.mark.parametrize("explainer", [RAM, GradRAM, CGRAM])
def test_references_made_in_inference_mode(explainer):
    net = PooledNet().eval()
    with torch.inference_mode():
        made = net(G)
        pictures = G.clone()
    expected = explainer(net, "relu").attribute(X, references=G)
    close(explainer(net, "relu").attribute(X, references=made), expected)
    close(explainer(net, "relu").attribute(X, references=pictures), expected)


@pytest.mark.parametrize("explainer", [RAM, GradRAM, CGRAM])
def test_a_pair_is_explained_on_both_sides(explainer):
    ram = explainer(PooledNet(), "relu")
    left, right = ram.attribute_pair(X, G)
    close(left, ram.attribute(X, references=G))
    close(right, ram.attribute(G, references=X))
    swapped_right, swapped_left = ram.attribute_pair(G, X)
    assert torch.equal(left, swapped_left)
    assert torch.equal(right, swapped_right)
    one_for_all = ram.attribute_pair(X, G[:1])
    close(one_for_all[0], ram.attribute(X, references=G[:1]))
    close(one_for_all[1], ram.attribute(G[:1].expand(3, -1, -1, -1), references=X))


@pytest.mark.parametrize("explainer", [RAM, GradRAM, CGRAM])
def test_references_of_n_rows_serve_n_times_m_images(explainer):
    ram = explainer(PooledNet(), "relu")
    repeated = ram.attribute(X.repeat_interleave(2, 0), references=G)
    close(repeated, ram.attribute(X, references=G).repeat_interleave(2, 0))


def test_ram_takes_a_normalised_pooled_embedding():
    net = PooledNet().eval()
    normalised = RAM(lambda x: F.normalize(net(x)), net.relu)
    close(normalised.attribute(X, references=G), RAM(net, net.relu).attribute(X, references=G))


def test_ram_refuses_a_model_with_a_head_and_names_grad_ram():
    for net in (HeadNet(), HeadNet(width=5)):  # another width, and the same width by chance
        with pytest.raises(InputError, match="GradRAM"):
            RAM(net, "relu").attribute(X, references=G)


# Properties


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    chunk=st.integers(1, 12),
)
def test_score_fam_does_not_depend_on_the_chunk(seed, batch, height, width, chunk):
    net = PooledNet(seed=seed)
    net.conv.bias.data += 3  # some channel is always alive
    x = images(batch, (height, width), seed)
    fam = ScoreFAM(net, "relu")
    close(
        fam.attribute(x, perturbations_per_eval=chunk),
        fam.attribute(x, perturbations_per_eval=1),
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_scale_of_the_embedding(seed, scale):
    """Cosines do not see the embedding's scale; Grad-FAM is proportional to it."""
    net = PooledNet(seed=seed)
    net.conv.bias.data += 3
    x = images(2, seed=seed)

    def scaled(x):
        return net(x) * scale

    close(ScoreFAM(scaled, net.relu).attribute(x), ScoreFAM(net, net.relu).attribute(x))
    close(GradFAM(scaled, net.relu).attribute(x), GradFAM(net, net.relu).attribute(x) * scale)
    close(
        CGRAM(scaled, net.relu).attribute(x, references=x.flip(0)),
        CGRAM(net, net.relu).attribute(x, references=x.flip(0)),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_score_fam_is_a_mean_of_the_channels(seed):
    """Softmax weights are positive and add up to 1, so the map stays between the channels."""
    net = PooledNet(seed=seed)
    net.conv.bias.data += 3
    x = images(2, seed=seed)
    a = activation(net, x)
    maps = ScoreFAM(net, "relu").attribute(x, interpolate_mode=None)
    assert (maps <= a.amax(1, keepdim=True) + 1e-12).all()
    assert (maps >= a.amin(1, keepdim=True) - 1e-12).all()


# Controls


def test_random_depends_on_the_image_and_the_seed_alone():
    net = PooledNet()
    maps = Random(net, "relu").attribute(X, interpolate_mode=None)
    assert maps.shape == (3, 1, 6, 4)
    assert ((maps >= 0) & (maps < 1)).all()
    assert torch.equal(Random(net, "relu").attribute(X[1:2], interpolate_mode=None), maps[1:2])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(Random(net, "relu", seed=1).attribute(X, interpolate_mode=None), maps)


def test_centre_by_hand():
    maps = Centre(PooledNet(), "relu").attribute(X, interpolate_mode=None)
    assert torch.equal(maps[0], maps[2])
    # cell (0, 1) of 6 x 4 lies 5/12 of the height and 1/8 of the width off the middle
    assert maps[0, 0, 0, 1].item() == pytest.approx(math.exp(-((5 / 12) ** 2 + 1 / 64) * 8))
    close(maps, maps.flip(2).flip(3))
