"""The networks, their seam, and weights from files."""

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from reid_explain import InputError
from reid_explain.datasets import Market1501
from reid_explain.inputs import InputSpec
from reid_explain.models import (
    MODELS,
    OSNet,
    ReIDNet,
    build_model,
    load_checkpoint,
    load_pretrained,
    load_trained,
    open_checkpoint,
    osnet_x0_5,
    osnet_x0_25,
    osnet_x0_75,
    osnet_x1_0,
    save_trained,
)
from reid_explain.models.osnet import OSBlock
from reid_explain.models.pooling import GeneralizedMeanPool
from reid_explain.models.resnet import ResNetBackbone
from reid_explain.retrieval import embed_records

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
X = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def tiny(**kwargs):
    torch.manual_seed(0)
    return ReIDNet("resnet18", width=1 / 16, **kwargs)


def disturb(model):
    """Give batch norms statistics that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model


# The seam


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "osnet_x0_25"])
def test_forward_is_embed_of_features_in_both_modes(name, mode):
    torch.manual_seed(0)
    model = disturb(build_model(name, num_classes=7)).train(mode)
    features = model.features(X)
    assert features.shape == (2, {"resnet18": 512, "resnet50": 2048}.get(name, 128), 4, 2)
    embedding = model(X)
    assert embedding.shape == (2, model.embedding_dim)
    torch.testing.assert_close(embedding, model.embed(features))
    torch.testing.assert_close(embedding, model.neck(model.pool(features)))
    assert model.classify(embedding).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds_a_network_without_classifier_by_default(name):
    with torch.device("meta"):  # shapes without values: nothing is drawn
        model = build_model(name)
    assert not [key for key in model.state_dict() if key.startswith("classifier")]
    with pytest.raises(InputError, match="num_classes=0"):
        model.classify(torch.zeros(1, model.embedding_dim))


@pytest.mark.slow
def test_the_backbone_is_torchvisions_resnet(tmp_path):
    torch.manual_seed(0)
    reference = disturb(torchvision.models.resnet18()).eval()
    torch.save(reference.state_dict(), tmp_path / "imagenet.pth")
    weights = tmp_path / "imagenet.pth"
    strided = ReIDNet("resnet18", last_stride=2, weights=weights).eval()
    theirs = nn.Sequential(*list(reference.children())[:-2])(X)
    torch.testing.assert_close(strided.features(X), theirs)
    dense = ReIDNet("resnet18", weights=weights).eval()
    assert dense.features(X).shape == (2, 512, 4, 2)
    # Stride 1 looks at more places; at every second one it sees what stride 2 sees in the first
    # block of the stage.
    shared = dense.backbone.layer3(
        dense.backbone.layer2(dense.backbone.layer1(dense.backbone.stem(X)))
    )
    torch.testing.assert_close(
        dense.backbone.layer4[0].conv1(shared)[..., ::2, ::2],
        strided.backbone.layer4[0].conv1(shared),
    )


@pytest.mark.slow
def test_imagenet_weights_by_torchvisions_name(monkeypatch):
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **kwargs: state)
    loaded = ReIDNet("resnet18", weights=weights).backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    with pytest.raises(InputError, match="of another shape"):
        ReIDNet("resnet18", width=0.5, weights=weights)


def test_width_scales_the_four_stages_and_not_the_stem():
    narrow = ResNetBackbone("resnet50", width=0.5)
    maps = [narrow.stem(X)]
    for stage in (narrow.layer1, narrow.layer2, narrow.layer3, narrow.layer4):
        maps.append(stage(maps[-1]))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512, 1024]
    torch.testing.assert_close(narrow.eval()(X).shape, maps[-1].shape)


def test_a_resnet18_of_half_width_fits_in_eight_megabytes_of_float16(tmp_path):
    model = ReIDNet("resnet18", num_classes=500, width=0.5)
    save_trained(model, tmp_path / "m.json", {}, dtype=torch.float16)
    assert (tmp_path / "m.safetensors").stat().st_size < 8e6


def test_average_pooling_and_neck_by_hand():
    model = tiny().double().eval()
    disturb(model.neck)
    features = torch.rand(3, model.embedding_dim, 5, 2, dtype=torch.float64)
    pooled = features.sum((2, 3)) / 10
    torch.testing.assert_close(model.pool(features), pooled)
    neck = model.neck
    by_hand = (pooled - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    torch.testing.assert_close(model.embed(features), by_hand)


def test_generalized_mean_by_hand():
    pool = GeneralizedMeanPool().double()
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 3.0]]]], dtype=torch.float64)
    torch.testing.assert_close(
        pool(features), torch.tensor([[4.5 ** (1 / 3), 3.0]], dtype=torch.float64)
    )
    pool.p.data.fill_(1)
    torch.testing.assert_close(pool(features), features.mean((2, 3)))
    assert torch.autograd.gradcheck(pool, features.requires_grad_())
    pool(features).sum().backward()
    assert pool.p.grad.abs() > 0
    assert pool(torch.zeros(1, 1, 2, 2, dtype=torch.float64)).item() == pytest.approx(1e-6)


def test_neck_and_classifier_have_no_bias_to_train():
    model = tiny(num_classes=3, pooling="gem")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"pool.p", "neck.weight", "classifier.weight"} <= trained
    assert not trained & {"neck.bias", "classifier.bias"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet20"}, "backbone: got 'resnet20'.*'resnet50'"),
        ({"pooling": "max"}, "pooling: got 'max'"),
        ({"last_stride": 3}, "last_stride: got 3"),
        ({"width": 0}, "width: got 0"),
        ({"num_classes": -1}, "num_classes: got -1"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        ReIDNet(**arguments)


@pytest.mark.slow
def test_imagenet_weights_for_another_backbone(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(InputError, match=r"layer1\.2\.conv1\.weight"):
        ReIDNet("resnet34", weights=tmp_path / "r18.pth")


# OSNet


@pytest.mark.parametrize(
    ("build", "published"),
    [(osnet_x1_0, 2.2), (osnet_x0_75, 1.3), (osnet_x0_5, 0.6), (osnet_x0_25, 0.2)],
)
def test_osnet_has_the_published_number_of_parameters(build, published):
    # Millions, as the paper gives them; the keys and shapes of a published file are checked below.
    assert round(sum(p.numel() for p in build().parameters()) / 1e6, 1) == published


def test_an_osnet_block_from_its_weights_alone():
    torch.manual_seed(0)
    block = disturb(OSBlock(8, 64)).double().eval()
    w = block.state_dict()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)

    def conv_bn(x, conv, bn, **kwargs):
        x = functional.conv2d(x, w[f"{conv}.weight"], **kwargs)
        statistics = (w[f"{bn}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *statistics)

    def lite(x, name):
        x = functional.conv2d(x, w[f"{name}.conv1.weight"])
        return conv_bn(x, f"{name}.conv2", f"{name}.bn", padding=1, groups=16).relu()

    def gated(x):
        g = functional.conv2d(
            x.mean((2, 3), keepdim=True), w["gate.fc1.weight"], w["gate.fc1.bias"]
        )
        g = functional.conv2d(g.relu(), w["gate.fc2.weight"], w["gate.fc2.bias"])
        return x / (1 + (-g).exp())

    narrow = conv_bn(x, "conv1.conv", "conv1.bn").relu()
    total = gated(lite(narrow, "conv2a"))
    for stream, depth in (("conv2b", 2), ("conv2c", 3), ("conv2d", 4)):
        y = narrow
        for layer in range(depth):
            y = lite(y, f"{stream}.{layer}")
        total = total + gated(y)
    wide = conv_bn(total, "conv3.conv", "conv3.bn")
    skip = conv_bn(x, "downsample.conv", "downsample.bn")
    torch.testing.assert_close(block(x), (wide + skip).relu())


def test_osnet_maps_and_bad_settings():
    model = osnet_x0_25().eval()
    assert model.features(torch.zeros(1, 3, 256, 128)).shape == (1, 128, 16, 8)
    assert (model(X) >= 0).all()
    with pytest.raises(InputError, match=r"width: got 0\.3"):
        OSNet(0.3)
    with pytest.raises(InputError, match="options: got {'width': 0.5, .* of osnet_x0_5"):
        build_model("osnet_x0_5", width=0.5, pooling="gem")
    with pytest.raises(InputError, match="name: got 'alexnet'"):
        build_model("alexnet")


@pytest.mark.slow
@pytest.mark.real_data
def test_torchreids_classifier_knows_its_training_people(osnet_weights, market_root):
    model = osnet_x0_25(num_classes=751)
    load_checkpoint(model, osnet_weights)
    world = Market1501(market_root)
    classes = sorted({record.identity for record in world.train})
    some = world.train[::400]
    embedded = embed_records(model.eval(), world, some, spec=InputSpec(), show_progress=False)
    found = model.classify(embedded.embeddings).argmax(1)
    right = [classes[k] == record.identity for k, record in zip(found, some, strict=True)]
    assert sum(right) / len(right) > 0.9


# Checkpoints


def same(model, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def other_tiny(**kwargs):
    torch.manual_seed(5)
    return ReIDNet("resnet18", width=1 / 16, **kwargs)


def write(state, path, form):
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif form == "parallel":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    elif form == "old format":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("form", ["plain", "nested", "parallel", "old format", "safetensors"])
def test_every_form_of_checkpoint(form, tmp_path):
    model, filled = tiny(num_classes=4), other_tiny(num_classes=4)
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    write(model.state_dict(), path, form)
    assert not same(model, filled)
    assert load_checkpoint(filled, path) == ()
    assert same(model, filled)


@pytest.mark.parametrize("classes", [0, 9])
def test_another_classifier_is_left_out_only_when_asked(classes, tmp_path):
    torch.save(tiny(num_classes=4).state_dict(), tmp_path / "w.pth")
    model, before = other_tiny(num_classes=classes), other_tiny(num_classes=classes)
    with pytest.raises(InputError, match=r"classifier\.weight"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert same(model, before)
    left_out = load_checkpoint(model, tmp_path / "w.pth", ignore_classifier=True)
    assert left_out == ("classifier.weight",)
    torch.testing.assert_close(model.eval()(X), tiny(num_classes=4).eval()(X))
    if classes:
        assert torch.equal(model.classifier.weight, before.classifier.weight)


def test_a_checkpoint_without_the_classifier_that_the_model_has(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    model = other_tiny(num_classes=4)
    with pytest.raises(InputError, match=r"missing: classifier\.weight"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth", ignore_classifier=True) == ()


def test_all_disagreements_are_in_one_message_and_nothing_is_loaded(tmp_path):
    state = tiny().state_dict()
    del state["neck.bias"], state["backbone.bn1.weight"]
    state["extra.weight"] = state["neck.weight"]
    state["neck.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    model, before = other_tiny(), other_tiny()
    with pytest.raises(InputError) as caught:
        load_checkpoint(model, tmp_path / "w.pth")
    message = str(caught.value)
    assert "missing: backbone.bn1.weight, neck.bias" in message
    assert "unexpected: extra.weight" in message
    assert "of another shape: neck.weight (3,) for (32,)" in message
    assert str(tmp_path / "w.pth") in message
    assert same(model, before)


class Trap:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path(Trap.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_executed(zipped, tmp_path):
    Trap.target = str(tmp_path / "executed")
    path = tmp_path / "w.pth"
    torch.save({"state_dict": Trap()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="not executed"):
        load_checkpoint(tiny(), path)
    assert not (tmp_path / "executed").exists()


def unreadable_files():
    buffer = io.BytesIO()
    torch.save(tiny().state_dict(), buffer)
    whole = buffer.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "no weights")
    return {
        "empty.pth": b"",
        "text.pth": b"these are not weights",
        "half.pth": whole[: len(whole) // 2],
        "end.pth": whole[:-1],
        "archive.pth": archive.getvalue(),
        "text.safetensors": b"these are not weights",
        "half.safetensors": (1000).to_bytes(8, "little") + b"{",
    }


@pytest.mark.parametrize("name", unreadable_files())
def test_unreadable_checkpoints(name, tmp_path):
    (tmp_path / name).write_bytes(unreadable_files()[name])
    with pytest.raises(InputError, match=rf"path: got .*{name}"):
        load_checkpoint(tiny(), tmp_path / name)


def test_checkpoints_that_are_absent_or_hold_no_weights(tmp_path):
    with pytest.raises(InputError, match=r"path: got .*none\.pth, expected .*exists"):
        load_checkpoint(tiny(), tmp_path / "none.pth")
    for content in ([1, 2], {"epoch": 3}, torch.zeros(2), {"state_dict": {"a": 1}}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match="without a state dict"):
            load_checkpoint(tiny(), tmp_path / "w.pth")


def test_an_empty_state_dict_is_refused(tmp_path):
    for content in ({}, {"state_dict": {}}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match=r"w\.pth with an empty state dict"):
            open_checkpoint(tmp_path / "w.pth")


def test_a_long_disagreement_stays_short(tmp_path):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        InputError, match=r"and \d+ more; unexpected: .* and \d+ more, ex"
    ) as caught:
        load_checkpoint(tiny(), tmp_path / "w.pth")
    assert len(str(caught.value)) < 800


# Trained networks with their card


ARCHITECTURE = {"name": "resnet18", "num_classes": 4, "width": 1 / 16, "pooling": "gem"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 5e-3)])
def test_a_saved_network_comes_back(dtype, tolerance, tmp_path):
    model = disturb(build_model(**ARCHITECTURE)).to(memory_format=torch.channels_last).eval()
    card = tmp_path / "m.json"
    save_trained(model, card, ARCHITECTURE, dtype=dtype, recipe={"epochs": 3})
    loaded = load_trained(card)
    assert not loaded.training
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    scale = model(X).abs().max().item()
    torch.testing.assert_close(loaded(X), model(X), rtol=0, atol=tolerance * scale + 1e-6)
    assert json.loads(card.read_text())["recipe"] == {"epochs": 3}


def test_a_damaged_network_is_refused(tmp_path):
    card, weights = tmp_path / "m.json", tmp_path / "m.safetensors"
    save_trained(build_model(**ARCHITECTURE), card, ARCHITECTURE)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="sha256"):
        load_trained(card)
    weights.unlink()
    with pytest.raises(InputError, match=r"without m\.safetensors"):
        load_trained(card)
    card.write_text("[]")
    with pytest.raises(InputError, match="card: "):
        load_trained(card)
    with pytest.raises(InputError, match="card: "):
        load_trained(tmp_path / "none.json")


def edited(path, **changes):
    """Write a card of a small network with some keys changed, added, or removed by None."""
    save_trained(build_model(**ARCHITECTURE), path, ARCHITECTURE)
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def test_a_card_keeps_the_images_that_the_network_takes(tmp_path):
    model = build_model(**ARCHITECTURE)
    model.input_spec = InputSpec((384, 128), mean=(0.5, 0.4, 0.3), resize="letterbox")
    save_trained(model, tmp_path / "m.json", ARCHITECTURE)
    assert load_trained(tmp_path / "m.json").input_spec == model.input_spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"note": "mine", "url": "x"},
            "unknown keys: note, url; missing: none",
        ),
        ({"input": None, "sha256": None}, "unknown keys: none; missing: input, sha256"),
        ({"input": {"crop": 1}}, "input: got {'crop': 1}"),
        ({"input": {"size": [0, 3]}}, r"size: got \[0, 3\]"),
        ({"architecture": ["resnet18"]}, "architecture .*, expected one with a name"),
        ({"architecture": {"width": 1}}, "architecture .*, expected one with a name"),
        ({"architecture": {"name": "resnet20"}}, "name: got 'resnet20'"),
        ({"architecture": {"name": "os:system"}}, "name: got 'os:system', expected one of"),
        ({"architecture": ARCHITECTURE | {"weights": "w.pth"}}, "'weights' in architecture"),
        ({"architecture": ARCHITECTURE | {"parts": 6}}, "'parts' in architecture"),
        ({"architecture": ARCHITECTURE | {"width": {}}}, "'width' in architecture"),
        ({"architecture": ARCHITECTURE | {"width": "1"}}, "options: got {'width': '1'"),
        ({"architecture": ARCHITECTURE | {"num_classes": 10**15}}, "card: got .*m.json"),
        ({"architecture": ARCHITECTURE | {"backbone": "resnet18"}}, "options: got "),
    ],
)
def test_a_card_of_another_schema(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_trained(edited(tmp_path / "m.json", **changes))


@pytest.mark.parametrize(
    "key",
    ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"],
)
def test_a_card_of_timm_runs_no_pickle_and_downloads_nothing(key, tmp_path):
    Trap.target = str(tmp_path / "executed")
    torch.save(Trap(), tmp_path / "trap.pth")
    architecture = {"name": "timm/test_resnet", key: str(tmp_path / "trap.pth")}
    with pytest.raises(InputError, match=f"'{key}' in architecture"):
        load_trained(edited(tmp_path / "m.json", architecture=architecture))
    assert not (tmp_path / "executed").exists()
    hub = {"name": "timm/hf-hub:someone/something"}
    with pytest.raises(InputError, match="name: got .timm/hf-hub:someone/something."):
        load_trained(edited(tmp_path / "m.json", architecture=hub))


def test_timm_is_a_version_that_refuses_pickles():
    # From 1.0.26 on its load_state_dict has weights_only=True.
    bounds = re.findall(r'"timm>=([\d.]+)"', PYPROJECT.read_text())
    assert bounds
    assert all(tuple(map(int, bound.split("."))) >= (1, 0, 26) for bound in bounds)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("reid_explain.models.pretrained.SHIPPED", tmp_path)
    save_trained(build_model(**ARCHITECTURE), tmp_path / "mine.json", ARCHITECTURE)
    with pytest.raises(InputError, match="name: got 'yours', expected one of 'mine'"):
        load_pretrained("yours")
    assert load_pretrained("mine").embedding_dim == 32
