"""The causal benchmark of attributes: closed forms, a truth by hand, and from end to end."""

import json

import numpy as np
import pytest
import torch
from nets import small_reid_net
from PIL import Image
from tiny_world import TinyWorld, tiny_target
from worlds import drawn_once

from reid_explain import AttributeDirections, CounterfactualDirections, InputError
from reid_explain.benchmark import CausalAttributes, Target, causal_attributes, fit_directions
from reid_explain.benchmark.causal_attributes import (
    DECOMPOSERS,
    Decomposed,
    Effects,
    differing,
    effects_of,
    groups_of,
    mean_effect,
    random_pairs,
    scores,
)
from reid_explain.benchmark.run import Group
from reid_explain.benchmark.task import Bench
from reid_explain.datasets import SyntheticReID
from reid_explain.directions import membership
from reid_explain.inputs import InputSpec


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return drawn_once(train_identities=4, test_identities=4, distractors=0)


@pytest.fixture(scope="module")
def bench(world) -> Bench:
    return Bench(Target(small_reid_net(), spec=InputSpec((64, 32))), world, Group())


def pair_of(effects) -> Effects:
    count = len(effects)
    images = torch.arange(count * 12.0).reshape(count, 3, 2, 2)
    one = torch.zeros(1, 3, 2, 2)
    return Effects(one, one + 1, images, list(range(count)), torch.eye(2), np.array(effects))


def test_the_truth_scores_best():
    effects = [0.3, 0.1, -0.2]
    pair = pair_of(effects)

    def truth(query, gallery):
        if len(query) == 1 and gallery.equal(pair.gallery):
            return Decomposed(torch.tensor([effects]))
        return Decomposed(torch.eye(3)[: len(query)])  # alone, it is all of the distance

    found = scores(pair, truth, ["a", "b", "c"])
    expected = {"spearman": 100, "first": 100, "error": 0, "one_first": 100, "one_top3": 100}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert found["first_chance"] == found["one_chance"] == pytest.approx(100 / 3)
    assert [found["effect:a"], found["contribution:a"]] == pytest.approx([30, 30])
    assert np.isnan([found["inside"], found["area"], found["inside:a"]]).all()  # it has no maps
    opposite = lambda query, gallery: Decomposed(-truth(query, gallery).contributions)  # noqa: E731
    reverse = scores(pair, opposite, ["a", "b", "c"])
    assert (reverse["spearman"], reverse["first"], reverse["one_first"]) == (-100, 0, 0)


def test_a_pair_without_effects_has_no_scores():
    nothing = lambda query, gallery: Decomposed(torch.zeros(1, 3))  # noqa: E731
    found = scores(pair_of([]), nothing, ["a", "b", "c"])
    assert np.isnan([found[name] for name in ("spearman", "first", "effect:a")]).all()


def test_a_map_is_compared_with_what_changes():
    query, changed = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    changed[0, 1, :2] = 1  # half of the image
    changed[1, 0, 3, 3] = 1  # one pixel of 16
    pair = Effects(query, query + 2, changed, [0, 2], torch.eye(2), np.array([0.2, 0.1]))
    maps = torch.ones(1, 3, 4, 4)
    maps[0, 2] = 0
    maps[0, 2, 3, 2:] = 1  # two pixels, one of which changes
    made = lambda query, gallery: Decomposed(torch.zeros(len(query), 3), maps)  # noqa: E731
    found = scores(pair, made, ["a", "b", "c"])
    assert [found["inside:a"], found["area:a"]] == pytest.approx([50, 50])
    assert [found["inside:c"], found["area:c"]] == pytest.approx([50, 6.25])
    assert [found["inside"], found["area"]] == pytest.approx([50, 28.125])
    assert np.isnan(found["inside:b"])


