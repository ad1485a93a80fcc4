"""Networks of timm: the seam, what training and interpreters need of it, names, files."""

import copy
import json
import sys

import pytest
import timm
import torch
from nets import images
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    AMDInterpreter,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    InputSpec,
    ScoreFAM,
)
from reid_explain.benchmark.train_target import TargetTraining
from reid_explain.capture import capture, find_layer
from reid_explain.models import build_model, load_trained, open_checkpoint, save_trained
from reid_explain.models.pooling import GlobalAveragePool
from reid_explain.models.timm_models import TimmNet, check_timm_name, has_fixed_size

X = images(3, (64, 32), dtype=torch.float32)
SWIN = {
    "img_size": (64, 32),
    "window_size": 2,
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
}
VIT = {"img_size": (64, 32), "depth": 2}
NETS = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_mambaout": {},
    "hrnet_w18_small": {},
    "efficientvit_b0": {},
    "swin_tiny_patch4_window7_224": SWIN,
    "test_vit": VIT,
}
WITHOUT_MEAN = ("efficientvit_b0", "test_vit")
CHEAP = [name for name in NETS if name != "hrnet_w18_small"]
EXPLAINED = [name for name in CHEAP if name not in ("test_mambaout", "efficientvit_b0")]


def made(name, **options):
    torch.manual_seed(0)
    return disturbed(TimmNet(name, **NETS[name], **options)).eval()


def disturbed(model):
    """Give norms values that do something, as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.uniform_(0.5, 2, generator=generator)
            module.bias.data.normal_(0, 0.5, generator=generator)
    return model


def in_timm(name, model):
    """Return timm's own network of that name, without classifier, with the weights of ours."""
    theirs = timm.create_model(name, num_classes=0, **NETS[name]).eval()
    theirs.load_state_dict(model.net.state_dict())
    return theirs


# The seam


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_the_embedding_is_timms_pooled_output(name):
    model = made(name, num_classes=7)
    theirs = in_timm(name, model)
    expected = theirs(X)
    assert expected.shape == (3, model.embedding_dim)
    assert expected.std() > 1e-3
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    features = model.features(X)
    native = theirs.forward_features(X)
    if getattr(theirs, "output_fmt", "NCHW") == "NHWC":
        native = native.permute(0, 3, 1, 2)
    torch.testing.assert_close(features, native)
    torch.testing.assert_close(model.embed(features), expected, rtol=1e-4, atol=1e-5)
    pooled = model.pool(features)
    assert pooled.shape == (3, model.channels)
    torch.testing.assert_close(model.neck(pooled), expected, rtol=1e-4, atol=1e-5)
    assert model.classify(model(X)).shape == (3, 7)
    assert isinstance(model.pool, GlobalAveragePool) == (name not in WITHOUT_MEAN)


