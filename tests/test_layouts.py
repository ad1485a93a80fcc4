"""Files in the layouts of other projects, against these projects' networks written anew."""

import re
import warnings

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from project_nets import (
    FastReID,
    FastReIDMGN,
    StrongBaseline,
    TorchreidPCB,
    TorchreidResNet,
    trained,
)
from safetensors.torch import save_file
from torchreid_nets import TorchreidMobileNetV2, TorchreidOSNet
from tower_nets import CLIPReIDFile, CLIPReIDResNetFile, SoliderFile, TransReIDFile

from reid_explain import InputError
from reid_explain.datasets import Market1501
from reid_explain.inputs import InputSpec
from reid_explain.models import MODELS, build_model, load_checkpoint, osnet_x0_25
from reid_explain.models.architecture import architecture_of
from reid_explain.models.checkpoints import open_checkpoint
from reid_explain.models.layouts import LAYOUTS, find_layout
from reid_explain.models.timm_models import TimmNet
from reid_explain.retrieval import Gallery, embed_records, summarize

X = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
SBS = {"name": "resnet50", "half": True, "pairwise": (2, 3), "gem": True}
NETS = {
    "torchreid 18": (lambda: TorchreidResNet(), "torchreid"),
    "torchreid 34": (lambda: TorchreidResNet(name="resnet34"), "torchreid"),
    "torchreid 50 ibn": (lambda: TorchreidResNet(name="resnet50", half=True), "torchreid"),
    "torchreid 50 fc512": (lambda: TorchreidResNet(name="resnet50", reduced=True), "torchreid"),
    "osnet_ibn": (lambda: TorchreidOSNet("ibn"), "torchreid"),
    "osnet_ain": (lambda: TorchreidOSNet("ain"), "torchreid"),
    "mobilenetv2": (lambda: TorchreidMobileNetV2(), "torchreid"),
    "strong 18": (lambda: StrongBaseline(), "reid-strong-baseline"),
    "strong 101": (lambda: StrongBaseline(name="resnet101"), "reid-strong-baseline"),
    "strong, no neck": (lambda: StrongBaseline(neck=False), "reid-strong-baseline"),
    "strong, ibn": (lambda: StrongBaseline(name="resnet50", half=True), "reid-strong-baseline"),
    "fast 18": (lambda: FastReID(), "fast-reid"),
    "fast, no neck": (lambda: FastReID(neck=False), "fast-reid"),
    "fast, 1.0": (lambda: FastReID(generation="classifier", gem=True), "fast-reid"),
    "fast, 0.x": (lambda: FastReID(generation="bnneck", gem=True), "fast-reid"),
    "fast, first": (lambda: FastReID(generation="sequence", gem=True), "fast-reid"),
    "fast, sbs": (lambda: FastReID(**SBS), "fast-reid"),
    "fast, sbs 0.x": (lambda: FastReID(generation="bnneck", **SBS), "fast-reid"),
    "fast, sbs 101": (
        lambda: FastReID(**{**SBS, "name": "resnet101", "pairwise": (2, 9)}),
        "fast-reid",
    ),
}


@pytest.fixture(params=NETS)
def project(request):
    build, layout = NETS[request.param]
    torch.manual_seed(0)
    return trained(build()), layout


def save(net, path, **others):
    torch.save({"state_dict": net.state_dict(), **others}, path)
    return path


# From a file to the network


