"""The causal benchmark: closed forms with models and maps that are known, and from end to end."""

import json

import numpy as np
import pytest
import torch
from nets import small_reid_net
from tiny_world import TinyWorld, tiny_target
from torch import nn
from worlds import drawn_once

from reid_explain import InputError
from reid_explain.benchmark import Causal, Target
from reid_explain.benchmark.causal import FEWEST_PARTS, Scene, View
from reid_explain.benchmark.command_line import main
from reid_explain.benchmark.methods import Method, all_methods
from reid_explain.benchmark.run import Group
from reid_explain.benchmark.task import Bench
from reid_explain.datasets import SyntheticReID
from reid_explain.inputs import InputSpec


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return drawn_once(train_identities=0, test_identities=3, distractors=0)


class LowerHalf(nn.Module):
    """Sees the colors of the lower half of an image, in 4 x 4 blocks."""

    map_layer = "pool"
    input_spec = InputSpec((256, 128))

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((4, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(images[:, :, 128:]).flatten(1)


class Half:
    """A fixed map of one half."""

    low = False

    def __init__(self, forward_func, layer) -> None:
        pass

    def attribute(self, inputs):
        maps = torch.zeros_like(inputs[:, :1])
        half = slice(128, None) if self.low else slice(128)
        maps[:, :, half] = 1
        return maps


class Low(Half):
    low = True


def scene_of(world, maps, needs=()) -> Scene:
    """A scene of a model that sees the lower half, and methods that are functions of a subject."""
    bench = Bench(Target(LowerHalf()), world, Group())
    for name, explain in maps.items():
        kind = type(name, (), {"needs": needs, "attribute": lambda self, inputs: None})
        bench.methods[name], bench.explain[name] = Method(name, kind), explain
    record = next(r for r in world.query if bench.match(r) is not None)
    return Scene(bench, record, seed=0)


@pytest.mark.slow
def test_the_map_of_what_a_model_sees_is_true(world):
    frame = Causal(images=4).run(Target(LowerHalf()), world, methods=[Low, Half, "Centre"])
    means = frame.groupby(["method", "metric"], observed=True)["value"].mean().unstack()
    assert means.loc["Low", "single_deletion"] > means.loc["Half", "single_deletion"] + 20
    assert means.loc["Low", "distractibility"] < means.loc["Half", "distractibility"] - 20
    assert means.loc["Low", "preservation"] > means.loc["Half", "preservation"]
    assert means.loc["Low", "deletion"] > means.loc["Half", "deletion"]


@pytest.mark.slow
def test_effects_are_what_the_model_does(world):
    scene = scene_of(world, {})
    own = scene.bench.target.embed(scene.image)[0].double()
    names = [part.name for part in scene.parts]
    assert len(names) >= FEWEST_PARTS
    for part, effect in zip(scene.parts, scene.effects["embedding"], strict=True):
        image = world.remove(scene.record, part.name).changed.image
        changed = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (scene.spec.mean, scene.spec.std))
        other = scene.bench.target.embed((changed - mean) / std)[0].double()
        expected = 1 - (own @ other) / (own.norm() * other.norm())
        assert effect.item() == pytest.approx(expected.item(), abs=1e-5)
        if not part.shape[:, :, 120:].any():  # above what the model sees
            assert effect.item() == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_masses_are_ranked_against_effects(world):
    view = View(scene_of(world, {"own": lambda subject: subject.images[:, :1]}), "own")
    for mass, expected in (
        (view.effects, 100),
        (-view.effects, -100),
        (view.areas, view.area_deletion()),
        (np.ones_like(view.areas), 0),
    ):
        view.mass = mass
        assert view.single_deletion() == pytest.approx(expected)
    view.mass = view.effects
    order = np.argsort(-view.effects)[: (len(view.effects) + 1) // 2]
    assert view.best == [view.scene.parts[n].name for n in order]


@pytest.mark.slow
@pytest.mark.parametrize(("right", "expected"), [(True, 100), (False, 0), (None, 50)])
def test_a_map_follows_the_garment_that_its_reference_shares(world, right, expected):
    scene = scene_of(world, {"own": None}, needs=("references",))
    shapes = {part.name: part.shape for part in scene.parts}

    def explain(subject):
        for part, image in scene.sharing.items():
            if right is not None and subject.references.equal(image):
                other = {"upper": "lower", "lower": "upper"}[part]
                return shapes[part if right else other].float()
        return torch.ones_like(scene.image[:, :1])

    scene.bench.explain["own"] = explain
    assert View(scene, "own").target_sensitivity() == expected


@pytest.mark.slow
def test_a_map_without_reference_does_not_change(world):
    same = scene_of(world, {"own": lambda subject: subject.images[:, :1]}, needs=("references",))
    assert View(same, "own").random_reference() == pytest.approx(0, abs=1e-6)
    by_reference = {"own": lambda subject: subject.references[:, :1]}
    assert View(scene_of(world, by_reference, ("references",)), "own").random_reference() > 20


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_table(world, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    target = Target(small_reid_net(), spec=InputSpec((64, 32)))
    methods = ("GradFAM", "GradRAM", "Centre", "Random")
    Causal(images=2).run(target, world, methods=methods, output=whole, show=True)
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:6]] == [*methods, "chance"]
    cut.mkdir()
    (cut / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    (shard,) = whole.glob("rows-*.jsonl")
    (cut / shard.name).write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    Causal(images=2).run(target, world, methods=methods, output=cut, resume=True, show=True)
    assert capsys.readouterr().out == table
    found = json.loads((whole / "results.json").read_text())["methods"]
    assert found["GradFAM"]["target_sensitivity"] is None
    assert found["GradRAM"]["random_reference"]["mean"] > 0
    assert "verdict" in found["GradFAM"]


def test_wrong_input(world):
    with pytest.raises(InputError, match="dataset: got tiny, expected a world that can intervene"):
        Causal().run(tiny_target(), TinyWorld(), methods=["Centre"])
    with pytest.raises(InputError, match="images: got 0"):
        Causal(images=0).run(Target(LowerHalf()), world, methods=["Centre"])
    assert "AMDInterpreter" in all_methods()
    with pytest.raises(SystemExit, match="world: got 3, expected none, market1501 is not drawn"):
        main(Causal, ["--world", "3", "--dataset", "market1501", "--root", "anywhere"])
