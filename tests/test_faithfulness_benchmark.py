"""The faithfulness benchmark from end to end, on a small world and a small network."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_world import Brightness, TinyWorld, tiny_target

from reid_explain import InputError
from reid_explain.benchmark import METRICS, Faithfulness, Metric, Target
from reid_explain.benchmark.command_line import TargetOptions, main
from reid_explain.benchmark.metrics.faithfulness import CURVES
from reid_explain.benchmark.run import Row, Rows
from reid_explain.datasets import Market1501
from reid_explain.fills import blurred
from reid_explain.inputs import InputSpec
from reid_explain.metrics.faithfulness import composite, top_area_masks
from reid_explain.models import load_trained

METHODS = ("GradFAM", "GradRAM", "GradCAM", "ActivationMean", "Centre", "FullImage")
PICTURES = ("table", "area", "tradeoff", "examples")
FILES = (
    *("results.json", "rows.csv", "settings.json", "table.html"),
    *(f"{name}.png" for name in PICTURES),
)
SIZE = (64, 32)


def arguments(small_files: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "market1501", "--root", str(small_files / "market"), "--queries", "4"),
        *("--weights", str(small_files / "model.json"), "--methods", ",".join(METHODS)),
        *("--image-size", "64", "32", "--output", str(output), *more),
    ]


@pytest.fixture(scope="module")
def whole(small_files, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    main(Faithfulness, arguments(small_files, output))
    return output


def untimed(output: Path) -> tuple[dict, pd.DataFrame]:
    """The results and the rows without what a clock says."""
    results = json.loads((output / "results.json").read_text())
    for figures in results["methods"].values():
        assert figures.pop("seconds_per_image") >= 0
    return results, pd.read_csv(output / "rows.csv").drop(columns="seconds")


def same(one: Path, other: Path) -> bool:
    (results, rows), (others, other_rows) = untimed(one), untimed(other)
    return results == others and rows.equals(other_rows)


@pytest.mark.slow
def test_results(whole):
    results, rows = untimed(whole)
    assert set(results) >= {"dataset", "model", "retrieval", "methods", "excluded", "versions"}
    assert results["model"] == "model.json"
    assert set(results["retrieval"]) == {"rank1", "rank5", "mAP"}
    assert list(results["methods"]) == list(METHODS)
    assert list(rows.columns) == [
        *("method", "case", "identity", "as_drop", "ap_drop", "ap_increase", "kept_area"),
        *CURVES,
    ]
    assert len(rows) == 4 * len(METHODS)
    full = results["methods"]["FullImage"]
    assert full["as_drop"]["mean"] == full["ap_drop"]["mean"] == full["ap_increase"]["mean"] == 0
    assert full["kept_area"]["mean"] == 100
    assert full["area_matched"]["blur"]["as_drop"]["area"] is None
    drops = results["methods"]["GradFAM"]["area_matched"]["blur"]["as_drop"]
    assert set(drops) == {
        *("curve", "random_curve", "area", "random_area"),
        *("lead_over_random", "lead_over_ActivationMean"),
    }
    shards = {path.name for path in whole.glob("rows-*.jsonl")}
    assert {path.name for path in whole.iterdir()} == {
        *FILES,
        *shards,
        "query.safetensors",
        "gallery.safetensors",
    }
    for name in PICTURES:
        with Image.open(whole / f"{name}.png") as picture:
            assert picture.width > 500


@pytest.mark.slow
def test_the_figures_of_one_query_by_hand(small_files, whole):
    """FAM, equations 14 to 17, written out for the query and method of the first row."""
    _, rows = untimed(whole)
    row = rows.iloc[0]
    assert row["method"] == "GradFAM"
    data = Market1501(small_files / "market")
    model = load_trained(small_files / "model.json")
    spec = model.input_spec.replace(size=SIZE)
    (query,) = (record for record in data.query if f"query/{record.path.name}" == row["case"])
    assert row["identity"] == query.identity

    def image(record):
        return spec.to_tensor(data.load(record))[None]

    def embed(image):
        with torch.no_grad():
            return model(image)[0].double()

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    x = image(query)
    layer = {}
    handle = model.backbone.layer4.register_forward_hook(lambda m, i, o: layer.update(a=o))
    length = model(x).norm()
    (gradient,) = torch.autograd.grad(length, layer["a"])
    handle.remove()
    raw = (gradient.mean((2, 3), keepdim=True) * layer["a"]).sum(1, keepdim=True).relu().detach()
    level = torch.nn.functional.interpolate(raw, SIZE, mode="bilinear")
    level = (level - level.min()) / (level.max() - level.min())
    mask = (level >= 0.6) * 1.0 + ((level >= 0.3) & (level < 0.6)) * 0.9
    blur = blurred(x)
    e, b = x * mask + blur * (1 - mask), blur
    gallery = [(r, embed(image(r))) for r in data.gallery]

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
        return 100 * max(0, whole - kept) / (whole - lost) if whole > lost else math.nan

    assert row["kept_area"] == pytest.approx(100 * mask.mean().item(), abs=1e-4)
    assert row["as_drop"] == pytest.approx(share(similarity), abs=1e-2, nan_ok=True)
    assert row["ap_drop"] == pytest.approx(share(ap), abs=1e-4, nan_ok=True)
    assert row["ap_increase"] == 100 * (ap(e) > ap(x))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_an_interrupted_run_ends_with_the_same_table(small_files, whole, tmp_path, kept):
    cut = tmp_path / "run"
    cut.mkdir()
    for name in ("settings.json", "gallery.safetensors"):
        (cut / name).write_bytes((whole / name).read_bytes())
    (shard,) = whole.glob("rows-*.jsonl")
    rows = shard.read_bytes()
    (cut / shard.name).write_bytes(rows[: int(kept * len(rows))])
    main(Faithfulness, arguments(small_files, cut, "--resume"))
    assert same(cut, whole)


@pytest.mark.slow
def test_two_processes_give_the_same_table(small_files, whole, tmp_path):
    output = tmp_path / "run"
    script = Path(__file__).parents[1] / "benchmarks" / "faithfulness.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc_per_node", "2", str(script), *arguments(small_files, output)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        timeout=300,
    )
    assert len(list(output.glob("rows-*.jsonl"))) == 2
    assert same(output, whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "LIME"], "faithfulness.py: methods: got LIME, expected names among"),
        (["--methods", "GradFAM", "LIME"], "methods: got LIME"),
        (["--metrics", "sharpness"], "name: got 'sharpness', expected one of as_drop"),
        (["--metrics", "person_energy"], "metrics: got person_energy, which need person"),
        (["--queries", "0"], "queries: got 0"),
        (["--device", "cuda:77"], "device: got cuda:77"),
        (["--root", "nowhere"], "root: got no folder"),
        (["--dataset", "nothing"], "name: got 'nothing', expected one of"),
        (["--weights", "nowhere.json"], "card: got nowhere.json"),
        (["--layer", "layer4"], "layer: got 'layer4'.*'backbone.layer4'"),
        (["--layer", "classifier"], "layer: got "),
    ],
)
def test_mistakes_are_found_before_the_folder_is_claimed(small_files, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        main(Faithfulness, arguments(small_files, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_folder_of_another_run_is_refused(small_files, whole, monkeypatch):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    for more, message in (
        ([], "output: got .* of an earlier run, expected another folder, or --resume"),
        (["--resume", "--seed", "1"], r"other settings \(seed: 0 there, 1 here\)"),
        (["--resume", "--image-size", "32", "32"], r"other settings \(input: "),
    ):
        with pytest.raises(SystemExit, match=message):
            main(Faithfulness, arguments(small_files, whole, *more))
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    monkeypatch.chdir(small_files)  # the same folder by another name is the same
    main(Faithfulness, [*arguments(small_files, whole, "--resume"), "--root", "market"])


def test_the_label_of_a_file_is_its_name(tmp_path):
    assert TargetOptions().label == "synthetic"
    assert TargetOptions(weights=tmp_path / "osnet.pth").label == "osnet.pth"
    assert TargetOptions(weights=tmp_path / "osnet.pth", model="osnet_x1_0").label == "osnet_x1_0"


# The library, on a model and a data set of one's own


def run(**options) -> pd.DataFrame:
    task = Faithfulness(**{"queries": 2, **options.pop("task", {})})
    return task.run(
        options.pop("target", tiny_target()),
        TinyWorld(),
        **{"methods": ["GradFAM", Brightness], **options},
    )


@pytest.mark.slow
def test_an_own_explainer_on_an_own_model_and_data_set(tmp_path):
    frame = run(output=tmp_path)
    assert list(frame.columns) == ["task", "case", "identity", "method", "metric", "value"]
    assert set(frame["task"]) == {"faithfulness"}
    assert list(frame["method"].unique()) == ["GradFAM", "Brightness"]
    assert frame["case"].nunique() == frame["identity"].nunique() == 2
    assert len(frame) == 2 * 2 * (5 + len(CURVES))
    assert frame[frame["metric"] == "kept_area"]["value"].between(0, 100).all()
    results = json.loads((tmp_path / "results.json").read_text())
    kept = frame[(frame["metric"] == "kept_area") & (frame["method"] == "Brightness")]["value"]
    assert results["methods"]["Brightness"]["kept_area"]["mean"] == pytest.approx(kept.mean())
    timeless = frame["metric"] != "seconds"
    pd.testing.assert_frame_equal(run()[timeless], frame[timeless])  # the same without a folder


@pytest.mark.slow
def test_class_based_methods_are_left_out_where_there_are_no_classes(tmp_path, capsys):
    own = tiny_target(classes=0)
    frame = run(target=own, methods=(), output=tmp_path)
    names = set(frame["method"])
    assert names >= {"RAM", "GradFAM", "ScoreFAM", "Random", "FullImage"}
    assert not names & {"GradCAM", "ScoreCAM", "ExtremalFAM"}
    said = capsys.readouterr().err
    assert "GradCAM, ScoreCAM are left out: methods: got GradCAM of a model without" in said
    assert set(json.loads((tmp_path / "results.json").read_text())["skipped"]) >= {"GradCAM"}
    with pytest.raises(InputError, match="GradCAM of a model without a classifier"):
        run(target=own, methods=["GradFAM", "GradCAM"])


def deletion(view) -> float:
    """Cosine that is left when the top 20 % of the pixels are gone."""
    rest = composite(view.images, ~top_area_masks(view.map, [0.2])[:, 0], view.fills["blur"])
    return 100 * float(torch.cosine_similarity(view.embed(rest), view.embedding))


DELETION = Metric("deletion", deletion, better="lower")


@pytest.mark.slow
def test_a_further_metric_is_a_column_beside_the_published_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TinyWorld, "name", "market1501")
    run(output=tmp_path)  # without it
    METRICS.register(DELETION)
    try:
        frame = run(output=tmp_path, resume=True, show=True)  # a new column deletes nothing
    finally:
        del METRICS._items["deletion"]
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "deletion"
    assert any(line.startswith("ScoreFAM, published") for line in lines)
    found = frame[frame["metric"] == "deletion"]["value"]
    assert len(found) == 4
    assert found.between(-100, 100).all()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["methods"]["GradFAM"]["deletion"]["mean"] <= 100
    named = run(task={"metrics": ("test_faithfulness_benchmark:DELETION", "kept_area")})
    assert list(named["metric"].unique()) == ["deletion", "kept_area"]


def test_a_model_with_one_size_says_so():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, x):
            assert x.shape[2:] == (32, 16), "Input size doesn't match (32, 16)."
            return self.conv(x).mean(dim=(2, 3))

    with pytest.raises(InputError, match=r"image size: got \(64, 16\) \(Input size doesn't match"):
        run(target=Target(Fixed(), "conv", InputSpec((64, 16))), methods=["GradFAM"])


def test_no_query_with_a_match_and_a_gallery_of_one():
    world = TinyWorld()
    world.gallery = tuple(record._replace(identity=9) for record in world.gallery)
    for people, message in ((world, "no query with a match"), (TinyWorld(1), "gallery of one")):
        with pytest.raises(InputError, match=message):
            Faithfulness().run(tiny_target(), people, methods=["GradFAM"])


@pytest.mark.slow
def test_a_disk_error_ends_in_one_line(small_files, tmp_path, monkeypatch):
    def full(self: Rows, row: Row) -> None:
        raise OSError(28, "No space left on device", "rows-0.jsonl")

    monkeypatch.setattr(Rows, "add", full)
    with pytest.raises(SystemExit, match="No space left on device: 'rows-0.jsonl'"):
        main(Faithfulness, arguments(small_files, tmp_path / "run"))


@pytest.mark.slow
def test_the_highest_pixels_of_two_methods_are_looked_at_once():
    class Twin(Brightness):
        pass

    class Negative(Brightness):
        def attribute(self, inputs):
            return -super().attribute(inputs)

    target, passed, rows = tiny_target(), {}, {}
    for methods in ((Brightness,), (Brightness, Twin), (Brightness, Negative)):
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            own = Target.embed
            patch.setattr(
                Target, "embed", lambda *a, seen=seen, own=own: seen.append(len(a[1])) or own(*a)
            )
            task = Faithfulness(queries=1, metrics=("area_matched",))
            rows[methods] = task.run(target, TinyWorld(), methods=methods)
        passed[methods] = sum(seen)
    one, two, other = passed.values()
    assert two == one
    assert other == one + 2 * 4 * 6
    twins = rows[Brightness, Twin]
    values = [twins[twins["method"] == name]["value"].to_numpy() for name in ("Brightness", "Twin")]
    assert values[0].tolist() == values[1].tolist()
