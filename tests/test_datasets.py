"""Images, records and attribute files."""

import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from conftest import SHARED, present
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from reid_explain import InputError
from reid_explain.datasets import (
    CUHK03,
    DATASETS,
    DukeMTMCreID,
    FolderDataset,
    Market1501,
    Record,
    RecordDataset,
    Role,
    SyntheticReID,
    open_dataset,
    read_attributes,
)
from reid_explain.inputs import InputSpec
from reid_explain.retrieval import Embedded, Gallery

MARKET_ATTRIBUTES = [
    "backpack",
    "bag",
    "clothes",
    "down",
    "downblack",
    "downblue",
    "downbrown",
    "downgray",
    "downgreen",
    "downpink",
    "downpurple",
    "downwhite",
    "downyellow",
    "gender",
    "hair",
    "handbag",
    "hat",
    "up",
    "upblack",
    "upblue",
    "upgray",
    "upgreen",
    "uppurple",
    "upred",
    "upwhite",
    "upyellow",
]


DUKE_ATTRIBUTES = [
    "backpack",
    "bag",
    "boots",
    "downblack",
    "downblue",
    "downbrown",
    "downgray",
    "downgreen",
    "downred",
    "downwhite",
    "gender",
    "handbag",
    "hat",
    "shoes",
    "top",
    "upblack",
    "upblue",
    "upbrown",
    "upgray",
    "upgreen",
    "uppurple",
    "upred",
    "upwhite",
]


def noise(size=(64, 128), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


# Records


def test_record_dataset_gives_tensor_identity_camera(market):
    world = Market1501(market)
    items = RecordDataset(world, world.gallery, InputSpec((16, 8)))
    images, identities, cameras = next(iter(DataLoader(items, batch_size=10)))
    assert images.shape == (4, 3, 16, 8)
    assert identities.tolist() == [-1, 0, 7, 7]
    assert cameras.tolist() == [1, 6, 1, 2]
    torch.testing.assert_close(images[2], items.spec.to_tensor(world.load(world.gallery[2])))


# Market-1501


FILES = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0011_c3s2_000001_00.jpg"],
    "query": ["0007_c1s1_000001_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c6s4_000151_01.jpg",
        "0007_c1s2_000002_01.jpg",
        "0007_c2s1_000003_01.jpg",
    ],
}


def write(root, files):
    for folder, names in files.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "Thumbs.db").write_bytes(b"as in the archive")
        for seed, name in enumerate(names):
            noise(seed=seed).save(root / folder / name)
    return root


def places(records):
    """Return identity and camera of each record."""
    return [record[1:3] for record in records]


@pytest.fixture
def market(tmp_path):
    return write(tmp_path, FILES)


def test_market_records(market):
    world = Market1501(market)
    query = market / "query" / "0007_c1s1_000001_00.jpg"
    assert world.query == (Record(query, 7, 1),)
    assert places(world.train) == [(2, 1), (11, 3)]
    assert places(world.gallery) == [(-1, 1), (0, 6), (7, 1), (7, 2)]
    assert [r.role for r in world.gallery] == [Role.JUNK, Role.DISTRACTOR, Role.PERSON, Role.PERSON]
    assert {r.role for r in (*world.train, *world.query)} == {Role.PERSON}
    assert world.load(world.query[0]).size == (64, 128)
    assert (world.attribute_names, world.labels) == ((), {})


def test_folders_that_are_not_market(market, tmp_path):
    with pytest.raises(InputError, match=r"root: got no folder .*elsewhere"):
        Market1501(market / "elsewhere")
    stray = market / "query" / "person.jpg"
    noise().save(stray)
    with pytest.raises(InputError, match=r"person\.jpg in .*query.*0002_c1s1_000451_03\.jpg"):
        Market1501(market)
    for path in (market / "query").glob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError, match=r"no \.jpg file in .*query"):
        Market1501(market)
    (market / "query" / "Thumbs.db").unlink()
    (market / "query").rmdir()
    with pytest.raises(InputError, match=r"no folder .*query"):
        Market1501(market)


