"""The benchmark of Extremal FAM, and faithfulness runs against each other."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from nets import small_reid_net
from tiny_world import TinyWorld, tiny_target

from reid_explain import ExtremalFAM
from reid_explain.benchmark import Extremal, Target
from reid_explain.benchmark.command_line import main
from reid_explain.benchmark.extremal import GAINS, gains, kept
from reid_explain.benchmark.faithfulness_against import main as against
from reid_explain.benchmark.methods import Method
from reid_explain.benchmark.metrics.faithfulness import CURVES
from reid_explain.benchmark.run import Row, Rows, claim
from reid_explain.explainers.descent import FILL_KINDS
from reid_explain.fills import FILLS
from reid_explain.inputs import InputSpec
from reid_explain.metrics.similarity import spearman

X = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
QUICK = Method("quick", partial(ExtremalFAM, rounds=1, descents=2))


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_table(tmp_path, capsys):
    common = {"methods": ["ExtremalFAMFast"], "output": tmp_path, "show": True}
    Extremal(queries=1).run(tiny_target(), TinyWorld(), **common)
    table = capsys.readouterr().out
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "gain in points",
        *GAINS,
        "agreement",
        "least",
    ]
    Extremal(queries=1).run(tiny_target(), TinyWorld(), resume=True, **common)
    assert capsys.readouterr().out == table
    results = json.loads((tmp_path / "results.json").read_text())
    assert -1 <= results["methods"]["ExtremalFAMFast"]["least_agreement"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "ExtremalFAM,GradFAM"], "methods: got GradFAM, expected names among Ex"),
        (["--methods", "ExtremalFAM", "--queries", "0"], "queries: got 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(Extremal, [*arguments, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_map_that_is_the_channel_mean_gains_nothing(monkeypatch):
    """A search whose first descent, from the channel mean, does not move."""
    monkeypatch.setattr("reid_explain.explainers.descent.STEP_SIZE", 1e-9)
    one = Method("still", partial(ExtremalFAM, rounds=1, descents=1))
    target = Target(small_reid_net(), spec=InputSpec((64, 32)))
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    found = gains(target, one, images[:1], images[1:])
    assert found.pop("agreement") == pytest.approx(1)
    assert found == pytest.approx(dict.fromkeys(GAINS, 0), abs=1e-4)


def test_agreement_is_of_two_seeds():
    target = tiny_target()
    found = gains(target, QUICK, X[:1], X[1:])
    maps = [
        ExtremalFAM(target.embedding, target.layer, rounds=1, descents=2, seed=seed).attribute(
            X[:1]
        )
        for seed in (0, 1)
    ]
    assert found["agreement"] == pytest.approx(spearman(*maps).item())
    assert tuple(found) == (*(f"met: {kind}" for kind in FILL_KINDS), *FILLS, "agreement")


def test_what_is_kept_by_hand():
    """The embedding is the mean color: red above, green below; the map keeps the upper part."""
    image = torch.zeros(1, 3, 20, 10)
    image[:, 0, :10] = image[:, 1, 10:] = 1
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    target = Target(model, "0", InputSpec((20, 10)))
    map_ = torch.linspace(1, 0, 20)[None, None, :, None].expand(1, 1, 20, 10)
    areas = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    red, green = np.minimum(areas, 0.5), np.maximum(areas - 0.5, 0)
    expected = ((red + green) / np.sqrt(2 * (red**2 + green**2))).mean()
    found = kept(target, map_, image, {"black": torch.zeros_like(image)})
    assert found == {"black": pytest.approx(expected)}


def a_run(folder, drops: dict[str, list[float]], **settings) -> str:
    """A finished run with two queries and the same drop at every area and fill."""
    claim(folder, {"methods": list(drops)} | settings, resume=False)
    (folder / "results.json").write_text("{}")
    rows = Rows(folder)
    for method, values in drops.items():
        for query, value in zip("ab", values, strict=True):
            rows.add(Row(query, ord(query), method, dict.fromkeys(CURVES, value)))
    return str(folder)


def test_changes_in_percent(tmp_path, capsys):
    one = a_run(tmp_path / "one", {"ScoreFAM": [20, 60], "FullImage": [np.nan] * 2})
    other = a_run(tmp_path / "other", {"ExtremalFAM": [10, 50], "Centre": [20, 60]})
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    against([one, other])
    tables = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")]
    for lines, title in zip(tables, ("AS Drop", "AP Drop"), strict=True):
        assert lines[0].endswith("mean of fills")
        assert lines[1].split() == [*title.split()[:1], "Drop,", "ScoreFAM", *4 * ["40.0"]]
        assert lines[2].split()[0] == "ExtremalFAM"
        assert lines[2].count("-25.0 [-25.0, -25.0]") == 5  # 10 points of 40
        assert lines[3].count("0.0 [0.0, 0.0]") == 5
        assert len(lines) == 4
    against([other, one, "--against", "ExtremalFAM"])
    assert "33.3 [33.3, 33.3]" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*")} == before


def test_runs_that_cannot_be_compared(tmp_path):
    one = a_run(tmp_path / "one", {"ScoreFAM": [20, 60]}, seed=0)
    other = a_run(tmp_path / "other", {"GradFAM": [20, 60]}, seed=1)
    for arguments, message in (
        ([one, other], "run: got .*other, expected the settings and queries of"),
        ([one, str(tmp_path)], "run: got .*, expected the output folder of a run"),
        ([one, "--against", "LIME"], "against: got LIME, expected one of ScoreFAM"),
    ):
        with pytest.raises(SystemExit, match=message):
            against(arguments)
