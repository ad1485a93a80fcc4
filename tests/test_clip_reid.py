"""CLIP-ReID's image towers: the authors' files against the equations; cameras; explained."""

import pytest
import torch
from nets import images
from tower_nets import CLIPReIDFile, CLIPReIDResNetFile, clip_logits, clip_normed

from reid_explain import CGRAM, AMDInterpreter, GradFAM, InputError, InputSpec, ScoreFAM
from reid_explain.models import build_model, open_checkpoint
from reid_explain.models.architecture import architecture_of
from reid_explain.models.layouts import find_layout

close = torch.testing.assert_close
SIZE = (64, 32)
X = images(3, SIZE)
CAMERAS = torch.tensor([2, 0, 1])
FILES = {
    "patches": (CLIPReIDFile, {"grid": (4, 2), "stride": 16}),
    "overlapping patches, cameras": (CLIPReIDFile, {"cameras": 3}),
    "resnet": (CLIPReIDResNetFile, {}),
}


def opened(file, folder, **options):
    torch.save(file.weights, folder / "w.pth")
    told = {"img_size": SIZE}
    if hasattr(file, "stride"):
        told["stride"] = file.stride
    return open_checkpoint(folder / "w.pth", **told, **options).double()


@pytest.fixture(params=FILES)
def file(request):
    make, options = FILES[request.param]
    return make(**options)


def args_of(file):
    return (CAMERAS,) if "cv_embed" in file.weights else ()


@pytest.mark.slow
def test_the_authors_files_open_and_compute_their_equations(file, tmp_path):
    args = args_of(file)
    vectors = file.vectors(X, CAMERAS.tolist()) if args else file.vectors(X)
    model = opened(file, tmp_path)
    assert find_layout(file.weights) == find_layout(model.state_dict())
    assert find_layout(file.weights).startswith("clip-reid")
    with torch.no_grad():
        close(model(X, *args), torch.cat(vectors, 1))
        close(model.logits(X, *args), clip_logits(file, vectors))
        close(model(X, *args), model.embed(model.features(X, *args)))
        after = opened(file, tmp_path, neck="after")
        close(after(X, *args), torch.cat(clip_normed(file, vectors), 1))
        close(after.logits(X, *args), clip_logits(file, vectors))


@pytest.mark.slow
def test_explained(file, tmp_path):
    model, args, x = opened(file, tmp_path).float(), args_of(file), X.float()
    for explainer, options in ((GradFAM, {}), (ScoreFAM, {"max_scored_channels": 4})):
        method = explainer(model, model.map_layer, **options)
        maps = method.attribute(x, additional_forward_args=args, interpolate_mode=None)
        assert maps.shape == (3, 1, *getattr(file, "grid", (4, 2)))
        assert maps.any()


@pytest.mark.slow
def test_each_image_of_a_pair_has_its_camera(tmp_path):
    file = CLIPReIDFile(cameras=3)
    net, others = opened(file, tmp_path), torch.tensor([1, 2])
    method = CGRAM(net, net.map_layer)
    pair = method.attribute_pair(X[:2], X[1:], CAMERAS[:2], reference_forward_args=others)
    close(pair[0], method.attribute(X[:2], net(X[1:], others).detach(), CAMERAS[:2]))
    close(pair[1], method.attribute(X[1:], net(X[:2], CAMERAS[:2]).detach(), others))
    for cameras in (CAMERAS[:2], torch.tensor([2, 2])):
        swapped = method.attribute_pair(X[:2], X[1:], CAMERAS[:2], reference_forward_args=cameras)
        assert (swapped[0] - pair[0]).abs().max() > 1e-4
        assert (swapped[1] - pair[1]).abs().max() > 1e-4
    with pytest.raises(InputError, match="cameras: got None"):
        net(X)
    half = opened(file, tmp_path, side_weight=0.5)
    close(half(X, 2), torch.cat(file.vectors(X, [2] * 3, factor=0.5), 1))


@pytest.mark.slow
def test_the_resnet_has_an_interpreter(tmp_path):
    model = opened(CLIPReIDResNetFile(), tmp_path).float()
    interpreter = AMDInterpreter(model, ["hat"], spec=InputSpec(SIZE))
    close(interpreter.decompose(X.float())[0], model(X.float()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (
            lambda: CLIPReIDFile((21, 10), 12, cameras=6, depth=1, d=64),
            {"img_size": (256, 128), "stride": 12, "cameras": 6, "embed_dim": 64, "projected": 24},
        ),
        (
            lambda: CLIPReIDResNetFile((16, 8)),
            {"img_size": (256, 128), "width": 16, "depths": (1, 2, 1, 1), "projected": 24},
        ),
    ],
)
def test_the_file_tells_its_network(file, expected, tmp_path):
    torch.save(file().weights, tmp_path / "w.pth")
    model = open_checkpoint(tmp_path / "w.pth")
    found = architecture_of(model.state_dict())
    assert {key: found[key] for key in expected} == expected
    assert found["num_classes"] == 5
    assert model.input_spec.size == (256, 128)
    without = open_checkpoint(tmp_path / "w.pth", num_classes=0)
    assert not [key for key in without.state_dict() if key.startswith("classifier")]


@pytest.mark.slow
def test_published_shapes():
    with torch.device("meta"):
        vit, resnet = build_model("clip_reid_vit", stride=12), build_model("clip_reid_resnet")
    assert (vit.embedding_dim, vit.token_grid) == (768 + 512, (21, 10))
    assert resnet.embedding_dim == 2048 + 1024
    assert resnet.input_spec == InputSpec()
    assert vit.input_spec == InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3)
    # CLIP's own: 86.2 and 38.3 million parameters, at 197 and 50 positions.
    encoders = (vit.image_encoder, resnet.image_encoder)
    counts = [sum(p.numel() for p in encoder.parameters()) for encoder in encoders]
    assert counts[0] - (211 - 197) * 768 == 86_192_640
    assert counts[1] - (129 - 50) * 2048 == 38_316_896


@pytest.mark.slow
def test_bad_settings(tmp_path):
    with pytest.raises(InputError, match="neck: got 'none', expected one of 'before', 'after'"):
        build_model("clip_reid_resnet", width=16, neck="none")
    torch.save(CLIPReIDResNetFile().weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not tell img_size:|does not tell img_size,"):
        open_checkpoint(tmp_path / "w.pth")
    model = build_model("clip_reid_resnet", width=16)
    with pytest.raises(InputError, match=r"inputs: .*\(B, 3, 256, 128\)"):
        model(X.float())