@pytest.mark.parametrize("name", CHEAP)
def test_forward_is_embed_of_features_in_training_too(name):
    net = made(name).train()
    torch.manual_seed(0)  # Swin drops paths.
    embedding = net(X)
    torch.manual_seed(0)
    torch.testing.assert_close(embedding, net.embed(net.features(X)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_a_head_that_is_not_a_mean_stays_whole(pooling):
    model = TimmNet("test_resnet", global_pool=pooling).eval()
    features = model.features(X)
    most, mean = features.amax((2, 3)), features.mean((2, 3))
    torch.testing.assert_close(model(X), {"max": most, "avgmax": (most + mean) / 2}[pooling])
    torch.testing.assert_close(model.pool(features), model(X))


@pytest.mark.parametrize("name", CHEAP[:-1])
def test_the_default_layer_gives_the_map(name):
    model = made(name)
    with torch.no_grad():
        activation, _ = capture(model, find_layer(model, model.map_layer), X, ())
        assert torch.equal(activation, model.features(X))
    assert activation.dim() == 4


def test_weights_modes_and_statistics_are_those_of_a_new_network_of_timm():
    torch.manual_seed(5)
    theirs = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    model = TimmNet("test_efficientnet")
    assert torch.equal(state, torch.random.get_rng_state())
    ours = model.net.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
    assert all(module.training for module in model.modules())
    model.eval()
    model.net.blocks.train()
    _ = model.trainable_stages
    assert model.net.blocks.training
    assert not model.net.bn1.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_copy_pools_with_its_own_weights():
    model = made("test_vit")
    other = copy.deepcopy(model)
    before = model(X)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(model(X), before)
    assert not other(X).any()


# Explanations at the default layer


def explained(explainer, model, **options):
    data = {"references": X.roll(1, 0)} if explainer in (GradRAM, CGRAM, RAM) else {}
    return explainer(model, model.map_layer, **options).attribute(X, **data)


@pytest.mark.parametrize("explainer", [GradFAM, ScoreFAM, GradRAM, CGRAM, GradCAM, ActivationMean])
@pytest.mark.parametrize("name", EXPLAINED)
def test_every_default_layer_gives_maps(name, explainer):
    options = {"max_scored_channels": 8} if explainer is ScoreFAM else {}
    maps = explained(explainer, made(name), **options)
    assert maps.shape == (3, 1, 64, 32)
    assert maps.isfinite().all()
    assert maps.any()


@pytest.mark.parametrize("name", ["test_mambaout", "swin_tiny_patch4_window7_224"])
def test_channels_last_by_hand(name):
    model = made(name)
    theirs = in_timm(name, model)
    plain = nn.Sequential()
    plain.body, plain.theirs = nn.Identity(), theirs

    def forward(x):
        return theirs.forward_head(plain.body(theirs.forward_features(x)), pre_logits=True)

    expected = GradFAM(forward, plain.body, lambda y: y.permute(0, 3, 1, 2)).attribute(X)
    torch.testing.assert_close(explained(GradFAM, model), expected, rtol=1e-4, atol=1e-7)


def test_ram_where_the_embedding_is_the_pooled_map():
    model = made("test_resnet")
    features, references = model.features(X), model(X.flip(0))
    weights = references / references.norm(dim=1, keepdim=True)
    by_hand = torch.einsum("bk,bkhw->bhw", weights, features)[:, None]
    maps = RAM(model, model.map_layer).attribute(X, X.flip(0), interpolate_mode=None)
    torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="GradRAM takes any other model"):
        explained(RAM, made("test_convnext"))


def test_grad_fam_refuses_the_fixed_length_behind_a_new_layer_norm():
    with pytest.raises(InputError, match="whose length is fixed"):
        explained(GradFAM, TimmNet("vit_tiny_patch16_224", img_size=(64, 32)).eval())


# Interpreters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("test_resnet", ["net.layer3.0", "net.layer4.0"]),
        ("test_efficientnet", ["net.blocks.3.0", "net.blocks.4.0", "net.conv_head", "net.bn2"]),
        ("test_convnext", ["net.stages.2", "net.stages.3", "net.norm_pre"]),
        ("test_mambaout", ["net.stages.2", "net.stages.3"]),
        ("hrnet_w18_small", [f"net.final_layer.{k}" for k in range(3)]),
        ("efficientvit_b0", ["net.stages.2", "net.stages.3"]),
        ("swin_tiny_patch4_window7_224", ["net.layers.2", "net.layers.3", "net.norm"]),
    ],
)
def test_interpreters_own_the_last_stages(name, stages):
    model = made(name)
    own = [stage for stage in model.trainable_stages if not stage.startswith("net.blocks.3.1")]
    assert own == [*stages, "last_map"]
    interpreter = AMDInterpreter(model, ["hat", "bag"], spec=InputSpec((64, 32)))
    embeddings, parts, maps = interpreter.decompose(X)
    torch.testing.assert_close(embeddings, model(X))
    features = model.features(X)
    assert maps.shape == (3, 2, *features.shape[2:])
    one_by_one = [model.embed(features * maps[:, k : k + 1]) for k in range(2)]
    torch.testing.assert_close(parts, torch.stack(one_by_one, 1), rtol=1e-3, atol=1e-5)
    explanation = interpreter.explain(X, X.flip(0))
    assert explanation.query_maps.shape == (3, 2, 64, 32)


