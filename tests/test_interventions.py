"""Interventions in the drawn world: what is asked for changes, and nothing else."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic import ATTRIBUTE_NAMES, GROUPS, PARTS, Rendering, SyntheticReID
from reid_explain.datasets.synthetic.attributes import outfit_of
from reid_explain.datasets.synthetic.canvas import Canvas, Part
from reid_explain.datasets.synthetic.truth import SHOWN_BY, difference, grow
from reid_explain.errors import InputError

INDEX = {name: index for index, name in enumerate(ATTRIBUTE_NAMES)}
BELONGINGS = ("hat", "backpack", "bag", "handbag")
STRANGER = Record(Path("9999_c1s1_000001_01.jpg"), 9999, 1)


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return SyntheticReID(train_identities=40, test_identities=10, distractors=10)


def everybody(world: SyntheticReID) -> list[Record]:
    return [*world.train, *world.query, *world.gallery]


def some(world: SyntheticReID, count: int) -> list[Record]:
    """Return records of every split, spread over people and cameras."""
    every = everybody(world)
    return [every[i] for i in np.linspace(0, len(every) - 1, count).astype(int)]


def same(first: Rendering, second: Rendering) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def labels_of(world: SyntheticReID, record: Record) -> np.ndarray:
    return world._painter.labels(world._known(record).person)


def has(world: SyntheticReID, record: Record, attribute: str) -> bool:
    return bool(labels_of(world, record)[INDEX[attribute]] == 2)


def unlike(world: SyntheticReID, record: Record, group: str) -> Record:
    """Return a record of somebody else with another value of a group of attributes."""
    index, own = [INDEX[name] for name in GROUPS[group]], labels_of(world, record)
    return next(r for r in everybody(world) if (labels_of(world, r) != own)[index].any())


def shows(group: str) -> set[Part]:
    return {part for name in GROUPS[group] for part in SHOWN_BY[name]}


def canvas(
    world: SyntheticReID,
    record: Record,
    changes: Mapping[str, Record] | None = None,
    without: tuple[Part, ...] = (),
) -> Canvas:
    shot = world._known(record)
    return world._painter.paint(shot, *world._dressed(shot, changes or {}), without)


def lit(world: SyntheticReID, record: Record, painted: Canvas) -> np.ndarray:
    """Return the scene (512, 256, 3) that the camera photographs."""
    return world._painter.lit(world._known(record), painted)


# ---------------------------------------------------------------- names, and the world as it was


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


@pytest.mark.slow
@pytest.mark.skipif(
    PIL.__version__ != "13.0.0", reason="another Pillow may round a JPEG differently"
)
def test_version_2_is_drawn_to_the_byte_as_before_there_were_interventions():
    digest = hashlib.sha256()
    for seed, severity in ((0, 1.5), (7, 0.0)):
        world = SyntheticReID(seed, 20, 5, distractors=5, severity=severity)
        for record in some(world, 15):
            for array in world.render(record):
                digest.update(array.tobytes())
    assert digest.hexdigest() == "6ceb63cc2ae5dd28e9c142435c6b3e6f31af81cc004de506956c22a4942c0f9d"


def test_a_rendering_may_be_written_to(world):
    record = world.train[0]
    first = world.render(record)
    expected = first.image.copy()
    for array in first:
        array[:] = 0
    assert np.array_equal(world.render(record).image, expected)
    assert world.render(record).person.any()
    assert world.render(record).attributes.any()


# ---------------------------------------------------------------- attributes of other people


@pytest.mark.slow
def test_no_change_is_the_rendering_itself(world):
    for record in some(world, 4):
        assert same(world.intervene(record, {}), world.render(record))


@pytest.mark.slow
def test_a_persons_own_attributes_change_nothing(world):
    for record in some(world, 4):
        own = labels_of(world, record)
        mate = [r for r in everybody(world) if np.array_equal(labels_of(world, r), own)][-1]
        assert mate.identity == record.identity
        assert same(world.intervene(record, dict.fromkeys(GROUPS, mate)), world.render(record))


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_pixels_change_only_where_the_group_shows(world, group):
    changed = 0
    for record in some(world, 8):
        changes = {group: unlike(world, record, group)}
        first, second = canvas(world, record), canvas(world, record, changes)
        where = difference(lit(world, record, first), lit(world, record, second))
        assert not (where & ~first.shows(shows(group)) & ~second.shows(shows(group))).any()
        before, after = world.render(record), world.intervene(record, changes)
        region = world._spread(world._known(record), where)
        assert np.array_equal(before.image[~region], after.image[~region])
        changed += (before.image != after.image).any()
    assert changed > 0


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_several_groups_change_pixels_only_where_one_of_them_shows(world, data):
    record, *others = (
        everybody(world)[data.draw(st.integers(0, len(everybody(world)) - 1))] for _ in range(3)
    )
    groups = data.draw(st.lists(st.sampled_from([*GROUPS]), unique=True, min_size=1))
    changes = {group: others[i % 2] for i, group in enumerate(groups)}
    after = world.intervene(record, changes)
    assert same(after, world.intervene(record, dict(reversed(changes.items()))))
    shape = np.zeros((256, 128), dtype=bool)
    for painted in (canvas(world, record), canvas(world, record, changes)):
        shape |= painted.shows({part for group in groups for part in shows(group)})
    region = world._spread(world._known(record), shape)
    assert np.array_equal(after.image[~region], world.render(record).image[~region])


@pytest.mark.slow
def test_where_a_belonging_is_hidden_nothing_changes(world):
    hidden = 0
    for record in (r for r in world.train if r.camera == 3):
        changes = {"handbag": unlike(world, record, "handbag")}
        painted = canvas(world, record), canvas(world, record, changes)
        if not any(c.shows([Part.HANDBAG]).any() for c in painted):
            assert same(world.intervene(record, changes), world.render(record))
            hidden += 1
        if hidden == 3:
            return
    raise AssertionError("no handbag was hidden")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["upper", "lower"])
def test_a_garment_is_painted_in_the_others_shade(world, which):
    part = Part.TORSO if which == "upper" else Part.HIPS
    compared = set()
    for record in some(world, 6):
        others = (unlike(world, record, f"{which} color"), nameless(world, which))
        for other in others:
            person = world._known(other).person
            name = getattr(outfit_of(labels_of(world, other)), which)
            shade = world._painter.appearance(person).garment(which, name)
            painted = canvas(world, record, {f"{which} color": other})
            fine = np.asarray(painted.parts) == part
            colors, counts = np.unique(np.asarray(painted.color)[fine], axis=0, return_counts=True)
            if fine.sum() > 3000:
                assert tuple(colors[counts.argmax()]) == shade
                compared.add(name)
    assert None in compared
    assert len(compared) > 1


def nameless(world: SyntheticReID, which: str) -> Record:
    """Return a record of a person whose garment has a color without a name."""
    every = everybody(world)
    return next(r for r in every if getattr(outfit_of(labels_of(world, r)), which) is None)


@pytest.mark.slow
def test_a_photographed_garment_moves_towards_the_others_color(world):
    record = max(some(world, 6), key=lambda r: canvas(world, r).shows([Part.TORSO]).sum())
    torso = canvas(world, record).shows([Part.TORSO])
    for color in ("black", "white", "red", "blue"):
        other = next(r for r in everybody(world) if has(world, r, f"up{color}"))
        before, after = world.render(record), world.intervene(record, {"upper color": other})
        shade = [
            world._painter.appearance(world._known(r).person).garment(
                "upper", outfit_of(labels_of(world, r)).upper
            )
            for r in (record, other)
        ]
        step = np.subtract(*shade[::-1])
        moved = after.image[torso].mean(axis=0) - before.image[torso].mean(axis=0)
        far = np.abs(step) > 40
        assert (np.sign(step) == np.sign(moved))[far].all()


@pytest.mark.slow
def test_all_groups_give_the_others_labels_in_the_records_pose(world):
    for record in some(world, 4):
        other = next(r for r in world.train if r.identity != record.identity)
        changes = dict.fromkeys(GROUPS, other)
        after = world.intervene(record, changes)
        labels, look = world._dressed(world._known(record), changes)
        assert np.array_equal(labels, world.labels[other.identity])
        own = world._painter.appearance(world._known(record).person)
        assert (look.dyes, look.styles, look.side) == (own.dyes, own.styles, own.side)
        for name in set(ATTRIBUTE_NAMES) - {"gender", "hair", "up", "down", "clothes"}:
            if labels[INDEX[name]] == 1:
                assert not after.attributes[INDEX[name]].any()
        far = ~world._spread(world._known(record), world.render(record).person | after.person)
        assert np.array_equal(after.image[far], world.render(record).image[far])


def test_colors_leave_the_other_masks(world):
    record = world.train[3]
    before = world.render(record)
    after = world.intervene(record, {"upper color": unlike(world, record, "upper color")})
    rest = [INDEX[name] for name in ATTRIBUTE_NAMES if name not in GROUPS["upper color"]]
    assert np.array_equal(before.attributes[rest], after.attributes[rest])
    assert np.array_equal(before.person, after.person)


# ---------------------------------------------------------------- parts


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_removed_part_changes_pixels_only_where_it_showed(world, part):
    shown = 0
    have = [r for r in everybody(world) if part not in BELONGINGS or has(world, r, part)]
    for record in have[:: max(len(have) // 6, 1)]:
        original, changed, region, shape = world.remove(record, part)
        assert same(original, world.render(record))
        assert np.array_equal(original.image[~region], changed.image[~region])
        assert not (original.person & ~changed.person & ~shape).any()
        assert not (changed.person & ~original.person).any()
        scenes = (canvas(world, record), canvas(world, record, without=PARTS[part]))
        where = difference(*(lit(world, record, scene) for scene in scenes))
        assert not (where & ~shape).any()
        assert not scenes[1].shows(PARTS[part]).any()
        assert np.array_equal(region, world._spread(world._known(record), shape))
        if part in (*BELONGINGS, "hair"):
            assert np.array_equal(shape, original.attributes[INDEX[part]])
            assert not changed.attributes[INDEX[part]].any()
        shown += shape.sum() > 20 and (original.image != changed.image).any()
    assert shown > 0


@pytest.mark.slow
def test_shapes_of_the_parts_cover_the_person(world):
    for record in some(world, 2):
        shapes = [world.remove(record, part).shape for part in PARTS]
        assert np.array_equal(np.any(shapes, axis=0), world.render(record).person)


@pytest.mark.slow
def test_without_all_parts_nobody_is_there(world):
    for record in some(world, 3):
        original, changed, region, shape = world.remove(record, *PARTS)
        assert not changed.person.any()
        assert not changed.attributes.any()
        assert np.array_equal(shape, original.person)
        pieces = tuple(piece for part in PARTS.values() for piece in part)
        shot, painter = world._known(record), world._painter
        bare, empty = canvas(world, record, without=pieces), painter.backdrop(shot, shot)
        front = np.asarray(bare.parts) == Part.FRONT
        assert np.array_equal(lit(world, record, bare)[~front], lit(world, record, empty)[~front])
        assert region[shape].all()


def test_removing_nothing_changes_nothing(world):
    record = next(r for r in world.train if not has(world, r, "backpack"))
    for removal in (world.remove(record), world.remove(record, "backpack")):
        assert same(removal.original, removal.changed)
        assert not removal.region.any()
        assert not removal.shape.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", BELONGINGS)
def test_a_belonging_is_removed_as_by_a_person_who_has_none(world, name):
    for record in [r for r in everybody(world) if has(world, r, name)][:9:4]:
        without = canvas(world, record, without=PARTS[name])
        changed = canvas(world, record, {name: unlike(world, record, name)})
        assert np.array_equal(lit(world, record, without), lit(world, record, changed))
        removed = world.remove(record, name).changed
        given = world.intervene(record, {name: unlike(world, record, name)})
        assert np.array_equal(removed.person, given.person)
        assert np.array_equal(removed.attributes, given.attributes)


def test_bare_skin_shows_under_clothes(world):
    record = next(r for r in world.train if not has(world, r, "up") and not has(world, r, "down"))
    clothed = canvas(world, record)
    bare = canvas(world, record, without=(*PARTS["upper"], *PARTS["lower"]))
    skin = [*PARTS["arms"], *PARTS["legs"]]
    assert bare.shows(skin).sum() > 2 * clothed.shows(skin).sum()


# ---------------------------------------------------------------- backgrounds


@pytest.mark.slow
def test_its_own_background_is_the_rendering_itself(world):
    for record in some(world, 4):
        assert same(world.swap_background(record, record), world.render(record))


@pytest.mark.slow
def test_another_background_leaves_the_person_and_its_masks():
    world = SyntheticReID(seed=2, train_identities=30, test_identities=0, severity=2)
    for record, other in zip(world.train[::20], world.train[7::20], strict=False):
        before, after = world.render(record), world.swap_background(record, other)
        assert np.array_equal(before.person, after.person)
        assert np.array_equal(before.attributes, after.attributes)
        scene = canvas(world, record).shows([Part.SCENE])
        kept = ~world._spread(world._known(record), scene)
        assert np.array_equal(before.image[kept], after.image[kept])
        assert (before.image[scene] != after.image[scene]).mean() > 0.5


@pytest.mark.slow
def test_things_in_front_stay_before_another_background():
    world = SyntheticReID(seed=2, train_identities=10, test_identities=0, severity=2)
    front, record = max(
        ((canvas(world, r).shows([Part.FRONT]), r) for r in world.train[:30]),
        key=lambda pair: pair[0].sum(),
    )
    scene = canvas(world, record).shows([Part.SCENE])
    deep = front & ~world._spread(world._known(record), scene)
    before, after = world.render(record), world.swap_background(record, world.train[-1])
    assert deep.sum() > 20
    assert np.array_equal(before.image[deep], after.image[deep])


@pytest.mark.slow
def test_a_perfect_camera_sees_the_others_background():
    world = SyntheticReID(train_identities=10, test_identities=0, severity=0)
    for record, other in zip(world.train[:40:9], world.train[5::9], strict=False):
        swapped, place = world.swap_background(record, other), world.render(other)
        far = ~grow(swapped.person | place.person, 6)
        far[170:] = False  # the shadows are their own
        assert far.sum() > 3000
        apart = np.abs(swapped.image[far].astype(int) - place.image[far])
        assert apart.mean() < 1
        assert np.quantile(apart, 0.99) <= 4


# ---------------------------------------------------------------- bad input


def test_what_is_unknown_is_named(world):
    record = world.train[0]
    calls = {
        r"^changes: got 'age', expected groups among upper color, .*gender": (
            lambda: world.intervene(record, {"age": record})
        ),
        r"^changes\['hat'\]: got Record": lambda: world.intervene(record, {"hat": STRANGER}),
        r"^part: got 'tail', expected one of head, .*handbag": (
            lambda: world.remove(record, "hat", "tail")
        ),
        r"^other: got Record": lambda: world.swap_background(record, STRANGER),
        r"^record: got Record.* of this world": lambda: world.intervene(STRANGER, {}),
        r"^record: got Record.* record of this": lambda: world.remove(STRANGER, "hat"),
        r"^record: got Record.* query": lambda: world.swap_background(STRANGER, record),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()