def test_hidden_files_are_no_images(market):
    (market / "query" / "._0007_c1s1_000001_00.jpg").write_bytes(b"of macOS")
    assert len(Market1501(market).query) == 1


def test_people_to_train_on_are_in_no_other_split(market):
    noise().save(market / "bounding_box_train" / "0007_c4s1_000001_00.jpg")
    with pytest.raises(InputError, match=r"1 training identities in .*first .*0007_c4s1"):
        Market1501(market)


def test_a_query_needs_no_match(market):
    noise().save(market / "query" / "0099_c4s1_000001_00.jpg")
    assert places(Market1501(market).query) == [(7, 1), (99, 4)]


def attribute_file(path, **parts):
    path.parent.mkdir(exist_ok=True)
    scipy.io.savemat(path, {"some_attribute": parts})
    return path


def identity_list(*names):
    return np.array(names, dtype=object)


def identities(names, **attributes):
    """One part of an attribute file: 1 for every attribute that is not given."""
    known = {name: [1] * len(names) for name in MARKET_ATTRIBUTES}
    return known | attributes | {"image_index": identity_list(*names)}


def backwards(part):
    return dict(reversed(part.items()))


def test_market_attributes_are_matched_by_name(market):
    attribute_file(
        market / "attribute" / "market_attribute.mat",
        train=identities(["0002", "0011"], up=[1, 2], age=[4, 1], hat=[2, 1]),
        test=backwards(identities(["0007"], hat=[0], up=[2], age=[3])),
    )
    world = Market1501(market)
    assert list(world.attribute_names) == MARKET_ATTRIBUTES
    up, hat = (MARKET_ATTRIBUTES.index(name) for name in ("up", "hat"))
    assert {key: (row[hat], row[up], row.sum()) for key, row in world.labels.items()} == {
        2: (2, 1, 27),
        11: (1, 2, 27),
        7: (0, 2, 26),
    }


def test_the_attribute_file_of_another_data_set(market, tmp_path):
    part = identities(["0002"])
    other = {name: part.get(name, [1]) for name in (*DUKE_ATTRIBUTES, "image_index")}
    path = attribute_file(
        market / "attribute" / "market_attribute.mat", train=other, test=backwards(other)
    )
    match = (
        "root: got .*market_attribute.mat with attributes missing: clothes, down, downpink, "
        "downpurple, downyellow, hair, up, upyellow; unexpected: boots, downred, shoes, top, "
        "upbrown, expected the 26 attributes of market1501"
    )
    with pytest.raises(InputError, match=match):
        Market1501(market)
    duke = write(tmp_path / "duke", DUKE_FILES)
    (duke / "attribute").mkdir()
    shutil.copy(path, duke / "attribute" / "duke_attribute.mat")
    assert list(DukeMTMCreID(duke).attribute_names) == DUKE_ATTRIBUTES
    attribute_file(duke / "attribute" / "duke_attribute.mat", train=part, test=part)
    with pytest.raises(InputError, match="missing: boots, .*expected the 23 attributes of duke"):
        DukeMTMCreID(duke)
    del part["hat"]
    attribute_file(path, train=part, test=part)
    with pytest.raises(InputError, match="missing: hat; unexpected: none"):
        Market1501(market)


def test_truncated_attribute_files(tmp_path):
    part = identities(["0002", "0011"])
    content = attribute_file(tmp_path / "whole.mat", train=part, test=part).read_bytes()
    path = tmp_path / "cut.mat"
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"path: got .*cut\.mat"):
            read_attributes(path)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["Market-1501", "DukeMTMC-reID"])
def test_truncated_real_attribute_files(folder, tmp_path):
    (whole,) = present(SHARED / "data" / folder / "attribute").glob("*.mat")
    content, path = whole.read_bytes(), tmp_path / "cut.mat"
    for length in (*range(0, len(content), 997), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"path: got .*cut\.mat"):
            read_attributes(path)


