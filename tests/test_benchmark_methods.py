"""Methods and targets: whatever has `attribute` explains whatever embeds."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from nets import SMALL, small_reid_net
from tiny_world import SPEC, Brightness, TinyNet, tiny_target
from torch import nn

from reid_explain import ExtremalFAM, GradCAM, GradRAM, InputError, ScoreFAM
from reid_explain.benchmark import Target
from reid_explain.benchmark.methods import Method, Subject, all_methods, find_methods, left_out
from reid_explain.explainers.attention import AttentionExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.inputs import InputSpec
from reid_explain.models import build_model
from reid_explain.models.timm_models import TimmNet

IMAGES = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
CONTROLS = ("ActivationMean", "AttentionRollout", "Centre", "EigenCAM", "Random")


def target(model: nn.Module, **options) -> Target:
    return Target(model, spec=InputSpec((64, 32)), **options)


def quick_methods() -> dict[str, Method]:
    """Those that need no training of their own, no attention, no descent, no thousand masks."""
    return {
        name: method
        for name, method in all_methods().items()
        if method.fact("cost") not in ("masks", "descent")
        and name not in ("AMDInterpreter", "AmortizedFAM")
        and not issubclass(method.explainer, AttentionExplainer)
    }


@pytest.mark.slow
def test_every_method_explains_what_it_says():
    model = small_reid_net()
    x, references = IMAGES[:1], IMAGES[1:2]
    subject = Subject(x, references, torch.tensor([2]))
    one, methods = target(model), all_methods()
    found = {name: method.on(one)(subject) for name, method in quick_methods().items()}
    assert all(map_.shape == (1, 1, 64, 32) for map_ in found.values())
    layer = model.backbone.layer4
    logits = GradCAM(lambda x: model.classify(model(x)), layer)
    assert torch.equal(found["GradCAM"], logits.attribute(x, target=2))
    assert torch.equal(found["GradRAM"], GradRAM(model, layer).attribute(x, references))
    assert tuple(methods)[-5:] == CONTROLS
    assert all(methods[name].fact("is_control") for name in CONTROLS)
    assert methods["ExtremalFAMFast"].fact("cost") == "descent"


def test_attention_is_explained_whatever_the_layer_of_the_target():
    shape = {"img_size": (64, 32), "depth": 2, "embed_dim": 24}
    model = TimmNet("vit_tiny_patch16_224", **shape).eval()
    nn.init.uniform_(model.net.norm.weight, generator=torch.Generator().manual_seed(0))
    one = Target(model, spec=InputSpec((64, 32)))
    subject = Subject(IMAGES[:1], IMAGES[1:2])
    for name, kind in EXPLAINERS.items():
        if isinstance(kind, type) and issubclass(kind, AttentionExplainer):
            found = all_methods()[name].tried_on(one, subject)(subject, interpolate_mode=None)
            assert found.shape == (1, 1, 4, 2)


@pytest.mark.slow
def test_batches_and_classes_by_hand():
    model = small_reid_net()
    one = target(model)
    images = IMAGES[:1].expand(130, -1, -1, -1)
    torch.testing.assert_close(one.embed(images), model(IMAGES[:1]).detach().expand(130, -1))
    assert torch.equal(one.predicted(IMAGES), model.classify(model(IMAGES)).argmax(dim=1))
    torch.testing.assert_close(one.pooled(IMAGES), model.features(IMAGES).mean(dim=(2, 3)))
    assert not one.layer._forward_hooks
    assert tiny_target(classes=0).predicted(IMAGES) is None


def test_a_target_leaves_its_model_in_training_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    one = Target(model, "0", InputSpec((8, 8)))
    assert torch.equal(one.embed(IMAGES), one.embed(IMAGES))
    assert all(module.training for module in model.modules())


@pytest.mark.slow
def test_bfloat16_is_the_models_alone():
    one = target(small_reid_net(), precision="bfloat16")
    embedded = one.embed(IMAGES)
    assert embedded.dtype == torch.float32
    exact = replace(one, precision="float32").embed(IMAGES)
    assert not torch.equal(embedded, exact)
    assert (torch.nn.functional.cosine_similarity(embedded, exact) > 0.99).all()
    subject = Subject(IMAGES, IMAGES.flip(0), one.predicted(IMAGES))
    for method in quick_methods().values():
        map_ = method.on(one)(subject)
        assert map_.dtype == torch.float32
        assert map_.isfinite().all()


def test_a_model_without_classes_has_no_method_that_explains_one():
    one = tiny_target(classes=0)
    subject = Subject(torch.rand(1, 3, 32, 16))
    assert all_methods()["GradFAM"].on(one)(subject).shape == (1, 1, 32, 16)
    for name in ("GradCAM", "ScoreCAM"):
        match = (
            f"methods: got {name} of a model without a classifier, "
            "expected methods that explain no class"
        )
        with pytest.raises(InputError, match=match):
            all_methods()[name].on(one)


def test_a_users_own_class_needs_no_base_class():
    one = tiny_target()

    class OfPairs(Brightness):
        def attribute(self, images, references):
            return super().attribute(images - references)

    x, other = torch.rand(2, 1, 3, 32, 16)
    (method,) = find_methods([OfPairs], all_methods()).values()
    assert method.needs == ("references",)
    map_ = method.on(one)(Subject(x, other), interpolate_mode=None)
    assert torch.equal(map_, Brightness(None, None).attribute(x - other))

    class Flat(Brightness):
        def attribute(self, images):
            return images.mean(dim=(1, 2, 3))

    with pytest.raises(InputError, match=r"map of Flat: got \(1,\) float32, expected maps"):
        Method("Flat", Flat).on(one)(Subject(x))


def test_methods_by_name_class_and_partial():
    wanted = ["RAM", "tiny_world:Brightness", ScoreFAM, partial(ExtremalFAM, rounds=1, descents=2)]
    found = find_methods(wanted, all_methods())
    assert list(found) == ["RAM", "Brightness", "ScoreFAM", "ExtremalFAM"]
    explain = found["ExtremalFAM"].on(tiny_target(), seed=3)
    assert explain(Subject(torch.rand(1, 3, 32, 16))).shape == (1, 1, 32, 16)
    for wrong, match in (
        (["LIME"], "methods: got LIME, expected names among GradCAM, RISE, .*, or module:C"),
        (["RAM", "RAM"], "methods: got RAM, expected .* each once"),
        (["tiny_world:LIME"], "tiny_world:LIME"),
    ):
        with pytest.raises(InputError, match=match):
            find_methods(wrong, all_methods())


def test_a_target_asks_for_what_its_model_does_not_say():
    with pytest.raises(InputError, match="layer: got nothing for a TinyNet"):
        Target(TinyNet(), spec=SPEC)
    with pytest.raises(InputError, match="spec: got nothing for a TinyNet"):
        Target(TinyNet(), "last")
    with pytest.raises(InputError, match="layer: got 'lost'.*'last'"):
        Target(TinyNet(), "lost", SPEC)
    network = build_model(**SMALL)
    assert Target(network).layer is network.get_submodule(network.map_layer)
    assert Target(network).spec == network.input_spec


def test_the_settings_of_a_target_follow_its_weights():
    one, same, other = tiny_target(), tiny_target(), tiny_target()
    with torch.no_grad():
        other.model.neck.bias[0] += 1e-3
    assert one.settings() == same.settings()
    assert one.settings()["layer"] == "last"
    assert one.settings()["weights"] != other.settings()["weights"]


def test_methods_are_left_out_once_for_each_reason():
    reasons = {"A": "no classes for A", "B": "no head", "C": "no classes for C"}
    assert left_out(reasons).splitlines() == [
        "A, C are left out: no classes for A",
        "B is left out: no head",
    ]
