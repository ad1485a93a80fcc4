"""benchmarks/localisation.py from end to end, on the shipped target."""

import json

import localisation
import pytest
import torch
from localisation import FIGURES, Pair, maps_of, score
from methods import explainers
from nets import small_reid_net
from PIL import Image
from subjects import Subject
from targets import Target

from reid_explain import ExtremalFAM
from reid_explain.datasets import SyntheticReID

ARGUMENTS = ["--methods", "GradFAM,GradRAM,Centre", "--pairs", "1"]


def test_an_interrupted_run_ends_with_the_same_table(tmp_path, capsys):
    whole = tmp_path / "whole"
    localisation.main([*ARGUMENTS, "--output", str(whole)])
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:5]] == [
        "GradFAM",
        "GradRAM",
        "Centre",
        "chance",
    ]
    with Image.open(whole / "localisation.png") as picture:
        assert picture.width > 1000

    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    rows = (whole / "per_image.csv").read_bytes()
    (cut / "per_image.csv").write_bytes(rows[: len(rows) // 2])
    localisation.main([*ARGUMENTS, "--output", str(cut), "--resume"])
    assert capsys.readouterr().out == table
    assert (cut / "per_image.csv").read_bytes() == rows
    assert (cut / "results.json").read_bytes() == (whole / "results.json").read_bytes()

    results = json.loads((whole / "results.json").read_text())
    assert results["pairs"] == 26
    for figure in FIGURES:
        for name, figures in results["methods"].items():
            value = figures[figure]
            assert value["interval"][0] <= value["mean"] <= value["interval"][1], name
            assert value["lead"] == pytest.approx(value["mean"] - value["chance"])
    centre = results["methods"]["Centre"]
    assert centre["change_energy"]["lead"] == 0  # a fixed map shows no difference: chance
    assert centre["change_pointing"]["lead"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "GradFAM,LIME"], "--methods: got LIME, expected names among"),
        (["--pairs", "0"], "--pairs: got 0"),
        (["--model", "resnet50"], "--weights: got nothing, expected a checkpoint"),
        (["--layer", "backbone.layer5"], "layer: got 'backbone.layer5'"),
        (["--device", "cuda:7"], "--device: got cuda:7"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        localisation.main([*arguments, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_map_of_a_difference():
    """Absolute change of the map, or of the reference's; or the method's own word for it."""
    model = small_reid_net()
    target = Target(model, model.backbone.layer4)
    x, y, match = torch.randn(3, 1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    region = torch.ones(1, 1, 64, 32, dtype=torch.bool)
    pair = Pair("a.jpg", "hat", x, y, match, region, region)
    fam, ram = explainers(target, ("GradFAM", "GradRAM")).values()
    classes = torch.tensor([0])
    own, difference = maps_of("GradFAM", fam, pair, classes)
    expected = [fam(Subject(image, match, classes)) for image in (x, y)]
    assert torch.equal(own, expected[0])
    assert torch.equal(difference, (expected[0] - expected[1]).abs())
    own, difference = maps_of("GradRAM", ram, pair, classes)
    expected = [ram(Subject(x, other, classes)) for other in (match, x, y)]
    assert torch.equal(own, expected[0])
    assert torch.equal(difference, (expected[1] - expected[2]).abs())
    extremal = explainers(target, ["ExtremalFAMFast"])["ExtremalFAMFast"]
    own, difference = maps_of("ExtremalFAMFast", extremal, pair, classes)
    assert torch.equal(own, extremal(Subject(x)))
    asked = ExtremalFAM(target.embedding, target.layer, rounds=1, descents=4)
    assert torch.equal(difference, asked.attribute(x, y, explains="difference"))
    assert score(pair, own, difference)["person_energy"] == pytest.approx(1)


def test_pairs_show_their_change():
    world = SyntheticReID(train_identities=0, test_identities=4, distractors=0)
    pairs = list(localisation.pairs(world, 1, seed=0))
    assert len({pair.attribute for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.change.sum() >= localisation.SMALLEST_REGION
        outside = ~pair.change.expand_as(pair.original)
        assert torch.equal(pair.original[outside], pair.changed[outside])
        assert not torch.equal(pair.original, pair.changed)
    again = list(localisation.pairs(world, 1, seed=0))
    assert [pair.name for pair in again] == [pair.name for pair in pairs]
