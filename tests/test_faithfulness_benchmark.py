"""benchmarks/faithfulness.py from end to end, on a small world and a small network."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import faithfulness
import pytest
import torch
from faithfulness_report import DROPS, FIGURES
from PIL import Image

from reid_explain.datasets import Market1501, to_tensor
from reid_explain.fills import blurred
from reid_explain.models import load_trained

METHODS = "GradFAM,GradRAM,GradCAM,ActivationMean,Centre,FullImage"


def arguments(small_files: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "market1501", "--root", str(small_files / "market"), "--queries", "4"),
        *("--weights", str(small_files / "model.json"), "--methods", METHODS),
        *("--output", str(output), *more),
    ]


@pytest.fixture(scope="module")
def whole(small_files, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    faithfulness.main(arguments(small_files, output))
    return output


def untimed(output: Path) -> tuple[dict, list[list[str]]]:
    """The results and the rows without what a clock says."""
    results = json.loads((output / "results.json").read_text())
    for figures in results["methods"].values():
        assert figures.pop("seconds_per_image") >= 0
    lines = [line.split(",") for line in (output / "per_query.csv").read_text().splitlines()]
    seconds = lines[0].index("seconds")
    return results, [line[:seconds] + line[seconds + 1 : -1] for line in lines]


def test_results(whole):
    results, rows = untimed(whole)
    assert set(results) >= {"dataset", "model", "retrieval", "methods", "excluded", "versions"}
    assert set(results["retrieval"]) == {"rank1", "rank5", "mAP"}
    assert list(results["methods"]) == METHODS.split(",")
    assert len(rows) == 1 + 4 * len(results["methods"])
    full = results["methods"]["FullImage"]
    assert full["as_drop"]["mean"] == full["ap_drop"]["mean"] == full["ap_increase"]["mean"] == 0
    assert full["kept_area"]["mean"] == 100
    assert full["area_matched"]["blur"]["as_drop"]["area"] is None
    for name in ("table", "area", "examples"):
        with Image.open(whole / f"{name}.png") as picture:
            assert picture.width > 500
    assert not list(whole.glob("rows-*.csv"))
    assert not list(whole.glob("*.partial"))


def test_the_figures_of_one_query_by_hand(small_files, whole):
    """FAM, equations 14 to 17, written out for the query and method of the first row."""
    header, *lines = [row.split(",") for row in (whole / "per_query.csv").read_text().splitlines()]
    row = dict(zip(header, lines[0], strict=True))
    assert row["method"] == "GradFAM"
    data = Market1501(small_files / "market")
    model = load_trained(small_files / "model.json")
    (query,) = (record for record in data.query if f"query/{record.path.name}" == row["query"])

    def embed(image):
        with torch.no_grad():
            return model(image)[0].double()

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    x = to_tensor(data.load(query))[None]
    layer = {}
    handle = model.backbone.layer4.register_forward_hook(lambda m, i, o: layer.update(a=o))
    length = model(x).norm()
    (gradient,) = torch.autograd.grad(length, layer["a"])
    handle.remove()
    raw = (gradient.mean((2, 3), keepdim=True) * layer["a"]).sum(1, keepdim=True).relu().detach()
    level = torch.nn.functional.interpolate(raw, (256, 128), mode="bilinear")
    level = (level - level.min()) / (level.max() - level.min())
    mask = (level >= 0.6) * 1.0 + ((level >= 0.3) & (level < 0.6)) * 0.9
    blur = blurred(x)
    e, b = x * mask + blur * (1 - mask), blur
    gallery = [(r, embed(to_tensor(data.load(r))[None])) for r in data.gallery]

    def similarity(image):
        f = embed(image)
        matches = [
            g for r, g in gallery if r.identity == query.identity and r.camera != query.camera
        ]
        return sum(cosine(f, g) for g in matches)

    def ap(image):
        f = embed(image)
        valid = [
            (cosine(f, g), r.identity == query.identity)
            for r, g in gallery
            if (r.identity, r.camera) != (query.identity, query.camera)
        ]
        hits = [hit for _, hit in sorted(valid, key=lambda pair: -pair[0])]
        at = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        return sum(at) / len(at)

    def share(figure):
        whole, kept, lost = figure(x), figure(e), figure(b)
        return max(0, whole - kept) / (whole - lost) if whole > lost else math.nan

    assert min(share(similarity), share(ap)) > 0.01
    assert float(row["kept_area"]) == pytest.approx(mask.mean().item(), abs=1e-6)
    assert float(row["as_drop"]) == pytest.approx(share(similarity), abs=1e-4)
    assert float(row["ap_drop"]) == pytest.approx(share(ap), abs=1e-6)
    assert float(row["ap_increase"]) == float(ap(e) > ap(x))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_an_interrupted_run_ends_with_the_same_table(small_files, whole, tmp_path, kept):
    cut = tmp_path / "run"
    cut.mkdir()
    for name in ("settings.json", "gallery.safetensors"):
        (cut / name).write_bytes((whole / name).read_bytes())
    rows = (whole / "per_query.csv").read_bytes()
    (cut / "rows-0.csv").write_bytes(rows[: int(kept * len(rows))])
    faithfulness.main(arguments(small_files, cut, "--resume"))
    assert untimed(cut) == untimed(whole)


def test_two_processes_give_the_same_table(small_files, whole, tmp_path):
    output = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = Path(faithfulness.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc_per_node", "2", str(script), *arguments(small_files, output)],
        check=True,
        capture_output=True,
        env=environment,
        timeout=300,
    )
    assert untimed(output) == untimed(whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "LIME"], "--methods: got LIME, expected names among"),
        (["--queries", "0"], "--queries: got 0"),
        (["--device", "cuda:7"], "--device: got cuda:7"),
        (["--root", "nowhere"], "root: got no folder"),
        (["--weights", "nowhere.json"], "card: got nowhere.json"),
        (["--layer", "layer4"], "layer: got 'layer4'.*'backbone.layer4'"),
    ],
)
def test_bad_arguments(small_files, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        faithfulness.main(arguments(small_files, tmp_path / "run", *more))


def test_the_folder_of_another_run_is_refused(small_files, whole):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    for more in ([], ["--resume", "--seed", "1"]):
        with pytest.raises(SystemExit, match="--output: got"):
            faithfulness.main(arguments(small_files, whole, *more))
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_a_gallery_without_matches(small_files, tmp_path):
    data = tmp_path / "market"
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (data / folder).mkdir(parents=True)
    pictures = sorted((small_files / "market" / "query").iterdir())
    for folder, number in (("bounding_box_train", 1), ("query", 5), ("bounding_box_test", 6)):
        name = f"{number:04}_c1s1_000001_00.jpg"
        (data / folder / name).write_bytes(pictures[0].read_bytes())
    with pytest.raises(SystemExit, match="no query with a match"):
        faithfulness.main(arguments(small_files, tmp_path / "run", "--root", str(data)))


def test_a_full_disk_ends_in_one_line(small_files, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(faithfulness.Rows, "add", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        faithfulness.main(arguments(small_files, tmp_path / "run"))


def test_every_column_is_a_figure():
    assert {"as_drop", "ap_drop"} == set(DROPS) <= set(FIGURES)
