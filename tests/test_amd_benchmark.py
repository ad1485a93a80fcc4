"""benchmarks/amd.py from training to figures, on a small world."""

import csv
import json
import subprocess
import sys

import amd
import amd_systems
import amd_truth
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from reid_explain.amd import AMDInterpreter, AMDLoss
from reid_explain.amd.trainer import batches, pair_terms
from reid_explain.datasets import Market1501
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.training.images import TrainingImages, augmentation, cached_pixels

TRAIN = """train --epochs 2 --images-per-epoch 12 --identities 3 --instances 2
    --warmup-epochs 1 --learning-rate 3e-4 --precision bfloat16 --stored-dtype float16"""

DUKE = "market1501 -> dukemtmc"


@pytest.fixture(scope="module")
def world():
    return SyntheticReID(train_identities=6, test_identities=4, images_per_camera=2, distractors=2)


def run(world, *arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (amd, amd_systems):
            patch.setattr(module, "open_dataset", lambda name, root: world)
        amd.main([word for argument in arguments for word in str(argument).split()])


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("amd") / "run"
    run(world, TRAIN, "--output", output)
    return output


def test_a_training_leaves_an_interpreter_and_its_log(trained, world):
    assert {path.name for path in trained.iterdir()} == {
        "checkpoint",
        "interpreter.safetensors",
        "log.csv",
        "log.png",
        "settings.json",
        "train_images.npy",
    }
    loaded = AMDInterpreter.load(trained / "interpreter.safetensors", load_pretrained("synthetic"))
    assert loaded.attributes == tuple(world.attribute_names)
    assert loaded.network.frequencies.isfinite().all()
    assert (trained / "interpreter.safetensors").stat().st_size < 8e6


def test_a_finished_training_is_not_trained_again(trained, world, capsys):
    before = (trained / "interpreter.safetensors").read_bytes()
    run(world, TRAIN, "--resume --output", trained)
    assert (trained / "interpreter.safetensors").read_bytes() == before
    assert "epoch" not in capsys.readouterr().err


def test_evaluate_prints_the_tables_of_the_paper(trained, world, tmp_path, capsys):
    file = trained / "interpreter.safetensors"
    run(world, "evaluate --pairs 1 --interpreter", file, "--output", tmp_path / "a")
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


def test_published_rows_are_marked(trained, world, tmp_path, capsys):
    file = trained / "interpreter.safetensors"
    for name, flags in (("market1501", ""), ("dukemtmc", "--cross-domain")):
        other = SyntheticReID(
            train_identities=6, test_identities=4, images_per_camera=2, distractors=2
        )
        other.name = name
        run(other, f"evaluate --pairs 1 {flags} --interpreter", file, "--output", tmp_path / name)
    first, second = capsys.readouterr().out.split("\ndukemtmc ", 1)
    own, cross = (f"published, full test split: {name}  " for name in ("market1501", DUKE))
    assert own in first
    assert own not in second
    assert cross in second
    assert DUKE not in first
    assert "OSNet" in first
    assert "OSNet" not in second


def test_systems_take_what_a_training_left(trained, world, tmp_path, capsys):
    run(world, "cross-domain", trained, "--output", tmp_path)
    file = trained / "interpreter.safetensors"
    interpreter = amd_systems.open_interpreter("synthetic", None, file, "cpu")
    expected = amd_systems.measure(interpreter, world, workers=0)
    results = json.loads((tmp_path / "run_on_synthetic" / "results.json").read_text())
    assert {name: results[name] for name in expected} == expected
    assert "\nrun: synthetic  target " in capsys.readouterr().out


def test_explain_draws_pairs_averages_and_masks(trained, world, tmp_path):
    file = trained / "interpreter.safetensors"
    run(world, "explain --figures 2 --interpreter", file, "--output", tmp_path / "a")
    pictures = {path.name for path in (tmp_path / "a").glob("*.png")}
    assert pictures == {
        *("pair_00.png", "pair_01.png", "average_maps.png", "masks_00.png", "masks_01.png")
    }


def test_one_difference_pairs_differ_in_one_attribute(world):
    pairs = list(amd_truth.one_differences(world, 1, seed=0))
    assert len({pair.attribute for pair in pairs}) == len(pairs) > 15
    for pair in pairs:
        assert pair.mask.sum() >= amd_truth.SMALLEST
        differs = (pair.original != pair.changed).any(1, keepdim=True)
        assert torch.equal(differs, pair.change)
        assert any(torch.equal(pair.shown, view) for view in (pair.original, pair.changed))


def test_the_truth_is_scored_as_it_says(world):
    """An interpreter that knows everything: its maps are the masks, its ranks the truth."""
    pair = next(amd_truth.one_differences(world, 1, seed=0))

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

    figures = amd_truth.score(Knows(), pair)
    assert figures["first"] == figures["top"] == figures["map_energy"] == 1
    assert figures["change_energy"] == 1
    assert figures["contribution"] == 0.5
    assert figures["mask_area"] == pytest.approx(float(pair.mask.float().mean()))
    assert np.isclose(figures["change_area"], float(pair.change.float().mean()))


def refused(world, *words):
    with pytest.raises(SystemExit) as caught:
        run(world, *words)
    return str(caught.value)


def test_wrong_input_ends_with_one_line(trained, world, tmp_path):
    file = trained / "interpreter.safetensors"
    out = ("--output", tmp_path / "a")
    assert "--output: got" in refused(world, TRAIN, "--output", trained)
    assert "other settings" in refused(world, TRAIN, "--resume --seed 3 --output", trained)
    assert "path: got" in refused(world, "evaluate --interpreter", tmp_path / "none", *out)
    assert "--weights: got nothing" in refused(
        world, "evaluate --target osnet_x0_25 --interpreter", file, *out
    )
    assert "--interpreter: got nothing" in refused(
        world, "evaluate --target osnet_x0_25 --weights x.pth", *out
    )

    class OtherAttributes(SyntheticReID):
        attribute_names = ("beard", *SyntheticReID.attribute_names[1:])

    other = OtherAttributes(train_identities=4, test_identities=2, distractors=0)
    assert "or --cross-domain" in refused(other, "evaluate --interpreter", file, *out)


ONE_BATCH = """train --dataset market1501 --epochs 1 --images-per-epoch 8 --identities 4
    --instances 2 --warmup-epochs 0 --learning-rate 1e-4"""


def test_two_processes_share_a_batch(world, tmp_path):
    """The loss of one batch is the mean of what each process finds in its half."""
    world.export(tmp_path / "world")
    exported = Market1501(tmp_path / "world")
    words = [*ONE_BATCH.split(), "--root", str(tmp_path / "world"), "--output"]
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2"
    done = subprocess.run(
        [sys.executable, *launcher.split(), amd.__file__, *words, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    halves = [half_loss(exported, tmp_path / f"{k}", k) for k in range(2)]
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) == pytest.approx(sum(halves) / 2, rel=1e-5)
    assert abs(halves[0] - halves[1]) > 1e-3
    target = load_pretrained("synthetic")
    loaded = AMDInterpreter.load(tmp_path / "run" / "interpreter.safetensors", target)
    assert not loaded.network.prototypes.isnan().any()


def half_loss(dataset, folder, process):
    """Return the loss of an untrained interpreter on one process's half of the first batch."""
    settings = amd.parse_arguments([*ONE_BATCH.split(), "--output", str(folder)])
    recipe = amd.recipe_of(settings)
    interpreter = amd.untrained(settings, dataset)
    folder.mkdir()
    labels = record_labels(dataset, dataset.train, interpreter.attributes)
    pixels = cached_pixels(dataset, dataset.train, interpreter.spec, folder / "images.npy")
    augment = augmentation(interpreter.spec, erasing=0)
    images = TrainingImages(pixels, labels.unbind(), recipe.seed, augment)
    share = (recipe.images_per_epoch, 0, process, 2)
    ((images, labels),) = batches(images, dataset.train, recipe, *share)
    interpreter.network.train()
    terms = pair_terms(interpreter.network(images), labels, AMDLoss(recipe.distillation))
    return float(sum(terms.values()).detach())
