"""How alike maps are, on a world where that is known."""

import json

import pytest
import torch
from tiny_world import TinyWorld, tiny_target

from reid_explain import ActivationMean
from reid_explain.benchmark import Agreement, agreement
from reid_explain.benchmark.command_line import main
from reid_explain.metrics.similarity import spearman


class Plain:
    """The mean of the colors; with references, what they have in common with the image."""

    needs = ()
    sign = 1

    def __init__(self, forward_func, layer):
        pass

    def attribute(self, inputs, references=None):
        found = inputs.mean(dim=1, keepdim=True)
        return self.sign * (
            found if references is None else found * references.mean(dim=1)[:, None]
        )


class Flipped(Plain):
    sign = -1


def value(frame, method, metric, case=0):
    own = frame[(frame["method"] == method) & (frame["metric"] == metric)]
    return own["value"].iloc[case]


def test_each_map_is_compared_with_those_of_methods_images_and_references():
    world, target = TinyWorld(), tiny_target()
    frame = Agreement(images=3).run(target, world, methods=[Plain, Flipped, ActivationMean])
    assert value(frame, "Plain", "Flipped") == pytest.approx(-1)
    assert value(frame, "Flipped", "ActivationMean") == -value(frame, "Plain", "ActivationMean")
    gray = {
        record: target.spec.to_tensor(world.load(record)).mean(dim=0)[None, None]
        for record in (*world.query, *world.gallery)
    }
    cases = list(dict.fromkeys(frame["case"]))
    first, second = (next(r for r in world.query if r.path.name == name) for name in cases[:2])
    assert value(frame, "Plain", "another image") == pytest.approx(
        float(spearman(gray[first], gray[second]))
    )
    match = next(r for r in world.gallery if r.identity == first.identity)
    strangers = [
        float(spearman(gray[first] * gray[match], gray[first] * gray[other]))
        for other in world.gallery
        if other.identity != first.identity
    ]
    found = value(frame, "Plain", "another person")
    assert min(abs(found - each) for each in strangers) < 1e-6
    assert "another person" not in set(frame[frame["method"] == "ActivationMean"]["metric"])


def test_methods_on_another_model(monkeypatch, tmp_path):
    class Options:
        def __init__(self, weights):
            assert weights == tmp_path / "net.pth"

        def open(self):
            return tiny_target()

    monkeypatch.setattr(agreement, "TargetOptions", Options)
    agreement.on_other.cache_clear()
    task = Agreement(
        images=2, other=str(tmp_path / "net.pth"), other_methods=("ActivationMean", "RAM")
    )
    frame = task.run(tiny_target(), TinyWorld(), methods=["ActivationMean"], output=tmp_path / "a")
    assert value(frame, "ActivationMean", "other:ActivationMean") == pytest.approx(1)
    assert value(frame, "ActivationMean", "other:RAM") < 1
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["methods"]["ActivationMean"]["other:ActivationMean"]["least"] == pytest.approx(1)
    agreement.on_other.cache_clear()


def test_maps_of_another_size_are_compared_at_that_of_the_first():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    assert agreement.alike(ramp, torch.linspace(0, 1, 16).view(1, 1, 4, 4)) > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "1"], "images: got 1"),
        (["--other-methods", "RAM"], "other_methods: got .*RAM.* None as the other model"),
        (["--other", "net.pth"], "other_methods: got .*net.pth as the other model"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(Agreement, [*arguments, "--methods", "RAM", "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
