"""Distillation: its terms by hand, and a run that an interruption leaves as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import Interrupted, fail_at, log, make_market, run

from reid_explain.benchmark import distill
from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.benchmark.distill import Distillation
from reid_explain.benchmark.train_target import TargetTraining
from reid_explain.models import load_trained
from reid_explain.training import loop
from reid_explain.training.distillation import DistillationStep


def by_loops(own, adapted, goals, weight):
    def cos(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    count = len(own)
    missed = [1 - cos(a, t) for a, t in zip(adapted, goals, strict=True)]
    pairs = [
        (cos(own[i], own[j]) - cos(goals[i], goals[j])) ** 2
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    return sum(missed) / count, weight * sum(pairs) / len(pairs)


def test_the_terms_are_those_of_plain_loops():
    torch.manual_seed(0)
    images, goals, indices = torch.randn(5, 4), torch.randn(9, 3), torch.tensor([8, 0, 3, 2, 5])
    step = DistillationStep(nn.Linear(4, 6), 6, goals, weight=2.5)
    own = step.model(images).detach().numpy()
    adapted = own @ step.adapter.weight.detach().numpy().T
    terms = step(images, indices)
    assert list(terms) == ["embedding", "similarity"]
    expected = by_loops(own, adapted, goals[indices].numpy(), 2.5)
    assert [value.item() for value in terms.values()] == pytest.approx(expected, abs=1e-5)


def test_a_turned_and_scaled_copy_of_the_teacher_has_nothing_to_learn():
    torch.manual_seed(0)
    images = torch.randn(5, 4)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    step = DistillationStep(nn.Identity(), 4, 3 * images @ turn)
    step.adapter.weight.data = turn.T
    terms = step(images, torch.arange(5))
    assert [value.item() for value in terms.values()] == pytest.approx([0, 0], abs=1e-5)


def test_one_image_has_no_pairs():
    step = DistillationStep(nn.Identity(), 4, torch.randn(1, 4))
    assert step(torch.randn(1, 4), torch.tensor([0]))["similarity"].item() == 0


class Tokens(nn.Module):
    """A class token and a patch for each pixel, as they are."""

    channels = 3

    def features(self, images):
        patches = images.flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)

    def embed(self, tokens):
        return tokens[:, 0]


def test_maps_are_mirrored_with_their_images():
    torch.manual_seed(0)
    images = torch.randn(64, 3, 4, 2)
    step = DistillationStep(Tokens(), 3, images.mean((2, 3)), images)
    for layer in (step.adapter, step.at_place):
        layer.weight.data = torch.eye(3)
    step.at_place.bias.data.zero_()
    indices = torch.randperm(64)
    terms = step(images[indices], indices)
    assert list(terms) == ["embedding", "similarity", "places"]
    assert [value.item() for value in terms.values()] == pytest.approx([0, 0, 0], abs=1e-5)
    # Of an upright image and its mirrored map little fits.
    assert (images - images.flip(3)).square().mean() > 1
    seen = []
    step.model.features = lambda x: seen.append(x) or Tokens().features(x)
    step(images, torch.arange(64))
    same = (seen[0] == images).flatten(1).all(1)
    assert torch.equal(seen[0][~same], images[~same].flip(3))
    assert 16 < same.sum() < 48


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of a run whose teacher learned the same people for a moment."""
    folder = tmp_path_factory.mktemp("distillation")
    (folder / "market").mkdir()
    shared = {
        "dataset": "market1501",
        "root": make_market(folder / "market"),
        "backbone": "tiny",
        "image_size": (48, 24),
        "workers": 0,
    }
    teacher = TargetTraining(
        output=folder / "teacher", epochs=2, identities=4, instances=2, warmup_epochs=0, **shared
    )
    run(teacher)
    return Distillation(
        output=folder / "whole",
        teacher=folder / "teacher" / "model.json",
        epochs=3,
        batch=8,
        **shared,
    )


@pytest.mark.slow
def test_a_network_comes_to_embed_as_its_teacher(settings):
    run(replace(settings, epochs=40, learning_rate=1e-2))
    rows = log(settings.output)
    missed = [float(row["embedding"]) for row in rows]
    assert sum(missed[-3:]) < 0.6 * sum(missed[:3])
    results = json.loads((settings.output / "results.json").read_text())
    assert results["queries"] == 16
    assert load_trained(settings.output / "model.json").embedding_dim == 8


@pytest.mark.slow
def test_an_interruption_leaves_no_trace(settings, tmp_path, monkeypatch):
    whole = run(replace(settings, output=tmp_path / "whole"))
    own = replace(settings, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, loop.TrainingLoop, "_train_batch", 6)
        with pytest.raises(Interrupted):
            run(own)
    # What the teacher said is in the run's folder.
    monkeypatch.setattr(distill, "embed_records", None)
    run(replace(own, resume=True))
    files = [(folder / "model.safetensors").read_bytes() for folder in (own.output, whole)]
    assert files[0] == files[1]
    assert log(own.output) == log(whole)


@pytest.mark.slow
def test_maps_of_the_teacher_are_means_over_places(settings):
    target, market = TargetOptions(weights=settings.teacher).open(), settings.open_dataset()
    found = distill.taught(target, market, (2, 1))
    images = torch.stack([target.spec.to_tensor(market.load(r)) for r in market.train])
    with torch.no_grad():
        maps = target.model.maps(images)
    halves = torch.stack([maps[:, :, :3].mean((2, 3)), maps[:, :, 3:].mean((2, 3))], dim=2)
    scale = halves.square().mean(dim=(0, 2), keepdim=True).sqrt()
    torch.testing.assert_close(found["goals"], target.model(images).detach(), atol=1e-5, rtol=1e-5)
    wanted = (halves / scale)[..., None]
    torch.testing.assert_close(found["maps"].float(), wanted, atol=5e-3, rtol=5e-3)


@pytest.mark.slow
def test_places_are_learned_by_a_transformer(settings, tmp_path):
    own = replace(
        settings,
        output=tmp_path / "run",
        backbone="transreid",
        image_size=(64, 32),
        options={"embed_dim": 64, "depth": 2},
        places=(4, 2),
        epochs=12,
    )
    rows = log(run(own))
    assert float(rows[-1]["places"]) < 0.7 * float(rows[0]["places"])


@pytest.mark.slow
def test_numbers_of_the_network_and_its_image_size(settings, tmp_path):
    own = replace(
        settings,
        output=tmp_path / "run",
        backbone="transreid",
        image_size=(64, 32),
        options={"embed_dim": 64, "depth": 1, "stride": 16},
        epochs=1,
    )
    run(own)
    model = load_trained(own.output / "model.json")
    assert (model.token_grid, model.embedding_dim, len(model.base.blocks)) == ((4, 2), 64, 1)