def test_interpreters_leave_out_what_does_not_lead_to_the_map(monkeypatch):
    model = made("test_resnet")
    stages, forward_features = model.trainable_stages, model.net.forward_features
    model.net.side = nn.Conv2d(model.channels, model.channels, 1)

    def with_a_side_branch(x):
        features = forward_features(x)
        model.net.side(features)
        return features

    monkeypatch.setattr(model.net, "forward_features", with_a_side_branch)
    assert model.trainable_stages == stages


def test_interpreters_need_a_map_that_stages_make(monkeypatch):
    with pytest.raises(InputError, match="target: got a VisionTransformer, which gives tokens"):
        AMDInterpreter(made("test_vit"), ["hat"], spec=InputSpec((64, 32)))
    model = made("test_resnet")
    forward_features = model.net.forward_features
    monkeypatch.setattr(model.net, "forward_features", lambda x: forward_features(x) * 2)
    with pytest.raises(InputError, match="target: got a ResNet, expected a network whose last map"):
        _ = model.trainable_stages


# Images


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnet18"])
def test_images_are_those_of_timm_s_own_configuration(name):
    found = TimmNet(name).input_spec
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert (found.size, found.mean, found.std) == (
        config["input_size"][1:],
        config["mean"],
        config["std"],
    )
    assert (found.interpolation, found.scale, found.resize) == (
        config["interpolation"],
        1,
        "squash",
    )
    picture = Image.new("RGB", (50, 90), (10, 120, 240))
    theirs = timm.data.create_transform(**config, is_training=False)
    torch.testing.assert_close(found.to_tensor(picture), theirs(picture))


def test_an_own_size_replaces_timm_s():
    for img_size, size in ((64, (64, 64)), ((64, 32), (64, 32)), ([64, 32], (64, 32))):
        assert TimmNet("test_vit", img_size=img_size).input_spec.size == size


def test_images_of_another_size_than_a_fixed_one_are_an_error():
    model = TimmNet("test_vit", img_size=(64, 32)).eval()
    with pytest.raises(InputError, match=r"inputs: got \(2, 3, 256, 128\) .* \(B, 3, 64, 32\)"):
        model(images(2, (256, 128), dtype=torch.float32))
    free = TimmNet("test_vit", img_size=(64, 32), dynamic_img_size=True).eval()
    assert free(images(2, (96, 64), dtype=torch.float32)).shape == (2, 64)


# Other poolings and necks, MiewID among them


def generalized_mean(x, p):
    return x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)


def normed(norm, x):
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize(
    ("name", "pooling", "by_hand"),
    [
        ("test_resnet", "gem", lambda f: generalized_mean(f, 3)),
        ("test_convnext", "avg", lambda f: f.mean((2, 3))),
        ("test_vit", "avg", lambda f: f[:, 1:].mean(1)),
        ("test_vit", "token", lambda f: f[:, 0]),
    ],
)
def test_poolings_and_what_follows_by_hand(name, pooling, by_hand):
    model = made(name, pooling=pooling, reduced=6, neck="batch_norm", num_classes=3)
    features = model.features(X)
    pooled, layers = by_hand(features), model.reduction
    torch.testing.assert_close(model.pool(features), pooled)
    reduced = pooled @ layers.linear.weight.T + layers.linear.bias
    torch.testing.assert_close(model(X), normed(layers.norm, reduced), rtol=1e-4, atol=1e-5)
    assert (model.channels, model.embedding_dim) == (pooled.shape[1], 6)
    assert model.logits(X).shape == (3, 3)
    plain = made(name, pooling=pooling)
    torch.testing.assert_close(plain(X), by_hand(plain.features(X)))
    for explainer, options in ((GradFAM, {}), (ScoreFAM, {"max_scored_channels": 4})):
        assert explained(explainer, model, **options).any()


def test_a_batch_norm_behind_timms_own_head():
    model = made("test_resnet", neck="batch_norm")
    expected = normed(model.reduction.norm, in_timm("test_resnet", model)(X))
    torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize("pool", ["pooling.p", "global_pool.p", "backbone.global_pool.p"])
