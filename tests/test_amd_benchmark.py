"""benchmarks/amd.py from training to figures, on a small world."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from nets import small_card
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from two_processes import run_script, two_processes
from worlds import drawn_once

from reid_explain.amd import AMDInterpreter, AMDLoss
from reid_explain.amd.recipe import Recipe
from reid_explain.amd.trainer import pair_terms, training_parts
from reid_explain.benchmark import attribute_truth, attributes
from reid_explain.datasets import Market1501
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.inputs import InputSpec
from reid_explain.models import load_trained
from reid_explain.training.images import TrainingImages, augmentation, cached_pixels

TRAIN = """train --epochs 2 --images-per-epoch 12 --identities 3 --instances 2
    --warmup-epochs 1 --learning-rate 3e-4 --precision bfloat16 --stored-dtype float16"""

DUKE = "market1501 -> dukemtmc"
SCRIPT = str(Path(__file__).parents[1] / "benchmarks" / "amd.py")


@pytest.fixture(scope="module")
def world():
    return drawn_once(train_identities=6, test_identities=4, images_per_camera=2, distractors=2)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return small_card(tmp_path_factory.mktemp("model"))


def run(world, *arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attributes, "open_dataset", lambda name, root: world)
        attributes.main([word for argument in arguments for word in str(argument).split()])


@pytest.fixture(scope="module")
def trained(world, card, tmp_path_factory):
    output = tmp_path_factory.mktemp("amd") / "run"
    run(world, TRAIN, "--weights", card, "--output", output)
    return output


@pytest.fixture(scope="module")
def interpreter(trained, card):
    loaded = AMDInterpreter.load(trained / "interpreter.safetensors", load_trained(card))
    return loaded.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def it(trained, card):
    """The words that name the interpreter."""
    return f"--weights {card} --interpreter {trained / 'interpreter.safetensors'}"


@pytest.mark.slow
def test_a_training_leaves_an_interpreter_and_its_log(trained, interpreter, world):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoint",
        "interpreter.safetensors",
        "log.csv",
        "log.png",
        "settings.json",
        "train_images.npy",
    }
    assert interpreter.attributes == tuple(world.attribute_names)
    assert interpreter.spec == InputSpec((64, 32))
    assert interpreter.network.frequencies.isfinite().all()
    stored = load_file(trained / "interpreter.safetensors")
    assert stored["head.conv1.weight"].dtype == torch.float16


@pytest.mark.slow
def test_a_finished_training_is_not_trained_again(trained, card, world, capsys):
    before = (trained / "interpreter.safetensors").read_bytes()
    run(world, TRAIN, "--weights", card, "--resume --output", trained)
    assert (trained / "interpreter.safetensors").read_bytes() == before
    assert "epoch" not in capsys.readouterr().err


@pytest.mark.slow
def test_calibration_by_those_who_were_held_out_is_that_of_the_training(
    card, world, tmp_path, capsys
):
    held_out = "--validation-identities 3 --weights"
    run(world, TRAIN, held_out, card, "--output", tmp_path / "train")
    trained = tmp_path / "train" / "interpreter.safetensors"
    words = f"calibrate --composite --identities 3 --stored-dtype float16 --weights {card}"
    run(world, words, "--interpreter", trained, "--output", tmp_path / "again")
    first, second = (
        json.loads((tmp_path / name / "calibration.json").read_text())
        for name in ("train", "again")
    )
    assert first == pytest.approx(second, rel=0.01)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scale ")]
    assert [line.split(":")[0] for line in lines] == [
        f"scale {found['scale']:.4f}" for found in (first, second)
    ]
    before, after = (
        load_file(path) for path in (trained, tmp_path / "again" / "interpreter.safetensors")
    )
    assert after["scale"].item() == pytest.approx(second["scale"])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key != "scale")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["calibrate --identities 2", "evaluate --pairs 1"])
def test_another_world(command, it, world, tmp_path, monkeypatch):
    seeds = []

    def drawn(name, root, seed):
        seeds.append(seed)
        return world

    monkeypatch.setattr(attributes, "open_dataset", drawn)
    attributes.main(f"{command} --world 5 {it} --output {tmp_path / 'a'}".split())
    assert seeds == [5]


@pytest.mark.parametrize("words", ["--dataset market1501", "--labels people.csv"])
def test_a_world_is_the_drawn_one(words, world, tmp_path):
    said = refused(world, "evaluate --world 5", words, "--output", tmp_path / "a")
    assert "world: got 5, expected none but of the drawn world" in said


@pytest.mark.slow
def test_evaluate_prints_the_tables_of_the_paper(it, world, tmp_path, capsys):
    run(world, "evaluate --pairs 1", it, "--output", tmp_path / "a")
    out = capsys.readouterr().out
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    lines = [[cell.strip() for cell in line.split("  ") if cell] for line in out.splitlines()]
    assert lines[1][:2] == ["synthetic", "target"]
    names = ("interpreter", "floor: one fixed order", "floor: random order")
    assert [line[0] for line in lines[2:5]] == [*names]
    assert "oracle: true labels" in out
    assert f"{results['X-mAP_e']['interpreter']['mean']:.2f}" in out
    assert f"{results['retrieval']['oracle']['mAP']:.2f}" in out
    assert "that attribute ranks first" in out
    truth = results["truth_by_pair"]
    assert len(truth) == results["truth"]["pairs"] > 5
    assert len({row["attribute"] for row in truth}) == len(truth)


@pytest.mark.slow
def test_published_rows_are_marked(it, world, tmp_path, capsys):
    for name, flags in (("market1501", ""), ("dukemtmc", "--cross-domain")):
        other = SimpleNamespace(
            name=name, query=world.query, gallery=world.gallery, load=world.load,
            attribute_names=world.attribute_names, labels=world.labels,
        )  # fmt: skip
        run(other, f"evaluate {flags}", it, "--output", tmp_path / name)
    first, second = capsys.readouterr().out.split("\ndukemtmc ", 1)
    own, cross = (f"published, full test split: {name}  " for name in ("market1501", DUKE))
    assert own in first
    assert own not in second
    assert cross in second
    assert DUKE not in first
    assert "OSNet" in first
    assert "OSNet" not in second


@pytest.mark.slow
def test_systems_take_what_a_training_left(trained, interpreter, world, tmp_path, capsys):
    run(world, "cross-domain", trained, "--output", tmp_path)
    expected = attributes.measure(interpreter, world)
    results = json.loads((tmp_path / "run_on_synthetic" / "results.json").read_text())
    assert {name: results[name] for name in expected} == expected
    assert "\nrun: synthetic  target " in capsys.readouterr().out


@pytest.mark.slow
def test_explain_draws_pairs_averages_and_masks(it, world, tmp_path):
    run(world, "explain --figures 2", it, "--output", tmp_path / "a")
    pictures = {path.name for path in (tmp_path / "a").glob("*.png")}
    assert pictures == {
        *("pair_00.png", "pair_01.png", "average_maps.png", "masks_00.png", "masks_01.png")
    }


@pytest.mark.slow
def test_one_difference_pairs_differ_in_one_attribute(world):
    pairs = list(attribute_truth.one_differences(world, 1, 0, InputSpec()))
    assert len({pair.attribute for pair in pairs}) == len(pairs) > 15
    for pair in pairs:
        assert pair.mask.sum() >= attribute_truth.SMALLEST
        differs = (pair.original != pair.changed).any(1, keepdim=True)
        assert torch.equal(differs, pair.change)
        assert any(torch.equal(pair.shown, view) for view in (pair.original, pair.changed))


def test_the_truth_is_scored_as_it_says(world):
    """An interpreter that knows everything: its maps are the masks, its ranks the truth."""
    pair = next(attribute_truth.one_differences(world, 1, 0, InputSpec()))

    class Knows:
        attributes = tuple(world.attribute_names)

        def index(self, name):
            return self.attributes.index(name)

        def attribute(self, query, attribute):
            return pair.mask.float()

        def explain(self, query, gallery):
            shares = torch.full((1, 26), 0.02)
            shares[0, self.index(pair.attribute)] = 0.5
            maps = pair.change.float().expand(1, 26, -1, -1)
            zeros = torch.zeros_like(maps)
            return type(
                "Found", (), dict(contributions=shares, query_maps=maps, gallery_maps=zeros)
            )

    scores = attribute_truth.score(Knows(), pair)
    assert scores["first"] == scores["top"] == scores["map_energy"] == 1
    assert scores["change_energy"] == 1
    assert scores["contribution"] == 0.5
    assert scores["mask_area"] == pytest.approx(float(pair.mask.float().mean()))
    assert np.isclose(scores["change_area"], float(pair.change.float().mean()))


def refused(world, *words):
    with pytest.raises(SystemExit) as caught:
        run(world, *words)
    return str(caught.value)


@pytest.mark.slow
def test_wrong_input_ends_with_one_line(trained, card, it, world, tmp_path):
    out = ("--output", tmp_path / "a")
    again = (f"{TRAIN} --weights", card, "--output", trained)
    assert "output: got" in refused(world, *again)
    assert "other settings" in refused(world, *again, "--resume --seed 3")
    assert "path: got" in refused(world, "evaluate --interpreter", tmp_path / "none", *out)
    assert "interpreter: got none" in refused(world, "evaluate --weights", card, *out)
    osnet = "evaluate --model osnet_x0_25"
    assert "weights: got nothing" in refused(world, osnet, *out)
    assert "model: got" in refused(
        world, it.replace("--weights", "evaluate --model synthetic --root"), *out
    )

    calibrate = (it.replace("--weights", "calibrate --weights"), *out)
    assert "identities: got 1, expected from 2 to 6" in refused(world, *calibrate, "--identities 1")
    assert "identities: got 50" in refused(world, *calibrate)
    elsewhere = (*calibrate, "--world 1 --dataset market1501 --root", tmp_path)
    assert "world: got 1, expected none" in refused(world, *elsewhere)

    class OtherAttributes(SyntheticReID):
        attribute_names = ("beard", *SyntheticReID.attribute_names[1:])

    other = OtherAttributes(train_identities=4, test_identities=2, distractors=0)
    assert "or --cross-domain" in refused(other, "evaluate", it, *out)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epochs 0", "epochs: got 0"),
        ("--epochs -1", "epochs: got -1"),
        ("--identities 7", "labels: got 6 identities"),
        ("--validation-identities 2", "validation_identities: got 2"),
        ("--instances 99", "images: got"),
    ],
)
def test_a_recipe_that_cannot_be_trained_claims_no_folder(words, message, card, world, tmp_path):
    """B22, B23."""
    assert message in refused(world, "train", words, "--weights", card, "--output", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_is_not_installed_is_one_line(card, world, tmp_path, monkeypatch):
    """B26."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    said = refused(world, "train --weights", card, "--output", tmp_path / "a")
    assert 'accelerate is not installed; pip install "reid-explain[train]"' in said
    assert "\n" not in said


