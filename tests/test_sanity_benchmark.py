"""The sanity benchmark from end to end, on a small world and a small network."""

import json
import math

import pytest
import torch
from PIL import Image
from tiny_world import Brightness, TinyWorld, tiny_target

from reid_explain import InputError
from reid_explain.benchmark import Sanity
from reid_explain.benchmark.command_line import main
from reid_explain.benchmark.run import Row, Rows
from reid_explain.benchmark.sanity import MEASURES, MODES
from reid_explain.metrics.similarity import spearman
from reid_explain.testing import assert_same, state_of

METHODS = ("GradCAM", "RAM", "GradFAM", "Random", "Centre")
LAYERS = ["classifier", "neck", "last", "stem"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *texts, **options: printed.extend(texts))
        Sanity(images=2).run(tiny_target(), TinyWorld(), methods=METHODS, output=output, show=True)
    return output, str(printed[-1])


@pytest.mark.slow
def test_results(whole):
    output, _ = whole
    results = json.loads((output / "results.json").read_text())
    assert results["images"] == 2
    assert results["layers"] == LAYERS
    for methods in results["modes"].values():
        assert list(methods) == list(METHODS)
        for name, found in methods.items():
            assert found["insensitive"] == (name in ("Random", "Centre")), name
            assert found["no_map"] == 0
            for measure in MEASURES:
                low, high = found[measure]["interval"]
                assert low <= found[measure]["mean"] <= high
                if name in ("Random", "Centre"):
                    assert [low, high] == pytest.approx([1, 1])
    assert results["weights"] == {}
    for name in ("curves", "maps_cascading", "maps_independent"):
        with Image.open(output / f"{name}.png") as picture:
            assert picture.width > 500


@pytest.mark.slow
def test_a_method_counts_the_layers_that_take_part_in_what_it_explains(whole):
    results = json.loads((whole[0] / "results.json").read_text())
    for name, behind in {"GradCAM": LAYERS, "GradFAM": LAYERS[1:], "RAM": LAYERS[2:]}.items():
        assert list(results["modes"]["cascading"][name]["spearman"]["curve"]) == behind


