"""The training recipe: its parts by hand, and that an interruption leaves no trace."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions
from torch.nn import functional
from torch.utils.data import DataLoader
from training_runs import Interrupted, fail_at, log, make_market, run, train
from two_processes import two_processes

from reid_explain import InputError
from reid_explain.benchmark import train_target, training_run
from reid_explain.benchmark.train_target import SmallFirst, TargetTraining
from reid_explain.datasets import Market1501, Record
from reid_explain.inputs import InputSpec
from reid_explain.models import load_trained
from reid_explain.training import images as training_images
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


@pytest.mark.parametrize(("epoch", "images"), [(0, 60), (7, 12), (3, 50)])
def test_the_draws_are_those_of_pytorch_metric_learning(epoch, images, monkeypatch):
    sampler = IdentityBatches(LABELS, 4, 3, images, seed=5)
    sampler.epoch = epoch
    monkeypatch.setattr(common_functions, "NUMPY_RANDOM", np.random.RandomState((5, epoch)))
    expected = list(MPerClassSampler(np.array(LABELS), 3, 12, images))
    assert [draw.image for batch in sampler for draw in batch] == expected


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


def test_a_full_disk_ends_with_the_name_of_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_images.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device.*images.npy"):
        cached_pixels(Counting(), [Record(None, 1, 1)], InputSpec((6, 4)), tmp_path / "images.npy")
    assert not list(tmp_path.iterdir())


def test_two_writers_of_one_cache_do_not_meet(tmp_path):
    """As machines without each other's barriers do: the second starts while the first writes."""
    records, path, spec = (
        [Record(None, k, k) for k in range(9)],
        tmp_path / "i.npy",
        InputSpec((6, 4)),
    )

    class Slow(Counting):
        def load(self, record):
            if record.identity == 5 and self.loaded == 5:
                cached_pixels(Counting(), records, spec, path, show_progress=False)
            return super().load(record)

    pixels = cached_pixels(Slow(), records, spec, path, show_progress=False)
    assert pixels[:, 0, 0, 0].tolist() == list(range(9))
    assert [file.name for file in tmp_path.iterdir()] == ["i.npy"]


def test_training_images_follow_the_epoch(pixels):
    images = SmallFirst(pixels, [4, 9], 0, augmentation(InputSpec((48, 24))), half_size_epochs=2)
    for epoch, size in ((0, (24, 12)), (1, (24, 12)), (2, (48, 24))):
        image, label = images[Draw(1, epoch, 3)]
        assert (image.shape[1:], label) == (size, 9)


