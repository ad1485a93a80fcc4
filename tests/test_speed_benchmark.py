"""The speed benchmark: what is counted, timed and compared, and in which order."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from _script import run as run_script
from tiny_world import Brightness, TinyWorld, tiny_target

from reid_explain import InputError, ScoreFAM
from reid_explain.benchmark import Faithfulness, Speed, speed, stopwatch
from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.speed import PEERS, Peer, agreement, bare_passes, measured
from reid_explain.benchmark.task import Case
from reid_explain.benchmark.versions import compare_versions
from reid_explain.memory_format import images_per_forward

CPU = torch.device("cpu")


class TenPasses:
    """An explainer of a user's own."""

    def __init__(self, forward_func, layer):
        self.forward_func = forward_func

    def attribute(self, inputs):
        with torch.no_grad():
            for _ in range(5):
                self.forward_func(inputs.expand(2, -1, -1, -1))
        return inputs.mean(dim=1, keepdim=True)


def test_every_method_is_measured_in_turns(tmp_path, capsys):
    order = []

    class Told(Speed):
        def measure(self, bench, case, method):
            order.append((case.name, method))
            return super().measure(bench, case, method)

    methods = ["ScoreFAM", "ScoreFAM 64 channels", "GradFAM", TenPasses]
    names = [*methods[:3], "TenPasses"]
    frame = Told(images=2).run(
        tiny_target(), TinyWorld(), methods=methods, output=tmp_path, show=True
    )
    cases = frame["case"].unique().tolist()
    assert len(cases) == 3
    assert order == [(case, name) for case in cases for name in names]
    tables = by_method(frame)
    assert tables["TenPasses"]["forwards"].tolist() == [10] * 3
    assert tables["GradFAM"]["forwards"].tolist() == [1] * 3
    assert (tables["ScoreFAM"]["forwards"] <= 8 + 2).all()  # Eight channels, image and baseline.
    assert (tables["ScoreFAM"]["max_abs"] == 0).all()
    assert (tables["ScoreFAM 64 channels"]["max_abs"] < 0.02).all()
    assert tables["GradFAM"]["max_abs"].isna().all()
    assert (frame[frame["metric"] == "bare_seconds"]["value"] > 0).all()
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert "÷ bare passes" in text


@pytest.mark.slow
def test_random_masks_are_timed_in_part_and_count_in_full():
    target, seen = tiny_target(), []
    target.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    few = "RELAX(masks=10)"
    tables = by_method(Speed(images=1).run(target, TinyWorld(), methods=["RELAX", few]))
    assert tables["RELAX"]["forwards"].tolist() == [3001] * 2  # The image itself, too.
    assert tables[few]["forwards"].tolist() == [11] * 2
    assert sum(seen) < 400
    for own in tables.values():  # Of a run of the processor alone.
        assert (own["in_passes"] > 0.5 * own["forwards"]).all()


@pytest.mark.slow
def test_quality_is_that_of_the_faithfulness_benchmark(tmp_path, capsys):
    methods = ["GradFAM", "RISE", Brightness]
    task = Speed(images=2, quality=True)
    frame = task.run(tiny_target(), TinyWorld(), methods=methods, output=tmp_path, show=True)
    keeping = Faithfulness(metrics=("keeping",)).run(tiny_target(), TinyWorld(), methods=methods)
    index = ["case", "method"]
    found, expected = (
        table[table["metric"] == name].set_index(index)["value"]
        for table, name in ((frame, "as_drop"), (keeping, "keeping"))
    )
    assert len(found) == 9
    assert found.tolist() == pytest.approx([expected[key] for key in found.index], nan_ok=True)
    assert (tmp_path / "tradeoff.png").stat().st_size > 0
    results = json.loads((tmp_path / "results.json").read_text())["methods"]["GradFAM"]
    counted = found[[key for key in found.index if key[1] == "GradFAM"]][1:]
    assert results["as_drop"]["mean"] == pytest.approx(counted.mean())
    assert f"{counted.mean():.1f} [" in capsys.readouterr().out


