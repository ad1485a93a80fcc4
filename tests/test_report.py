"""The page: what it holds, and what a browser makes of it."""

import base64
import errno
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_explain import InputError
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.report import Entry, Link, Report, write_report
from reid_explain.visualization import overlay

PROBE = Path(__file__).with_name("report_probe.js")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMOOTH = torch.rand(4, 3, 4, 2, generator=torch.Generator().manual_seed(0))
IMAGES = torch.nn.functional.interpolate(SMOOTH, (32, 16), mode="bilinear")
SIGNED = torch.tensor([[[-1.0, 0.0], [0.5, 2.0]]])


def data(path):
    text = re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text(), re.DOTALL)[1]
    return json.loads(text)


def places(pairs=3):
    """A query of 2 x 1 places with what is above below in the other: 0 goes with 1, 1 with 0."""
    table = torch.tensor([[0.0, 0.2], [0.6, 0.1]]).view(1, 2, 1, 2, 1).expand(pairs, -1, -1, -1, -1)
    return PairExplanation(table, table, table.sum((1, 2, 3, 4)))


def report(**changes):
    entries = [
        Entry(
            f"image {number}",
            IMAGES[number + 1],
            {"First": SIGNED.abs(), "Second": SIGNED},
            {"First": SIGNED.abs(), "Second": SIGNED.flip(1)},
            similarity=0.9 - 0.1 * number,
            correct=number == 0,
            link=link,
            shares={"hat": (0.25, SIGNED.abs(), None), "bag": (-0.5, SIGNED, SIGNED)},
        )
        for number, link in enumerate(Link.of(places(), apart=0))
    ]
    given = {"entries": entries, "query": ("query", IMAGES[0]), "notes": {"First": "A note."}}
    return Report("A <title>", **{**given, **changes})


def test_links_join_the_best_places():
    link = Link.of(places(), k=5, apart=0)[1]
    assert link.there.tolist() == [[1], [0]]
    assert link.back.tolist() == [[1], [0]]
    assert link.matches.query.tolist() == [[1, 0], [0, 0]]
    assert link.matches.gallery.tolist() == [[0, 0], [1, 0]]
    torch.testing.assert_close(link.matches.contributions, torch.tensor([0.6, 0.2]))


def test_the_page_holds_what_the_report_does(tmp_path):
    path = write_report(report(facts={"model": "<b>"}), tmp_path / "page.html")
    found = data(path)
    assert [entry["name"] for entry in found["entries"]] == ["image 0", "image 1", "image 2"]
    assert list(found["entries"][0]["maps"]) == ["First", "Second"]
    assert found["entries"][0]["link"]["top"] == [
        [1, 0, 0, 0, pytest.approx(0.6)],
        [0, 0, 1, 0, pytest.approx(0.2)],
    ]
    assert found["query"]["size"] == [32, 16]
    assert "A &lt;title&gt;" in path.read_text()
    assert "&lt;b&gt;" in path.read_text()


def test_maps_are_bytes_between_the_limits_of_their_colors(tmp_path):
    found = data(write_report(report(), tmp_path / "page.html"))["entries"][0]["maps"]["Second"]
    low, high = found["limits"]
    assert found["signed"]
    assert low == -high
    cells = np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(found["size"])
    expected = np.clip((SIGNED[0].numpy() - low) / (high - low), 0, 1)
    np.testing.assert_allclose(cells / 255, expected, atol=0.5 / 255)


def test_large_maps_are_averaged(tmp_path):
    entry = Entry("large", torch.rand(3, 256, 128), {"Any": torch.rand(1, 256, 128)})
    path = write_report(Report("Large", [entry]), tmp_path / "page.html")
    assert data(path)["entries"][0]["maps"]["Any"]["size"] == [64, 64]
    assert path.stat().st_size < 100_000