@pytest.mark.slow
def test_a_spawned_worker_does_not_change_them(pixels):
    images = SmallFirst(pixels, [4, 9], 0, augmentation(InputSpec((48, 24))), half_size_epochs=2)
    draws = [Draw(1, 0, 3), Draw(0, 2, 5)]
    loader = DataLoader(images, None, sampler=draws, num_workers=1, multiprocessing_context="spawn")
    for draw, (image, label) in zip(draws, loader, strict=True):
        expected, same = images[draw]
        assert torch.equal(image, expected)
        assert label == same


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
    return make_market(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def settings(market, tmp_path_factory):
    return TargetTraining(
        dataset="market1501",
        root=market,
        output=tmp_path_factory.mktemp("whole") / "run",
        backbone="tiny",
        image_size=(48, 24),
        identities=4,
        instances=2,
        epochs=3,
        warmup_epochs=1.0,
        images_per_epoch=32,
        workers=0,
    )


def weights(output):
    return (output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(settings):
    """The folder of a run that was not interrupted."""
    return run(settings)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(whole, settings, market, capsys):
    rows = log(whole)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        total = float(row["identity"]) + float(row["triplet"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    results = json.loads((whole / "results.json").read_text())
    card = json.loads((whole / "model.json").read_text())
    assert card["results"] == results
    assert results["dataset"] == "market1501"
    assert (results["queries"], results["gallery"]) == (16, 16)
    assert 0 <= results["mAP"] <= 100
    assert (card["recipe"]["epochs"], card["recipe"]["processes"]) == (3, 1)
    assert card["recipe"]["image_size"] == card["input"]["size"] == [48, 24]
    assert training_run.evaluate(load_trained(whole / "model.json"), Market1501(market)) == results
    before = weights(whole)
    run(replace(settings, resume=True))  # Finished: nothing is trained any more.
    assert weights(whole) == before
    assert "epoch" not in capsys.readouterr().err
    assert log(whole) == rows


INTERRUPTIONS = {
    "before the first step": (loop.TrainingLoop, "_train_batch", 1),
    "in the first epoch": (loop.TrainingLoop, "_train_batch", 2),
    "in the second epoch": (loop.TrainingLoop, "_train_batch", 7),
    "before a checkpoint": (Accelerator, "save_state", 2),
    "between the files of a checkpoint": (torch, "save", 4),
    "before the log": (loop.TrainingLoop, "_write_log", 2),
    "before the last checkpoint is removed": (loop.shutil, "rmtree", 1),
    "before the evaluation": (training_run, "evaluate", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_an_interruption_leaves_no_trace(where, settings, whole, tmp_path, monkeypatch):
    own = replace(settings, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, *INTERRUPTIONS[where])
        with pytest.raises(Interrupted):
            run(own)
    torch.manual_seed(99)
    torch.randn(3)
    run(replace(own, resume=True))
    assert weights(own.output) == weights(whole)
    names = [{path.name for path in folder.rglob("*")} for folder in (own.output, whole)]
    assert names[0] == names[1]
    assert log(own.output) == log(whole)


@pytest.mark.slow
def test_only_the_seed_changes_the_result(settings, whole, tmp_path):
    run(replace(settings, output=tmp_path / "a", seed=1))
    assert weights(tmp_path / "a") != weights(whole)


@pytest.mark.slow
def test_workers_do_not_change_the_result(settings, whole, tmp_path):
    run(replace(settings, output=tmp_path / "a", workers=2))
    assert weights(tmp_path / "a") == weights(whole)


@pytest.mark.slow
def test_every_option_resumes_exactly(settings, tmp_path, monkeypatch):
    options = replace(
        settings,
        metric_loss="soft-triplet",
        pooling="gem",
        center_loss=True,
        schedule="cosine",
        half_size_epochs=1,
        output=tmp_path / "whole",
    )
    run(options)
    own = replace(options, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, loop.TrainingLoop, "_train_batch", 7)
        with pytest.raises(Interrupted):
            run(own)
    run(replace(own, resume=True))
    assert weights(own.output) == weights(options.output)
    assert "center" in log(own.output)[0]
    assert load_trained(own.output / "model.json").pool.p.item() != 3


@pytest.mark.slow
def test_a_checkpoint_has_the_gradient_scaler_and_the_random_numbers(tmp_path):
    """Of float16 on a GPU; here a scaler of the CPU takes its place."""

    class Step(torch.nn.Linear):
        def forward(self, images, labels):
            return {"loss": super().forward(images.flatten(1)).square().mean()}

    def train(epochs):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        step = Step(8, 1)
        batches = IdentityBatches([0, 0, 1, 1], 2, 2, 8, 0)
        data = [(torch.ones(2, 2, 2), 0)] * 4
        loader = torch.utils.data.DataLoader(data, batch_sampler=Indices(batches))
        optimizers = [torch.optim.Adam(step.parameters())]
        made = loop.TrainingLoop(
            accelerator, step, optimizers, loader, tmp_path, epochs, lambda epoch: 1e-3
        )
        before = accelerator.scaler.get_scale()
        made.fit()
        return before, accelerator.scaler.get_scale()

    class Indices:
        def __init__(self, batches):
            self.batches, self.epoch = batches, 0

        def __iter__(self):
            return iter([[draw.image for draw in batch] for batch in self.batches])

        def __len__(self):
            return len(self.batches)

    first, grown = train(2)
    assert grown > first == 8
    assert train(3)[0] == grown
    assert list((tmp_path / "checkpoint" / "0003").glob("random_states_*"))


@pytest.mark.slow
def test_precision_and_storage(settings, tmp_path):
    own = replace(
        settings,
        metric_loss="circle",
        precision="bfloat16",
        stored_dtype="float16",
        epochs=1,
        output=tmp_path / "run",
    )
    run(own)
    model = load_trained(own.output / "model.json")
    assert model.classifier.weight.shape == (8, 8)
    assert model.input_spec.size == (48, 24)


@pytest.mark.slow
def test_the_loss_falls_with_a_real_network(settings, tmp_path):
    own = replace(
        settings,
        backbone="resnet18",
        width=0.0625,
        padding="partial",
        epochs=25,
        warmup_epochs=2.0,
        learning_rate=0.002,
        schedule="cosine",
        output=tmp_path / "run",
    )
    losses = [float(row["loss"]) for row in log(run(own))]
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])
    card = json.loads((own.output / "model.json").read_text())
    assert card["architecture"] == {
        "name": "resnet18", "width": 0.0625, "padding": "partial", "num_classes": 8
    }  # fmt: skip


def command(settings, *more):
    paths = f"--dataset market1501 --root {settings.root} --output {settings.output}"
    shape = "--backbone tiny --image-size 48 24 --identities 4 --instances 2 --images-per-epoch 32"
    return f"{paths} {shape} --epochs 3 --warmup-epochs 1 --workers 0 {' '.join(more)}".split()


def refused(arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit) as caught:
        train_target.main(arguments)
    return str(caught.value)


@pytest.mark.slow
def test_wrong_input_ends_with_one_line(settings, whole, tmp_path):
    def told(*more, **changes):
        return refused(command(replace(settings, **changes), *more))

    assert "output: got" in told()
    assert "epochs: 3 there, 4 here" in told("--resume --epochs 4")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "output: got" in told("--resume", output=tmp_path / "mine")
    new = tmp_path / "new"
    for more in ("--epochs 0", "--epochs -1"):
        assert "epochs: got" in told(more, output=new)
    assert "root: got no folder" in told(output=new, root=tmp_path)
    assert "identities" in told("--identities 9", output=new)
    assert "name: got 'alexnet'" in told("--backbone alexnet", output=new)
    assert "a network with one classifier" in told("--backbone pcb", output=new)
    assert "root: got nothing" in refused(["--dataset", "market1501", "--output", str(new)])
    assert not new.exists()  # A mistake leaves nothing behind.
    assert refused([]) == "2"


def test_without_the_extra_one_line_says_so(monkeypatch):
    from _script import run as run_script

    for name in ("training_run", "train_target"):
        monkeypatch.delitem(sys.modules, f"reid_explain.benchmark.{name}")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    said = r'accelerate is not installed; pip install "reid-explain\[train\]"'
    with pytest.raises(SystemExit, match=said):
        run_script("train_target")


def one_step(settings, monkeypatch, process):
    """Return the network after its first step on one of two processes' part of a batch."""

    def part(*arguments):
        return IdentityBatches(*arguments[:-2], process, 2)

    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(train_target, "IdentityBatches", part)
        patch.setattr(TargetTraining, "finish", lambda _, model, *a, **k: kept.append(model))
        run(replace(settings, output=settings.output / str(process)))
    return kept[0]


@pytest.mark.slow
def test_two_processes_average_what_each_finds(settings, tmp_path, monkeypatch):
    first = {"epochs": 1, "images_per_epoch": 8, "learning_rate": 0.01, "weight_decay": 0.0}
    settings = replace(settings, output=tmp_path, **first)
    halves = [one_step(settings, monkeypatch, process) for process in range(2)]
    more = "--epochs 1 --images-per-epoch 8 --learning-rate 0.01 --weight-decay 0"
    arguments = command(replace(settings, output=tmp_path / "run"), more)
    printed = two_processes(tmp_path, train, arguments)
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["recipe"]["processes"] == 2
    assert json.loads(printed)["queries"] == 16
    both = load_trained(tmp_path / "run" / "model.json")
    losses = [float(log(tmp_path / name)[0]["loss"]) for name in ("0", "1", "run")]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-4)
    # The first step of Adam goes by the learning rate against the sign of the gradient.
    rate = 0.1 * 0.01
    for name, parameter in both.named_parameters():
        first, second = (dict(half.named_parameters())[name] for half in halves)
        if first.grad is None:
            continue
        mean = (first.grad + second.grad) / 2
        start = first + rate * first.grad.sign()
        clear = mean.abs() > 1e-4
        torch.testing.assert_close(
            parameter[clear], (start - rate * mean.sign())[clear], rtol=0, atol=rate / 10
        )