def test_a_file_of_miewid(pool, tmp_path):
    torch.manual_seed(0)
    theirs = disturbed(timm.create_model("test_efficientnet", num_classes=4)).eval()
    norm = disturbed(nn.Sequential(nn.BatchNorm1d(theirs.num_features))).eval()
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    state |= {f"bn.{key}": value for key, value in norm[0].state_dict().items()}
    state |= {pool: torch.tensor([2.5]), "final.kernel": torch.ones(theirs.num_features, 9)}
    torch.save(state, tmp_path / "w.bin")
    model = open_checkpoint(tmp_path / "w.bin", name="timm/test_efficientnet")
    pooled = generalized_mean(theirs.forward_features(X), 2.5)
    torch.testing.assert_close(model(X), norm(pooled), rtol=1e-4, atol=1e-5)
    assert model.input_spec.size == (440, 440)
    save_trained(model, tmp_path / "m.json", {"name": "timm/test_efficientnet", **MIEW_ID})
    assert torch.equal(load_trained(tmp_path / "m.json")(X), model(X))
    torch.save(model.state_dict(), tmp_path / "own.pth")
    own = open_checkpoint(tmp_path / "own.pth", name="timm/test_efficientnet")
    assert torch.equal(own(X), model(X))


MIEW_ID = {"pooling": "gem", "neck": "batch_norm"}


def test_poolings_that_a_network_has_not():
    with pytest.raises(InputError, match="pooling: got 'token', expected one of 'timm', 'avg', 'g"):
        TimmNet("test_resnet", pooling="token")
    with pytest.raises(InputError, match="pooling: got 'gem', expected one of 'timm', 'avg', 't"):
        TimmNet("test_vit", pooling="gem")
    with pytest.raises(InputError, match="neck: got 'bn'"):
        TimmNet("test_resnet", neck="bn")


# Folders and hubs


@pytest.fixture
def folder(tmp_path):
    """A network as timm publishes it: weights, and a config that names its images."""
    torch.manual_seed(3)
    net = timm.create_model("test_vit", num_classes=0, img_size=64, depth=2)
    images_of_it = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}
    config = {
        **{"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": images_of_it},
        "model_args": {"img_size": 64, "depth": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    return tmp_path, net.eval()


SQUARE = images(2, (64, 64), dtype=torch.float32)


def test_a_folder_of_timm(folder):
    place, theirs = folder
    model = build_model(f"timm/local-dir:{place}", pretrained=True).eval()
    torch.testing.assert_close(model(SQUARE), theirs(SQUARE))
    assert model.input_spec.size == (64, 64)
    assert model.input_spec.std == (0.25,) * 3
    opened = open_checkpoint(place / "model.safetensors", name=f"timm/local-dir:{place}")
    torch.testing.assert_close(opened(SQUARE), theirs(SQUARE))
    assert has_fixed_size(f"local-dir:{place}")
    maps = GradFAM(model, model.map_layer).attribute(SQUARE)
    assert maps.any()


def test_a_name_of_the_hub(folder, monkeypatch):
    place, theirs = folder
    hub, asked = timm.models._hub, []

    def download(repo_id, filename, **options):
        asked.append(repo_id)
        return str(place / filename)

    monkeypatch.setattr(hub, "download_from_hf", lambda i, f, **options: download(i, f))
    monkeypatch.setattr(hub, "hf_hub_download", download)
    model = build_model("timm/hf-hub:wild/vit", pretrained=True).eval()
    torch.testing.assert_close(model(SQUARE), theirs(SQUARE))
    assert {*asked} == {"wild/vit"}


def test_places_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="name: got 'local-dir:.*config.json"):
        build_model(f"timm/local-dir:{tmp_path}", pretrained=False)
    with pytest.raises(InputError, match="before the colon: got 'http', expected one of 'hf-hub'"):
        build_model("timm/http:x", pretrained=False)
    model = made("test_resnet")
    save_trained(model, tmp_path / "m.json", {"name": f"timm/local-dir:{tmp_path}"})
    with pytest.raises(InputError, match="which is read from no other place"):
        load_trained(tmp_path / "m.json")


# Names


@pytest.mark.slow
def test_unknown_names_and_options():
    with pytest.raises(InputError, match="name: got 'hrnet_w31', expected .*, such as 'hrnet_w3"):
        build_model("timm/hrnet_w31", pretrained=False)
    with pytest.raises(InputError, match=r"name: got 'xyz', expected one of timm.list_models\(\)$"):
        TimmNet("xyz")
    with pytest.raises(InputError, match="name: got 'hrnet_w30', expected one of .*, or timm/NAME"):
        build_model("hrnet_w30")
    with pytest.raises(InputError, match="options: got {'img_size': 64} .*, expected options of"):
        build_model("timm/test_resnet", pretrained=False, img_size=64)
    with pytest.raises(InputError, match="options: what the head makes of F: got"):
        build_model("timm/test_resnet", pretrained=False, global_pool="")
    with pytest.raises(InputError, match="num_classes"):
        TimmNet("test_resnet", num_classes=-1)
    with pytest.raises(InputError, match="name: got a CoaT, which gives list"):
        TimmNet("coat_tiny")
    check_timm_name("test_resnet.r160_in1k")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="a network of timm, .* expected pip install timm"):
        TimmNet("test_resnet")


