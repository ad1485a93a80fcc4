"""The interpreter that edits: closed forms, an intervention by hand, and the training."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import small_reid_net
from torch import Tensor
from worlds import drawn_once

from reid_explain import (
    CounterfactualDirections,
    CounterfactualInterpreter,
    InputError,
    InputSpec,
)
from reid_explain.benchmark import train_editor
from reid_explain.counterfactual import AttributeEditor, Reading, load_editor, save_editor
from reid_explain.counterfactual.trainer import (
    EditStep,
    Interventions,
    Scales,
    balanced,
    values_of,
)
from reid_explain.models import load_pretrained

GROUPS = {"color": ("red", "blue"), "hat": ("hat",), "bag": ("bag",)}
PLAIN = InputSpec((16, 8), mean=(0, 0, 0), std=(1, 1, 1))


class Painter(AttributeEditor):
    """An editor whose edits are known: a third of the image for each group, in its own color."""

    def read(self, images: Tensor) -> Reading:
        batch, height = len(images), images.shape[2]
        thirds = torch.arange(height) * 3 // height
        masks = torch.stack([(thirds == k).float() for k in range(3)])[None, :, :, None]
        shades = images.mean(dim=(2, 3))[:, None].expand(-1, 3, -1)
        paint = torch.ones(batch, 2, 3, height, images.shape[3]) * 0.25
        codes = images[:, :1, 0, 0, None].expand(-1, 3, 16)
        masks = masks.expand(batch, -1, -1, images.shape[3])
        return Reading(codes, torch.zeros(batch, 16), masks, paint, shades)

    def logits(self, codes: Tensor) -> list[Tensor]:
        logit = (codes[:, 0, 0] - 0.5) * 1e4  # the first pixel decides
        return [codes[:, 0, :3], logit, logit]

    def dyes(self, query: Reading, gallery: Reading, group: int) -> tuple[Tensor, Tensor]:
        goal = gallery.shades[:, group, :, None, None]
        return torch.zeros_like(goal), goal


def mean_color(images: Tensor) -> Tensor:
    """Embed images (B, 3, H, W): a black box, and linear."""
    return images.mean(dim=(2, 3))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.rand(2, 2, 3, 18, 8, generator=generator)
    query[:, 0, 0, 0], gallery[:, 0, 0, 0] = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    return query, gallery


def test_contributions_are_what_the_edits_do(pair):
    query, gallery = pair
    found = CounterfactualInterpreter(mean_color, Painter(GROUPS), PLAIN).explain(query, gallery)
    for row in range(2):
        one, other = query[row], gallery[row]
        distance = (one.mean((1, 2)) - other.mean((1, 2))).norm()
        for k in range(3):
            edited = one.clone()
            edited[:, 6 * k : 6 * k + 6] = other.mean((1, 2))[:, None, None] if k == 0 else 0.25
            left = (edited.mean((1, 2)) - other.mean((1, 2))).norm()
            differs = 1.0 if k == 0 or row == 0 else 0.0  # the first pixels differ in row 0
            expected = differs * (distance - left) / distance
            assert found.contributions[row, k] == pytest.approx(expected.item(), abs=1e-5)
            change = (edited - one).abs().mean(0) * differs
            torch.testing.assert_close(found.maps[row, k], change, atol=1e-5, rtol=0)
            torch.testing.assert_close(found.images[row, k], edited, atol=1e-5, rtol=0)
        assert found.distance[row] == pytest.approx(distance.item(), abs=1e-6)
    total = found.contributions.sum(1) + found.remainder
    torch.testing.assert_close(total, torch.ones(2))


def test_a_second_estimate_is_averaged(pair):
    query, gallery = pair
    own, goal = mean_color(query), mean_color(gallery)
    maps = torch.zeros(3, 7, 3)
    maps[1, 3:6] = torch.eye(3)
    maps[1, :3] = -torch.eye(3)  # a hat takes the query all the way to the gallery image
    directions = CounterfactualDirections([*GROUPS], maps)
    assert directions.explain(own, goal).contributions[0].tolist() == pytest.approx([0, 1, 0])
    plain = CounterfactualInterpreter(mean_color, Painter(GROUPS), PLAIN).explain(query, gallery)
    both = CounterfactualInterpreter(mean_color, Painter(GROUPS), PLAIN, directions)
    expected = (plain.contributions + torch.tensor([0.0, 1.0, 0.0])) / 2
    torch.testing.assert_close(both.explain(query, gallery).contributions, expected)
    with pytest.raises(InputError, match="directions"):
        CounterfactualInterpreter(
            mean_color, Painter(GROUPS), PLAIN, CounterfactualDirections(["hat"], maps[:1])
        )


def test_the_common_form(pair):
    query, gallery = pair
    interpreter = CounterfactualInterpreter(mean_color, Painter(GROUPS), PLAIN)
    found = interpreter.explain(query, gallery)
    one = interpreter.attribute(query, gallery, attribute="hat")
    torch.testing.assert_close(one, found.maps[:, 1:2])
    maps = interpreter.attribute(query, gallery)
    assert maps.shape == (2, 1, 18, 8)
    shown = found.contributions.abs() * (found.differs > 0.5)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), shown.sum(1))
    for_all = interpreter.explain(query, gallery[:1])
    torch.testing.assert_close(for_all.contributions[0], found.contributions[0])
    with pytest.raises(InputError, match="attribute"):
        interpreter.attribute(query, gallery, attribute="beard")
    with pytest.raises(InputError, match="gallery"):
        interpreter.explain(query, gallery.repeat(2, 1, 1, 1))


def test_the_images_are_those_that_the_model_takes(pair):
    query, gallery = pair
    spec = InputSpec((18, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="BGR")
    plain = CounterfactualInterpreter(mean_color, Painter(GROUPS), PLAIN).explain(query, gallery)
    embed = lambda images: mean_color(spec.to_rgb(images))  # noqa: E731
    other = CounterfactualInterpreter(embed, Painter(GROUPS), spec)
    found = other.explain(spec.from_rgb(query), spec.from_rgb(gallery))
    torch.testing.assert_close(found.contributions, plain.contributions, atol=1e-4, rtol=0)
    torch.testing.assert_close(spec.to_rgb(found.images), plain.images, atol=1e-5, rtol=0)


@pytest.mark.slow
@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([(32, 16), (128, 64), (50, 40)]))
def test_the_same_person_stays_as_it_is(seed, size):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, *size, generator=generator)
    editor = AttributeEditor(GROUPS).eval()
    with torch.no_grad():
        reading = editor.read(images)
        torch.testing.assert_close(editor.edit(images, reading, reading, 0), images)
        differs = editor.differs(reading, reading.rows(torch.tensor([1, 0])))
    assert differs.shape == (2, 3)
    assert ((differs >= 0) & (differs <= 1)).all()


@pytest.mark.slow
def test_the_shipped_one_leaves_the_model_and_is_shared_by_threads():
    model = load_pretrained("synthetic").train()
    interpreter = CounterfactualInterpreter(model)
    images = torch.randn(4, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    expected = interpreter.explain(images[:2], images[2:])
    assert model.training
    model.eval()
    found = [None] * 4

    def explain(number):
        found[number] = interpreter.explain(images[:2], images[2:])

    threads = [threading.Thread(target=explain, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for one in found:
        torch.testing.assert_close(one.contributions, expected.contributions, atol=1e-5, rtol=0)


def test_saved_and_loaded(tmp_path):
    editor = AttributeEditor(GROUPS).half().float().eval()
    path = tmp_path / "editor.safetensors"
    save_editor(editor, path)
    again = load_editor(path)
    images = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.read(images), editor.read(images))
    assert again.groups == editor.groups
    for bad in (tmp_path / "no.safetensors", __file__):
        with pytest.raises(InputError, match="a file of save_editor"):
            load_editor(bad)
    with pytest.raises(InputError, match="path"):
        save_editor(editor, tmp_path / "none" / "x.safetensors")


@pytest.mark.parametrize("groups", [{}, {"color": ("red", "blue")}, {"hat": ("hat",), **GROUPS}])
def test_wrong_groups(groups):
    groups = {"bag": ("bag",), "color": ("red", "blue")} if len(groups) == 3 else groups
    with pytest.raises(InputError, match="groups"):
        AttributeEditor(groups)


def test_values_of_labels():
    labels = torch.tensor([[1, 2, 1, 2], [1, 1, 2, 1], [2, 1, 1, 1]])
    values = values_of(labels, ("red", "blue", "hat", "bag"), GROUPS)
    assert values.tolist() == [[1, 0, 1], [2, 1, 0], [0, 0, 0]]


def test_balanced_rows():
    group = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    chosen = balanced(group, 30)
    assert torch.bincount(group[chosen]).tolist() == [10, 3, 10]
    assert len(chosen.unique()) == len(chosen)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def picture(rows):
        return torch.randint(0, 255, (rows, 3, 128, 64), dtype=torch.uint8, generator=generator)

    images, group = picture(3), torch.tensor([0, 1, 1, 2])
    query, gallery = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 0, 2])
    values = torch.tensor([[0, 0, 0], [1, 1, 0], [2, 1, 1]])
    embeddings, moved = torch.randn(3, 4), torch.randn(4, 4)
    return Interventions(images, picture(4), values, query, gallery, group, embeddings, moved)


def test_scales_by_hand(batch):
    found = Scales.of([batch], 3)
    change = (batch.edits.float() - batch.images[batch.query].float()).abs().sum((1, 2, 3)) / 255
    moved = (batch.moved - batch.embeddings[batch.query]).square().sum(1)
    for scale, each in zip(found, (change, moved), strict=True):
        expected = torch.stack([each[0], each[1:3].mean(), each[3]])
        torch.testing.assert_close(scale, expected)


class Copier(Painter):
    """Knows the truth: edits are what is looked up."""

    def read(self, images: Tensor) -> Reading:
        return super().read(images)._replace(masks=torch.ones(len(images), 3, 128, 64))


def test_losses_by_hand(batch, monkeypatch):
    scales = Scales.of([batch], 3)
    step = EditStep(Copier(GROUPS), scales, mean_color, read_again=1)
    batch = batch._replace(moved=mean_color(batch.edits / 255), embeddings=torch.zeros(3, 3))
    truth = iter(batch.edits[rows] / 255 for rows in ([0], [1, 2], [3], [0], [1, 2], [3]))
    monkeypatch.setattr(step.editor, "edit", lambda *_: next(truth))
    terms = step(batch)
    assert terms["pixels"] == 0
    assert terms["embeddings"] == pytest.approx(0, abs=1e-9)
    blank = EditStep(Copier(GROUPS), scales, mean_color, read_again=1)
    monkeypatch.setattr(blank.editor, "edit", lambda images, *_: images)
    change = (batch.edits.float() - batch.images[batch.query].float()).abs().sum((1, 2, 3)) / 255
    typical = scales.pixels[batch.group]
    each = 2 * change / (change + typical)
    expected = each[0] + each[1:3].mean() + each[3]
    terms = blank(batch)
    assert terms["pixels"] == pytest.approx(expected.item(), rel=1e-5)
    before, after = batch.images[batch.query] / 255, batch.edits / 255
    changed = ((after - before).abs().amax(1) > 0.03).float()  # masks are 1, paint is 0.25
    area = changed.sum((1, 2))
    dice = 1 - 2 * area / (128 * 64 + area + 1)
    entropy = (128 * 64 - area) * 100 / (area + 30)  # torch's largest: -log 0 counts as 100
    each = dice + entropy / 2
    assert terms["masks"] == pytest.approx((each[0] + each[1:3].mean() + each[3]).item(), rel=1e-4)
    paint = 3 * ((0.25 - after).abs().mean(1) * changed).sum((1, 2)) / (area + 3)
    assert terms["paint"] == pytest.approx((paint[1:3].mean() + paint[3]).item(), rel=1e-4)


@pytest.mark.slow
def test_training_learns(batch):
    torch.manual_seed(0)
    step = EditStep(AttributeEditor(GROUPS), Scales.of([batch], 3), jitter=0.0, read_again=2)
    optimizer = torch.optim.Adam(step.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = torch.stack(list(step(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_sheet_is_what_the_world_draws():
    world = drawn_once(7, train_identities=6, test_identities=0, distractors=0)
    target = train_editor.Target(small_reid_net(), spec=InputSpec((64, 32)))
    sheet = train_editor.draw(world, target, 1, 3, 0)
    assert sheet.images.shape == (3, 3, 64, 32)
    assert sheet.edits.shape[1:] == (3, 128, 64)
    assert (sheet.query != sheet.gallery).all()
    groups = train_editor.groups_of(world)
    labels = torch.stack([torch.from_numpy(world.labels[i]) for i in (4, 5, 6)])
    torch.testing.assert_close(sheet.values, values_of(labels, world.attribute_names, groups))
    own = sheet.values[sheet.query, sheet.group]
    assert (own != sheet.values[sheet.gallery, sheet.group]).all()
    spec = target.spec
    first = target.embed(spec.from_rgb(sheet.images / 255))
    torch.testing.assert_close(first, sheet.embeddings, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_an_interrupted_training_ends_the_same(tmp_path, monkeypatch):
    arguments = ["--sheets", "2", "--people", "3", "--world", "7", "--pixel-epochs", "1"]
    arguments += ["--epochs", "1", "--edits", "11", "--pixel-edits", "22"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_editor.main([*arguments, "--output", str(whole)])
    calls = []

    def stop(self, epoch):
        calls.append(epoch)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return rate(self, epoch)

    rate = train_editor.TrainEditor._rate
    monkeypatch.setattr(train_editor.TrainEditor, "_rate", stop)
    with pytest.raises(SystemExit, match="interrupted"):
        train_editor.main([*arguments, "--output", str(cut)])
    monkeypatch.setattr(train_editor.TrainEditor, "_rate", rate)
    train_editor.main([*arguments, "--output", str(cut), "--resume"])
    one, other = (load_editor(folder / train_editor.FILE) for folder in (whole, cut))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name)
