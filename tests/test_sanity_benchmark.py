"""benchmarks/sanity.py from end to end, on a small world and a small network."""

import json
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import sanity
import torch
from methods import explainers
from nets import small_reid_net
from PIL import Image
from run_folder import Rows
from sanity_report import draw_maps, in_two_lines
from sanity_trial import LIKENESS, MODES, Trial, compare
from subjects import Subject
from targets import Target

from reid_explain.datasets import to_tensor
from reid_explain.metrics.sanity import (
    cascading_randomisation,
    independent_randomisation,
    spearman,
)
from reid_explain.testing import assert_same, state_of

METHODS = ("GradCAM", "RAM", "GradFAM", "Random", "Centre")
FILES = ("results.json", "per_step.csv", "weights.csv")


@pytest.fixture(scope="module", autouse=True)
def small_images():
    """A sixteenth of the pixels, so that the runs take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sanity, "to_tensor", partial(to_tensor, size=(64, 32)))
        yield


def arguments(small_files: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "market1501", "--root", str(small_files / "market"), "--images", "2"),
        *("--weights", str(small_files / "model.json"), "--methods", ",".join(METHODS)),
        *("--output", str(output), *more),
    ]


@pytest.fixture(scope="module")
def whole(small_files, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    with redirect_stdout(StringIO()) as printed:
        sanity.main(arguments(small_files, output))
    (output / "printed.txt").write_text(printed.getvalue())
    return output


def test_results(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["images"] == 2
    assert results["layers"][0] == "classifier"
    assert results["layers"][-1] == "backbone.conv1"
    for methods in results["modes"].values():
        assert list(methods) == list(METHODS)
        for name, figures in methods.items():
            assert figures["insensitive"] == (name in ("Random", "Centre")), name
            for measure in LIKENESS:
                low, high = figures[measure]["interval"]
                assert low <= figures[measure]["mean"] <= high
        for name in ("Random", "Centre"):
            for measure in LIKENESS:
                assert methods[name][measure]["interval"] == pytest.approx([1, 1])
    assert results["weights"]["ScoreFAM"]["entropy"]["mean"] > 0.99
    for name in ("curves", "maps_cascading", "maps_independent"):
        with Image.open(whole / f"{name}.png") as picture:
            assert picture.width > 500


def test_a_method_counts_the_layers_that_take_part_in_what_it_explains(whole):
    results = json.loads((whole / "results.json").read_text())
    methods, layers = results["modes"]["cascading"], results["layers"]
    after = {"GradCAM": 0, "GradFAM": 1, "RAM": 2}  # classifier; and neck
    for name, skipped in after.items():
        assert list(methods[name]["spearman"]["curve"]) == layers[skipped:]


def test_the_table_says_which_maps_hardly_change(whole):
    printed = (whole / "printed.txt").read_text()
    for mode in ("cascading", "independent"):
        assert f"INSENSITIVE to {mode} randomisation: Random *, Centre *. Spearman" in printed
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == list(METHODS)
    assert lines[0].split() == ["cascading,", "44", "layers", "SSIM", "Spearman", "HOG"]


def test_an_interrupted_run_ends_with_the_same_table(small_files, whole, tmp_path, capsys):
    cut = tmp_path / "run"
    cut.mkdir()
    (cut / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    for name in ("per_step.csv", "weights.csv"):
        rows = (whole / name).read_bytes()
        (cut / name).write_bytes(rows[: len(rows) * 7 // 10])
    sanity.main(arguments(small_files, cut, "--resume"))
    for name in FILES:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert capsys.readouterr().out == (whole / "printed.txt").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "GradFAM,LIME"], "sanity.py: --methods: got LIME, expected names among"),
        (["--images", "0"], "sanity.py: --images: got 0"),
        (["--root", "absent"], "sanity.py: root: got .*absent"),
        (["--layer", "backbone.layer5"], "sanity.py: layer: got 'backbone.layer5'"),
        (["--weights", "absent.json"], "sanity.py: card: got absent.json"),
        (["--device", "cuda:7"], "sanity.py: --device: got cuda:7"),
    ],
)
def test_bad_arguments(small_files, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        sanity.main([*arguments(small_files, tmp_path / "run"), *more])
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(small_files, whole):
    with pytest.raises(SystemExit, match="of an earlier run, expected another folder, or --resume"):
        sanity.main(arguments(small_files, whole))
    with pytest.raises(SystemExit, match="of a run with other settings"):
        sanity.main(arguments(small_files, whole, "--resume", "--seed", "1"))


def test_no_query_with_a_match(small_files, tmp_path, monkeypatch):
    monkeypatch.setattr(sanity, "match_of", lambda query, gallery: None)
    with pytest.raises(SystemExit, match="--root: got no query with a match from another camera"):
        sanity.main(arguments(small_files, tmp_path / "run"))


def trial(*methods: str) -> Trial:
    model = small_reid_net()
    images, references = torch.randn(2, 1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    subjects = {"a.jpg": Subject(images, references, torch.tensor([1]))}
    target = Target(model, model.backbone.layer4)
    return Trial(target, subjects, explainers(target, methods), seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_rows_by_hand(mode, tmp_path):
    """One step written out; and the model is what it was after the run."""
    one = trial("GradFAM")
    model, (subject,) = one.target.model, one.subjects.values()
    before = state_of(model)
    rows = Rows(tmp_path / "rows.csv", ("layer", "mode", "image", "method"), tuple(LIKENESS))
    compare(one, mode, rows)
    draw_maps(one, mode)
    assert_same(state_of(model), before)

    randomise = {
        "cascading": cascading_randomisation,
        "independent": independent_randomisation,
    }[mode]
    trained = one.methods["GradFAM"](subject)
    for layer in randomise(model, subject.images, seed=3):
        if layer == "backbone.layer3.0.conv1":
            other = one.methods["GradFAM"](subject)
    figures = rows.rows["backbone.layer3.0.conv1", mode, "a.jpg", "GradFAM"]
    assert figures["spearman"] == spearman(trained, other).item() < 0.99


def test_the_model_is_restored_after_an_error(tmp_path):
    one = trial("GradFAM")
    before = state_of(one.target.model)
    one.methods["GradFAM"] = lambda subject: 1 / 0
    rows = Rows(tmp_path / "rows.csv", ("layer", "mode", "image", "method"), tuple(LIKENESS))
    with pytest.raises(ZeroDivisionError):
        compare(one, "cascading", rows)
    assert_same(state_of(one.target.model), before)


def test_layer_names_in_two_lines():
    assert in_two_lines("backbone.layer4.1.bn2") == "backbone.\nlayer4.1.bn2"
    assert in_two_lines("conv4.0.conv2b.1.conv1") == "conv4.0.\nconv2b.1.conv1"
    assert in_two_lines("classifier") == "classifier"
