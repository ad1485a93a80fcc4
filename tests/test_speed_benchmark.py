"""The speed benchmark: it runs, goes on where it stopped, and times the same thing in every way."""

import json

import pytest
import torch
from nets import HeadNet, images

from reid_explain import ScoreFAM
from reid_explain.explainers.landmarks import weighted_sum

pytest.importorskip("pytorch_grad_cam", reason="the peer is an extra of the benchmarks")
import speed
from run_folder import Rows
from speed_agreement import agreement, grouped, shortcuts
from speed_groupings import GROUPINGS, clustered
from speed_report import error, with_ratios
from speed_subjects import Network, Showing
from speed_time import TIME, PeakMemory, Way, activation_of, floor, take_turns

X = images(1, (32, 16), dtype=torch.float32)
CPU = torch.device("cpu")


def network() -> Network:
    return Network(HeadNet(12).float().eval(), "relu")


def test_quick_run_and_resume(tmp_path, capsys, monkeypatch):
    output = tmp_path / "speed"
    speed.main(["--quick", "--output", str(output)])
    first = capsys.readouterr().out
    for words in (
        "peer",
        "floor",
        "exact bfloat16",
        "GradFAM",
        "difference",
        "64 landmarks, kriging",
    ):
        assert words in first
    results = json.loads((output / "results.json").read_text())
    assert results["settings"]["quick"]
    assert (output / "speed.png").stat().st_size > 1000
    errors = results["errors"]["synthetic"]
    assert errors["64 landmarks, kriging"]["max_abs"] <= 0.02
    assert abs(errors["64 clusters bfloat16"]["ap_drop"]["mean"]) < 5
    lines = (output / "time.csv").read_text().splitlines(keepends=True)
    (output / "time.csv").write_text("".join(lines[:-1]))
    speed.main(["--quick", "--output", str(output), "--resume"])
    assert capsys.readouterr().out.count("\n") == first.count("\n")
    again = (output / "time.csv").read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1]
    assert len(again) == len(lines)


def test_the_floor_passes_as_many_images_as_there_are_masks():
    seen = []
    floor(lambda batch: seen.append(len(batch)), images(1, (256, 128)), 37)()
    assert sum(seen) == 37
    assert max(seen) == 16


def test_shown_maps_are_what_is_explained():
    net = network()
    activation = activation_of(net, X)
    shown = Showing(net.model, activation).eval()
    torch.testing.assert_close(
        ScoreFAM(shown, "shown").attribute(X), ScoreFAM(net.model, "relu").attribute(X)
    )
    with torch.no_grad():
        assert torch.equal(shown(X), net.model(X))


def test_the_shortcuts_are_score_fam_with_these_settings():
    net = network()
    activation = activation_of(net, X)
    exact, scores = ScoreFAM(net.model, "relu").attribute(
        X, interpolate_mode=None, return_scores=True
    )
    guess = GROUPINGS["landmarks, kriging"](net, X, activation, scores, 5)
    expected = ScoreFAM(net.model, "relu", max_scored_channels=5).attribute(
        X, interpolate_mode=None
    )
    torch.testing.assert_close(weighted_sum(guess, activation).relu(), expected)
    for grouping in GROUPINGS.values():
        whole = grouping(net, X, activation, scores, 12)
        torch.testing.assert_close(whole, scores, atol=1e-5, rtol=1e-4)
    found = {
        way: (map_, count) for way, map_, count in (*grouped(net, X, scores), *shortcuts(net, X))
    }
    assert found["16 clusters bfloat16"][1] == 12
    assert agreement(exact, found["64 landmarks, kriging"][0])["max_abs"] < 1e-4


def test_k_means_of_points_in_two_heaps():
    points = torch.tensor([[0.0], [0.2], [5.0], [5.2], [5.4]])
    centres, member = clustered(points, torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0]), 2)
    torch.testing.assert_close(centres[member][:, 0], torch.tensor([0.15, 0.15, 5.2, 5.2, 5.2]))


def test_ways_take_turns_and_the_first_does_not_count(tmp_path):
    order = []
    ways = {name: Way(lambda name=name: order.append(name), masks=2) for name in "ab"}
    rows = Rows(
        tmp_path / "t.csv",
        ("part", "network", "setting", "way", "turn"),
        TIME,
    )
    take_turns(rows, ("p", "n", "s"), ways, 2, CPU)
    assert order == list("ababab")
    take_turns(rows, ("p", "n", "s"), ways, 3, CPU)
    assert order == list("ababab") + list("abab")


def test_ratios_by_hand():
    """The peer passes all 200 channels, of which 100 are live; the others know what they skip."""

    def way(seconds, masks, whole, peak):
        return {"seconds": seconds, "images": 1, "masks": masks, "whole": whole, "peak_mib": peak}

    ways = {
        "peer": way(8.0, 4, 200, 9.0),
        "floor": way(4.0, 4, 100, 5.0),
        "exact float32": way(5.0, 5, 102, 6.0),
        "16 clusters float32": way(10.0, 18, 18, 6.0),
    }
    group = {"part": "time", "network": "n", "setting": "100 live of 200", "ways": ways}
    found = with_ratios(group)["ways"]
    assert found["exact float32"]["whole_seconds"] == 102
    assert found["exact float32"]["speed_up"] == pytest.approx(400 / 102)
    assert found["exact float32"]["to_floor"] == 1.02
    assert found["exact float32"]["extra_mib"] == 1
    assert found["16 clusters float32"]["speed_up"] == 40


def test_errors_by_hand():
    rows = [
        {"max_abs": 0.1, "spearman": 0.9, "forwards": 4, "as_drop": 1.0, "ap_drop": float("nan")},
        {"max_abs": 0.3, "spearman": 1.0, "forwards": 8, "as_drop": -2.0, "ap_drop": float("nan")},
    ]
    found = error(rows)
    assert (found["max_abs"], found["spearman"], found["forwards"]) == (0.3, 0.9, 6)
    assert (found["as_drop"]["mean"], found["ap_drop"]) == (-0.5, None)


def test_peak_memory_sees_what_is_given_back():
    before = PeakMemory(CPU)
    torch.ones(64 * 2**20, dtype=torch.uint8)
    extra = before.extra() / 2**20
    if extra == extra:
        assert 60 < extra < 90
