"""TransReID and TransReID-SSL: the authors' files against the equations; cameras; explained."""

import functools
from argparse import Namespace

import pytest
import torch
from nets import images
from tower_nets import TransReIDFile, joined

from reid_explain import (
    CGRAM,
    AttentionRelevance,
    GradFAM,
    InputError,
    InputSpec,
    PlaceToPlace,
    ScoreFAM,
)
from reid_explain.capture import capture, find_layer
from reid_explain.models import build_model, load_trained, open_checkpoint, save_trained
from reid_explain.models.architecture import architecture_of
from reid_explain.models.layouts import find_layout
from reid_explain.models.transreid import jigsaw

close = torch.testing.assert_close
SIZE = (64, 32)
X = images(3, SIZE)
CAMERAS = torch.tensor([2, 0, 1])
FILES = {
    "overlapping patches": {},
    "cameras": {"cameras": 3},
    "jpm": {"jpm": True},
    "jpm, cameras, odd": {"jpm": True, "cameras": 3, "grid": (7, 3), "stride": 8},
    "ssl": {"stem": True, "grid": (4, 2), "stride": 16},
}


def opened(file, folder, **options):
    torch.save(file.weights, folder / "w.pth")
    given = {"img_size": SIZE, "stride": file.stride}
    return open_checkpoint(folder / "w.pth", **{**given, **options}).double()


@pytest.fixture(params=FILES)
def file(request):
    return TransReIDFile(**FILES[request.param])


def with_cameras(file):
    return (CAMERAS,) if "base.sie_embed" in file.weights else ()


@pytest.mark.slow
def test_the_authors_files_open_and_compute_their_equations(file, tmp_path):
    assert find_layout(file.weights) == "transreid"
    args = with_cameras(file)
    vectors = file.vectors(X, CAMERAS.tolist() if args else None)
    model = opened(file, tmp_path)
    assert model.input_spec == InputSpec(SIZE, (0.5,) * 3, (0.5,) * 3)
    assert model.token_grid == file.grid
    with torch.no_grad():
        close(model(X, *args), joined(vectors))
        close(model.logits(X, *args), file.logits(vectors))
        close(model(X, *args), model.embed(model.features(X, *args)))
        after = opened(file, tmp_path, neck="after")
        close(after(X, *args), joined(file.normed(vectors)))
        close(after.logits(X, *args), file.logits(vectors))
        for i, vector in enumerate(vectors if file.jpm else ()):
            close(model.part(X, *args, index=i), vector / (4 if i else 1))


def test_attention_with_cameras_where_patches_overlap(net):
    method = AttentionRelevance(net)
    maps = method.attribute(X, additional_forward_args=CAMERAS, interpolate_mode=None)
    assert maps.shape == (3, 1, *net.token_grid)
    alone = method.attribute(X[:1], additional_forward_args=2, interpolate_mode=None)
    close(maps[:1], alone)


@pytest.mark.parametrize("explainer", [GradFAM, ScoreFAM])
@pytest.mark.parametrize("name", FILES)
def test_explained_where_patches_overlap(name, explainer, tmp_path):
    file = TransReIDFile(**{**FILES[name], "d": 64, "depth": 2})
    model, args = opened(file, tmp_path).float(), with_cameras(file)
    x = X.float()
    options = {"max_scored_channels": 4} if explainer is ScoreFAM else {}
    method = explainer(model, model.map_layer, **options)
    maps = method.attribute(x, additional_forward_args=args, interpolate_mode=None)
    assert maps.shape == (3, 1, *file.grid)
    assert maps.any()
    # The last h w tokens, in row order.
    activation, _ = capture(model, find_layer(model, model.map_layer), x, args)
    rows, columns = file.grid
    shown = method._as_map(activation, x)
    assert torch.equal(shown[:, :, 1, 0], activation[:, activation.shape[1] - (rows - 1) * columns])