@pytest.mark.slow
def test_the_table_says_which_maps_hardly_change(whole):
    _, printed = whole
    for mode in ("cascading", "independent"):
        assert f"INSENSITIVE to {mode} randomization: Random *, Centre *. Spearman" in printed
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == list(METHODS)
    assert lines[0].split() == ["cascading,", "4", "layers", "SSIM", "Spearman", "HOG"]


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_table(whole, tmp_path):
    output, _ = whole
    (shard,) = output.glob("rows-*.jsonl")
    (tmp_path / "settings.json").write_bytes((output / "settings.json").read_bytes())
    (tmp_path / shard.name).write_bytes(shard.read_bytes()[: shard.stat().st_size * 7 // 10])
    task = Sanity(images=2)
    task.run(tiny_target(), TinyWorld(), methods=METHODS, output=tmp_path, resume=True)
    for name in ("results.json", "rows.csv"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes(), name


@pytest.mark.slow
def test_channel_weights_of_the_methods_that_score_channels():
    frame = Sanity(images=1).run(tiny_target(classes=0), TinyWorld())
    of_scores = frame[frame["method"] == "ScoreFAM"]
    assert list(of_scores["metric"]) == [
        *("weights:entropy", "weights:score_range", "weights:spearman_with_mean")
    ]
    assert 0 < of_scores["value"].iloc[0] <= 1
    named = Sanity(images=1, mode="cascading").run(
        tiny_target(classes=0), TinyWorld(), methods=["ScoreFAM"]
    )
    assert len(named) == 3 + 3 * 3  # weights; three measures of three layers


@pytest.mark.parametrize("mode", MODES)
def test_rows_by_hand(mode):
    """One step written out; and the model is what it was after the run."""
    target = tiny_target()
    before = state_of(target.model)
    frame = Sanity(images=1, mode=mode, seed=3).run(target, TinyWorld(), methods=["GradFAM"])
    assert_same(state_of(target.model), before)
    world = TinyWorld()
    (case,) = frame["case"].unique()
    (query,) = (record for record in world.query if record.path.name == case)
    image = target.spec.to_tensor(world.load(query))[None]

    def map_() -> torch.Tensor:
        output = {}
        handle = target.layer.register_forward_hook(lambda m, i, o: output.update(a=o))
        length = target.model(image).norm()
        handle.remove()
        (slope,) = torch.autograd.grad(length, output["a"])
        map_ = (slope.mean((2, 3), keepdim=True) * output["a"]).sum(1, keepdim=True).relu()
        return torch.nn.functional.interpolate(map_.detach(), (32, 16), mode="bilinear")

    trained = map_()
    for layer in MODES[mode](target.model, image, seed=3):
        if layer == "last":
            other = map_()
    (value,) = frame[frame["metric"] == f"{mode}:spearman:last"]["value"]
    assert value == pytest.approx(spearman(trained, other).item(), abs=1e-6)
    assert value < 0.99


@pytest.mark.slow
def test_no_map_is_recorded_where_a_broken_model_has_none(tmp_path, capsys):
    target = tiny_target()
    trained = target.model.last.weight.clone()

    class Fragile(Brightness):
        def attribute(self, images):
            if not torch.equal(target.model.last.weight, trained):
                raise InputError("layer", "an output without influence", "another")
            return super().attribute(images)

    task = Sanity(images=2, mode="independent")
    frame = task.run(target, TinyWorld(), methods=[Fragile], output=tmp_path, show=True)
    assert frame["value"].isna().sum() == 2 * len(MEASURES)
    found = json.loads((tmp_path / "results.json").read_text())["modes"]["independent"]["Fragile"]
    assert found["no_map"] == 2
    assert found["spearman"]["curve"] == {"neck": 1.0, "last": None, "stem": 1.0}
    assert "No map of the broken model (independent), in no mean: Fragile 2 times." in (
        capsys.readouterr().out
    )
    assert not any(math.isnan(bound) for bound in found["spearman"]["interval"])


def test_the_model_is_restored_after_an_error(monkeypatch):
    target = tiny_target()
    before = state_of(target.model)
    monkeypatch.setitem(MEASURES, "hog", lambda a, b: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Sanity(images=1).run(target, TinyWorld(), methods=["GradFAM"])
    assert_same(state_of(target.model), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "GradFAM,LIME"], "sanity.py: methods: got LIME, expected names among"),
        (["--images", "0"], "sanity.py: images: got 0"),
        (["--root", "absent"], "sanity.py: root: got .*absent"),
        (["--layer", "backbone.layer5"], "sanity.py: layer: got 'backbone.layer5'"),
        (["--methods", "FullImage"], "methods: got FullImage"),
    ],
)
def test_mistakes_are_found_before_the_folder_is_claimed(small_files, tmp_path, more, message):
    common = ["--dataset", "market1501", "--root", str(small_files / "market")]
    common += ["--weights", str(small_files / "model.json"), "--image-size", "64", "32"]
    with pytest.raises(SystemExit, match=message):
        main(Sanity, [*common, "--output", str(tmp_path / "run"), *more])
    assert not (tmp_path / "run").exists()


def test_no_query_with_a_match():
    world = TinyWorld()
    world.gallery = tuple(record._replace(identity=9) for record in world.gallery)
    with pytest.raises(InputError, match="no query with a match from another camera"):
        Sanity().run(tiny_target(), world, methods=["GradFAM"])


def test_rows_of_an_image_without_a_map_count_as_done(tmp_path):
    rows = Rows(tmp_path)
    rows.add(Row("a", 1, "GradFAM", {"cascading:ssim:last": math.nan}))
    assert Rows(tmp_path).has("a", "GradFAM", ["cascading:ssim:last"])
