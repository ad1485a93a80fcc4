"""benchmarks/methods.py and benchmarks/targets.py: what the benchmarks have in common."""

import faithfulness
import localisation
import pytest
import sanity
import torch
from methods import CONTROLS, METHODS, explainers
from nets import SMALL, small_reid_net
from subjects import Subject
from targets import Target
from torch import nn

from reid_explain import GradCAM, GradRAM, InputError
from reid_explain.models import build_model, save_trained

IMAGES = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def without_classes() -> nn.Module:
    torch.manual_seed(0)
    return build_model(**SMALL | {"num_classes": 0}).eval()


def target(model: nn.Module, **options) -> Target:
    return Target(model, model.get_submodule(model.map_layer), **options)


def test_every_method_explains_what_it_says():
    model = small_reid_net()
    x, references = IMAGES[:1], IMAGES[1:2]
    subject = Subject(x, references, torch.tensor([2]))
    found = {name: explain(subject) for name, explain in explainers(target(model), METHODS).items()}
    assert all(map_.shape == (1, 1, 64, 32) for map_ in found.values())
    layer = model.backbone.layer4
    logits = GradCAM(lambda x: model.classify(model(x)), layer)
    assert torch.equal(found["GradCAM"], logits.attribute(x, target=2))
    assert torch.equal(found["GradRAM"], GradRAM(model, layer).attribute(x, references))
    assert CONTROLS == ("ActivationMean", "Random", "Centre", "FullImage")


def test_batches_and_classes_by_hand():
    model = small_reid_net()
    one = target(model)
    images = IMAGES[:1].expand(130, -1, -1, -1)
    torch.testing.assert_close(one.embed(images), model(IMAGES[:1]).detach().expand(130, -1))
    assert torch.equal(one.predicted(IMAGES), model.classify(model(IMAGES)).argmax(dim=1))
    assert target(without_classes()).predicted(IMAGES) is None


def test_bfloat16_is_the_models_alone():
    one = target(small_reid_net(), precision="bfloat16")
    embedded = one.embed(IMAGES)
    assert embedded.dtype == torch.float32
    exact = one._replace(precision="float32").embed(IMAGES)
    assert not torch.equal(embedded, exact)
    cosine = torch.nn.functional.cosine_similarity(embedded, exact)
    assert (cosine > 0.99).all()
    for explain in explainers(one, METHODS).values():
        map_ = explain(Subject(IMAGES, IMAGES.flip(0), one.predicted(IMAGES)))
        assert map_.dtype == torch.float32
        assert map_.isfinite().all()


def test_a_model_without_classes_has_no_method_that_explains_one():
    one = target(without_classes())
    assert list(explainers(one, ["GradFAM", "RAM"])) == ["GradFAM", "RAM"]
    match = (
        "--methods: got GradCAM, ScoreCAM of a model without a classifier, "
        "expected methods that explain no class"
    )
    with pytest.raises(InputError, match=match):
        explainers(one, METHODS)


@pytest.mark.parametrize(
    ("benchmark", "more"),
    [
        (faithfulness, ["--queries", "1"]),
        (sanity, ["--images", "1", "--mode", "cascading"]),
        (localisation, ["--pairs", "1"]),
    ],
)
def test_benchmarks_of_a_model_without_classes(benchmark, more, small_files, tmp_path, capsys):
    save_trained(without_classes(), tmp_path / "model.json", SMALL | {"num_classes": 0})
    common = ["--weights", str(tmp_path / "model.json"), "--output", str(tmp_path / "run"), *more]
    if benchmark is not localisation:
        common += ["--dataset", "market1501", "--root", str(small_files / "market")]
    with pytest.raises(SystemExit, match="--methods: got GradCAM of a model without a classifier"):
        benchmark.main([*common, "--methods", "GradFAM,GradCAM"])
    assert not (tmp_path / "run").exists()
    benchmark.main([*common, "--methods", "GradFAM,ActivationMean"])
    assert "GradFAM" in capsys.readouterr().out
    assert (tmp_path / "run" / "results.json").is_file()
