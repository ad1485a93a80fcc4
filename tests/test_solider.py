"""SOLIDER: the authors' files against the equations, and explained."""

import pytest
import torch
from nets import images
from tower_nets import SoliderFile, batch_norm

from reid_explain import AMDInterpreter, GradFAM, InputError, InputSpec, ScoreFAM
from reid_explain.models import build_model, open_checkpoint
from reid_explain.models.architecture import architecture_of
from reid_explain.models.layouts import find_layout
from reid_explain.models.pooling import GlobalAveragePool

close = torch.testing.assert_close
X = images(2, (96, 40))
"""Maps of 24x10, 12x5, 6x3 and 3x2 places: padded to windows of 3, and to pairs."""


def opened(file, folder, **options):
    torch.save(file.weights, folder / "w.pth")
    return open_checkpoint(folder / "w.pth", **options).double()


@pytest.mark.slow
@pytest.mark.parametrize("semantic", [True, False])
def test_the_authors_files_open_and_compute_their_equations(semantic, tmp_path):
    file = SoliderFile(semantic=semantic)
    vector = file.vector(X)
    assert find_layout(file.weights) == "solider"
    with torch.no_grad():
        model = opened(file, tmp_path)
        close(model(X), vector, rtol=1e-6, atol=1e-6)
        normed = batch_norm(file.weights, "bottleneck", vector)
        close(model.logits(X), normed @ file.weights["classifier.weight"].T)
        close(opened(file, tmp_path, neck="after")(X), normed)
        features = model.features(X)
        assert features.shape == (2, 256, 3, 2)
        assert isinstance(model.pool, GlobalAveragePool)
        close(model.embed(features), vector)
        if semantic:
            asked = opened(file, tmp_path, semantic_weight=0.9)
            close(asked(X), file.vector(X, 0.9))
            assert (asked(X) - vector).abs().max() > 1e-3
        else:
            assert model.base.semantic_weight is None


@pytest.mark.parametrize("window", [2, 5])
def test_windows_that_divide_and_windows_larger_than_the_map(window, tmp_path):
    file = SoliderFile(depths=(1, 1, 1, 2), window=window)
    with torch.no_grad():
        close(opened(file, tmp_path)(X), file.vector(X))


@pytest.mark.slow
def test_explained_and_interpreted(tmp_path):
    model, x = opened(SoliderFile(), tmp_path).float(), X.float()
    for explainer, options in ((GradFAM, {}), (ScoreFAM, {"max_scored_channels": 4})):
        method = explainer(model, model.map_layer, **options)
        maps = method.attribute(x, interpolate_mode=None)
        assert maps.shape == (2, 1, 3, 2)
        assert maps.any()
    interpreter = AMDInterpreter(model, ["hat"], spec=InputSpec((96, 40)))
    close(interpreter.decompose(x)[0], model(x))


@pytest.mark.slow
def test_the_file_tells_its_network(tmp_path):
    model = opened(SoliderFile(), tmp_path)
    found = architecture_of(model.state_dict())
    assert found == {
        **{"name": "solider", "embed_dim": 32, "depths": (2, 2, 1, 2), "num_classes": 5},
        **{"neck": "before", "window": 3},
    }
    assert model.input_spec == InputSpec((384, 128), (0.5,) * 3, (0.5,) * 3)
    with torch.device("meta"):
        for size in ("tiny", "small", "base"):
            state = build_model(f"solider_{size}", 3).state_dict()
            assert architecture_of(state)["name"] == f"solider_{size}"
    # Swin-B's 86.7 million (Liu et al., 2021) without classifier, the norm of the features there.
    body = sum(v.numel() for k, v in state.items() if k.startswith("base.") and "semantic" not in k)
    assert round(body / 1e6, 1) == 86.7


@pytest.mark.slow
def test_a_teacher_of_dino(tmp_path):
    file = SoliderFile()
    body = {k[5:]: v for k, v in file.weights.items() if k.startswith("base.")}
    teacher = {"backbone." + key: value for key, value in body.items()}
    torch.save({"teacher": {**teacher, "head.mlp.0.weight": torch.ones(2, 2)}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not tell semantic_weight"):
        open_checkpoint(tmp_path / "w.pth")
    model = open_checkpoint(tmp_path / "w.pth", semantic_weight=0.2).double()
    close(model(X), file.vector(X))
    assert model.input_spec == InputSpec()


def test_bad_settings():
    with pytest.raises(InputError, match="semantic_weight: got 1.5"):
        build_model("solider", embed_dim=32, depths=(1, 1, 1, 1), semantic_weight=1.5)
