"""The training recipe: its parts by hand, and that an interruption leaves no trace."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import train_target
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch.nn import functional

from reid_explain import InputError
from reid_explain.datasets import Market1501, Record
from reid_explain.inputs import InputSpec
from reid_explain.models import load_trained
from reid_explain.training import loop
from reid_explain.training.images import TrainingImages, augmentation, cached_pixels
from reid_explain.training.losses import CenterLoss, ReIDLoss
from reid_explain.training.sampling import Draw, IdentityBatches
from reid_explain.training.schedule import learning_rate_factor

# Sampling


LABELS = [0] * 5 + [1] * 4 + [2] * 9 + [3] + [4] * 6


def batches(epoch=0, seed=0, **kwargs):
    sampler = IdentityBatches(LABELS, 4, 3, 60, seed, **kwargs)
    sampler.epoch = epoch
    assert len(sampler) == 5
    return list(sampler)


def test_batches_have_p_identities_with_s_images_each():
    for batch in batches():
        groups = [[draw.image for draw in batch[i : i + 3]] for i in range(0, 12, 3)]
        people = [{LABELS[image] for image in group} for group in groups]
        assert all(len(person) == 1 for person in people)
        assert len(set.union(*people)) == 4
        for group, (person,) in zip(groups, people, strict=True):
            assert len(set(group)) == (1 if person == 3 else 3)  # Person 3 has one image.


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    np.random.seed(3)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    sampler = IdentityBatches(LABELS, 4, 3, 60, seed=0)
    sampler.epoch = 7
    list(sampler)
    sampler.epoch = 2
    assert list(sampler) == batches(epoch=2)
    assert batches(epoch=2) != batches(epoch=1) != batches(epoch=1, seed=1)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_processes_share_every_batch():
    parts = [batches(epoch=3, process=rank, processes=2) for rank in range(2)]
    joined = [first + second for first, second in zip(*parts, strict=True)]
    assert joined == batches(epoch=3)


def test_draws_of_an_epoch_are_numbered():
    positions = [draw.position for batch in batches(epoch=4) for draw in batch]
    assert positions == list(range(60))
    assert {draw.epoch for batch in batches(epoch=4) for draw in batch} == {4}


def test_batches_that_cannot_be_filled():
    with pytest.raises(InputError, match="labels: got 5 identities, expected at least 6"):
        IdentityBatches(LABELS, 6, 2, 60, 0)
    with pytest.raises(InputError, match="images: got 7"):
        IdentityBatches(LABELS, 4, 2, 7, 0)
    with pytest.raises(InputError, match="identities: got 4, expected a multiple of 3"):
        IdentityBatches(LABELS, 4, 2, 60, 0, processes=3)


# Images


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(1, 255, (2, 3, 48, 24), np.uint8)


def test_augmentation_depends_on_the_draw_and_nothing_else(pixels):
    images = TrainingImages(pixels, [4, 9], 0, augmentation(InputSpec((48, 24))))
    torch.manual_seed(1)
    first, label = images[Draw(1, 2, 3)]
    before = torch.random.get_rng_state()
    again, _ = images[Draw(1, 2, 3)]
    assert label == 9
    assert first.shape == (3, 48, 24)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
    others = [images[Draw(1, 3, 3)], images[Draw(1, 2, 4)], images[Draw(0, 2, 3)]]
    others.append(
        TrainingImages(pixels, [4, 9], 1, augmentation(InputSpec((48, 24))))[Draw(1, 2, 3)]
    )
    assert not any(torch.equal(first, other) for other, _ in others)


def test_augmentation_flips_shifts_and_erases():
    # A ramp from left to right: its sign is the flip; black from the padding shows the shift.
    ramp = np.broadcast_to(np.linspace(60, 200, 24).astype(np.uint8), (1, 3, 48, 24))
    images = TrainingImages(ramp, [0], 0, augmentation(InputSpec((48, 24))))
    drawn = torch.stack([images[Draw(0, 0, k)][0] for k in range(400)])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    erased = (drawn == 0).all(1)
    black = ((drawn * std[:, None, None] + mean[:, None, None]).abs() < 1e-3).all(1)
    share = erased.float().mean((1, 2))
    assert 0.4 < (share > 0).float().mean() < 0.6
    assert share[share > 0].min() > 0.01
    assert share.max() <= 0.41
    assert black.any(2).float().sum(1).max() <= 48
    assert 0 < black.all(2).sum(1).max() <= 10
    rows = drawn.masked_fill((erased | black)[:, None], torch.nan).nanmean((1, 2))
    left, right = rows[:, :12].nanmean(1), rows[:, 12:].nanmean(1)
    assert 0.4 < (left > right).float().mean() < 0.6


class Counting:
    """A data set of one colour per record that counts what it loads."""

    def __init__(self, blue=0):
        self.blue = blue
        self.loaded = 0

    def load(self, record):
        self.loaded += 1
        return Image.new("RGB", (7, 9), (record.identity, record.camera, self.blue))


def test_images_are_loaded_once_unless_they_changed(tmp_path):
    records = [Record(None, 10 * k, k) for k in range(9)]
    path = tmp_path / "images.npy"

    def cached(world, records=records):
        return cached_pixels(world, records, InputSpec((6, 4)), path, show_progress=False)

    first = Counting()
    pixels = cached(first)
    assert pixels.shape == (9, 3, 6, 4)
    assert pixels[4, :, 2, 2].tolist() == [40, 4, 0]
    assert first.loaded == 9
    again = Counting()
    assert np.array_equal(cached(again), pixels)
    assert again.loaded == 3
    assert cached(Counting(blue=5))[4, 2, 0, 0] == 5
    assert cached(Counting(blue=5), records[:8]).shape == (8, 3, 6, 4)
    (tmp_path / "images.npy").write_bytes(b"half a file")
    assert cached(Counting()).shape == (9, 3, 6, 4)


# Losses


def random_batch():
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(12, 5, generator=generator)
    logits = torch.randn(12, 7, generator=generator)
    return pooled, logits, torch.arange(12) // 3


def hardest(pooled, labels):
    """Return each anchor's farthest positive and nearest negative distance."""
    for anchor, label in zip(pooled, labels, strict=True):
        distance = (pooled - anchor).square().sum(1).sqrt()
        yield distance[labels == label].max(), distance[labels != label].min()