@pytest.mark.slow
def test_the_opened_network_computes_what_the_projects_network_does(project, tmp_path):
    net, layout = project
    assert find_layout(net.state_dict()) == layout
    model = open_checkpoint(save(net, tmp_path / "w.pth"))
    assert not any(module.training for module in model.modules())
    # In float64: the rounding of 101 layers depends on the number of threads.
    net, model, images = net.double(), model.double(), X.double()
    with torch.no_grad():
        theirs, ours = net(images), model(images)
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model.classify(ours), net.logits(theirs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("net", "option"),
    [
        ("torchreid 18", {"last_stride": 1}),
        ("strong 18", {"stem_relu": True}),
        ("fast 18", {"ceil_mode": False}),
        ("fast, 0.x", {"ceil_mode": True}),
    ],
)
def test_what_weights_do_not_show_matters_and_an_option_replaces_it(net, option, tmp_path):
    theirs = trained(NETS[net][0]())
    model = open_checkpoint(save(theirs, tmp_path / "w.pth"), **option)
    with torch.no_grad():
        assert (model(X) - theirs(X)).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("torchreid 34", ("resnet34", "avg", "none", False, False)),
        ("strong, ibn", ("resnet50", "avg", "batch_norm", True, False)),
        ("fast, sbs 101", ("resnet101", "gem", "batch_norm", True, True)),
    ],
)
def test_architecture_by_names_and_shapes(net, expected, tmp_path):
    model = open_checkpoint(save(NETS[net][0](), tmp_path / "w.pth"))
    found = architecture_of(model.state_dict())
    assert not found["local"]
    keys = ("name", "pooling", "neck", "ibn", "non_local")
    assert tuple(found[key] for key in keys) == expected
    assert (found["num_classes"], found["width"]) == (5, 1 / 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in MODELS if name.startswith(("osnet_", "mobilenetv2_"))]
)
def test_every_width_and_norm_tells_itself(name):
    with torch.device("meta"):
        state = build_model(name, 6).state_dict()
    assert architecture_of(state) == {"name": name, "num_classes": 6}
    assert find_layout(state) == "torchreid"


@pytest.mark.slow
def test_an_osnet_of_this_package_opens_too(tmp_path):
    net = trained(build_model("osnet_ain_x0_25", 6))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    torch.testing.assert_close(open_checkpoint(tmp_path / "w.pth")(X), net(X))
    with pytest.raises(InputError, match="options: got {'width'"):
        open_checkpoint(tmp_path / "w.pth", width=0.5)


@pytest.mark.slow
def test_the_stride_of_resnet50_fc512_is_not_that_of_its_siblings(tmp_path):
    reduced = open_checkpoint(save(TorchreidResNet(reduced=True), tmp_path / "w.pth"))
    assert reduced.features(X).shape[2:] == (4, 2)
    assert open_checkpoint(save(TorchreidResNet(), tmp_path / "w.pth")).features(X).shape[2:] == (
        (2, 1)
    )
    assert architecture_of(reduced.state_dict())["neck"] == "linear"
    with torch.device("meta"):
        named = build_model("resnet50_fc512")
    assert (named.embedding_dim, named.channels) == (512, 2048)


@pytest.mark.parametrize("classes", [0, 9])
def test_another_number_of_classes_leaves_the_files_classifier_out(classes, tmp_path):
    net = trained(FastReID())
    model = open_checkpoint(save(net, tmp_path / "w.pth"), num_classes=classes)
    torch.testing.assert_close(model(X), net(X), rtol=1e-4, atol=1e-4)
    assert len(model.state_dict().get("classifier.weight", ())) == classes


def test_own_files_of_a_resnet_need_what_only_their_card_says(tmp_path):
    own = trained(build_model("sbs", 4, backbone="resnet18", width=1 / 16))
    torch.save(own.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"not tell last_stride, ceil_mode, padding,.*load_tr"):
        open_checkpoint(tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not tell ceil_mode, padding,"):
        open_checkpoint(tmp_path / "w.pth", last_stride=1)
    model = open_checkpoint(tmp_path / "w.pth", last_stride=1, ceil_mode=True, padding="zeros")
    torch.testing.assert_close(model(X), own(X))


def test_a_local_resnet_shows_itself(tmp_path):
    own = trained(build_model("resnet18", 4, width=1 / 16, local=True, padding="partial"))
    torch.save(own.state_dict(), tmp_path / "w.pth")
    told = {"last_stride": 1, "ceil_mode": False, "padding": "partial"}
    torch.testing.assert_close(open_checkpoint(tmp_path / "w.pth", **told)(X), own(X))


def test_weights_of_no_network_here(tmp_path):
    net = FastReID()
    del net.backbone.layer3[1]
    with pytest.raises(InputError, match=r"backbone\.conv1\.weight.*MGN.*, under names of fast"):
        open_checkpoint(save(net, tmp_path / "w.pth"))
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        InputError, match="expected .*OSNet.*ReIDNet.*, under names of reid_explain"
    ):
        open_checkpoint(tmp_path / "w.pth")