@pytest.mark.slow
def test_effects_by_hand(bench, world):
    query, gallery = next(
        pair
        for pair in random_pairs(world.query, bench.people, 0)
        if len(differing(bench, *pair)) > 2
    )
    found = effects_of(bench, query, gallery)
    names = [*groups_of(world)]
    one, other = (bench.target.embed(bench.image(r))[0] for r in (query, gallery))
    for group, effect in zip(found.groups, found.effects, strict=True):
        image = Image.fromarray(world.intervene(query, {names[group]: gallery}).image)
        changed = bench.target.embed(bench.target.spec.to_tensor(image)[None])
        before, after = (one - other).norm(), (changed[0] - other).norm()
        assert effect == pytest.approx(((before - after) / before).item(), abs=1e-3)
    again = effects_of(bench, query, query)  # nobody differs from themselves
    assert again.groups == []


def test_attributes_are_summed_by_group():
    groups = {"color": ("red", "blue"), "hat": ("hat",)}
    rows = membership(("hat", "red", "blue", "age"), groups)
    assert rows.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]


@pytest.mark.slow
def test_the_control_is_the_same_for_every_pair(bench, monkeypatch):
    monkeypatch.setattr(causal_attributes, "MEAN_PAIRS", 2)
    decompose = mean_effect(bench)
    images = torch.zeros(3, 3, 64, 32)
    assert decompose(images, images).contributions.shape == (3, 11)
    assert {"AMDInterpreter", "AttributeDirections", "MeanEffect"} <= {*DECOMPOSERS}


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_table(bench, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(causal_attributes, "MEAN_PAIRS", 2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    methods, task = ("AttributeDirections", "MeanEffect"), CausalAttributes(pairs=3)
    task.run(bench.target, world, methods=methods, output=whole, show=True)
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:4]] == [*methods, "chance"]
    cut.mkdir()
    (cut / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    (shard,) = whole.glob("rows-*.jsonl")
    (cut / shard.name).write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    task.run(bench.target, world, methods=methods, output=cut, resume=True, show=True)
    assert capsys.readouterr().out == table
    results = json.loads((whole / "results.json").read_text())
    assert results["methods"]["MeanEffect"]["groups"]["hat"].keys() >= {"effect", "contribution"}


@pytest.mark.slow
def test_directions_are_fitted_and_resumed(tmp_path, monkeypatch):
    drawn = []

    def effects(bench, query, gallery):
        drawn.append(query)
        embeddings = torch.randn(13, 256, generator=torch.Generator().manual_seed(len(drawn)))
        one = torch.zeros(1, 3, 2, 2)
        return Effects(one, one, one, list(range(11)), embeddings, np.zeros(11))

    monkeypatch.setattr(fit_directions, "effects_of", effects)
    monkeypatch.setattr(fit_directions, "SHARD", 4)
    arguments = ["--pairs", "8", "--people", "6", "--world", "7", "--output", str(tmp_path / "a")]
    fit_directions.main(arguments)
    found = CounterfactualDirections.load(tmp_path / "a" / "directions.safetensors")
    assert found.groups[:2] == ("upper color", "lower color")
    assert len(drawn) == 8
    (tmp_path / "a" / "directions.safetensors").unlink()
    fit_directions.main([*arguments, "--resume"])
    again = CounterfactualDirections.load(tmp_path / "a" / "directions.safetensors")
    assert again.maps.equal(found.maps)
    assert len(drawn) == 8  # nothing is drawn twice
    labels = AttributeDirections.load(tmp_path / "a" / "attribute_directions.safetensors")
    assert len(labels.attributes) == 26


def test_wrong_input(world):
    with pytest.raises(InputError, match="dataset: got tiny, expected a world that can intervene"):
        CausalAttributes().run(tiny_target(), TinyWorld(), methods=["MeanEffect"])
    target = Target(small_reid_net(), spec=InputSpec((64, 32)))
    with pytest.raises(InputError, match="methods: got 'ScoreFAM'"):
        CausalAttributes().run(target, world, methods=["ScoreFAM"])
    with pytest.raises(InputError, match="no directions for"):
        CausalAttributes().run(target, world, methods=["CounterfactualDirections"])