ONE_BATCH = """train --dataset market1501 --epochs 1 --images-per-epoch 8 --identities 4
    --instances 2 --warmup-epochs 0 --learning-rate 1e-4"""


@pytest.mark.slow
def test_two_processes_share_a_batch(world, card, tmp_path):
    """The loss of one batch is the mean of what each process finds in its half."""
    world.export(tmp_path / "world")
    exported = Market1501(tmp_path / "world")
    words = [*ONE_BATCH.split(), "--weights", str(card), "--root", str(tmp_path / "world")]
    words += ["--output", str(tmp_path / "run")]
    two_processes(tmp_path, run_script, SCRIPT, words)
    halves = [half_loss(card, exported, tmp_path / f"{k}", k) for k in range(2)]
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert abs(halves[0] - halves[1]) > 1e-3
    file = tmp_path / "run" / "interpreter.safetensors"
    loaded = AMDInterpreter.load(file, load_trained(card))
    assert not loaded.network.prototypes.isnan().any()


def half_loss(card, dataset, folder, process):
    """Return the loss of an untrained interpreter on one process's half of the first batch."""
    recipe = Recipe(epochs=1, images_per_epoch=8, identities=4, instances=2, warmup_epochs=0)
    set_seed(recipe.seed)
    interpreter = AMDInterpreter(load_trained(card), dataset.attribute_names)
    interpreter.to(memory_format=torch.channels_last)
    part, _ = training_parts(interpreter, dataset, recipe, process, 2)
    folder.mkdir()
    pixels = cached_pixels(dataset, part.records, interpreter.spec, folder / "images.npy")
    augment = augmentation(interpreter.spec, erasing=0)
    images = TrainingImages(pixels, part.labels.unbind(), recipe.seed, augment)
    ((images, labels),) = DataLoader(images, batch_sampler=part.batches)
    interpreter.network.train()
    terms = pair_terms(interpreter.network(images), labels, AMDLoss(recipe.distillation))
    return float(sum(terms.values()).detach())
