"""Training an interpreter: pairs by hand, frozen target, exact resume, best epoch, prototypes."""

import copy
import csv
import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from worlds import drawn_once

from reid_explain import InputError
from reid_explain.amd import (
    AMDInterpreter,
    AMDLoss,
    Calibration,
    Decomposed,
    calibrate,
    pair_labels,
    trainer,
)
from reid_explain.amd.recipe import Recipe
from reid_explain.amd.trainer import pair_terms, train_interpreter, training_parts
from reid_explain.datasets.attributes import record_labels
from reid_explain.inputs import InputSpec
from reid_explain.models.reid import ReIDNet
from reid_explain.training.loop import TrainingLoop

pytestmark = pytest.mark.slow
SPEC = InputSpec(size=(64, 32))
RECIPE = Recipe(
    epochs=3,
    images_per_epoch=24,
    identities=3,
    instances=2,
    warmup_epochs=1.0,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module")
def world():
    return drawn_once(train_identities=8, test_identities=2, images_per_camera=2, distractors=0)


@pytest.fixture
def target():
    torch.manual_seed(0)
    return ReIDNet("resnet18", width=1 / 16, pooling="gem").eval()


def untrained(target, world):
    torch.manual_seed(1)
    return AMDInterpreter(target, world.attribute_names, spec=SPEC)


def train(target, world, folder, recipe=RECIPE, **options):
    AcceleratorState._reset_state(reset_partial_state=True)
    interpreter = untrained(target, world)
    options.setdefault("accelerator", Accelerator(cpu=True))
    return interpreter, train_interpreter(interpreter, world, folder, recipe, **options)


def weights(interpreter):
    return {key: value.clone() for key, value in interpreter.network.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    torch.manual_seed(0)
    network = ReIDNet("resnet18", width=1 / 16, pooling="gem").eval()
    folder = tmp_path_factory.mktemp("amd")
    interpreter, log = train(network, world, folder)
    return interpreter, log, folder


def test_the_terms_are_those_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(5, 4, 3, generator=generator)
    embeddings = torch.rand(5, 6, generator=generator)
    labels = torch.randint(0, 3, (5, 4), generator=generator)
    loss = AMDLoss()
    found = pair_terms(Decomposed(embeddings, parts, parts[..., None]), labels, loss)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    distances = torch.stack([(parts[i] - parts[j]).norm(dim=-1) for i, j in pairs])
    target = torch.stack([(embeddings[i] - embeddings[j]).norm() for i, j in pairs])
    first, second = (labels[[pair[k] for pair in pairs]] for k in range(2))
    expected = loss(distances, target, pair_labels(first, second))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_training_changes_the_interpreter_and_nothing_of_the_target(target, world, tmp_path):
    target.neck.weight.requires_grad_(False)
    before = copy.deepcopy(target.state_dict())
    flags = [parameter.requires_grad for parameter in target.parameters()]
    start = weights(untrained(target, world))
    interpreter, log = train(target, world, tmp_path)
    end = weights(interpreter)
    assert same(before, target.state_dict())
    assert [parameter.requires_grad for parameter in target.parameters()] == flags
    assert all(parameter.grad is None for parameter in target.parameters())
    assert not interpreter.network.training
    changed = {key.split(".")[0] for key in start if not torch.equal(start[key], end[key])}
    assert changed == {"stages", "head", "prototypes", "frequencies"}
    assert len(log) == 3


def test_the_log_says_the_terms_and_the_learning_rate(trained):
    _, log, folder = trained
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == log
    for row in log:
        terms = row["distillation"] + row["prior_total"] + row["prior_each"]
        assert row["loss"] == pytest.approx(terms, rel=1e-5)
    # Four batches an epoch: the last rates of warm-up and of the cosine, at 3/4 of an epoch.
    assert log[0]["learning_rate"] == pytest.approx(1e-3 * (0.01 + 0.99 * 0.75))
    cosine = (1 + torch.cos(torch.tensor(torch.pi * 0.375))).item() / 2
    assert log[1]["learning_rate"] == pytest.approx(1e-3 * cosine)


def test_the_loss_falls(target, world, tmp_path):
    recipe = Recipe(
        epochs=12, images_per_epoch=24, identities=3, instances=2, warmup_epochs=1.0,
        learning_rate=3e-3,
    )  # fmt: skip
    log = train(target, world, tmp_path, recipe)[1]
    losses = [row["loss"] for row in log]
    assert sum(losses[-3:]) < 0.93 * sum(losses[:3])


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("step", [1, 6])
def test_an_interrupted_training_ends_with_the_same_weights(
    step, trained, target, world, tmp_path, monkeypatch
):
    calls = []
    original = TrainingLoop._train_batch
    flags = [parameter.requires_grad for parameter in target.parameters()]

    def fail(self, *batch):
        calls.append(batch)
        if len(calls) == step:
            raise Interrupted
        return original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_train_batch", fail)
        with pytest.raises(Interrupted):
            train(target, world, tmp_path)
    assert [parameter.requires_grad for parameter in target.parameters()] == flags
    torch.randn(3)
    interpreter, _ = train(target, world, tmp_path)
    assert same(weights(interpreter), weights(trained[0]))


def test_workers_do_not_change_the_result_and_the_seed_does(trained, target, world, tmp_path):
    interpreter, _ = train(target, world, tmp_path / "workers", workers=1)
    assert same(weights(interpreter), weights(trained[0]))
    seeded = Recipe(**{**RECIPE.__dict__, "seed": 1})
    other, _ = train(target, world, tmp_path / "seed", seeded)
    assert not same(weights(other), weights(trained[0]))


def test_prototypes_are_the_means_of_each_label(trained, world):
    interpreter = trained[0]
    images = torch.stack([SPEC.to_tensor(world.load(record)) for record in world.train])
    labels = record_labels(world, world.train, world.attribute_names)
    parts = interpreter.decompose(images).parts
    for value in (1, 2):
        for k in range(26):
            chosen = labels[:, k] == value
            found = interpreter.network.prototypes[value - 1, k]
            if chosen.any():
                torch.testing.assert_close(found, parts[chosen, k].mean(0), rtol=1e-4, atol=1e-5)
            else:
                assert found.isinf().all()
    predicted = interpreter.predict(parts)
    only_one = (labels == labels[0]).all(0)
    assert (predicted[:, only_one] == labels[0, only_one]).all()
    people = torch.stack(
        [torch.as_tensor(world.labels[i]) for i in {r.identity for r in world.train}]
    )
    torch.testing.assert_close(interpreter.network.frequencies, (people == 2).float().mean(0))


def test_the_best_epoch_is_kept_and_patience_ends_a_training(target, world, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.5])
    kept = []

    def told(step, loader):
        assert not step.training
        assert len({r for r in loader.dataset.labels}) == len(loader.dataset)
        kept.append({k: v.clone() for k, v in step.network.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(trainer, "validation_loss", told)
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 5, "validation_identities": 3, "patience": 2})
    interpreter, log = train(target, world, tmp_path, recipe)
    assert [row["validation_loss"] for row in log] == [3.0, 1.0, 2.0, 2.5]
    end = weights(interpreter)
    trained_parts = [key for key in end if key.split(".")[0] in ("stages", "head")]
    assert all(torch.equal(end[key], kept[1][key]) for key in trained_parts)
    last = load_file(tmp_path / "checkpoint" / "0004" / "model.safetensors")
    assert all(torch.equal(last[f"network.{key}"], kept[3][key]) for key in trained_parts)
    assert 0 < end["scale"] != 1
    # Once more on the finished run: nothing is trained, the same epoch is the best.
    again, _ = train(target, world, tmp_path, recipe)
    assert same(weights(again), end)


def test_the_validation_loss_is_the_loss_of_the_held_out_people(target, world, tmp_path):
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 1, "validation_identities": 3})
    parts = training_parts(untrained(target, world), world, recipe)
    records = [part.records for part in parts]
    people = [{record.identity for record in part} for part in records]
    assert len(people[1]) == 3
    assert not people[0] & people[1]
    assert sum(map(len, records)) == len(world.train)
    log = train(target, world, tmp_path, recipe)[1]
    assert 0 < log[0]["validation_loss"] < 20


