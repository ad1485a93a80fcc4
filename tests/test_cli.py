"""The command line: pages from files, an index beside a folder, one line for what is wrong."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_report import data

from reid_explain import ActivationMean, GradRAM, InputError
from reid_explain.benchmark.methods import Method
from reid_explain.benchmark.target import Target
from reid_explain.cli import app, explain
from reid_explain.cli.__main__ import COMMANDS, main
from reid_explain.cli.index import index_folder
from reid_explain.inputs import BGR_255
from reid_explain.models import osnet_x0_25

FAST = ("--methods", "GradFAM")
SMALL = ("--image-size", "64", "32")


def filled(root):
    """Return the folder with images, one of which is damaged, and a checkpoint."""
    generator = np.random.default_rng(0)
    for name in ("query.png", "people/a/1.png", "people/b 2/\u00e9.jpg", "people/c.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(64, 32, 3), dtype=np.uint8)).save(path)
    (root / "people" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    torch.save({"state_dict": osnet_x0_25(0).state_dict()}, root / "osnet.pth")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which we are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return filled(tmp_path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder of all that can be wrong with files."""
    root = filled(tmp_path_factory.mktemp("damaged"))
    for name in ("empty.jpg", "zero.pth"):
        (root / name).touch()
    for name in ("nothing", "x.html", "folder.jpg"):
        (root / name).mkdir()
    for whole, half in (("query.png", "half.png"), ("osnet.pth", "half.pth")):
        data = (root / whole).read_bytes()
        (root / half).write_bytes(data[: len(data) // 2])
    Image.new("1", (20000, 20000)).save(root / "bomb.png")
    torch.save({"state_dict": Code()}, root / "code.pth")
    torch.save({"a": torch.ones(3)}, root / "other.pth")
    weights = osnet_x0_25(0).state_dict()
    torch.save({name: value * torch.nan for name, value in weights.items()}, root / "nan.pth")
    (root / "net.xml").write_text("<net>")
    (root / "card.json").write_text("{")
    return root


class Code:
    """What a pickle may hold: a call."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def osnet():
    return ("--weights", "osnet.pth", *SMALL)


def target():
    torch.manual_seed(0)
    model = osnet_x0_25(0).eval()
    return Target(model, spec=model.input_spec.replace(size=(64, 32)))


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "L", "P", "1", "I;16"])
def test_images_of_any_kind(folder, mode):
    path = folder / ("\u4eba \u00fc.tif" if mode == "CMYK" else f"{mode[0]} x.png")
    picture = Image.open(folder / "query.png")
    picture = Image.new(mode, (32, 64), 40000) if mode == "I;16" else picture.convert(mode)
    picture.save(path)
    (loaded,) = explain.loaded("images", [path])
    assert (loaded.mode, loaded.size) == ("RGB", (32, 64))


@pytest.mark.slow
def test_the_viewer_shows_what_the_commands_do(folder):
    asked = ("query.png", "people", 2, "osnet_x0_25", "osnet.pth", ["GradFAM"])
    (folder / "shown.html").write_text(app.explanation(*asked), encoding="utf-8")
    model = ("--model", "osnet_x0_25", "--weights", "osnet.pth")
    main(["rank", "query.png", "--gallery", "people", "--top", "2", *FAST, *model])
    shown, written = (data(folder / f"{name}.html")["entries"] for name in ("shown", "explanation"))
    assert [entry["name"] for entry in shown] == [entry["name"] for entry in written]
    assert [[*entry["queryMaps"]] for entry in shown] == [["GradFAM"]] * 2
    assert "1.png" not in app.explanation(asked[0], "", *asked[2:])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(0, None, "query: got none"), (1, "absent", "gallery"), (4, "absent.pth", "absent.pth")],
)
def test_the_viewer_says_what_is_wrong(folder, place, value, message):
    asked = ["query.png", "people", 2, "osnet_x0_25", "osnet.pth", ["GradFAM"]]
    asked[place] = value
    with pytest.raises(InputError, match=message):
        app.explanation(*asked)


@pytest.mark.slow
def test_the_viewer_asks_no_network():
    gradio = pytest.importorskip("gradio", reason="gradio is not installed (extra: app)")
    viewer = app.viewer()
    assert not viewer.analytics_enabled
    assert isinstance(app.appearance()["theme"], gradio.themes.Default)
    assert "fonts.googleapis" not in json.dumps(app.appearance()["theme"]._stylesheets)


@pytest.mark.slow
def test_images_by_themselves(folder, capsys):
    main(["explain", "query.png", "people/a/1.png", *osnet(), "--output", "new/page.html"])
    told = capsys.readouterr().err
    assert told.index("GradFAM, 2 images") < told.index(f"{explain.views.SCORE}, 2 images")
    assert "mask/s" in told
    found = data(folder / "new" / "page.html")
    assert [entry["name"] for entry in found["entries"]] == ["query.png", "1.png"]
    assert list(found["entries"][0]["maps"]) == ["GradFAM", "ScoreFAM(max_scored_channels=64)"]
    assert found["query"] is None


@pytest.mark.slow
def test_a_match_adds_up_and_has_margins_and_a_verdict(folder):
    gallery = ["people/a/1.png", "people/c.png"]
    main(["match", "query.png", *gallery, *osnet(), "--threshold", "0.5"])
    assert "<dt>pixels</dt><dd>imagenet</dd>" in (folder / "explanation.html").read_text()
    found = data(folder / "explanation.html")
    first = found["entries"][0]
    assert {*first["queryMaps"]} >= {"PlaceToPlace", "Margin", "Verification", "GradRAM"}
    assert len(first["link"]["there"]) == 4  # rows of OSNet's last map
    assert [entry["similarity"] for entry in found["entries"]] == pytest.approx(
        explain.views.cosines(target_of(folder), images_of(folder, ["query.png", *gallery]))
    )


def target_of(folder):
    return explain.TargetOptions(weights=folder / "osnet.pth", image_size=(64, 32)).open()


def images_of(folder, names):
    return explain.tensors(
        target_of(folder), explain.loaded("images", [folder / name for name in names])
    )


@pytest.mark.slow
def test_a_folder_is_ranked_and_embedded_once(folder, capsys, monkeypatch):
    command = ["rank", "query.png", "--gallery", "people", "--top", "2", *FAST, *osnet()]
    main(command)
    first = capsys.readouterr()
    assert "left out: path: got people/broken.jpg" in first.err
    lines = first.out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == "explanation.html"
    similarities = [float(line.split()[0]) for line in lines[:2]]
    assert similarities == sorted(similarities, reverse=True)
    (folder / "people" / "broken.jpg").unlink()
    embedded = []
    own = Target.embed
    monkeypatch.setattr(Target, "embed", lambda s, x: embedded.append(len(x)) or own(s, x))
    main(command)
    again = capsys.readouterr()
    assert again.out == first.out
    assert "embed people" in first.err
    assert "embed people" not in again.err
    assert 3 in embedded  # query and two of the gallery, for the page
    assert embedded.count(1) == 2  # the query, to check the model too; no image of the folder
    assert sum(embedded) == 5


@pytest.mark.slow
def test_an_index_knows_what_changed(folder):
    index = index_folder(folder / "people", target())
    assert [path.name for path in index.paths] == ["1.png", "\u00e9.jpg", "c.png"]
    Image.new("RGB", (32, 64), "red").save(folder / "people" / "c.png")
    (folder / "people" / "a" / "1.png").unlink()
    again = index_folder(folder / "people", target())
    assert [path.name for path in again.paths] == ["\u00e9.jpg", "c.png"]
    assert again.embeddings[0].equal(index.embeddings[1])
    assert not again.embeddings[1].equal(index.embeddings[2])
    other = target()
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    assert not index_folder(folder / "people", other).embeddings[0].equal(again.embeddings[0])


def test_a_damaged_index_is_made_anew(folder):
    index = index_folder(folder / "people", target())
    (folder / "people.index").write_bytes(b"no index")
    assert index_folder(folder / "people", target()).embeddings.equal(index.embeddings)


def test_an_interrupted_index_keeps_what_it_has(folder, monkeypatch):
    monkeypatch.setattr("reid_explain.cli.index.BATCH_SIZE", 1)
    monkeypatch.setattr("reid_explain.cli.index.EVERY", 1)
    calls, own = [], Target.embed

    def embed(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(self, images)

    monkeypatch.setattr(Target, "embed", embed)
    with pytest.raises(KeyboardInterrupt):
        index_folder(folder / "people", target())
    assert len(index_folder(folder / "people", target()).paths) == 3
    assert len(calls) == 4


def test_without_a_place_for_the_index_the_ranking_goes_on(folder, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "people.index")

    monkeypatch.setattr("reid_explain.cli.index.write_tensors", full)
    assert len(index_folder(folder / "people", target()).paths) == 3
    assert "not kept for the next run" in capsys.readouterr().err


@pytest.mark.slow
def test_attributes_of_the_packages_own_model(folder):
    main(["attributes", "query.png", "people/c.png"])
    shares = data(folder / "explanation.html")["entries"][0]["shares"]
    assert len(shares) == 11
    assert abs(shares[0]["share"]) >= abs(shares[-1]["share"])


@pytest.mark.slow
def test_the_demo_finds_the_person(folder):
    main(["demo", *FAST])
    entries = data(folder / "explanation.html")["entries"]
    assert entries[0]["correct"]
    assert all(entry["shares"] for entry in entries)
    assert (folder / "explanation.html").stat().st_size < 15_000_000


def test_pixels(folder):
    options = explain.TargetOptions(weights=folder / "osnet.pth", pixels="bgr255", resize="crop")
    assert options.open().spec == BGR_255.replace(resize="crop")
    assert explain.views.pixels_of(BGR_255.replace(size=(9, 9), resize="letterbox")) == "bgr255"
    assert explain.views.pixels_of(BGR_255.replace(scale=1)).startswith("BGR to 1, mean (0")


def test_models_and_the_doctor(folder, capsys):
    main(["models"])
    told = capsys.readouterr().out
    assert "osnet_x0_25" in told.splitlines()
    assert "synthetic_vit (shipped, trained on drawn people)" in told.splitlines()
    assert "fast-reid" in told
    assert ".xml, .onnx" in told
    main(["doctor", *osnet()])
    out = capsys.readouterr().out
    assert "images 64 x 32 to 512 numbers" in out
    assert "layer conv5: a map of 4 x 2" in out


@pytest.mark.slow
def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert name in capsys.readouterr().out


def test_benchmarks_run_by_their_name(capsys):
    with pytest.raises(SystemExit, match="reid-explain benchmark: got 'none', expected faith"):
        main(["benchmark", "none"])
    with pytest.raises(SystemExit, match="0"):
        main(["benchmark", "faithfulness", "--help"])
    assert "--queries" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["explain", "absent.jpg"], "images: got absent.jpg"),
        (["explain", "people"], "images: got people"),
        (["explain", "people/broken.jpg"], "images: got people/broken.jpg"),
        (["explain", "empty.jpg"], "images: got empty.jpg"),
        (["explain", "osnet.pth"], "images: got osnet.pth"),
        (["explain", "folder.jpg"], "images: got folder.jpg"),
        (["explain", "half.png"], "images: got half.png"),
        (["explain", "bomb.png"], "images: got bomb.png"),
        (["explain", "/dev/null"], "images: got /dev/null"),
        (["explain", "query.png/x.jpg"], "images: got query.png/x.jpg"),
        (["explain", "query.png", "--output", "page.txt"], "output: got page.txt"),
        (["explain", "query.png", "--output", "x.html"], "output: got x.html"),
        (["explain", "query.png", "--methods", "LIME"], "methods: got LIME"),
        (["explain", "query.png", "--methods", "GradRAM"], "methods: got GradRAM"),
        (["explain", "query.png", "--weights", "absent.pth"], "absent.pth"),
        (["explain", "query.png", "--weights", "query.png"], "query.png"),
        (["explain", "query.png", "--weights", "half.pth"], "half.pth (PytorchStreamReader"),
        (["explain", "query.png", "--weights", "zero.pth"], "zero.pth (EOFError)"),
        (["explain", "query.png", "--weights", "code.pth"], "code.pth, whose content is no"),
        (["explain", "query.png", "--weights", "other.pth"], "other.pth with a"),
        (["explain", "query.png", "--weights", "nan.pth", *SMALL], "embeddings of the model: got"),
        (["explain", "query.png", "--weights", "people"], "people"),
        (["explain", "query.png", "--weights", "net.xml"], "net.xml"),
        (["explain", "query.png", "--weights", "card.json"], "card: got card.json"),
        (["explain", "query.png", "--model", "resnet50", "--weights", "osnet.pth"], "missing: "),
        (["explain", "query.png", "--model", "vgg"], "vgg"),
        (
            ["explain", "query.png", "--model", "os:system"],
            "model: got os:system (system() missing",
        ),
        (["explain", "query.png", "--model", "os:getpid"], "model: got os:getpid, which returned"),
        (["explain", "query.png", "--model", "absent:Net"], "absent:Net"),
        (["explain", "query.png", "--image-size", "0", "0"], "size: got (0, 0)"),
        (
            ["explain", "query.png", "--weights", "osnet.pth", "--image-size", "3", "3"],
            "image size: got (3, 3)",
        ),
        (["explain", "query.png", *FAST, "--output", "query.png/page.html"], "output: got query"),
        (["explain", "query.png", *FAST, "--output", "/proc/page.html"], "output: got /proc"),
        (["match", "query.png", "people/c.png", "--threshold", "nan"], "threshold: got nan"),
        (["rank", "query.png", "--gallery", "people", "--threshold", "7"], "threshold: got 7"),
        (["explain", "query.png", "--layer", "layer9"], "layer: got"),
        (["explain", "query.png", "--device", "cuda:9"], "device: got cuda:9"),
        (["match", "query.png"], "gallery: got none"),
        (["match", "query.png", "absent.jpg"], "gallery: got absent.jpg"),
        (["match", "absent.jpg", "query.png"], "query: got absent.jpg"),
        (["rank", "query.png", "--gallery", "absent"], "gallery: got absent"),
        (["rank", "query.png", "--gallery", "query.png"], "gallery: got query.png"),
        (["rank", "query.png", "--gallery", "nothing"], "gallery: got nothing"),
        (["rank", "query.png", "--gallery", "people", "--top", "0"], "top: got 0"),
        (["attributes", "query.png", "people/c.png", "--weights", "osnet.pth"], "interpreter: got"),
        (["attributes", "query.png", "people/c.png", "--interpreter", "osnet.pth"], "osnet.pth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(damaged, monkeypatch, command, message):
    monkeypatch.chdir(damaged)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {path for path in damaged.rglob("*")}
    with pytest.raises(SystemExit) as error:
        main(command)
    text = str(error.value)
    assert text.startswith("reid-explain: ")
    assert message in text
    assert "\n" not in text
    assert {path for path in damaged.rglob("*")} == before


@pytest.mark.slow
def test_a_query_is_explained_once_where_no_reference_is_needed(folder):
    seen = []

    class Mean(ActivationMean):
        def attribute(self, inputs, **options):
            seen.append(len(inputs))
            return super().attribute(inputs, **options)

    class Pair(GradRAM):
        def attribute(self, inputs, references, **options):
            seen.append((len(inputs), len(references)))
            return super().attribute(inputs, references, **options)

    methods = {"Pair": Method("Pair", Pair), "Mean": Method("Mean", Mean)}
    images = images_of(folder, ["query.png", "people/a/1.png", "people/c.png"])
    maps = explain.views.side(target_of(folder), methods, images[:1], images[1:])
    assert seen == [1, (2, 2)]
    assert list(maps) == ["Pair", "Mean"]
    assert {name: len(map_) for name, map_ in maps.items()} == {"Pair": 2, "Mean": 2}
