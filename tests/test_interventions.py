"""Interventions in the drawn world: what is asked for changes, and nothing else."""

import numpy as np
import pytest

from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic import ATTRIBUTE_NAMES, GROUPS, PARTS, Rendering, SyntheticReID
from reid_explain.datasets.synthetic.canvas import Part
from reid_explain.datasets.synthetic.truth import SHOWN_BY, difference

INDEX = {name: index for index, name in enumerate(ATTRIBUTE_NAMES)}


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return SyntheticReID(train_identities=40, test_identities=10, distractors=10)


def some(world: SyntheticReID, count: int) -> list[Record]:
    """Return records of every split, spread over people and cameras."""
    every = [*world.train, *world.query, *world.gallery]
    return [every[i] for i in np.linspace(0, len(every) - 1, count).astype(int)]


def same(first: Rendering, second: Rendering) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def labels_of(world: SyntheticReID, record: Record) -> np.ndarray:
    return world._painter.labels(world._known(record).person)


def unlike(world: SyntheticReID, record: Record, group: str) -> Record:
    """Return a record of somebody else with another value of a group of attributes."""
    index, own = [INDEX[name] for name in GROUPS[group]], labels_of(world, record)
    every = (*world.query, *world.train)
    return next(r for r in every if (labels_of(world, r) != own)[index].any())


def shows(group: str) -> set[Part]:
    return {part for name in GROUPS[group] for part in SHOWN_BY[name]}


def scene(world: SyntheticReID, record: Record, changes: dict, without: tuple = ()) -> np.ndarray:
    """Return the lit scene (512, 256, 3) that an intervention photographs."""
    shot, painter = world._known(record), world._painter
    return painter.lit(shot, painter.paint(shot, *world._dressed(shot, changes), without))


# ---------------------------------------------------------------- the world is the same as before


def test_groups_partition_the_attributes():
    assert [*GROUPS] == [
        *("upper color", "lower color", "up", "down", "clothes", "hat", "hair"),
        *("backpack", "bag", "handbag", "gender"),
    ]
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(ATTRIBUTE_NAMES)
    assert [len(names) for names in GROUPS.values()] == [8, 9, *[1] * 9]


def test_parts_partition_the_person():
    pieces = [piece for part in PARTS.values() for piece in part]
    assert sorted(pieces) == sorted({*Part} - {Part.SCENE, Part.FRONT})


# ---------------------------------------------------------------- attributes of other people


def test_no_change_is_the_rendering_itself(world):
    for record in some(world, 5):
        assert same(world.intervene(record, {}), world.render(record))


def test_a_persons_own_attributes_change_nothing(world):
    for record in some(world, 5):
        mates = [r for r in (*world.train, *world.query) if r.identity == record.identity]
        mate = mates[-1] if mates else record
        assert same(world.intervene(record, dict.fromkeys(GROUPS, mate)), world.render(record))


def test_a_cached_rendering_is_not_written_to(world):
    record = world.train[0]
    first = world.render(record)
    expected = first.image.copy()
    first.image[:] = 0
    first.person[:] = False
    assert np.array_equal(world.render(record).image, expected)
    assert world.render(record).person.any()


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_pixels_change_only_where_the_group_shows(world, group):
    changed = 0
    for record in some(world, 8):
        other = unlike(world, record, group)
        before, after = world.render(record), world.intervene(record, {group: other})
        shot = world._known(record)
        where = difference(scene(world, record, {}), scene(world, record, {group: other}))
        shape = np.zeros((256, 128), dtype=bool)
        for labels, look in (world._dressed(shot, {}), world._dressed(shot, {group: other})):
            shape |= world._painter.paint(shot, labels, look).shows(shows(group))
        assert not (where & ~shape).any()
        region = world._spread(shot, where)
        assert np.array_equal(before.image[~region], after.image[~region])
        changed += (before.image != after.image).any()
    assert changed > 0