# Networks of parts


PARTED = {
    "pcb": (lambda: TorchreidPCB(), {"backbone": "resnet18", "parts": 6}),
    "pcb of 4": (
        lambda: TorchreidPCB(name="resnet50", parts=4),
        {"backbone": "resnet50", "parts": 4},
    ),
    "mgn": (lambda: FastReIDMGN(), {"backbone": "resnet18", "reduction": "linear"}),
    "mgn 1.0": (
        lambda: FastReIDMGN(generation="classifier", name="resnet50", half=True),
        {"backbone": "resnet50", "reduction": "linear"},
    ),
    "mgn 0.x": (lambda: FastReIDMGN(generation="bnneck"), {"backbone": "resnet18"}),
}
TALL = torch.randn(2, 3, 112, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTED)
def test_networks_of_parts(name, tmp_path):
    build, expected = PARTED[name]
    torch.manual_seed(0)
    net = trained(build())
    path = save(net, tmp_path / "w.pth")
    options = {}
    if name == "mgn 0.x":
        with pytest.raises(InputError, match="which does not tell reduction,"):
            open_checkpoint(path)
        options = {"reduction": "relu"}
    model = open_checkpoint(path, **options)
    found = architecture_of(model.state_dict())
    assert {key: found[key] for key in expected} == expected
    assert found["num_classes"] == 5
    with torch.no_grad():
        theirs, ours = net(TALL), model(TALL)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        if "pcb" in name:
            torch.testing.assert_close(
                model.logits(TALL), net.mean_logits(TALL), rtol=1e-3, atol=1e-3
            )
        else:
            torch.testing.assert_close(model.classify(ours), net.logits(theirs))


def test_a_pcb_without_classifiers_does_not_tell_its_parts(tmp_path):
    net = trained(TorchreidPCB(parts=4))
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("classifier")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match="which does not tell parts,"):
        open_checkpoint(tmp_path / "w.pth")
    model = open_checkpoint(tmp_path / "w.pth", parts=4)
    torch.testing.assert_close(model(TALL), net(TALL), rtol=1e-3, atol=1e-4)


# Into a network that is there


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchreid 18", "strong, ibn", "fast, no neck", "fast, first"])
def test_load_checkpoint_fills_the_projects_network(name, tmp_path):
    build, layout = NETS[name]
    net = trained(build())
    opened = open_checkpoint(save(net, tmp_path / "w.pth"))
    arguments = architecture_of(opened.state_dict())
    model = build_model(**arguments)
    left_out = load_checkpoint(model, tmp_path / "w.pth", layout)
    assert left_out == tuple(
        key for key in net.state_dict() if "pixel" in key or key.startswith("base.fc")
    )
    loaded = model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in opened.state_dict().items())


