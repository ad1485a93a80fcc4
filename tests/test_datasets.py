"""Images, records and attribute files."""

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.utils.data import DataLoader

from reid_explain import InputError
from reid_explain.datasets import (
    Market1501,
    Record,
    RecordDataset,
    denormalize,
    load_image,
    normalize,
    read_attributes,
    to_tensor,
)

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


def noise(size=(64, 128), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


# Images


def test_load_image_gives_rgb_of_any_mode(tmp_path):
    for mode, suffix in (("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"
        noise().convert(mode).save(path)
        assert (load_image(path).mode, load_image(path).size) == ("RGB", (64, 128))
    noise().save(tmp_path / "exact.png")
    assert np.array_equal(load_image(tmp_path / "exact.png"), noise())


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_absent_and_false_images(suffix, tmp_path):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"bad.{suffix}"
    noise().save(whole)
    content = whole.read_bytes()
    for bad in (b"", b"no image", content[: len(content) // 2], content[:20]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=rf"path: got .*bad\.{suffix}"):
            load_image(path)
    for absent in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(InputError, match=f"path: got {absent}"):
            load_image(absent)


def test_to_tensor_of_one_colour_by_hand():
    tensor = to_tensor(Image.new("RGB", (50, 70), (255, 0, 51)))
    assert tensor.shape == (3, 256, 128)
    assert tensor.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(tensor, torch.tensor(expected)[:, None, None].expand_as(tensor))


def test_to_tensor_resizes_as_pillow_does():
    resized = np.asarray(noise().resize((32, 48), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(denormalize(to_tensor(noise(), (48, 32))), pixels)


def test_denormalize_undoes_normalize_and_clips():
    image = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(denormalize(normalize(image)), image)
    far = torch.full((3, 2, 2), 100.0)
    assert torch.equal(denormalize(far), torch.ones(3, 2, 2))
    assert torch.equal(denormalize(-far), torch.zeros(3, 2, 2))


def test_record_dataset_gives_tensor_identity_camera(market):
    world = Market1501(market)
    items = RecordDataset(world, world.gallery, (16, 8))
    images, identities, cameras = next(iter(DataLoader(items, batch_size=10)))
    assert images.shape == (4, 3, 16, 8)
    assert identities.tolist() == [-1, 0, 7, 7]
    assert cameras.tolist() == [1, 6, 1, 2]
    torch.testing.assert_close(images[2], to_tensor(world.load(world.gallery[2]), (16, 8)))


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


@pytest.fixture
def market(tmp_path):
    for folder, names in FILES.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "Thumbs.db").write_bytes(b"as in the archive")
        for seed, name in enumerate(names):
            noise(seed=seed).save(tmp_path / folder / name)
    return tmp_path


def test_market_records(market):
    world = Market1501(market)
    query = market / "query" / "0007_c1s1_000001_00.jpg"
    assert world.query == (Record(query, 7, 1),)
    assert [record[1:] for record in world.train] == [(2, 1), (11, 3)]
    assert [record[1:] for record in world.gallery] == [(-1, 1), (0, 6), (7, 1), (7, 2)]
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


def attribute_file(path, **parts):
    path.parent.mkdir(exist_ok=True)
    scipy.io.savemat(path, {"some_attribute": parts})
    return path


def identity_list(*names):
    return np.array(names, dtype=object)


def test_market_attributes_are_matched_by_name(market):
    attribute_file(
        market / "attribute" / "market_attribute.mat",
        train={
            "up": [1, 2],
            "age": [4, 1],
            "hat": [2, 1],
            "image_index": identity_list("0002", "0011"),
        },
        test={"image_index": identity_list("0007"), "hat": [0], "up": [2], "age": [3]},
    )
    world = Market1501(market)
    assert world.attribute_names == ("hat", "up")
    assert {key: row.tolist() for key, row in world.labels.items()} == {
        2: [2, 1],
        11: [1, 2],
        7: [0, 2],
    }


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
