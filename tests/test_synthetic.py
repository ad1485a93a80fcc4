"""The drawn world: the same bytes everywhere, and a truth that agrees with the pictures."""

import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat

from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.datasets.synthetic import ATTRIBUTE_NAMES, GROUPS, SyntheticReID
from reid_explain.datasets.synthetic.appearance import sample_appearance
from reid_explain.datasets.synthetic.attributes import (
    labels_of,
    outfit_of,
    sample_labels,
    toggle,
)
from reid_explain.datasets.synthetic.camera import CAMERAS
from reid_explain.datasets.synthetic.canvas import (
    HEIGHT,
    NEUTRAL,
    SUPERSAMPLING,
    WIDTH,
    Canvas,
    Part,
)
from reid_explain.datasets.synthetic.figure import paint
from reid_explain.datasets.synthetic.person import Person, View, sample_pose
from reid_explain.datasets.synthetic.picture import DISTRACTOR_IDENTITY
from reid_explain.datasets.synthetic.scene import foreground
from reid_explain.datasets.synthetic.truth import TWO_VALUED, attribute_masks, person_mask
from reid_explain.errors import InputError

INDEX = {name: index for index, name in enumerate(ATTRIBUTE_NAMES)}

DIGEST = """
import hashlib
from reid_explain.datasets.synthetic import SyntheticReID
world = SyntheticReID(seed=3, train_identities=4, test_identities=2, distractors=3)
digest = hashlib.sha256()
for record in (*world.train[:8], *world.query[:2], *world.gallery[-3:]):
    digest.update(world.load(record).tobytes())
    digest.update(world.render(record).attributes.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return SyntheticReID()


def even_light(canvas: Canvas) -> np.ndarray:
    """Return the scene before the camera, one row of samples per pixel, (256, 128, 12)."""
    size = (HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING)
    scene = np.asarray(canvas.lit(np.full(size, NEUTRAL, dtype=np.uint16)))
    blocks = scene.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING, 3)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(HEIGHT, WIDTH, -1)


# ---------------------------------------------------------------- determinism


@pytest.mark.slow
def test_two_processes_with_different_threads_draw_the_same_bytes():
    digests = []
    for threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        command = [sys.executable, "-c", DIGEST]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.append(done.stdout)
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


def test_an_image_does_not_depend_on_what_else_the_world_holds_or_draws():
    small = SyntheticReID(train_identities=3, test_identities=0, distractors=0)
    large = SyntheticReID(train_identities=5, test_identities=2, images_per_camera=4)
    large.load(large.train[-1])
    record = small.train[7]
    assert small.load(record).tobytes() == large.load(record).tobytes()


def test_version_2_draws_what_the_shipped_network_was_trained_on(world):
    assert world.version == 2
    means = {
        world.train[0]: (100.6, 104.8, 105.3),
        world.train[2500]: (108.7, 118.0, 85.5),
        world.query[100]: (104.7, 109.8, 114.5),
        world.gallery[-1]: (169.3, 140.5, 150.9),
    }
    for record, mean in means.items():
        assert np.asarray(world.load(record)).mean(axis=(0, 1)) == pytest.approx(mean, abs=0.5)


def test_a_pickled_world_draws_the_same(world):
    small = SyntheticReID(train_identities=2, test_identities=1, distractors=0)
    copy = pickle.loads(pickle.dumps(small))
    record = small.train[0]
    assert copy.load(record).tobytes() == small.load(record).tobytes()
    with pytest.raises(TypeError):
        copy.labels[1] = copy.labels[2]


@pytest.mark.slow
def test_another_seed_is_another_world(world):
    other = SyntheticReID(seed=1)
    first = [world.labels[i] for i in range(1, 30)]
    assert not np.array_equal(first, [other.labels[i] for i in range(1, 30)])


def test_render_returns_the_image_that_load_returns(world):
    record = world.train[5]
    rendering = world.render(record)
    assert np.array_equal(rendering.image, np.asarray(world.load(record)))
    assert (rendering.image.shape, rendering.image.dtype) == ((256, 128, 3), np.uint8)
    assert (rendering.person.shape, rendering.person.dtype) == ((256, 128), np.bool_)
    assert (rendering.attributes.shape, rendering.attributes.dtype) == ((26, 256, 128), np.bool_)


# ---------------------------------------------------------------- counterfactuals


@pytest.fixture(scope="module")
def scenes(world):
    """Shots before any toggle: labels, masks, and the light of each pixel, drawn once."""
    found = []
    for record in world.train[3::1200]:
        shot = world._known(record)
        labels = world._painter.labels(shot.person)
        before = world._painter.paint(shot, labels)
        found.append((shot, labels, attribute_masks(before, labels), even_light(before)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("attribute", ATTRIBUTE_NAMES)
def test_a_toggled_attribute_changes_pixels_only_where_it_shows(world, scenes, attribute):
    index, changes = INDEX[attribute], 0
    for shot, labels, masks, light in scenes:
        toggled = toggle(labels, attribute)
        after = world._painter.paint(shot, toggled)
        shape = masks[index] | attribute_masks(after, toggled)[index]
        changed = (light != even_light(after)).any(axis=2)
        assert not (changed & ~shape).any()
        assert changed.any() == shape.any()
        changes += changed.sum()
    assert changes > 0


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 4000), attribute=st.sampled_from(ATTRIBUTE_NAMES))
def test_outside_the_region_the_two_images_are_equal(world, number, attribute):
    record, index = world.train[number], INDEX[attribute]
    pair = world.counterfactual(record, attribute)
    assert np.array_equal(pair.original.image, np.asarray(world.load(record)))
    assert np.array_equal(pair.original.image[~pair.region], pair.changed.image[~pair.region])
    shape = pair.original.attributes[index] | pair.changed.attributes[index]
    assert pair.region[shape].all()
    assert pair.region.any() == shape.any()
    if shape.sum() > 20 and attribute != "hair":  # a ponytail is not seen from the front
        assert (pair.original.image != pair.changed.image).any()


@pytest.mark.slow
def test_the_region_reaches_no_further_than_the_camera_spreads(world):
    for record in world.train[:12]:
        pair = world.counterfactual(record, "up")
        shape = pair.original.attributes[INDEX["up"]] | pair.changed.attributes[INDEX["up"]]
        spread = world._painter.exposure(world._known(record)).spread
        assert spread <= 10 * world.severity
        for y, x in np.argwhere(pair.region)[::97]:
            near = shape[max(y - spread, 0) : y + spread + 1, max(x - spread, 0) : x + spread + 1]
            assert near.any()


def test_a_counterfactual_keeps_the_masks_of_what_did_not_change(world):
    pair = world.counterfactual(world.train[3], "upred")
    others = [INDEX[name] for name in ATTRIBUTE_NAMES if name not in GROUPS["upper color"]]
    assert np.array_equal(pair.original.attributes[others], pair.changed.attributes[others])
    assert np.array_equal(pair.original.person, pair.changed.person)


@given(st.integers(1, 600), st.sampled_from(ATTRIBUTE_NAMES))
def test_toggle_changes_one_attribute_and_a_garment_keeps_one_color(world, identity, attribute):
    before = world.labels[identity]
    after = toggle(before, attribute)
    different = {ATTRIBUTE_NAMES[i] for i in np.flatnonzero(before != after)}
    colors = {*GROUPS["upper color"], *GROUPS["lower color"]}
    assert attribute in different
    assert different == {attribute} or different <= colors
    for garment in ("upper color", "lower color"):
        assert sum(after[INDEX[name]] == 2 for name in GROUPS[garment]) <= 1
    assert np.array_equal(labels_of(outfit_of(after)), after)


# ---------------------------------------------------------------- masks and labels


@pytest.mark.slow
def test_masks_agree_with_labels_and_lie_in_the_person(world):
    for record in world.train[::400]:
        rendering, labels = world.render(record), world.labels[record.identity]
        assert not (rendering.attributes & ~rendering.person).any()
        for name, index in INDEX.items():
            if labels[index] == 1 and name not in TWO_VALUED:
                assert not rendering.attributes[index].any()


@pytest.mark.slow
def test_what_a_person_has_shows_in_some_camera(world):
    for name, index in INDEX.items():
        identity = next(i for i, labels in world.labels.items() if labels[index] == 2)
        records = [r for r in (*world.train, *world.query) if r.identity == identity]
        assert any(world.render(record).attributes[index].any() for record in records), name


def drawn(yaw: float, **outfit: bool) -> Canvas:
    """Return one person on an empty canvas, with a heading and changes to the outfit."""
    rng = np.random.default_rng(0)
    clothes = outfit_of(sample_labels(rng))._replace(**outfit)
    view = View(yaw, 0.1, (WIDTH / 2, 0.95 * HEIGHT), 0.9 * HEIGHT)
    canvas = Canvas((90, 90, 90))
    paint(canvas, Person(clothes, sample_appearance(rng), sample_pose(rng, yaw), view), sun=0.3)
    return canvas


def test_a_backpack_is_seen_from_behind_and_its_straps_from_the_front():
    front, behind = (drawn(yaw, backpack=True).shows([Part.BACKPACK]) for yaw in (0, math.pi))
    assert 50 < front.sum() < 0.3 * behind.sum()


def test_a_handbag_on_the_far_side_is_hidden():
    left, right = (
        drawn(yaw, handbag=True, trousers=True).shows([Part.HANDBAG]).sum()
        for yaw in (math.pi / 2, -math.pi / 2)
    )
    assert min(left, right) < 0.7 * max(left, right)


@pytest.mark.slow
def test_a_belonging_on_the_far_side_has_an_empty_mask(world):
    index = INDEX["handbag"]
    owners = [r for r in world.train if world.labels[r.identity][index] == 2 and r.camera == 3]
    areas: list[int] = []
    for record in owners[:60]:  # until both were seen
        areas.append(int(world.render(record).attributes[index].sum()))
        if 0 in areas and max(areas) > 100:
            break
    assert 0 in areas
    assert max(areas) > 100


def test_things_in_front_take_pixels_from_the_person():
    canvas = drawn(0.5)
    before = person_mask(canvas)
    for seed in range(6):
        foreground(canvas, np.random.default_rng(seed))
    after = person_mask(canvas)
    assert not (after & ~before).any()
    assert 0 < after.sum() < before.sum()


def test_somebody_else_in_the_scene_is_not_the_person():
    canvas, other = drawn(0.5), Canvas((90, 90, 90))
    rng = np.random.default_rng(1)
    view = View(0.5, 0.1, (WIDTH / 2, 0.95 * HEIGHT), 0.9 * HEIGHT)
    look, pose = sample_appearance(rng), sample_pose(rng, 0.5)
    paint(other, Person(outfit_of(sample_labels(rng)), look, pose, view), 0.3, Part.SCENE)
    assert person_mask(canvas).any()
    assert not person_mask(other).any()


# ---------------------------------------------------------------- people


def test_frequencies_follow_market_1501(world):
    labels = np.stack([*world.labels.values()])
    share = {name: (labels[:, index] == 2).mean() for name, index in INDEX.items()}
    market = {"gender": 0.43, "hair": 0.33, "up": 0.95, "down": 0.61, "clothes": 0.85}
    market |= {"backpack": 0.26, "bag": 0.25, "handbag": 0.11, "upwhite": 0.30, "downblack": 0.39}
    for name, expected in market.items():
        assert share[name] == pytest.approx(expected, abs=0.07), name
    correlation = np.corrcoef(labels[:, INDEX["gender"]], labels[:, INDEX["hair"]])[0, 1]
    assert correlation == pytest.approx(0.78, abs=0.1)


def test_every_attribute_occurs_with_both_values(world):
    labels = np.stack([*world.labels.values()])
    assert set(np.unique(labels)) == {1, 2}
    assert (labels == 2).any(axis=0).all()
    assert (labels == 1).any(axis=0).all()


# ---------------------------------------------------------------- splits


def test_the_default_world_has_the_shape_of_a_reid_data_set(world):
    as_data_set: ReIDDataset = world
    assert as_data_set.name == "synthetic"
    assert 4000 <= len(world.train) <= 6000
    train = {r.identity for r in world.train}
    query = {r.identity for r in world.query}
    gallery = {r.identity for r in world.gallery}
    assert (len(train), len(query)) == (500, 100)
    assert not train & (query | gallery)
    assert gallery == query | {DISTRACTOR_IDENTITY}
    assert sum(r.identity == DISTRACTOR_IDENTITY for r in world.gallery) == 1000
    assert {r.camera for r in world.train} == set(range(1, len(CAMERAS) + 1))


def test_every_query_is_one_of_its_camera_and_has_matches_in_others(world):
    assert len({(r.identity, r.camera) for r in world.query}) == len(world.query)
    for query in world.query:
        others = [r for r in world.gallery if r.identity == query.identity]
        assert {r.camera for r in others if r.camera != query.camera}
    assert not set(world.query) & set(world.gallery)


def test_names_are_those_of_market_1501_and_unique(world):
    records = [*world.train, *world.query, *world.gallery]
    for record in records:
        match = re.fullmatch(r"(\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg", record.path.name)
        assert match is not None
        assert (int(match[1]), int(match[2])) == (record.identity, record.camera)
    assert len({r.path for r in records}) == len(records)


def test_distractors_are_different_people(world):
    distractors = [r for r in world.gallery if r.identity == DISTRACTOR_IDENTITY][:20]
    people = {world._known(r).person for r in distractors}
    assert len(people) == 20
    assert DISTRACTOR_IDENTITY not in world.labels


# ---------------------------------------------------------------- export


@pytest.mark.slow
def test_export_writes_a_market_1501_folder_that_can_be_completed(tmp_path):
    small = SyntheticReID(train_identities=2, test_identities=1, distractors=2)
    small.export(tmp_path)
    record = small.train[0]
    file = tmp_path / "bounding_box_train" / record.path
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(first) == len(small.train) + len(small.query) + len(small.gallery) + 1
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(small.load(record)))
    file.write_bytes(b"interrupted")
    (tmp_path / "query" / small.query[0].path).unlink()
    small.export(tmp_path)
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


@pytest.mark.slow
def test_exported_attributes_have_the_form_of_market_attribute_mat(tmp_path):
    small = SyntheticReID(train_identities=3, test_identities=2, distractors=0)
    small.export(tmp_path)
    market = loadmat(tmp_path / "attribute" / "market_attribute.mat")["market_attribute"][0, 0]
    for split, identities in (("train", [1, 2, 3]), ("test", [4, 5])):
        table = market[split][0, 0]
        assert set(table.dtype.names) == {*ATTRIBUTE_NAMES, "image_index"}
        written = [int(name[0]) for name in table["image_index"].ravel()]
        assert written == identities
        assert str(table["image_index"].ravel()[0][0]) == f"{identities[0]:04d}"
        for name, index in INDEX.items():
            expected = [small.labels[identity][index] for identity in identities]
            assert table[name].shape == (1, len(identities))
            assert table[name].ravel().tolist() == expected


def test_export_refuses_a_folder_of_other_images(tmp_path):
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / "0001_c1s1_000001_00.jpg").touch()
    with pytest.raises(InputError, match="1 other images"):
        SyntheticReID(train_identities=1, test_identities=1).export(tmp_path)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seed", -1),
        ("train_identities", -1),
        ("train_identities", 2.5),
        ("test_identities", 10_000),
        ("images_per_camera", 1),
        ("distractors", -3),
        ("severity", 2.5),
        ("severity", float("nan")),
    ],
)
def test_bad_settings_are_named(argument, value):
    with pytest.raises(InputError, match=rf"^{argument}: got {value}"):
        SyntheticReID(**{argument: value})


def test_an_unknown_attribute_is_named(world):
    with pytest.raises(InputError, match="attribute: got 'age', expected one of backpack"):
        world.counterfactual(world.train[0], "age")


def test_an_unknown_record_is_named(world):
    stranger = Record(Path("9999_c1s1_000001_01.jpg"), 9999, 1)
    for method in (world.load, world.render):
        with pytest.raises(InputError, match="record: got Record"):
            method(stranger)