def test_attribute_files_of_another_form(tmp_path):
    good = {"up": [1, 2], "image_index": identity_list("0002", "0011")}
    with pytest.raises(InputError, match=r"path: got .*none\.mat"):
        read_attributes(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("no matrix")
    with pytest.raises(InputError, match=r"path: got .*text\.mat"):
        read_attributes(tmp_path / "text.mat")
    for number, parts in enumerate(
        [
            {"train": good},
            {"train": good, "test": {"hat": [1], "image_index": identity_list("0001")}},
            {"train": good, "test": {"up": [1, 1, 1], "image_index": identity_list("0001")}},
            {"train": good, "test": {"up": [1], "image_index": identity_list("person")}},
        ]
    ):
        with pytest.raises(InputError, match="attribute file of Lin"):
            read_attributes(attribute_file(tmp_path / f"{number}.mat", **parts))


@pytest.mark.real_data
def test_the_real_market(market_root):
    world = Market1501(market_root)
    assert [len(split) for split in (world.train, world.query, world.gallery)] == [12936, 145, 283]
    assert len({record.identity for record in world.train}) == 751
    assert len({record.identity for record in world.gallery}) == 50
    assert {record.camera for record in world.train} == set(range(1, 7))
    assert list(world.attribute_names) == MARKET_ATTRIBUTES
    assert len(world.labels) == 1501
    assert {value for row in world.labels.values() for value in row} == {1, 2}
    table = np.stack([world.labels[record.identity] for record in world.train])
    assert table.shape == (12936, 26)


# DukeMTMC-reID


DUKE_FILES = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0370_c8_f0099999.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0005_c5_f0051981.jpg", "7139_c2_f0158815.jpg"],
}


def test_duke_records(tmp_path):
    world = DukeMTMCreID(write(tmp_path, DUKE_FILES))
    assert world.train[0] == Record(
        tmp_path / "bounding_box_train" / "0001_c2_f0046182.jpg", identity=1, camera=2
    )
    assert places(world.train) == [(1, 2), (370, 8)]
    assert places(world.query) == [(5, 2)]
    assert places(world.gallery) == [(5, 5), (7139, 2)]
    assert world.load(world.gallery[1]).size == (64, 128)
    assert (world.attribute_names, world.labels) == ((), {})


def test_each_layout_refuses_the_names_of_another(tmp_path):
    market = write(tmp_path / "market", FILES)
    duke = write(tmp_path / "duke", DUKE_FILES)
    with pytest.raises(InputError, match=r"0002_c1s1_000451_03\.jpg .*dukemtmc .*_f0046985\.jpg"):
        DukeMTMCreID(market)
    with pytest.raises(InputError, match=r"0001_c2_f0046182\.jpg .*market1501 .*_000451_03\.jpg"):
        Market1501(duke)


@pytest.mark.real_data
def test_the_real_attributes_of_duke(tmp_path):
    labels = present(SHARED / "data" / "DukeMTMC-reID" / "attribute" / "duke_attribute.mat")
    write(tmp_path, DUKE_FILES)
    (tmp_path / "attribute").mkdir()
    shutil.copy(labels, tmp_path / "attribute")
    world = DukeMTMCreID(tmp_path)
    assert list(world.attribute_names) == DUKE_ATTRIBUTES
    assert len(world.labels) == 702 + 1110
    unknown = {
        (identity, world.attribute_names[k])
        for identity, row in world.labels.items()
        for k in np.flatnonzero(row == 0)
    }
    assert unknown == {(370, "top"), (679, "top")}
    assert {value for row in world.labels.values() for value in row} == {0, 1, 2}
    assert world.labels[world.train[1].identity].shape == (23,)


# CUHK03


CUHK_FILES = {
    "labeled/bounding_box_train": ["0001_c1_1.png", "0002_c2_10.png"],
    "labeled/query": ["0003_c1_21.png"],
    "labeled/bounding_box_test": ["0003_c2_26.png", "0003_c1_22.png"],
    "detected/bounding_box_train": ["0001_c2_6.png"],
    "detected/query": ["0004_c2_7.png"],
    "detected/bounding_box_test": ["0004_c1_2.png"],
}


