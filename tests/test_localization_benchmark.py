"""The localization benchmark from end to end, on a small network."""

import json

import pytest
import torch
from nets import small_reid_net
from PIL import Image
from tiny_world import TinyWorld, tiny_target
from worlds import drawn_once

from reid_explain import ExtremalFAM, GradFAM, GradRAM, InputError
from reid_explain.benchmark import Localization, Target
from reid_explain.benchmark.command_line import main
from reid_explain.benchmark.localization import SMALLEST_REGION, Pair, maps_of, pair_of
from reid_explain.benchmark.methods import all_methods, find_methods
from reid_explain.benchmark.run import Group
from reid_explain.benchmark.task import Bench
from reid_explain.datasets import SyntheticReID
from reid_explain.inputs import InputSpec

METHODS = ("GradFAM", "GradRAM", "Centre")
FIGURES = ("person_energy", "person_pointing", "change_energy", "change_pointing")


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return drawn_once(train_identities=0, test_identities=4, distractors=0)


def small_target() -> Target:
    return Target(small_reid_net(), spec=InputSpec((64, 32)))


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_table(world, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    task = Localization(pairs=1)
    frame = task.run(small_target(), world, methods=METHODS, output=whole, show=True)
    table = capsys.readouterr().out
    names = [line.split()[0] for line in table.splitlines()[1:5]]
    assert names == [*METHODS, "chance"]
    with Image.open(whole / "localization.png") as picture:
        assert picture.width > 1000

    cut.mkdir()
    (cut / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    (shard,) = whole.glob("rows-*.jsonl")
    (cut / shard.name).write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    task.run(small_target(), world, methods=METHODS, output=cut, resume=True, show=True)
    assert capsys.readouterr().out == table
    for name in ("results.json", "rows.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()

    results = json.loads((whole / "results.json").read_text())
    assert results["pairs"] == frame["case"].nunique()
    for found in results["methods"].values():
        for figure in FIGURES:
            value = found[figure]
            assert value["interval"][0] <= value["mean"] <= value["interval"][1]
            assert value["lead"] == pytest.approx(value["mean"] - value["chance"])
    centre = results["methods"]["Centre"]
    assert centre["change_energy"]["lead"] == 0  # a fixed map shows no difference: chance
    assert centre["change_pointing"]["lead"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "0"], "localization.py: pairs: got 0"),
        (["--model", "resnet50"], "localization.py: weights: got nothing, expected a checkpoint"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(Localization, [*arguments, "--methods", "Centre", "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_photographs_do_not_know_the_truth():
    with pytest.raises(InputError, match="dataset: got tiny, expected one that knows the truth"):
        Localization().run(tiny_target(), TinyWorld(), methods=["Centre"])


@pytest.mark.slow
def test_the_map_of_a_difference():
    """Absolute change of the map, or of the reference's; or the method's own word for it."""
    target = small_target()
    layer = target.layer
    x, y, match = torch.randn(3, 1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    region = torch.ones(1, 1, 64, 32, dtype=torch.bool)
    pair = Pair(x, y, match, region, region, torch.tensor([0]))
    methods = find_methods(["GradFAM", "GradRAM", "ExtremalFAMFast"], all_methods())
    explain = {name: method.on(target) for name, method in methods.items()}
    bench = Bench(target, TinyWorld(), Group(), explain, methods)

    own, difference = maps_of(bench, "GradFAM", pair)
    fam = GradFAM(target.embedding, layer)
    assert torch.equal(own, fam.attribute(x))
    assert torch.equal(difference, (fam.attribute(x) - fam.attribute(y)).abs())

    own, difference = maps_of(bench, "GradRAM", pair)
    ram = GradRAM(target.embedding, layer)
    assert torch.equal(own, ram.attribute(x, match))
    assert torch.equal(difference, (ram.attribute(x, x) - ram.attribute(x, y)).abs())

    own, difference = maps_of(bench, "ExtremalFAMFast", pair)
    asked = ExtremalFAM(target.embedding, layer, rounds=1, descents=4)
    assert torch.equal(own, asked.attribute(x))
    assert torch.equal(difference, asked.attribute(x, y, explains="difference"))


@pytest.mark.slow
def test_pairs_show_their_change(world):
    target = Target(small_reid_net(), spec=InputSpec())
    bench = Bench(target, world, Group())
    cases = Localization(pairs=1).cases(bench)
    assert len({case.data[1] for case in cases}) == len(cases) == len({c.name for c in cases})
    assert [case.name for case in Localization(pairs=1).cases(bench)] == [c.name for c in cases]
    for case in cases[::8]:
        pair = pair_of(bench, *case.data)
        assert pair.change.sum() >= SMALLEST_REGION
        outside = ~pair.change.expand_as(pair.original)
        assert torch.equal(pair.original[outside], pair.changed[outside])
        assert not torch.equal(pair.original, pair.changed)


def test_masks_follow_the_size_of_the_images(world):
    """A letterboxed mask is where the letterboxed image is."""
    sizes = [InputSpec(), InputSpec((128, 128), resize="letterbox")]
    pairs = []
    for spec in sizes:
        bench = Bench(Target(small_reid_net(), spec=spec), world, Group())
        pairs.append(pair_of(bench, world.query[0], "hat"))
    plain, boxed = pairs
    assert boxed.person.shape == (1, 1, 128, 128)
    assert not boxed.person[..., :32].any()
    assert int(boxed.person.sum()) == pytest.approx(int(plain.person.sum()) / 4, rel=0.05)