@pytest.mark.parametrize("form", ["model", "plain", "parallel", "safetensors", "doubly nested"])
def test_every_form_of_a_projects_file(form, tmp_path):
    net = trained(FastReID(generation="bnneck"))
    state = net.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif form == "model":
        torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, path)
    elif form == "doubly nested":
        torch.save({"state_dict": {"model": state}}, path)
    elif form == "parallel":
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    torch.testing.assert_close(open_checkpoint(path)(X), net(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("number", [np.float64(0.81), np.float32(0.81), np.int64(3)])
@pytest.mark.parametrize("zipped", [True, False])
def test_scores_that_are_numbers_of_numpy_do_not_make_a_file_unreadable(number, zipped, tmp_path):
    net = trained(TorchreidResNet())
    content = {"state_dict": net.state_dict(), "epoch": 60, "rank1": number}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    torch.testing.assert_close(open_checkpoint(tmp_path / "w.pth")(X), net(X), rtol=1e-4, atol=1e-4)


def test_a_pickled_module_is_refused(tmp_path):
    torch.save({"model": StrongBaseline()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not executed"):
        open_checkpoint(tmp_path / "w.pth")


def test_the_classifier_is_left_out_under_the_files_name(tmp_path):
    path = save(FastReID(generation="classifier"), tmp_path / "w.pth")
    for classes in (0, 9):
        model = build_model("resnet18", classes, width=1 / 16)
        with pytest.raises(InputError, match=r"classifier\.weight \(heads\.classifier\.weight\)"):
            load_checkpoint(model, path)
        left_out = load_checkpoint(model, path, ignore_classifier=True)
        assert set(left_out) == {"pixel_mean", "pixel_std", "heads.classifier.weight"}


def test_counts_of_batches_may_be_absent(tmp_path):
    net = trained(StrongBaseline())
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    torch.testing.assert_close(open_checkpoint(tmp_path / "w.pth")(X), net(X), rtol=1e-4, atol=1e-4)


# What disagrees


@pytest.mark.parametrize(
    "name",
    ["classifier.weight", "backbone.layer4.0.conv1.weight", "backbone.layer4.1.conv1.weight"],
)
def test_a_number_in_the_place_of_a_weight(name, tmp_path):
    state = build_model("resnet18", 4, width=1 / 16).state_dict()
    state[name] = torch.tensor(1.0)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / "w.pth", last_stride=1, ceil_mode=False, padding="zeros")
    del state["backbone.layer4.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError):
        load_checkpoint(build_model("resnet18", 4, width=1 / 16), tmp_path / "w.pth")


def same(model, before):
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def complaint(model, path, layout=None):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_checkpoint(model, path, layout)
    assert same(model, before)
    return str(caught.value)


def test_all_disagreements_are_listed_under_both_names(tmp_path):
    net = FastReID(gem=True)
    state = net.state_dict()
    state["heads.bottleneck.0.weight"] = torch.zeros(3)
    state["backbone.layer1.0.se.fc.0.weight"] = torch.zeros(2, 2)
    del state["backbone.bn1.weight"]
    torch.save({"model": state}, tmp_path / "w.pth")
    message = complaint(build_model("resnet18", 5, width=1 / 16), tmp_path / "w.pth")
    assert "missing: backbone.bn1.weight;" in message
    assert "pool.p (heads.pool_layer.p)" in message
    assert "backbone.layer1.0.se.fc.0.weight" in message
    assert "neck.weight (heads.bottleneck.0.weight) (3,) for (32,)" in message
    assert "build_model with pooling='gem' (see open_checkpoint)" in message


@pytest.mark.slow
def test_the_hint_names_what_the_network_lacks(tmp_path):
    path = save(FastReID(**SBS), tmp_path / "w.pth")
    message = complaint(build_model("resnet18", 5, width=1 / 8), path)
    hint = "name='resnet50', width=0.0625, ibn=True, pooling='gem', non_local=True (see"
    assert hint in message
    assert len(message) < 2000
    message = complaint(build_model("sbs", 5, width=1 / 16, non_local=False), path)
    assert "build_model with non_local=True (see" in message


def test_a_layout_by_name(tmp_path):
    path = save(trained(StrongBaseline()), tmp_path / "w.pth")
    model = build_model("resnet18", 5, width=1 / 16)
    message = complaint(model, path, "torchreid")
    assert "missing: backbone.conv1.weight" in message
    assert "unexpected: base.conv1.weight" in message
    assert "looks like layout='reid-strong-baseline'" in message
    with pytest.raises(InputError, match="layout: got 'fastreid', expected one of 'fast-reid', "):
        load_checkpoint(model, path, "fastreid")
    with pytest.raises(InputError, match="layout: got 'fastreid'"):
        open_checkpoint(path, "fastreid")
    with pytest.raises(InputError, match="under names of torchreid"):
        open_checkpoint(path, "torchreid")
    load_checkpoint(model, path, "reid-strong-baseline")


def test_two_entries_for_one_of_ours(tmp_path):
    state = FastReID().state_dict()
    state["heads.classifier.weight"] = state["heads.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"heads\.weight and heads\.classifier\.weight"):
        open_checkpoint(tmp_path / "w.pth")


FAST = {"scale": 255, "interpolation": "bicubic"}
SPECS = {
    "torchreid 18": InputSpec(),
    "strong 18": InputSpec(),
    "fast 18": InputSpec((256, 128), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), **FAST),
    "fast, sbs": InputSpec((384, 128), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), **FAST),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_projects_know_their_images(name, tmp_path):
    found = open_checkpoint(save(NETS[name][0](), tmp_path / "w.pth")).input_spec
    expected = SPECS[name]
    assert found == expected.replace(mean=found.mean, std=found.std)
    assert (*found.mean, *found.std) == pytest.approx((*expected.mean, *expected.std))


def test_the_pixels_of_fast_reid_are_those_of_the_file(tmp_path):
    other = FastReID(generation="classifier", pixels=((127.5,) * 3, (63.75,) * 3))
    path = save(other, tmp_path / "w.pth")
    spec = open_checkpoint(path).input_spec
    assert (spec.mean, spec.std, spec.scale) == ((127.5,) * 3, (63.75,) * 3, 255)
    # The project's network subtracts them from pixels of 0 to 255.
    white = spec.to_tensor(Image.new("RGB", (8, 8), "white"))
    assert white.unique().tolist() == [2]
    small = InputSpec((64, 32))
    assert open_checkpoint(path, input_spec=small).input_spec == small


@pytest.mark.slow
def test_networks_of_parts_take_tall_images(tmp_path):
    for name in ("pcb", "mgn"):
        model = open_checkpoint(save(PARTED[name][0](), tmp_path / "w.pth"))
        assert model.input_spec.size == (384, 128)
        assert build_model(name, backbone="resnet18").input_spec.size == (384, 128)
    assert build_model("sbs", backbone="resnet18").input_spec.size == (384, 128)
    assert build_model("bot", backbone="resnet18").input_spec.size == (256, 128)


@pytest.mark.slow
def test_names_that_are_the_models_are_left_alone(tmp_path):
    # Torchvision's ResNet has the names that are renamed in torchreid's files.
    block, layers = torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]
    source, model = (torchvision.models.ResNet(block, layers, num_classes=3) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert find_layout(source.state_dict()) == "torchvision"
    assert load_checkpoint(model, tmp_path / "w.pth") == ()
    assert same(model, source.state_dict())


TOWERS = {
    "transreid": TransReIDFile,
    "solider": SoliderFile,
    "clip-reid": CLIPReIDFile,
    "clip-reid-resnet": CLIPReIDResNetFile,
}


@pytest.mark.parametrize("name", TOWERS)
def test_only_one_project_knows_a_file(name):
    names = tuple(TOWERS[name]().weights)
    signatures = {key: layout.signature for key, layout in LAYOUTS.items() if layout.signature}
    fitting = [k for k, pattern in signatures.items() if any(re.search(pattern, n) for n in names)]
    assert fitting == [name]  # "base." alone is not reid-strong-baseline's.


def test_our_own_networks_are_no_other_projects(tmp_path):
    for name in ("ide", "bot", "sbs"):
        own = build_model(name, 3, backbone="resnet50", width=1 / 16)
        assert find_layout(own.state_dict()) == "reid_explain"


# Torchvision and timm


@pytest.mark.slow
def test_a_plain_file_of_torchvision_opens_with_its_classes(tmp_path):
    torch.manual_seed(0)
    source = trained(torchvision.models.resnet18(num_classes=9))
    path = save(source, tmp_path / "w.pth")
    model = open_checkpoint(path)
    assert model.input_spec == InputSpec((224, 224))
    torch.testing.assert_close(model.logits(X), source(X), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(X) @ source.fc.weight.T + source.fc.bias, source(X))
    message = complaint(build_model("resnet18", 9), path)
    assert "missing: neck.weight, neck.bias" in message
    assert "build_model with neck='none' (see open_checkpoint)" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_a_plain_file_of_timm_opens_by_name(name, tmp_path):
    torch.manual_seed(0)
    source = trained(timm.create_model(name, num_classes=9))
    path, x = save(source, tmp_path / "w.pth"), torch.randn(2, 3, 160, 160)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = open_checkpoint(path, name=f"timm/{name}")
    assert not model.training
    torch.testing.assert_close(model.logits(x), source(x), rtol=1e-4, atol=1e-4)
    without = TimmNet(name)
    left_out = load_checkpoint(without, path)
    assert {key.rsplit(".", 1)[1] for key in left_out} == {"weight", "bias"}
    torch.testing.assert_close(without.eval()(x), model(x))
    with pytest.raises(InputError, match=r"classifier.weight .*\(9, .*for \(4,"):
        load_checkpoint(TimmNet(name, num_classes=4), path)
    assert left_out == load_checkpoint(TimmNet(name, num_classes=4), path, ignore_classifier=True)


def test_a_file_of_timm_says_how_it_opens(tmp_path):
    path = save(timm.create_model("test_vit"), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"name='timm/NAME' \(--model timm/NAME\)") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 500


@pytest.mark.slow
def test_a_rectangular_transformer_opens_with_a_square_file_and_with_its_own(tmp_path):
    torch.manual_seed(0)
    square = trained(timm.create_model("test_vit", img_size=64))
    path = save(square, tmp_path / "square.pth")
    model = open_checkpoint(path, name="timm/test_vit", img_size=(96, 32))
    assert model.input_spec.size == (96, 32)
    # timm's own interpolation, bicubic with antialiasing, behind an unchanged class token.
    prefix, patches = square.pos_embed.split([1, 16], dim=1)
    grid = patches.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (6, 2), mode="bicubic", antialias=True)
    expected = torch.cat([prefix, grid.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(model.net.pos_embed, expected)
    by_spec = open_checkpoint(path, name="timm/test_vit", input_spec=InputSpec((96, 32)))
    x = torch.randn(2, 3, 96, 32)
    torch.testing.assert_close(by_spec(x), model(x))
    tall = trained(timm.create_model("test_vit", img_size=(96, 32)))
    path = save(tall, tmp_path / "tall.pth")
    own = open_checkpoint(path, name="timm/test_vit", img_size=(96, 32))
    torch.testing.assert_close(own.logits(x), tall(x), rtol=1e-4, atol=1e-4)
    five = trained(timm.create_model("test_vit", img_size=(80, 16)))
    with pytest.raises(InputError, match=r"net.pos_embed \(pos_embed\) .*img_size=\(H, W\) sets"):
        open_checkpoint(save(five, tmp_path / "five.pth"), name="timm/test_vit")


# The published file


@pytest.mark.slow
@pytest.mark.real_data
def test_the_published_osnet_opens_in_one_call(osnet_weights, market_root):
    by_hand = osnet_x0_25(num_classes=751)
    assert load_checkpoint(by_hand, osnet_weights) == ()
    model = open_checkpoint(osnet_weights)
    assert same(model, by_hand.state_dict())
    world = Market1501(market_root)
    query, gallery = (
        embed_records(model, world, split, spec=model.input_spec, show_progress=False)
        for split in (world.query, world.gallery)
    )
    some = world.query[:16]
    expected = embed_records(by_hand.eval(), world, some, spec=InputSpec(), show_progress=False)
    torch.testing.assert_close(query.embeddings[:16], expected.embeddings)
    summary = summarize(Gallery(gallery).ranks(query))
    assert summary.cmc[1] == pytest.approx(89.0, abs=0.5)
    assert summary.mean_ap == pytest.approx(86.2, abs=0.5)