def test_cuhk03_records_of_both_kinds_of_boxes(tmp_path):
    labeled = CUHK03(write(tmp_path, CUHK_FILES))
    query = tmp_path / "labeled" / "query" / "0003_c1_21.png"
    assert labeled.query == (Record(query, 3, 1),)
    assert places(labeled.train) == [(1, 1), (2, 2)]
    assert places(labeled.gallery) == [(3, 1), (3, 2)]
    assert labeled.load(labeled.query[0]).size == (64, 128)
    assert (labeled.attribute_names, labeled.labels) == ((), {})
    detected = CUHK03(tmp_path, boxes="detected")
    splits = (detected.train, detected.query, detected.gallery)
    assert [places(split) for split in splits] == [[(1, 2)], [(4, 2)], [(4, 1)]]
    assert (labeled.name, detected.name) == ("cuhk03", "cuhk03_detected")
    assert (labeled.boxes, detected.boxes) == ("labeled", "detected")


def test_cuhk03_needs_the_boxes_that_were_asked_for(tmp_path):
    write(tmp_path, {key: CUHK_FILES[key] for key in CUHK_FILES if key.startswith("labeled")})
    assert len(CUHK03(tmp_path).train) == 2
    with pytest.raises(InputError, match=r"no folder .*detected.bounding_box_train"):
        CUHK03(tmp_path, "detected")
    with pytest.raises(InputError, match="boxes: got 'drawn'"):
        CUHK03(tmp_path, "drawn")


def test_only_market_s_numbers_mean_a_role(tmp_path):
    files = {**DUKE_FILES, "bounding_box_test": ["0000_c5_f0051981.jpg", "0005_c5_f0051981.jpg"]}
    world = DukeMTMCreID(write(tmp_path, files))
    assert [r.role for r in world.gallery] == [Role.PERSON, Role.PERSON]


@given(identity=st.integers(0, 9999), camera=st.integers(1, 20), frame=st.integers(0, 9999999))
def test_names_are_read_as_they_were_written(identity, camera, frame):
    names = {
        Market1501: f"{identity:04d}_c{camera}s2_{frame:06d}_{frame % 100:02d}.jpg",
        DukeMTMCreID: f"{identity:04d}_c{camera}_f{frame:07d}.jpg",
        CUHK03: f"{identity:04d}_c{camera}_{frame}.png",
    }
    for kind, name in names.items():
        found = {other: re.fullmatch(other.name_pattern, name) for other in names}
        assert [int(group) for group in found.pop(kind).groups()] == [identity, camera]
        assert not any(found.values())


# A folder of one's own


SHOP = {
    "chair": ["front.jpg", "side.JPG"],
    "lamp": ["on.png", "off.jpeg", "far.webp"],
    "sofa": ["only.bmp"],
}


def test_photographs_without_cameras_are_query_and_gallery(tmp_path):
    shop = FolderDataset(write(tmp_path, SHOP))
    assert shop.query == shop.gallery
    assert len(shop.train) == 0
    assert shop.identity_names == {1: "chair", 2: "lamp", 3: "sofa"}
    files = ["chair/front.jpg", "chair/side.JPG"]
    files += ["lamp/far.webp", "lamp/off.jpeg", "lamp/on.png", "sofa/only.bmp"]
    assert shop.query == tuple(
        Record(tmp_path / file, identity, camera)
        for camera, (file, identity) in enumerate(zip(files, [1, 1, 2, 2, 2, 3], strict=True), 1)
    )
    assert shop.load(shop.query[5]).size == (64, 128)
    assert (shop.name, shop.attribute_names, shop.labels) == ("folder", (), {})


def embedded(records):
    columns = torch.tensor(places(records)).T
    generator = torch.Generator().manual_seed(0)
    return Embedded(torch.randn(len(records), 4, generator=generator), columns[0], columns[1])


def test_each_finds_all_others_of_its_identity_but_not_itself(tmp_path):
    shop = FolderDataset(write(tmp_path, SHOP))
    ranks = Gallery(embedded(shop.gallery)).ranks(embedded(shop.query))
    assert [len(row) for row in ranks] == [1, 1, 2, 2, 2, 0]


CAMERAS_IN_NAMES = {
    "0002_c1s1_000451_03": "1",
    "0005_c2_f0046985": "2",
    "0001_c12_1": "12",
    "c3": "3",
    "walk-C4-7": "4",
    "cam5.front": "5",
    "hall camera6": "6",
    "c7_c8": "7",
}