def test_pretrained_is_left_to_timm(monkeypatch):
    asked = []

    def create(name, **options):
        asked.append((name, options.pop("pretrained")))
        return original(name, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    TimmNet("test_resnet.r160_in1k", pretrained=True)
    build_model("timm/test_resnet", pretrained=False)
    assert asked == [("test_resnet.r160_in1k", True), ("test_resnet", False)]


def test_random_weights_are_told():
    with pytest.warns(UserWarning, match="timm/test_resnet has random weights"):
        model = build_model("timm/test_resnet")
    assert model.training


# Training and files


@pytest.mark.parametrize("name", ["test_resnet", "test_mambaout", "test_vit"])
def test_a_card_brings_the_network_back(name, tmp_path):
    model = made(name, num_classes=4)
    architecture = {"name": f"timm/{name}", "num_classes": 4, **NETS[name]}
    save_trained(model, tmp_path / "model.json", architecture)
    again = load_trained(tmp_path / "model.json")
    assert torch.equal(again(X), model(X))
    assert torch.equal(again.classify(again(X)), model.classify(model(X)))
    assert again.map_layer == model.map_layer


def test_which_networks_have_a_fixed_size():
    assert has_fixed_size("test_vit")
    assert not has_fixed_size("test_resnet")
    with pytest.raises(InputError, match="name: got 'xyz'"):
        has_fixed_size("xyz")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_train_target(name, small_files, tmp_path):
    output = tmp_path / "run"
    TargetTraining(
        dataset="market1501",
        root=small_files / "market",
        output=output,
        backbone=f"timm/{name}",
        image_size=(64, 32),
        identities=2,
        instances=2,
        epochs=1,
        images_per_epoch=8,
        workers=0,
    ).run()
    card = json.loads((output / "model.json").read_text())
    sized = {"img_size": [64, 32]} if name == "test_vit" else {}
    assert card["architecture"] == {"name": f"timm/{name}", "num_classes": 2, **sized}
    assert card["results"]["queries"] > 0
    model = load_trained(output / "model.json")
    assert explained(GradRAM, model).any()


def test_byol_learns_from_the_pooled_map():
    pytest.importorskip("lightly", reason="BYOL's heads and loss are lightly's")
    from reid_explain.training.byol import BYOL

    torch.manual_seed(0)
    model = made("test_convnext").train()
    byol = BYOL(model, steps=10, momentum=0.9, hidden=16)
    loss = byol(torch.cat([X, X.flip(3)]), torch.arange(3))["byol"]
    loss.backward()
    assert model.net.stem[0].weight.grad.any()
    before = byol.target[0](X)
    with torch.no_grad():
        model.net.stem[0].weight.add_(1)
    assert torch.equal(byol.target[0](X), before)
