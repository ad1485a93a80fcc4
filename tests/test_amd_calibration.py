"""The scale of an interpreter: closed form, best of all, and what it leaves as it was."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import small_reid_net
from worlds import drawn_once

from reid_explain import InputError
from reid_explain.amd import AMDInterpreter, Decomposed, calibrate, calibration
from reid_explain.amd.calibration import (
    Composites,
    distance_ratio,
    drawn_identities,
    least_error_scale,
)
from reid_explain.amd.decomposition import attribute_distances
from reid_explain.datasets.records import Record
from reid_explain.inputs import InputSpec

close = torch.testing.assert_close
SHARES = torch.tensor([0.5, 0.3, 0.2])
PEOPLE = [1, 1, 2, 3, 3, 4]


class Reconstructing:
    """Images are embeddings; d̂ is d by a factor."""

    spec = SimpleNamespace(to_tensor=lambda image: image)

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.network = SimpleNamespace(scale=torch.ones(()))

    def decompose(self, images):
        parts = self.network.scale * self.factor * SHARES[:, None] * images[:, None]
        return Decomposed(images, parts, images)


def images(count: int = len(PEOPLE)) -> torch.Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(count)) + 20


def calibrated(interpreter, people=PEOPLE, rows=None, **options):
    rows = images(len(people)) if rows is None else rows
    records = [Record(str(row), person, row) for row, person in enumerate(people)]
    dataset = SimpleNamespace(load=lambda record: rows[record.camera])
    return calibrate(interpreter, dataset, records, **options)


@pytest.mark.parametrize("factor", [1.04, 0.5, 30.0])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_factor_that_all_pairs_share_is_taken_out(factor, batch_size):
    interpreter = Reconstructing(factor)
    for _ in range(2):  # Once more: the scale that is there does not count.
        found = calibrated(interpreter, batch_size=batch_size)
        assert found.scale == pytest.approx(1 / factor, rel=1e-4)
        assert interpreter.network.scale.item() == pytest.approx(found.scale)
        assert found.before == pytest.approx(100 * abs(factor - 1), rel=1e-3)
        assert found.after < 1e-2
        assert (found.pairs, found.identities) == (13, 4)
    assert str(found).startswith(f"scale {1 / factor:.4f}: ADRE {found.before:.2f} -> ")


def test_pairs_of_one_person_do_not_count(monkeypatch):
    people = torch.tensor(PEOPLE)
    ratio = torch.where(people[:, None] == people, 100.0, 2.0)
    monkeypatch.setattr(calibration, "distance_ratio", lambda embeddings, parts: ratio)
    assert calibrated(Reconstructing(1.0)).scale == 0.5


def test_composites_are_the_upper_and_the_lower_half_of_two_people():
    people = [5, 2, 5, 9, 2, 5]
    rows = torch.arange(6.0)[:, None, None, None].expand(6, 3, 5, 2)
    records = [Record(str(row), person, row) for row, person in enumerate(people)]
    dataset = SimpleNamespace(load=lambda record: rows[record.camera])
    found = Composites(dataset, records, Reconstructing.spec)
    # After 5 comes 2, after 2 comes 9, after 9 comes 5.
    for (image, identity, camera), upper, lower in zip(
        found, range(6), [1, 3, 4, 0, 3, 1], strict=True
    ):
        assert (identity, camera) == (people[upper], upper)
        assert image.shape == (3, 5, 2)
        assert (image[:, :2] == upper).all()
        assert (image[:, 2:] == lower).all()


@pytest.mark.slow
@given(st.lists(st.floats(0.125, 8, width=32), min_size=1, max_size=40))
def test_no_other_scale_has_a_smaller_error(ratios):
    ratio = torch.tensor(ratios, dtype=torch.float64)
    best = (1 - least_error_scale(ratio) * ratio).abs().mean()
    # The error is linear between these.
    others = (1 - ratio[:, None].reciprocal() * ratio).abs().mean(1)
    close(best, others.min(), rtol=1e-12, atol=1e-12)


def test_ratios_are_those_of_plain_norms():
    generator = torch.Generator().manual_seed(0)
    embeddings, parts = (
        torch.randn(shape, generator=generator) + 5 for shape in ((6, 4), (6, 3, 2))
    )
    found = distance_ratio(embeddings, parts)
    for i in range(6):
        for j in range(i):
            d = (embeddings[i] - embeddings[j]).norm()
            close(found[i, j], attribute_distances(parts[i], parts[j]).sum() / d)


def test_composites_are_compared_if_told():
    class Uneven(Reconstructing):
        spec = SimpleNamespace(to_tensor=lambda image: image.expand(1, 2, 1))

        def decompose(self, batch):
            upper = batch[:, 0, :1, 0]  # d is that of both halves, d̂ that of the upper ones.
            return super().decompose(upper)._replace(embeddings=batch.flatten(1))

    ordinary, composite = (
        calibrated(
            Uneven(1.0), rows=torch.tensor([0.0, 3.0, 7.0]), people=[1, 2, 3], composite=told
        )
        for told in (False, True)
    )
    assert ordinary.scale == pytest.approx(2**0.5)
    # Upper halves are 7, 3 and 4 apart, lower ones 3, 4 and 7: d / d̂ is 1.09, 5/3 and 2.02, and
    # their weights are 0.92, 0.6 and 0.50.
    assert composite.scale == pytest.approx(5 / 3)


@pytest.mark.parametrize("people", [[], [5], [3, 3, 3]])
def test_less_than_two_people_are_refused(people):
    interpreter = Reconstructing(2.0)
    with pytest.raises(InputError, match="^records: got . identities, expected at least 2"):
        calibrated(interpreter, people)
    assert interpreter.network.scale == 1


def test_identities_are_drawn_without_their_order_in_the_records():
    records = [Record(str(person), person, 0) for person in (7, 3, 9, 3, 1, 8)]
    for count in (0, 2, 5):
        drawn = drawn_identities(records, count, seed=4)
        assert len(drawn) == count
        assert drawn == drawn_identities(records[::-1], count, seed=4)
        assert drawn <= {1, 3, 7, 8, 9}
    assert len({frozenset(drawn_identities(records, 2, seed=k)) for k in range(20)}) > 3


SPEC = InputSpec(size=(64, 32))


@pytest.fixture(scope="module")
def world():
    return drawn_once(train_identities=4, test_identities=2, images_per_camera=2, distractors=0)


@pytest.fixture
def interpreter(world):
    torch.manual_seed(0)
    made = AMDInterpreter(small_reid_net(), world.attribute_names, spec=SPEC)
    made.network.prototypes.normal_()
    return made


@pytest.mark.slow
def test_distances_change_and_nothing_else(interpreter, world):
    inputs = torch.stack([SPEC.to_tensor(world.load(record)) for record in world.train[:6]])
    before = interpreter.explain(*inputs.chunk(2))
    parts = interpreter.decompose(inputs).parts
    labels, map_ = interpreter.predict(parts), interpreter.attribute(inputs[:3], inputs[3:])
    found = calibrate(interpreter, world, world.train)
    assert found.after < found.before
    after = interpreter.explain(*inputs.chunk(2))
    close(after.distances, found.scale * before.distances)
    close(after.reconstructed, found.scale * before.reconstructed)
    for name in ("query_maps", "gallery_maps", "contributions", "distance"):
        close(getattr(after, name), getattr(before, name))
    scaled = interpreter.decompose(inputs).parts
    close(scaled, found.scale * parts)
    assert torch.equal(interpreter.predict(scaled), labels)
    close(interpreter.attribute(inputs[:3], inputs[3:]), map_)
    # A training sees distances of scale 1.
    training = interpreter.network.train()(inputs).parts
    interpreter.network.scale.fill_(1)
    close(training, interpreter.network(inputs).parts)