def test_cameras_in_the_names(tmp_path):
    people = {"bob": [f"{stem}.jpg" for stem in CAMERAS_IN_NAMES], "-1": ["c01.jpg"]}
    world = FolderDataset(write(tmp_path, people))
    assert world.identity_names == {1: "-1", 2: "bob"}
    found = {record.path.stem: record.camera for record in world.query}
    assert found == {"c01": 1} | {stem: int(n) for stem, n in CAMERAS_IN_NAMES.items()}


@pytest.mark.parametrize(
    "stem", ["pic3", "abc3", "c3d", "c", "scam3", "cc3", "c3s", "3c", "dec2024"]
)
def test_names_without_a_camera(stem, tmp_path):
    world = FolderDataset(write(tmp_path, {"b": [f"{stem}.jpg"], "a": ["x.jpg"]}))
    assert places(world.query) == [(1, 1), (2, 2)]
    noise().save(tmp_path / "a" / "y_c9.jpg")
    with pytest.raises(InputError, match=r"root: got no camera in the name of .*x\.jpg, .*images"):
        FolderDataset(tmp_path)


def test_cameras_by_a_pattern_of_ones_own(tmp_path):
    write(tmp_path, {"anna": ["door-1.jpg", "till-1.jpg"], "bob": ["till-2.jpg"]})
    world = FolderDataset(tmp_path, camera_pattern="^([a-z]+)-")
    assert places(world.query) == [(1, 1), (1, 2), (2, 2)]
    assert world.camera_names == {1: "door", 2: "till"}
    everyone = FolderDataset(tmp_path, camera_pattern="(.+)")
    assert places(everyone.query) == [(1, 1), (1, 2), (2, 3)]
    with pytest.raises(InputError, match=r"no camera in the name of .*anna.door-1\.jpg"):
        FolderDataset(tmp_path, camera_pattern="shot([0-9])")
    with pytest.raises(InputError, match=r"camera_pattern: got \(\[ \("):
        FolderDataset(tmp_path, camera_pattern="([")
    with pytest.raises(InputError, match=r"camera_pattern: got till, expected a group"):
        FolderDataset(tmp_path, camera_pattern="till")


TREE = {
    "train/anna": ["1.jpg", "2.jpg"],
    "test/bob": ["1.jpg", "2.jpg", "3.jpg"],
    "test/carl": ["1.jpg"],
}


def table(root, *lines, name="images.csv", encoding="utf-8"):
    (root / name).write_text("\n".join(lines), encoding=encoding)
    return root / name


def test_cameras_and_splits_from_a_table(tmp_path):
    write(tmp_path, TREE)
    table(
        tmp_path,
        "split,path,camera",
        "query,test/bob/2.jpg,7",
        "gallery,test/bob/1.jpg,10",
        "",
        'gallery, "test/carl/1.jpg", 7',
        "train,train/anna/1.jpg,7",
        encoding="utf-8-sig",
    )
    world = FolderDataset(tmp_path)
    assert world.query == (Record(tmp_path / "test" / "bob" / "2.jpg", 2, 7),)
    assert places(world.gallery) == [(2, 10), (3, 7)]
    assert places(world.train) == [(1, 7)]
    assert world.identity_names == {1: "anna", 2: "bob", 3: "carl"}


def test_columns_that_are_left_out(tmp_path):
    write(tmp_path, TREE)
    paths = ["test/bob/1.jpg", "test/bob/2.jpg", "test/carl/1.jpg"]
    only = table(tmp_path, "path", *paths, name="only.csv")
    world = FolderDataset(tmp_path, table=only)
    assert places(world.query) == places(world.gallery) == [(1, 1), (1, 2), (2, 3)]
    named = table(
        tmp_path, "path,camera", *(f"{p},{c}" for p, c in zip(paths, "bab", strict=True)), name="n"
    )
    world = FolderDataset(tmp_path, table=str(named))
    assert places(world.query) == places(world.gallery) == [(1, 2), (1, 1), (2, 2)]
    assert world.camera_names == {1: "a", 2: "b"}
    split = table(
        tmp_path, "path,split", *(f"{p},test" for p in paths), "train/anna/2.jpg,train", name="s"
    )
    world = FolderDataset(tmp_path, table=split)
    assert places(world.query) == places(world.gallery) == [(2, 1), (2, 2), (3, 3)]
    assert places(world.train) == [(1, 4)]


