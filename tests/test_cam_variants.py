"""HiResCAM, LayerCAM, XGrad-CAM and Eigen-CAM on embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import HeadNet, PooledNet, images
from torch import nn

from reid_explain import (
    Concept,
    EigenCAM,
    GradFAM,
    GradientWeighting,
    HiResCAM,
    LayerCAM,
    Logit,
    XGradCAM,
)

close = torch.testing.assert_close
X = images(3)
GRADIENTS = (HiResCAM, LayerCAM, XGradCAM)


def parts(net, score):
    """Activation of the layer and the gradient of the scores there, by a hook of our own."""
    kept = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = net.relu.register_forward_hook(keep)
    score(net(X)).sum().backward()
    handle.remove()
    return kept[0].detach(), kept[0].grad


def by_loops(name, activation, slope):
    maps = torch.zeros(3, 1, *activation.shape[2:], dtype=activation.dtype)
    for image in range(3):
        for a, g in zip(activation[image], slope[image], strict=True):
            if name == "HiResCAM":
                maps[image, 0] += g * a
            elif name == "LayerCAM":
                maps[image, 0] += g.clamp(min=0) * a
            else:
                maps[image, 0] += (a / a.sum() * g).sum() * a
    return maps.clamp(min=0)


@pytest.mark.parametrize("explainer", GRADIENTS)
def test_equations(explainer):
    net = HeadNet().eval()
    direction = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    for objective, score in (
        (None, lambda f: f.norm(dim=1)),
        (Logit(2), lambda f: f[:, 2]),
        (Concept(direction), lambda f: f @ F.normalize(direction, dim=0)),
    ):
        expected = by_loops(explainer.__name__, *parts(net, score))
        found = explainer(net, "relu").attribute(X, objective, interpolate_mode=None)
        close(found, expected)
        assert found.any()


def test_behind_a_linear_mean_all_gradients_are_alike():
    """Where the gradient of a channel is one number, the mean changes nothing."""
    net = PooledNet()
    expected = GradFAM(net, "relu").attribute(X)
    for explainer in (HiResCAM, XGradCAM):
        close(explainer(net, "relu").attribute(X), expected)
    close(LayerCAM(net, "relu").attribute(X), expected)  # the slope of a length, of means >= 0


@pytest.mark.filterwarnings("ignore:.*every map is zero")
def test_a_dead_channel_has_no_weight():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return 1 + self.layer(x * torch.tensor([0.0, 1.0, 1.0])[:, None, None]).mean((2, 3))

    found = XGradCAM(Dead(), "layer").attribute(X.float().abs())
    assert found.isfinite().all()
    assert found.any()


@pytest.mark.parametrize("explainer", GRADIENTS)
def test_pytorch_grad_cam(explainer):
    peers = pytest.importorskip("pytorch_grad_cam")
    net = HeadNet().eval()
    with getattr(peers, explainer.__name__)(net, [net.relu]) as peer:
        theirs = peer(X, targets=[lambda f: f.norm()] * 3)
    ours = explainer(net, "relu").attribute(X, interpolate_mode=None)
    low, high = (getattr(ours, end)((2, 3), keepdim=True) for end in ("amin", "amax"))
    stretched = (ours - low) / (1e-7 + high - low)  # as that package does, before it resizes
    resized = np.stack([resize(map_[0].numpy().astype(np.float32)) for map_ in stretched])
    close(torch.from_numpy(theirs), torch.from_numpy(resized), atol=1e-3, rtol=0)


def resize(map_):
    cv2 = pytest.importorskip("cv2")
    resized = cv2.resize(map_, (8, 12))
    return (resized - resized.min()) / (1e-7 + resized.max() - resized.min())


# Eigen-CAM


def eigen(activation):
    layer = nn.Identity()
    explainer = EigenCAM(lambda x: layer(x).mean((2, 3)), layer)
    return explainer.attribute(activation, interpolate_mode=None)


def test_channels_that_are_multiples_of_one_map():
    base = torch.rand(2, 1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64).view(3, 1, 1)
    close(eigen(base * scales), base * 3)
    close(eigen(-base * scales), base * 3)  # the sign is that of a sum that is not negative


def test_principal_direction_by_numpy():
    for row, found in zip(X, eigen(X), strict=True):
        places = row.flatten(1).T.numpy()
        values, vectors = np.linalg.eigh(places.T @ places)
        assert values[-1] > 1.01 * values[-2]
        along = places @ vectors[:, -1]
        expected = torch.from_numpy(along * np.sign(along.sum())).view(1, 12, 8)
        close(found, expected)
        assert found.sum() > 0


def test_nothing_is_seen_where_nothing_is_active():
    assert not eigen(torch.zeros(1, 3, 4, 3)).any()
    assert (eigen(X.abs()) > -1e-9).all()


def test_presets_are_settings_of_one_algorithm():
    net = HeadNet().eval()
    for explainer, weights in zip(
        GRADIENTS, ("elementwise", "positive", "activation"), strict=True
    ):
        same = GradientWeighting(net, "relu", weights=weights)
        assert torch.equal(explainer(net, "relu").attribute(X), same.attribute(X))
    assert EigenCAM.is_control