def test_one_part_is_explained_by_itself(tmp_path):
    model = opened(TransReIDFile(jpm=True, cameras=3), tmp_path)
    part = functools.partial(model.part, index=1)
    maps = GradFAM(part, model.map_layer).attribute(X, additional_forward_args=CAMERAS)
    assert maps.any()
    # Attention needs all tokens, which the global part reads; the five together do not.
    whole = AttentionRelevance(functools.partial(model.part, index=0))
    maps = whole.attribute(X, additional_forward_args=CAMERAS, interpolate_mode=None)
    assert maps.shape == (3, 1, 5, 2)
    assert maps.any()
    with pytest.raises(InputError, match="expected a vision transformer whose attention"):
        AttentionRelevance(model).attribute(X, additional_forward_args=CAMERAS)
    with pytest.raises(InputError, match="index: got 5"):
        model.part(X, CAMERAS, index=5)


# Cameras


@pytest.fixture
def net(tmp_path):
    return opened(TransReIDFile(cameras=3, d=64, depth=2), tmp_path)


def test_each_image_of_a_pair_has_its_camera(net):
    query, gallery, others = X[:2], X[1:], torch.tensor([1, 2])
    own = CAMERAS[:2]
    method = CGRAM(net, net.map_layer)
    pair = method.attribute_pair(query, gallery, own, reference_forward_args=others)
    embedding = net(gallery, others).detach()
    close(pair[0], method.attribute(query, embedding, own))
    close(pair[1], method.attribute(gallery, net(query, own).detach(), others))
    swapped = method.attribute_pair(query, gallery, own, reference_forward_args=own)
    assert (swapped[0] - pair[0]).abs().max() > 1e-4
    assert (swapped[1] - pair[1]).abs().max() > 1e-4


def test_places_of_a_pair_are_those_of_its_cameras(net):
    others = torch.tensor([1, 2])
    found = PlaceToPlace(net, net.map_layer).explain(
        X[:2], X[1:], CAMERAS[:2], gallery_forward_args=others
    )
    expected = torch.cosine_similarity(net(X[:2], CAMERAS[:2]), net(X[1:], others))
    close(found.similarity, expected.detach())
    rows, columns = net.token_grid
    assert found.contributions.shape == (2, rows, columns, rows, columns)


@pytest.mark.slow
def test_score_fam_gives_masked_images_the_camera_of_theirs(net):
    method = ScoreFAM(net, net.map_layer, max_scored_channels=2)
    together = method.attribute(X, additional_forward_args=CAMERAS)
    for n in range(2):
        alone = method.attribute(X[n : n + 1], additional_forward_args=CAMERAS[n : n + 1])
        close(together[n : n + 1], alone)


def test_one_camera_for_all_and_the_weight_of_cameras(net, tmp_path):
    close(net(X, 2), net(X, torch.tensor([2, 2, 2])))
    close(
        GradFAM(functools.partial(net, cameras=2), net.map_layer).attribute(X),
        GradFAM(net, net.map_layer).attribute(X, additional_forward_args=2),
    )
    file = TransReIDFile(cameras=3, d=64, depth=2)
    half = opened(file, tmp_path, side_weight=1.5)
    close(half(X, 2), joined(file.vectors(X, [2] * 3, factor=1.5)))


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (None, "cameras: got None, expected numbers from 0 to 2.*partial"),
        (torch.tensor([0, 1, 3]), r"cameras: got \[0, 1, 3\]"),
        (-1, "cameras: got -1"),
        (torch.zeros(3), "cameras: got .*float32"),
    ],
)
def test_cameras_that_are_not_there(net, cameras, message):
    with pytest.raises(InputError, match=message):
        net(X, cameras)


def test_cameras_for_a_network_that_knows_none(tmp_path):
    with pytest.raises(InputError, match="expected None: this network knows no cameras"):
        opened(TransReIDFile(), tmp_path)(X, CAMERAS)


# Files