def test_a_frame_with_identities_as_wildlife_datasets_has_them(tmp_path):
    write(tmp_path, {"images": ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]})
    frame = pd.DataFrame(
        {
            "image_id": [1, 2, 3, 4],
            "identity": ["zoe", "zoe", "unknown", 12],
            "path": [f"images/{n}.jpg" for n in range(1, 5)],
            "orientation": ["left", "right", "left", None],
            "split": ["test", "test", "test", "train"],
        }
    )
    table(tmp_path, *frame.to_csv(index=False).splitlines())
    for world in (FolderDataset(tmp_path, table=frame), FolderDataset(tmp_path)):
        names = [world.identity_names[record.identity] for record in world.query]
        assert names == ["zoe", "zoe", "unknown"]
        assert [record.role for record in world.query] == [Role.PERSON, Role.PERSON, Role.JUNK]
        assert world.query == world.gallery
        assert [world.identity_names[record.identity] for record in world.train] == ["12"]
    with pytest.raises(InputError, match="table: got columns path, orientation in the frame"):
        FolderDataset(tmp_path, table=frame[["path", "orientation"]])
    with pytest.raises(InputError, match="table: got list, expected a CSV file or a pandas"):
        FolderDataset(tmp_path, table=[1])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,identity", "test/bob/1.jpg,"], "no identity, line 2"),
        ([], "columns none in .*images.csv"),
        (["camera", "1"], "columns camera in"),
        (["path,colour", "test/bob/1.jpg,red"], "columns path, colour in"),
        (["path,camera,camera", "test/bob/1.jpg,1,2"], "columns path, camera, camera in"),
        (["path;camera", "test/bob/1.jpg;1"], "columns path;camera in .*with commas"),
        (["path"], "no query image in"),
        (["path,camera", "test/bob/9.jpg,1"], "no file .*9.jpg, line 2 of .*images.csv"),
        (["path,camera", "test/bob/1.jpg,1", "test/bob,2"], "no file .*bob, line 3"),
        (["path,camera", "test/bob/1.jpg"], "got line 2 .*one value for each column"),
        (["path,camera", "test/bob/1.jpg,1,2"], "got line 2 .*one value for each column"),
        (["path,camera", "test/bob/1.jpg,"], "no camera, line 2"),
        (["path", "images.csv"], "images.csv, line 2 .*anna/1.jpg"),
        (["path", "test/bob/1.jpg", "test/bob/1.jpg"], "bob.1.jpg twice"),
        (["path,split", "test/bob/1.jpg,probe"], "split 'probe', line 2 .*one of train, query"),
        (["path,split", "test/bob/1.jpg,query"], "no gallery image in"),
        (["path,split", "test/bob/1.jpg,train"], "no query image in"),
        (["path,split", "test/bob/1.jpg,train", "test/bob/2.jpg,test"], "1 training identities"),
        (["path,camera", '"test/bob/1.jpg,1'], "images.csv .unexpected end of data"),
    ],
)
def test_tables_that_are_wrong(lines, message, tmp_path):
    write(tmp_path, TREE)
    table(tmp_path, *lines)
    with pytest.raises(InputError, match=message):
        FolderDataset(tmp_path)


def test_tables_that_cannot_be_read(tmp_path):
    write(tmp_path, TREE)
    with pytest.raises(InputError, match=r"table: got .*none\.csv \("):
        FolderDataset(tmp_path, table=tmp_path / "none.csv")
    latin = table(tmp_path, "path", "test/bö/1.jpg", name="latin.csv", encoding="latin-1")
    with pytest.raises(InputError, match=r"table: got .*latin\.csv .*UTF-8"):
        FolderDataset(tmp_path, table=latin)