def test_identity_and_triplet_losses_by_hand():
    pooled, logits, labels = random_batch()
    terms = ReIDLoss()(pooled, logits, labels)
    target = functional.one_hot(labels, 7) * 0.9 + 0.1 / 7
    smooth = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(terms["identity"], smooth)
    by_hand = [(p - n + 0.3).clamp(min=0) for p, n in hardest(pooled, labels)]
    assert any(value == 0 for value in by_hand) or min(by_hand) > 0
    torch.testing.assert_close(terms["triplet"], torch.stack(by_hand).mean())
    soft = ReIDLoss("soft-triplet")(pooled, logits, labels)["soft-triplet"]
    by_hand = [functional.softplus(p - n) for p, n in hardest(pooled, labels)]
    torch.testing.assert_close(soft, torch.stack(by_hand).mean())


def test_easy_anchors_count_as_zero_in_the_mean():
    pooled = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    labels = torch.tensor([0, 0, 1, 1])
    loss = ReIDLoss()(pooled, torch.zeros(4, 2), labels)["triplet"]
    assert loss == 0
    pooled[1] = 2.6  # Nearer to a stranger than to its own; the other three are easy.
    by_hand = [(p - n + 0.3).clamp(min=0) for p, n in hardest(pooled, labels)]
    assert by_hand[1] == pytest.approx(0.5)
    assert sum(value > 0 for value in by_hand) == 1
    loss = ReIDLoss()(pooled, torch.zeros(4, 2), labels)["triplet"]
    torch.testing.assert_close(loss, sum(by_hand) / 4)


def test_circle_loss_by_hand():
    pooled, logits, labels = random_batch()
    unit = pooled / pooled.norm(dim=1, keepdim=True)
    losses = []
    for k, anchor in enumerate(unit):
        cosine = unit @ anchor
        same = labels == labels[k]
        negative = cosine[~same]
        same[k] = False
        positive = cosine[same]
        up = 128 * (negative + 0.25).clamp(min=0) * (negative - 0.25)
        down = -128 * (1.25 - positive).clamp(min=0) * (positive - 0.75)
        losses.append(functional.softplus(up.logsumexp(0) + down.logsumexp(0)))
    found = ReIDLoss("circle")(pooled, logits, labels)["circle"]
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)


