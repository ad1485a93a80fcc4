"""Captum's attributions as explainers, against what they mean."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from nets import PooledNet, images
from torch import Tensor, nn

from reid_explain import Concept, Cosine, GradFAM, InputError, Logit, Projection
from reid_explain.benchmark.methods import all_methods, find_methods, method_names
from reid_explain.explainers.captum_methods import captum_explainer, grid_of_cells
from reid_explain.testing import explainer_checks

X, G = images(2), images(2, seed=7)
close = torch.testing.assert_close


def explained(name: str, net: nn.Module, *args, **options) -> Tensor:
    explainer = captum_explainer(f"captum:{name}")(net, net.relu)
    return explainer.attribute(X, *args, interpolate_mode=None, **options)


def projection(net: nn.Module, x: Tensor, onto: Tensor) -> Tensor:
    return (net(x) * F.normalize(onto)).sum(dim=1)


def test_gradients_of_the_pixels():
    net, x = PooledNet(), X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(projection(net, x, net(X).detach()).sum(), x)
    close(explained("Saliency", net), slope.abs().sum(1, keepdim=True))
    close(explained("InputXGradient", net), (slope * X).sum(1, keepdim=True))
    (slope,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    close(explained("Saliency", net, Logit(1)), slope.abs().sum(1, keepdim=True))


def test_integrated_gradients_add_up_to_the_difference_from_gray():
    net = PooledNet()
    maps = explained("IntegratedGradients(n_steps=300)", net, Projection(G))
    expected = projection(net, X, net(G)) - projection(net, 0 * X, net(G))
    close(maps.sum((1, 2, 3)), expected, rtol=1e-2, atol=1e-4)


def test_windows_and_cells_by_hand():
    net = PooledNet()
    own = net(X)
    drops, seen = torch.zeros(2, 1, 12, 8).double(), torch.zeros(12, 8)
    for top in range(0, 12 - 4 + 1, 2):  # windows of 4 x 4, moved by 2
        for left in range(0, 8 - 4 + 1, 2):
            place = (..., slice(top, top + 4), slice(left, left + 4))
            hidden = X.clone()
            hidden[place] = 0
            drops[place] += (1 - F.cosine_similarity(net(hidden), own)).view(2, 1, 1, 1)
            seen[place] += 1
    close(explained("Occlusion(cells=2)", net), 3 * drops / seen)
    cells = grid_of_cells(X, 2)
    assert [cells[0, 0, y, x].item() for y, x in ((0, 0), (3, 4), (4, 0), (11, 7))] == [0, 1, 2, 5]
    drops = torch.zeros(2, 1, 12, 8).double()
    for cell in range(6):
        change = 1 - F.cosine_similarity(net(X.where(cells != cell, 0 * X)), own)
        drops += change.view(2, 1, 1, 1) * (cells == cell)
    close(explained("FeatureAblation(cells=2)", net), 3 * drops)


def test_shapley_values_of_what_adds_up():
    class MeanColor(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.Identity()

        def forward(self, x):
            return self.relu(x).mean(dim=(2, 3))

    cells, red = grid_of_cells(X, 2), Concept(torch.tensor([1.0, 0, 0]))
    sums = [(X[:, :1] * (cells == cell)).sum((2, 3)) / 96 for cell in range(6)]
    expected = 3 * sum(total[..., None, None] * (cells == n) for n, total in enumerate(sums))
    for name in ("KernelShap(cells=2, n_samples=40)", "ShapleyValueSampling(cells=2, n_samples=1)"):
        close(explained(name, MeanColor(), red).float(), expected.float(), rtol=1e-3, atol=1e-4)


def test_layers():
    net = PooledNet()
    cam = explained("LayerGradCam", net)
    close(cam.relu(), GradFAM(net, "relu").attribute(X, interpolate_mode=None))
    a = net.relu(net.conv(X)).detach()
    close(explained("LayerActivation", net), a.sum(1, keepdim=True))
    ablated = explained("LayerFeatureAblation", net, Cosine())
    own, channels = net(X), a.shape[1]
    for y, x in ((0, 0), (2, 3)):
        without = a.clone()
        without[:, :, y, x] = 0
        drop = 1 - F.cosine_similarity(without.mean((2, 3)), own)
        close(ablated[:, 0, y, x], channels * drop, rtol=1e-3, atol=1e-9)


def test_smoothing_is_the_mean_over_noise_of_the_images_own():
    net = PooledNet()
    smooth = explained("NoiseTunnel(InputXGradient(), nt_samples=3, stdevs=1e-9)", net)
    close(smooth, explained("InputXGradient", net), rtol=1e-4, atol=1e-6)
    noisy = explained("NoiseTunnel(InputXGradient, nt_samples=3)", net)
    assert not torch.equal(noisy, smooth)
    assert torch.equal(noisy, explained("NoiseTunnel(InputXGradient, nt_samples=3)", net))


def test_similarities_and_classes():
    net = PooledNet()
    occlusion = captum_explainer("captum:Occlusion(needs='references')")
    assert (occlusion.needs, occlusion.explains, occlusion.cost) == (
        ("references",),
        "embedding",
        "masks",
    )
    found = occlusion(net, "relu").attribute(X, references=G, interpolate_mode=None)
    close(found, explained("Occlusion", net, Cosine(G)))
    saliency = captum_explainer("captum:Saliency(needs='target')")
    assert (saliency.needs, saliency.explains, saliency.cost) == (("target",), "logits", "pass")
    found = saliency(net, "relu").attribute(X, target=torch.tensor([1, 1]))
    close(found, explained("Saliency", net, Logit(1)))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("captum:LIME", "got captum:LIME, expected captum:NAME of Deconvolution, .*Saliency"),
        ("captum:NeuronGradient", "expected captum:NAME of"),
        ("captum:Saliency(window=3)", r"with window, expected options of Saliency: abs, cells"),
        ("captum:Saliency(Occlusion)", "with Spec.*, expected options of Saliency"),
        ("captum:Occlusion(strides=open('x'))", r"expected captum:NAME or captum:NAME\(option"),
        ("captum:Occlusion(", r"expected captum:NAME or captum:NAME\(option"),
        ("captum:Saliency(needs='mask')", "needs: got .*mask.*, expected 'references' or 'target'"),
    ],
)
def test_unknown_names_and_options(name, match):
    with pytest.raises(InputError, match=match) as caught:
        captum_explainer(name)
    assert "\n" not in str(caught.value)


def test_what_captum_refuses_is_one_line():
    net = PooledNet()
    with pytest.raises(InputError, match="forward_func: got a function that hides its model"):
        captum_explainer("captum:DeepLift")(lambda x: net(x), net.relu).attribute(X)
    with pytest.raises(InputError, match=r"captum:Occlusion\(strides=\(9, 9\)\): got Assertion"):
        explained("Occlusion(strides=(9, 9))", net)


def test_names_on_a_command_line():
    named = "captum:NoiseTunnel(Occlusion(strides=(3, 8, 8)), nt_samples=2)"
    assert method_names([f"GradFAM,{named},Random", "", "RAM"]) == [
        "GradFAM",
        named,
        "Random",
        "RAM",
    ]
    found = find_methods([named, "captum:Saliency", "captum:Saliency()"], all_methods())
    assert list(found) == [named, "captum:Saliency", "captum:Saliency()"]
    assert not any(method.by_default for method in found.values())
    assert not any(name.startswith("captum:") for name in all_methods())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("Saliency", ("layer", "tokens")),
        ("LayerGradCam", ("layer",)),
        ("Occlusion", ("layer", "tokens")),
        ("NoiseTunnel(GradientShap, nt_samples=2)", ("layer", "tokens")),
        ("GuidedBackprop", ("layer", "tokens")),
        ("LayerDeepLift", ("layer", "tokens")),
    ],
)
def test_the_contract(name, layers):
    explainer = partial(captum_explainer(f"captum:{name}"))
    for check in explainer_checks(explainer, layers=layers):
        check()