def test_folders_without_photographs(tmp_path):
    with pytest.raises(InputError, match=r"root: got no folder .*none"):
        FolderDataset(tmp_path / "none")
    with pytest.raises(InputError, match=r"root: got no folder in"):
        FolderDataset(tmp_path)
    (tmp_path / ".cache").mkdir()
    write(tmp_path, {"anna": ["1.jpg"], "bob": []})
    with pytest.raises(InputError, match=r"root: got no image in .*bob, expected images"):
        FolderDataset(tmp_path)
    noise().save(tmp_path / "bob" / "1.png")
    assert len(FolderDataset(tmp_path).query) == 2


PEOPLE = st.dictionaries(
    st.text("aB0-é ", min_size=1, max_size=6).filter(lambda name: name.strip() == name),
    st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@given(people=PEOPLE)
def test_any_names_and_cameras_come_back(people, tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    for name, cameras in people.items():
        (root / name).mkdir()
        for camera in cameras:
            (root / name / f"x_c{camera}_y.png").write_bytes(b"not opened")
    world = FolderDataset(root)
    assert sorted(world.identity_names) == list(range(1, len(people) + 1))
    found = [(world.identity_names[r.identity], r.camera) for r in world.gallery]
    assert Counter(found) == Counter((name, c) for name in people for c in people[name])


# By name


@pytest.mark.slow
def test_every_data_set_by_its_name(tmp_path):
    layouts = {
        "market1501": FILES,
        "dukemtmc": DUKE_FILES,
        "cuhk03": CUHK_FILES,
        "cuhk03_detected": CUHK_FILES,
        "folder": SHOP,
        "veri776": VERI_FILES,
        "msmt17": MSMT_FILES,
        "vehicleid": VEHICLE_FILES,
    }
    write_lists(tmp_path)
    for name, files in layouts.items():
        world = open_dataset(name, write(tmp_path / name, files))
        assert world.name == name
        assert world.query[0].path.is_relative_to(tmp_path / name)
        with pytest.raises(InputError, match=f"root: got nothing, expected the folder of {name}"):
            open_dataset(name)
    world = open_dataset("synthetic")
    assert isinstance(world, SyntheticReID)
    assert world.name == "synthetic"
    assert set(DATASETS) == {"synthetic", *layouts}


MSMT_FILES = {
    "train/0000": ["0000_000_01_0303morning_0008_0.jpg", "0000_001_15_0303noon_0008_0.jpg"],
    "train/0001": ["0001_000_03_0303morning_0008_0.jpg"],
    "test/0000": ["0000_000_14_0303morning_0008_0.jpg", "0000_001_02_0303morning_0008_0.jpg"],
}
VEHICLE_FILES = {"image": [f"000000{n}.jpg" for n in range(1, 6)]}


def write_lists(root):
    """The lists of MSMT17 and VehicleID."""
    for path, *lines in (
        ("msmt17/list_train.txt", *(f"0000/{name} 0" for name in MSMT_FILES["train/0000"])),
        ("msmt17/list_val.txt", f"0001/{MSMT_FILES['train/0001'][0]} 1"),
        ("msmt17/list_query.txt", f"0000/{MSMT_FILES['test/0000'][0]} 0"),
        ("msmt17/list_gallery.txt", f"0000/{MSMT_FILES['test/0000'][1]} 0", ""),
        ("vehicleid/train_test_split/train_list.txt", "0000001 7"),
        *(
            (f"vehicleid/train_test_split/test_list_{size}.txt", "0000002 9", "0000003 8", *more)
            for size, more in ((800, ("0000004 9", "0000005 8")), (1600, ("0000004 9",)))
        ),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("\n".join(lines), encoding="utf-8")


def test_msmt17_counts_test_identities_behind_those_of_training(tmp_path):
    write_lists(tmp_path)
    world = open_dataset("msmt17", write(tmp_path / "msmt17", MSMT_FILES))
    assert places(world.train) == [(0, 1), (0, 15), (1, 3)]
    assert (places(world.query), places(world.gallery)) == ([(2, 14)], [(2, 2)])
    for folder in ("train", "test"):
        (tmp_path / "msmt17" / folder).rename(tmp_path / "msmt17" / f"mask_{folder}_v2")
    assert "mask_test_v2" in open_dataset("msmt17", tmp_path / "msmt17").query[0].path.parts
    (tmp_path / "msmt17" / "list_query.txt").write_text("0000/gone.jpg 0")
    with pytest.raises(InputError, match=r"gone.jpg in a list, expected images like 0000_000_01"):
        open_dataset("msmt17", tmp_path / "msmt17")


def test_vehicleid_has_one_gallery_image_of_each_identity(tmp_path):
    write_lists(tmp_path)
    root = write(tmp_path / "vehicleid", VEHICLE_FILES)
    world = open_dataset("vehicleid", root)
    assert places(world.train) == [(7, 1)]
    assert sorted(places(world.gallery)) == [(8, 3), (9, 2)]
    assert places(world.query) == [(9, 4), (8, 5)]
    assert places(open_dataset("vehicleid", root, size=1600).query) == [(9, 4)]
    with pytest.raises(InputError, match="size: got 3"):
        open_dataset("vehicleid", root, size=3)


@pytest.mark.parametrize("text", [None, "", "0001.jpg", "0001.jpg one"])
def test_lists_of_another_form(text, tmp_path):
    write_lists(tmp_path)
    root = write(tmp_path / "vehicleid", VEHICLE_FILES)
    path = root / "train_test_split" / "train_list.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match="train_list.txt.* expected lines of an image and"):
        open_dataset("vehicleid", root)


VERI = """
from reid_explain.datasets import ThreeFolderDataset


class OfMine(ThreeFolderDataset):
    name = "mine"
    folders = ("image_train", "image_query", "image_test")
    name_pattern = r"(\\d+)_c(\\d+)_\\d+_\\d+\\.jpg"
    name_example = "0001_c001_00016450_0.jpg"
"""
VERI_FILES = {
    "image_train": ["0001_c001_00016450_0.jpg"],
    "image_query": ["0002_c002_00030600_0.jpg"],
    "image_test": ["0002_c012_00030605_1.jpg", "0776_c020_00081540_0.jpg"],
}


def test_a_data_set_of_one_s_own_is_one_file(tmp_path, monkeypatch):
    assert len(VERI.strip().splitlines()) <= 12
    (tmp_path / "veri_of_mine.py").write_text(VERI)
    monkeypatch.syspath_prepend(tmp_path)
    world = open_dataset("veri_of_mine:OfMine", write(tmp_path / "VeRi", VERI_FILES))
    assert places(world.gallery) == [(2, 12), (776, 20)]
    assert world.name == "mine"


def test_settings_reach_the_data_set(tmp_path):
    assert open_dataset("cuhk03", write(tmp_path, CUHK_FILES), boxes="detected").boxes == "detected"
    assert len(open_dataset("synthetic", train_identities=0, test_identities=2).train) == 0


@pytest.mark.parametrize("name", ["market1501", "cuhk03", "folder"])
def test_data_sets_reach_processes_that_start_anew(name, tmp_path):
    files = {"market1501": FILES, "cuhk03": CUHK_FILES, "folder": SHOP}[name]
    world = open_dataset(name, write(tmp_path, files))
    again = pickle.loads(pickle.dumps(world))
    assert (again.name, again.gallery) == (world.name, world.gallery)


@pytest.mark.slow
def test_workers_under_spawn(market):
    world = Market1501(market)
    loader = DataLoader(
        RecordDataset(world, world.gallery, InputSpec((16, 8))),
        batch_size=4,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    (batch,) = loader
    assert batch[0].shape == (4, 3, 16, 8)


@pytest.mark.slow
def test_importing_the_data_sets_loads_no_drawn_world():
    code = (
        "import sys; from reid_explain.datasets import DATASETS; list(DATASETS); "
        "sys.exit(any('synthetic' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_names_and_roots_that_open_nothing(tmp_path):
    with pytest.raises(
        InputError, match="name: got 'market', expected one of synthetic, .*market1501.*or module:"
    ):
        open_dataset("market", tmp_path)
    with pytest.raises(InputError, match="root: got .*, expected none"):
        open_dataset("synthetic", tmp_path)