def test_nothing_is_asked_of_the_network(tmp_path):
    text = write_report(report(), tmp_path / "page.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)\w+""", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": []}, "entries: got none"),
        ({"entries": [Entry("a", torch.rand(3, 4))]}, r"entries\[0\].image: got .3, 4."),
        ({"entries": [Entry("a", IMAGES[0], {"M": torch.rand(2, 4, 4)})]}, "a map"),
        ({"query": ("q", 2 * torch.ones(3, 4, 4))}, "query: got values from 2 to 2"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_report(report(**changes), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="output: got"):
        write_report(report(), tmp_path / "file" / "page.html")


def test_a_full_disk_leaves_the_page_of_before(tmp_path, monkeypatch):
    page = write_report(report(), tmp_path / "page.html")
    before = page.read_bytes()

    def full(path, text, **options):
        path.write_bytes(text.encode()[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"page.html \(.*No space left"):
        write_report(report(), page)
    assert page.read_bytes() == before
    assert [*tmp_path.iterdir()] == [page]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a browser reads off the page while a script clicks, types and points."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page with")
    path = write_report(report(), tmp_path_factory.mktemp("report") / "page.html")
    script = f"<script>{PROBE.read_text()}</script></body>"
    path.write_text(path.read_text().replace("</body>", script))
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
    ]
    command += ["--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", out, re.DOTALL)[1]
    return json.loads(title.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.slow
class TestInTheBrowser:
    def test_it_opens_with_the_first_image_and_method(self, seen):
        start = seen["start"]
        assert start["method"] == ["First"]
        assert start["entry"] == 0
        assert start["captions"] == ["query: query", "image 0 · 0.900"]
        assert start["lines"] == 2
        assert start["note"] == "A note."
        assert start["labels"][1] == "image 0, under the map of First"

    def test_keys_switch_methods_and_images(self, seen):
        assert seen["right"]["method"] == ["Second"]
        assert seen["changed"] == [True, True]
        assert seen["down"]["entry"] == 1
        assert seen["up"]["entry"] == 2  # from the first to the last

    def test_the_picture_is_that_of_overlay(self, seen):
        height, width = seen["size"][1]
        pixels = np.array(seen["canvas"], dtype=float).reshape(height, width, 4)[..., :3] / 255
        zoom = height // 32
        expected = overlay(IMAGES[1], SIGNED.abs(), zoom=zoom)
        assert np.abs(pixels - expected).mean() < 0.02  # JPEG, and the zoom of the browser

    def test_opacity_0_is_the_image(self, seen):
        height, width = seen["size"][1]
        pixels = np.array(seen["plain"], dtype=float).reshape(height, width, 4)[..., :3] / 255
        zoom = height // 32
        small = pixels.reshape(32, zoom, 16, zoom, 3).mean((1, 3))
        assert np.abs(small - IMAGES[1].permute(1, 2, 0).numpy()).mean() < 0.02
        assert (
            np.abs(pixels - np.array(seen["canvas"]).reshape(height, width, 4)[..., :3] / 255).max()
            > 0.3
        )

    def test_lines_are_switched(self, seen):
        assert seen["without"]["lines"] == 0

    def test_pointing_at_a_place_joins_it_with_its_best(self, seen):
        (above, below), boxes = seen["hover"][0], seen["boxes"]
        assert above == pytest.approx(boxes[0][0] + boxes[0][1] / 4, abs=1)
        assert below == pytest.approx(boxes[1][0] + boxes[1][1] * 3 / 4, abs=1)

    def test_attributes_are_bars_with_maps(self, seen):
        assert seen["shares"] == ["hat25.0 %", "bag-50.0 %"]
        assert seen["attribute"]["labels"] == ["query, under the map of hat", "image 0"]

    def test_nothing_leaves_the_page(self, seen):
        assert seen["loaded"] == []
        assert seen["alts"]


def test_images_keep_their_shape_and_what_is_hidden_is(tmp_path):
    text = write_report(report(), tmp_path / "page.html").read_text()
    assert "[hidden] { display: none !important; }" in text
    assert not re.search(r"#stage canvas \{[^}]*[ {]height:", text)  # a height squeezes wide images