def test_center_loss_by_hand():
    centers = CenterLoss(2, 2, weight=0.1)
    centers.centers.data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    pooled = torch.tensor([[3.0, 4.0], [1.0, 3.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    terms = ReIDLoss(centers=centers)(pooled, torch.zeros(2, 2), labels)
    assert terms["center"].item() == pytest.approx(0.1 * (25 + 4) / 2 / 2)
    terms["center"].backward()
    torch.testing.assert_close(centers.centers.grad[0], -0.1 * torch.tensor([3.0, 4.0]) / 2)


def test_losses_are_float32_under_autocast():
    pooled, logits, labels = random_batch()
    expected = ReIDLoss()(pooled, logits, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = ReIDLoss()(pooled, logits, labels)
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_unknown_losses_and_schedules():
    with pytest.raises(InputError, match="metric: got 'contrastive'"):
        ReIDLoss("contrastive")
    with pytest.raises(InputError, match="schedule: got 'linear'"):
        learning_rate_factor(0, 10, 1, "linear")


def test_learning_rate_by_hand():
    def factors(epochs, schedule):
        return [learning_rate_factor(epoch, 120, 10, schedule) for epoch in epochs]

    assert factors([0, 5, 10], "step") == pytest.approx([0.1, 0.55, 1])
    assert factors([39.9, 40, 69.9, 70, 119], "step") == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    assert factors([0, 10, 65, 120], "cosine") == pytest.approx([0.1, 1, 0.5, 0])
    assert factors([37.5], "cosine") == pytest.approx([(1 + math.cos(math.pi / 4)) / 2])
    assert learning_rate_factor(0, 5, 0, "cosine") == 1


# Runs


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Eight people to train on and four to test on, each with clothes of two colours."""
    root = tmp_path_factory.mktemp("market")
    generator = np.random.default_rng(0)
    splits = {"bounding_box_train": range(1, 9), "query": range(9, 13)}
    for folder, people in {**splits, "bounding_box_test": range(9, 13)}.items():
        (root / folder).mkdir()
        for person in people:
            clothes = np.random.default_rng(person).integers(40, 215, (2, 1, 3)).repeat(24, 0)
            for camera in (1, 2):
                for frame in (1, 2):
                    noise = generator.normal(0, 15, (48, 24, 3))
                    image = Image.fromarray((clothes + noise).clip(0, 255).astype(np.uint8))
                    image.save(root / folder / f"{person:04d}_c{camera}s1_{frame:06d}_00.jpg")
    return root


FIXED = """
    --dataset market1501 --image-size 48 24 --width 0.0625 --identities 4 --instances 2
    --epochs 3 --warmup-epochs 1 --images-per-epoch 32 --workers 0
"""


def command(market, output, *more):
    paths = ["--root", str(market), "--output", str(output)]
    return [*FIXED.split(), *paths, *" ".join(more).split()]


def train(market, output, *more):
    AcceleratorState._reset_state(reset_partial_state=True)
    train_target.main(command(market, output, *more))
    return (output / "model.safetensors").read_bytes()


def log(output):
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(market, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    return train(market, output), output


def test_a_run_leaves_what_it_promises(uninterrupted, market, capsys):
    weights, output = uninterrupted
    rows = log(output)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        total = float(row["identity"]) + float(row["triplet"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    results = json.loads((output / "results.json").read_text())
    assert json.loads((output / "model.json").read_text())["results"] == results
    assert results["dataset"] == "market1501"
    assert (results["queries"], results["gallery"]) == (16, 16)
    assert 0 <= results["mAP"] <= 100
    card = json.loads((output / "model.json").read_text())
    assert card["recipe"]["epochs"] == 3
    assert card["recipe"]["processes"] == 1
    model = load_trained(output / "model.json")
    world = Market1501(market)
    settings = train_target.parse_arguments(command(market, output))
    again = train_target.evaluate(model, world, settings, torch.device("cpu"))
    assert again == results
    # Finished: nothing is trained any more.
    assert train(market, output, "--resume") == weights
    assert "epoch" not in capsys.readouterr().err
    assert log(output) == rows


class Interrupted(BaseException):
    pass


def fail_at(monkeypatch, owner, name, call):
    """Raise in place of call number ``call`` (from 1)."""
    original, calls = getattr(owner, name), []

    def patched(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Interrupted
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, patched)


INTERRUPTIONS = {
    "before the first step": (loop.TrainingLoop, "_train_batch", 1),
    "in the first epoch": (loop.TrainingLoop, "_train_batch", 2),
    "in the second epoch": (loop.TrainingLoop, "_train_batch", 7),
    "before a checkpoint": (Accelerator, "save_state", 2),
    "between the files of a checkpoint": (torch, "save", 4),
    "before the log": (loop.TrainingLoop, "_write_log", 2),
    "before the last checkpoint is removed": (loop.shutil, "rmtree", 1),
    "before the evaluation": (train_target, "evaluate", 1),
}


@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_an_interruption_leaves_no_trace(where, market, uninterrupted, tmp_path, monkeypatch):
    weights, whole = uninterrupted
    with monkeypatch.context() as patch:
        fail_at(patch, *INTERRUPTIONS[where])
        with pytest.raises(Interrupted):
            train(market, tmp_path / "run")
    torch.manual_seed(99)
    torch.randn(3)
    assert train(market, tmp_path / "run", "--resume") == weights
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert left == {path.name for path in whole.rglob("*")}
    timeless = [{k: v for k, v in row.items() if k != "seconds"} for row in log(tmp_path / "run")]
    assert timeless == [{k: v for k, v in row.items() if k != "seconds"} for row in log(whole)]


def test_workers_do_not_change_the_result(market, uninterrupted, tmp_path):
    assert train(market, tmp_path / "run", "--workers 2") == uninterrupted[0]


def test_the_seed_does(market, uninterrupted, tmp_path):
    assert train(market, tmp_path / "run", "--seed 1") != uninterrupted[0]


OPTIONS = "--metric-loss soft-triplet --pooling gem --centre-loss --schedule cosine"


def test_every_option_resumes_exactly(market, tmp_path, monkeypatch):
    whole = train(market, tmp_path / "whole", OPTIONS)
    with monkeypatch.context() as patch:
        fail_at(patch, loop.TrainingLoop, "_train_batch", 7)
        with pytest.raises(Interrupted):
            train(market, tmp_path / "run", OPTIONS)
    assert train(market, tmp_path / "run", OPTIONS, "--resume") == whole
    assert "center" in log(tmp_path / "run")[0]
    assert load_trained(tmp_path / "run" / "model.json").pool.p.item() != 3


def test_other_networks_precision_and_storage(market, tmp_path):
    network = "--backbone osnet_x0_25 --metric-loss circle --precision bfloat16"
    train(market, tmp_path / "run", network, "--stored-dtype float16 --epochs 1")
    model = load_trained(tmp_path / "run" / "model.json")
    assert model.classifier.weight.shape == (8, 512)
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < 6e5


def test_the_loss_falls(market, tmp_path):
    more = "--epochs 25 --warmup-epochs 2 --learning-rate 0.002 --schedule cosine"
    train(market, tmp_path / "run", more)
    losses = [float(row["loss"]) for row in log(tmp_path / "run")]
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


def refused(market, output, *more):
    with pytest.raises(SystemExit) as caught:
        train(market, output, *more)
    return str(caught.value)


def test_wrong_input_ends_with_one_line(market, uninterrupted, tmp_path):
    output = uninterrupted[1]
    assert "--output: got" in refused(market, output)
    assert "other settings" in refused(market, output, "--resume --epochs 4")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "--output: got" in refused(market, tmp_path / "mine", "--resume")
    assert "root: got no folder" in refused(tmp_path, tmp_path / "a")
    assert "identities" in refused(market, tmp_path / "b", "--identities 9")
    no_root = [word for word in command("", tmp_path / "c") if word not in ("--root", "")]
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit, match="--root: got nothing"):
        train_target.main(no_root)


def one_step(market, output, monkeypatch, process):
    """Return the network after its first step on one of two processes' part of a batch."""

    def part(*arguments):
        return IdentityBatches(*arguments[:-2], process, 2)

    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(train_target, "IdentityBatches", part)
        patch.setattr(train_target, "finish", lambda *_: kept.append(_[-1].saved))
        AcceleratorState._reset_state(reset_partial_state=True)
        train_target.main(command(market, output, ONE_STEP))
    return kept[0]


ONE_STEP = "--epochs 1 --images-per-epoch 8 --learning-rate 0.01 --weight-decay 0"


def test_two_processes_average_what_each_finds(market, tmp_path, monkeypatch):
    halves = [one_step(market, tmp_path / f"{k}", monkeypatch, k) for k in range(2)]
    arguments = command(market, tmp_path / "run", ONE_STEP)
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2"
    done = subprocess.run(
        [sys.executable, *launcher.split(), train_target.__file__, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["recipe"]["processes"] == 2
    assert json.loads(done.stdout)["queries"] == 16
    both = load_trained(tmp_path / "run" / "model.json")
    losses = [float(log(tmp_path / name)[0]["loss"]) for name in ("0", "1", "run")]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-4)
    # The first step of Adam goes by the learning rate against the sign of the gradient.
    rate = 0.1 * 0.01
    for name, parameter in both.named_parameters():
        if not parameter.requires_grad:
            continue
        first, second = (dict(half.named_parameters())[name] for half in halves)
        mean = (first.grad + second.grad) / 2
        start = first + rate * first.grad.sign()
        clear = mean.abs() > 1e-4
        torch.testing.assert_close(
            parameter[clear], (start - rate * mean.sign())[clear], rtol=0, atol=rate / 10
        )