@pytest.mark.parametrize(
    ("grid", "size", "stride"),
    [((16, 8), (256, 128), 16), ((21, 10), (256, 128), 12), ((31, 10), (384, 128), 12)],
)
def test_the_number_of_positions_tells_size_and_stride(grid, size, stride, tmp_path):
    file = TransReIDFile(grid, stride, d=64, depth=2)
    torch.save(file.weights, tmp_path / "w.pth")
    model = open_checkpoint(tmp_path / "w.pth")
    found = architecture_of(model.state_dict())
    assert (found["img_size"], found["stride"]) == (size, stride)
    assert (model.input_spec.size, model.token_grid) == (size, grid)
    assert (found["depth"], found["embed_dim"], found["num_classes"]) == (2, 64, 5)


def test_other_numbers_of_positions_have_to_be_told(tmp_path):
    torch.save(TransReIDFile().weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not tell img_size, stride"):
        open_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["run", "converted"])
def test_a_teacher_of_dino_opens_without_neck_and_classifier(form, tmp_path):
    file = TransReIDFile(**FILES["ssl"])
    unused = ("base.fc.weight", "base.fc.bias")  # DINO takes it away.
    body = {k[5:]: v for k, v in file.weights.items() if k.startswith("base.") and k not in unused}
    if form == "run":
        teacher = {f"backbone.{key}": value for key, value in body.items()}
        teacher["head.last_layer.weight_g"] = torch.ones(3, 1)
        student = {f"module.{key}": value + 1 for key, value in teacher.items()}
        content = {"student": student, "teacher": teacher, "args": Namespace(arch="vit_small")}
    else:
        content = body
    torch.save(content, tmp_path / "w.pth")
    model = open_checkpoint(tmp_path / "w.pth", img_size=SIZE, stride=16).double()
    close(model(X), file.vectors(X)[0])
    assert not hasattr(model, "classifier")
    assert model.input_spec.mean == InputSpec().mean


def test_another_number_of_classes_leaves_all_classifiers_out(tmp_path):
    file = TransReIDFile(jpm=True)
    model = opened(file, tmp_path, num_classes=0)
    close(model(X), joined(file.vectors(X)))
    assert opened(file, tmp_path, num_classes=7).logits(X).shape == (3, 7)


def test_a_card_brings_the_network_back(tmp_path):
    architecture = {
        **{"name": "transreid_jpm", "img_size": list(SIZE), "stride": 12, "cameras": 2},
        **{"embed_dim": 64, "depth": 2, "num_classes": 3},
    }
    model = build_model(**architecture).eval()
    save_trained(model, tmp_path / "m.json", architecture)
    again = load_trained(tmp_path / "m.json")
    assert torch.equal(again(X.float(), 1), model(X.float(), 1))


# Settings


def test_bad_settings():
    small = {"embed_dim": 64, "depth": 2}
    with pytest.raises(InputError, match="img_size: got .* with stride 20"):
        build_model("transreid", stride=20, **small)
    with pytest.raises(InputError, match="neck: got 'bnneck'"):
        build_model("transreid", neck="bnneck", **small)
    with pytest.raises(InputError, match="stride: got 12"):
        build_model("transreid", stem="convolutional", stride=12, **small)
    with pytest.raises(InputError, match="depth: got 1"):
        build_model("transreid_jpm", embed_dim=64, depth=1)
    model = build_model("transreid", **small).eval()
    with pytest.raises(InputError, match=r"inputs: got \(3, 3, 64, 32\).*\(B, 3, 256, 128\)"):
        model(X.float())


def test_the_jigsaw_deals_each_patch_once_where_it_can():
    places = jigsaw(128, 5)
    assert places.shape == (4, 32)
    assert sorted(places.flatten().tolist()) == list(range(128))
    # Of the first part: patches 4, 68, 5, 69, ..., as the groups alternate.
    assert places[0, :4].tolist() == [4, 68, 5, 69]
    assert jigsaw(441, 8).shape == (4, 110)