def test_the_scale_is_that_of_the_held_out_people(target, world, tmp_path):
    recipe = Recipe(**{**RECIPE.__dict__, "epochs": 2, "validation_identities": 3})
    first, _ = train(target, world, tmp_path, Recipe(**{**recipe.__dict__, "epochs": 1}))
    resumed, _ = train(target, world, tmp_path, recipe)
    whole, _ = train(target, world, tmp_path / "whole", recipe)
    assert same(weights(resumed), weights(whole))
    assert resumed.network.scale != first.network.scale
    told = json.loads((tmp_path / "calibration.json").read_text())
    held_out = training_parts(resumed, world, recipe)[1].records
    resumed.network.scale.fill_(1)
    found = calibrate(resumed, world, held_out, composite=True)
    assert Calibration(**told) == pytest.approx(found)
    assert same(weights(resumed), weights(whole))
    assert found.identities == 3
    # What is trained further is not calibrated by what was.
    AcceleratorState._reset_state(reset_partial_state=True)
    further = untrained(target, world)
    further.network.scale.fill_(7)
    train_interpreter(
        further, world, tmp_path / "further", recipe, accelerator=Accelerator(cpu=True)
    )
    assert same(weights(further), weights(whole))


def test_bfloat16_keeps_the_distances_in_float32(target, world, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    mixed = Accelerator(cpu=True, mixed_precision="bf16")
    _, log = train(target, world, tmp_path / "a", accelerator=mixed)
    _, exact = train(target, world, tmp_path / "b")
    assert log[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.05)


def test_what_cannot_be_trained(target, world, tmp_path):
    for count in (1, 2, 6, 9):
        recipe = Recipe(**{**RECIPE.__dict__, "validation_identities": count})
        with pytest.raises(InputError, match="validation_identities: got"):
            train(target, world, tmp_path / "a", recipe)
    with pytest.raises(InputError, match="labels: got 8 identities, expected at least 9"):
        train(target, world, tmp_path / "b", Recipe(**{**RECIPE.__dict__, "identities": 9}))
    other = AMDInterpreter(target, ["beard", "glasses"], spec=SPEC)
    with pytest.raises(InputError, match="without labels of beard, glasses"):
        train_interpreter(other, world, tmp_path / "c", RECIPE)
