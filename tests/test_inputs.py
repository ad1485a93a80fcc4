"""Images from files, and what models take: sizes, means, channels."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reid_explain import InputError
from reid_explain.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec, load_image

ORIENTATION = 0x0112


def noise(width=64, height=128, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def pixels_of(path):
    return np.asarray(load_image(path))


# Files


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("CMYK", "tif"), ("LA", "png")],
)
def test_every_mode_becomes_rgb(mode, suffix, tmp_path):
    path = tmp_path / f"image.{suffix}"
    gray = noise().convert("L")
    (gray if mode == "P" else gray.convert("RGB").convert(mode)).save(path)
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", (64, 128))
    red, _, blue = np.asarray(image).astype(int).transpose(2, 0, 1)
    assert abs(red - blue).max() <= 4  # Gray in all of them, but for what JPEG and palettes lose.
    assert red.std() > 20


def test_lossless_rgb_is_exact(tmp_path):
    noise().save(tmp_path / "exact.png")
    assert np.array_equal(pixels_of(tmp_path / "exact.png"), noise())


def test_cmyk_by_hand(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    assert (pixels_of(tmp_path / "red.tif") == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_exif_orientation_is_applied(orientation, turned, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise().save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "photo.png"), turned(np.asarray(noise())))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_to_8(suffix, tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    expected = np.array([[0, 1, 128, 255]], np.uint8)[..., None].repeat(3, axis=2)
    assert np.array_equal(pixels_of(tmp_path / f"deep.{suffix}"), expected)


def test_floating_point_and_32_bit_images(tmp_path):
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(tmp_path / "unit.tif")
    assert pixels_of(tmp_path / "unit.tif")[0, :, 0].tolist() == [0, 51, 255]
    for bad in (np.array([[0, 300]], np.float32), np.array([[0, np.nan]], np.float32)):
        Image.fromarray(bad).save(tmp_path / "bad.tif")
        with pytest.raises(InputError, match=r"path: got .*bad.tif \(values from .*not 0 to 1\)"):
            load_image(tmp_path / "bad.tif")
    Image.fromarray(np.array([[0, 1 << 20]], np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match="1048576, not 0 to 65535"):
        load_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_lie_on_white(mode, tmp_path):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        image = image.convert("RGB").convert("P")
        image.putpixel((1, 0), 7)
        image.info["transparency"] = 7
    image = image if mode == "P" else image.convert(mode)
    image.save(tmp_path / "alpha.png")
    assert pixels_of(tmp_path / "alpha.png")[0].tolist() == [[0] * 3, [255] * 3, [0] * 3]


def test_half_transparent_pixels_are_mixed(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 255, 51)).save(tmp_path / "alpha.png")
    assert (pixels_of(tmp_path / "alpha.png") == [204, 204, 255]).all()


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


# Tensors


def test_one_color_by_hand():
    tensor = InputSpec().to_tensor(Image.new("RGB", (50, 70), (255, 0, 51)))
    assert tensor.shape == (3, 256, 128)
    assert tensor.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(tensor, torch.tensor(expected)[:, None, None].expand_as(tensor))


def test_pixels_of_0_to_255_in_bgr():
    spec = InputSpec((4, 2), mean=(0, 0, 10), std=(1, 1, 5), scale=255, channels="BGR")
    tensor = spec.to_tensor(Image.new("RGB", (5, 7), (200, 100, 50)))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([50.0, 100, (200 - 10) / 5]))
    torch.testing.assert_close(spec.to_rgb(tensor)[:, 0, 0] * 255, torch.tensor([200.0, 100, 50]))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_squash_resizes_as_pillow_does(name):
    spec = InputSpec((48, 32), interpolation=name)
    resized = np.asarray(noise().resize((32, 48), getattr(Image.Resampling, name.upper())))
    pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(spec.to_rgb(spec.to_tensor(noise())), pixels)


def test_letterbox_keeps_the_aspect_ratio_and_fills_with_the_mean():
    spec = InputSpec((40, 20), resize="letterbox", mean=(0.2, 0.4, 0.6), std=(1, 1, 1))
    tensor = spec.to_tensor(Image.new("RGB", (30, 30), "white"))
    torch.testing.assert_close(
        tensor[:, 10:30], (1 - torch.tensor(spec.mean))[:, None, None] + torch.zeros(3, 20, 20)
    )
    assert tensor[:, :10].abs().max() < 1e-6
    assert tensor[:, 30:].abs().max() < 1e-6
    tall = spec.replace(size=(20, 40)).fit(Image.new("RGB", (10, 20), "white"))
    assert tall.size == (40, 20)
    assert np.asarray(tall)[0, :, 0].tolist() == [51] * 15 + [255] * 10 + [51] * 15


@pytest.mark.parametrize(
    ("size", "middle"),
    [((20, 20), (6, 0, 26, 20)), ((40, 20), (8, 0, 24, 32)), ((8, 32), (0, 12, 32, 20))],
)
def test_crop_keeps_the_middle(size, middle):
    """Of an image of 32 by 32, but for the first, of 20 by 32."""
    image = noise().resize((32, 20) if size == (20, 20) else (32, 32))
    wanted = image.crop(middle).resize(size[::-1], Image.Resampling.BILINEAR)
    found = np.asarray(InputSpec(size, resize="crop").fit(image))
    inner = (slice(1, -1), slice(1, -1))  # Pillow sees one pixel more at a border that it cuts.
    np.testing.assert_allclose(found[inner], np.asarray(wanted)[inner], atol=1)


@given(
    st.sampled_from(["RGB", "BGR"]),
    st.sampled_from([1.0, 255.0]),
    st.floats(0, 1),
    st.floats(0.1, 2),
)
def test_to_rgb_undoes_from_rgb_and_clips(channels, scale, mean, std):
    spec = InputSpec(
        mean=(mean * scale, 0, scale), std=(std * scale,) * 3, scale=scale, channels=channels
    )
    images = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(spec.to_rgb(spec.from_rgb(images)), images)
    assert torch.equal(spec.to_rgb(torch.full((3, 2, 2), 1e4)), torch.ones(3, 2, 2))
    assert torch.equal(spec.to_rgb(torch.full((3, 2, 2), -1e4)), torch.zeros(3, 2, 2))


# Specs as data


def test_json_and_pickle_round_trips():
    spec = InputSpec([384, 128], (1, 2, 3), (4, 5, 6), 255, "BGR", "letterbox", "bicubic")
    assert InputSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(spec.replace())
    assert InputSpec.from_json({"size": [8, 4]}) == InputSpec((8, 4))
    assert (InputSpec().mean, InputSpec().std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("size", (256,)),
        ("size", (0, 128)),
        ("size", (256.5, 128)),
        ("size", "256"),
        ("size", 224),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, float("nan"))),
        ("mean", (0.5, 0.5, True)),
        ("std", (1, 1, 0)),
        ("std", (1, 1, float("inf"))),
        ("scale", 0),
        ("scale", None),
        ("channels", "GBR"),
        ("resize", "stretch"),
        ("interpolation", "nearest"),
    ],
)
def test_bad_values_name_the_argument(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: got "):
        InputSpec.from_json({argument: value})
    with pytest.raises(InputError, match=f"^{argument}: got "):
        InputSpec().replace(**{argument: value})


@pytest.mark.parametrize("content", [{"crop": 0.9}, [224, 224], None, "squash"])
def test_json_of_another_form(content):
    with pytest.raises(InputError, match=r"^input: got .* expected a mapping with size, mean"):
        InputSpec.from_json(content)
