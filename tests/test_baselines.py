"""IDE, the strong baseline and SBS: forward against definitions in plain functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reid_explain.models import ReIDNet, build_model
from reid_explain.models.resnet import IBN, NON_LOCAL_BLOCKS, RESNETS, NonLocal, ResNetBackbone

close = torch.testing.assert_close
X = torch.randn(2, 3, 80, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def trained(model):
    """Return the model in eval mode and float64, with norms and exponents far from new ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.InstanceNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.4, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, NonLocal):
            for part in (module.g, module.theta, module.phi):
                nn.init.normal_(part.weight, 0, 0.1 * part.in_channels**-0.5, generator=generator)
        if hasattr(module, "p"):
            nn.init.constant_(module.p, 3.7)
    return model.double().eval()


def net(name, **options):
    torch.manual_seed(0)
    return trained(build_model(name, 5, **{"backbone": "resnet50", "width": 1 / 16, **options}))


# Definitions, from the weights alone


def batch_norm(x, w, name):
    view = (1, -1) + (1,) * (x.dim() - 2)
    mean, var, weight, bias = (
        w[f"{name}.{key}"].view(view) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def first_norm(x, w, name):
    """IBN-a where the weights have it: per image and channel on the first half."""
    if f"{name}.IN.weight" not in w:
        return batch_norm(x, w, name)
    half = x.shape[1] // 2
    first = x[:, :half]
    mean = first.mean((2, 3), keepdim=True)
    var = (first - mean).square().mean((2, 3), keepdim=True)
    first = (first - mean) / (var + 1e-5).sqrt()
    first = first * w[f"{name}.IN.weight"].view(1, -1, 1, 1) + w[f"{name}.IN.bias"].view(
        1, -1, 1, 1
    )
    return torch.cat([first, batch_norm(x[:, half:], w, f"{name}.BN")], dim=1)


def pairs_of_places(x, w, name):
    """Wang et al., equations 1, 4 and 6, with the full N x N matrix."""

    def project(part):
        kernel = w[f"{name}.{part}.weight"].flatten(1)
        return torch.einsum("oc,bcn->bno", kernel, x.flatten(2)) + w[f"{name}.{part}.bias"]

    theta, phi, g = project("theta"), project("phi"), project("g")
    matrix = theta @ phi.transpose(1, 2)
    y = matrix @ g / matrix.shape[1]
    out = torch.einsum("co,bno->bcn", w[f"{name}.W.0.weight"].flatten(1), y)
    out = (out + w[f"{name}.W.0.bias"].view(1, -1, 1)).view_as(x)
    return x + batch_norm(out, w, f"{name}.W.1")


def bottleneck(x, w, name, stride):
    y = functional.conv2d(x, w[f"{name}.conv1.weight"])
    y = first_norm(y, w, f"{name}.bn1").relu()
    y = functional.conv2d(y, w[f"{name}.conv2.weight"], stride=stride, padding=1)
    y = batch_norm(y, w, f"{name}.bn2").relu()
    y = batch_norm(functional.conv2d(y, w[f"{name}.conv3.weight"]), w, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in w:
        x = functional.conv2d(x, w[f"{name}.downsample.0.weight"], stride=stride)
        x = batch_norm(x, w, f"{name}.downsample.1")
    return (x + y).relu()


def window_maximum(x, ceil_mode):
    """The maximum of 3 x 3 windows, two apart, from -1 or from 0; outside counts as nothing."""
    start = 0 if ceil_mode else -1
    padded = functional.pad(x, (1, 2, 1, 2), value=-torch.inf)
    rows = range(start, x.shape[2] - 1, 2)
    columns = range(start, x.shape[3] - 1, 2)
    return torch.stack(
        [
            torch.stack(
                [padded[:, :, i + 1 : i + 4, j + 1 : j + 4].amax((2, 3)) for j in columns], dim=-1
            )
            for i in rows
        ],
        dim=-2,
    )


def map_by_definition(model, x, last_stride, ceil_mode, non_local=(0, 0, 0, 0), relu=True):
    w = {key.removeprefix("backbone."): value for key, value in model.state_dict().items()}
    x = functional.conv2d(x, w["conv1.weight"], stride=2, padding=3)
    x = batch_norm(x, w, "bn1")
    x = window_maximum(x.relu() if relu else x, ceil_mode)
    for stage, (depth, stride) in enumerate(
        zip((3, 4, 6, 3), (1, 2, 2, last_stride), strict=True), start=1
    ):
        pairs = non_local[stage - 1]
        for i in range(depth):
            x = bottleneck(x, w, f"layer{stage}.{i}", 1 if i else stride)
            if i >= depth - pairs:
                x = pairs_of_places(x, w, f"layer{stage}.non_local_{i - depth + pairs}")
    return x


# The three baselines


def test_ide():
    model = net("ide")
    features = map_by_definition(model, X, last_stride=2, ceil_mode=False)
    assert features.shape == (2, 128, 3, 2)
    close(model.features(X), features)
    close(model(X), features.mean((2, 3)))
    w = model.state_dict()
    close(
        model.classify(model(X)),
        model(X) @ w["classifier.weight"].T + w["classifier.bias"],
    )


def test_the_strong_baseline():
    model = net("bot")
    features = map_by_definition(model, X, last_stride=1, ceil_mode=False)
    assert features.shape == (2, 128, 5, 3)
    close(model.features(X), features)
    w = model.state_dict()
    embedding = batch_norm(features.mean((2, 3)), w, "neck")
    close(model(X), embedding)
    close(model.classify(model(X)), embedding @ w["classifier.weight"].T)


@pytest.mark.parametrize("size", [(80, 48), (72, 40), (78, 46)])
def test_sbs(size):
    model = net("sbs")
    x = X[:, :, : size[0], : size[1]]
    features = map_by_definition(model, x, 1, ceil_mode=True, non_local=(0, 2, 3, 0))
    close(model.features(x), features)
    w = model.state_dict()
    p = w["pool.p"]
    pooled = features.clamp(min=1e-6).pow(p).flatten(2).mean(2).pow(1 / p)
    close(model(x), batch_norm(pooled, w, "neck"))
    close(p, torch.tensor([3.7], dtype=torch.float64))


def test_without_the_first_relu():
    model = net("bot", stem_relu=False)
    features = map_by_definition(model, X, last_stride=1, ceil_mode=False, relu=False)
    close(model.features(X), features)
    with_relu = net("bot")
    with_relu.load_state_dict(model.state_dict())
    assert (with_relu.features(X) - features).abs().max() > 0.01


@pytest.mark.parametrize("stem_relu", [True, False])
def test_the_blocks_keep_their_relus(stem_relu):
    backbone = ResNetBackbone("resnet18", width=1 / 16, stem_relu=stem_relu)
    assert (backbone.stem(X.float()).min() >= 0) == stem_relu
    assert backbone(X.float()).min() >= 0
    relus = [name for name, module in backbone.named_modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 8 + stem_relu


# Their parts


@pytest.mark.parametrize("channels", [6, 7])
def test_ibn_by_its_definition(channels):
    torch.manual_seed(0)
    norm = trained(IBN(channels))
    x = 3 * torch.randn(4, channels, 5, 3, dtype=torch.float64) + 1
    w = {f"n.{key}": value for key, value in norm.state_dict().items()}
    close(norm(x), first_norm(x, w, "n"))
    assert w["n.IN.weight"].shape == (3,)
    # Brightness and contrast of an image do not pass the first half, and pass the second.
    other = 2 * x + 3
    assert ((norm(other) - norm(x))[:, :3].abs().amax() < 1e-4).item()
    assert ((norm(other) - norm(x))[:, 3:].abs().amax() > 1).item()


def test_ibn_is_the_first_norm_of_the_blocks_of_three_stages():
    for name in RESNETS:
        backbone = ResNetBackbone(name, width=1 / 16, ibn=True)
        found = [key for key, module in backbone.named_modules() if isinstance(module, IBN)]
        depths = RESNETS[name][1]
        assert found == [f"layer{s}.{i}.bn1" for s in (1, 2, 3) for i in range(depths[s - 1])]


def test_a_non_local_block_by_its_matrix():
    torch.manual_seed(0)
    block = trained(NonLocal(6))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    w = {f"n.{key}": value for key, value in block.state_dict().items()}
    close(block(x), pairs_of_places(x, w, "n"))
    assert (block(x) - x).abs().max() > 0.1
    new = NonLocal(6).double().eval()
    close(new(x), x)


@pytest.mark.parametrize("name", RESNETS)
def test_non_local_blocks_follow_the_last_blocks_of_their_stage(name):
    backbone = ResNetBackbone(name, width=1 / 16, non_local=True)
    counts = NON_LOCAL_BLOCKS.get(name, (0, 0, 0, 0))
    for stage, (depth, count) in enumerate(zip(RESNETS[name][1], counts, strict=True), start=1):
        order = [str(i) for i in range(depth - count)]
        for j in range(count):
            order += [str(depth - count + j), f"non_local_{j}"]
        assert [key for key, _ in getattr(backbone, f"layer{stage}").named_children()] == order
    channels = backbone.out_channels
    for stage in (2, 3):
        for module in getattr(backbone, f"layer{stage}").children():
            if isinstance(module, NonLocal):
                assert module.g.in_channels == channels // 2 ** (4 - stage)


@pytest.mark.parametrize("size", [(64, 32), (66, 34), (65, 33), (62, 30)])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_the_first_pooling_by_its_windows(size, ceil_mode):
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    pool = ResNetBackbone("resnet18", width=1 / 16, ceil_mode=ceil_mode).maxpool
    close(pool(x), window_maximum(x, ceil_mode))
    if size[0] % 2 == 0:
        assert pool(x).shape[2:] == (size[0] // 2, size[1] // 2)


def test_strides():
    x = torch.zeros(1, 3, 256, 128)
    for stride, size in ((1, (16, 8)), (2, (8, 4))):
        model = ReIDNet("resnet18", width=1 / 16, last_stride=stride)
        assert model.features(x).shape[2:] == size
    assert build_model("ide", backbone="resnet18", width=1 / 16).features(x).shape[2:] == (8, 4)


def test_the_bias_of_the_neck_is_not_trained_and_ide_has_one_in_its_classifier():
    for name in ("bot", "sbs"):
        model = build_model(name, 5, backbone="resnet18", width=1 / 16)
        assert not model.neck.bias.requires_grad
        assert model.classifier.bias is None
    assert build_model("ide", 5, backbone="resnet18", width=1 / 16).classifier.bias is not None