def test_ratios_by_hand():
    """The first image does not count; ratios are within a turn."""
    seconds = {"ScoreFAM": (9.0, 4.0, 8.0), "GradFAM": (9.0, 1.0, 4.0)}
    rows = [
        ("speed", case, 1, method, metric, value)
        for method, values in seconds.items()
        for case, value in zip("abc", values, strict=True)
        for metric, value in (("seconds", value), ("bare_seconds", 2.0), ("max_abs", value / 10))
    ]
    columns = ["task", "case", "identity", "method", "metric", "value"]
    bench = SimpleNamespace(target=SimpleNamespace(label="tiny", device=CPU))
    cases = [Case(name, 1) for name in "abc"]
    task = Speed(images=2)
    shown = {"÷": ("to_bare", "median"), "max-abs": ("max_abs", "most")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SHOWN", shown)
        report = task.report(bench, cases, pd.DataFrame(rows, columns=columns))
    found = report.results["methods"]["GradFAM"]
    assert found["to_bare"] == {"median": 1.25, "least": 0.5, "most": 2.0}
    assert found["speed_up"] == {"median": 3.0, "least": 2.0, "most": 4.0}
    assert report.results["methods"]["ScoreFAM"]["speed_up"]["most"] == 1
    assert "GradFAM" in report.tables
    assert "0.8" in report.tables


def test_bare_passes_are_as_many_in_the_same_batches():
    target, seen = tiny_target(), []
    target.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    image = torch.randn(1, 3, 256, 128)
    assert bare_passes(target, image, 1) == sum(seen) == 1
    seen.clear()
    assert bare_passes(target, image, 37) == sum(seen) == 32
    assert max(seen) == images_per_forward(image) == 16
    seen.clear()
    assert bare_passes(target, image, 2048) == sum(seen) == speed.TIMED


def test_a_target_embeds_in_these_batches_too():
    target, seen = tiny_target(), []
    images = torch.randn(20, 3, 256, 128)
    with torch.no_grad():
        expected = target.model.eval()(images)
    target.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    torch.testing.assert_close(target.embed(images), expected)
    assert seen == [16, 4]


def test_peak_memory_sees_what_is_given_back():
    _, (seconds, processor, mib) = measured(
        lambda: torch.ones(64 * 2**20, dtype=torch.uint8).any(), CPU
    )
    assert processor > 0
    assert seconds > 0
    if mib == mib:
        assert 60 < mib < 90


def test_agreement_by_hand():
    exact = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    assert agreement(exact, 3 * exact + 1) == (0, pytest.approx(1))
    assert agreement(exact, exact.flip(3).flip(2)) == (1, pytest.approx(-1))


def test_parts_choose_the_methods():
    def chosen(*parts):
        task = Speed(parts=parts)
        return {name for name, method in task.known().items() if task.runs(method)}

    assert {"ScoreFAM", "ScoreFAM bfloat16", "ScoreCAM"} <= chosen("exact")
    assert chosen("sampled") == set(speed.SAMPLED)
    assert {"GradFAM", "GradRAM", "CGRAM"} <= chosen("gradient")
    assert {"ExtremalFAM"} <= chosen("descent")
    assert all("ScoreCAM" in name for name in chosen("peers"))
    every = chosen(*speed.PARTS)
    assert not {"Random", "Centre", "ActivationMean"} & every


def test_what_a_pass_costs_needs_no_weights():
    assert Speed.untrained
    assert TargetOptions(model="osnet_x0_25").open(untrained=True).label == "osnet_x0_25"
    with pytest.raises(InputError, match="weights: got nothing"):
        TargetOptions(model="osnet_x0_25").open()


def test_unknown_parts_are_refused():
    with pytest.raises(InputError, match="parts: got 'nope'"):
        Speed(parts=("nope",)).run(tiny_target(), TinyWorld())
    with pytest.raises(InputError, match="images: got 0"):
        Speed(images=0).run(tiny_target(), TinyWorld())


def test_help_and_wrong_parts_need_no_extra(monkeypatch, capsys):
    for name in PEERS:
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for arguments, code in ((["--help"], 0), (["--parts", "nope"], 2)):
        monkeypatch.setattr("sys.argv", ["speed.py", *arguments])
        with pytest.raises(SystemExit) as caught:
            run_script("speed", "Speed")
        assert caught.value.code == code
    assert not [name for name in Speed().known() if name.endswith(" ScoreCAM")]


@pytest.mark.parametrize("name", PEERS)
def test_peers_explain_the_same_image(name):
    pytest.importorskip(name, reason="a peer of the benchmarks extra")
    method = Speed().known()[f"{name} ScoreCAM"]
    frame = Speed(images=1).run(tiny_target(), TinyWorld(), methods=[method.name])
    assert (by_method(frame)[method.name]["forwards"] >= 8).all()
    assert issubclass(PEERS[name], Peer)


def test_settings_of_score_fam_are_what_their_names_say():
    known = Speed().known()
    assert known["ScoreFAM 32 channels"].explainer.keywords == {
        "autocast_dtype": torch.bfloat16,
        "max_scored_channels": 32,
    }
    assert known["ScoreFAM bfloat16"].explainer.func is ScoreFAM


def test_another_version_has_to_be_there(tmp_path):
    with pytest.raises(InputError, match="against: got .*, expected a folder with the package"):
        Speed(against=tmp_path).run(tiny_target())


@pytest.mark.slow
def test_versions_are_timed_in_turns(monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "EXPLAINERS", ("GradFAM", "CGRAM"))
    frame = compare_versions(Path(speed.__file__).parents[2], turns=2)
    assert list(frame.index) == ["extra MiB", "GradFAM", "CGRAM"]
    assert (frame.loc["GradFAM":, ["here", "ratio"]] > 0).all(axis=None)
