"""benchmarks/extremal.py and benchmarks/faithfulness_against.py."""

import json

import extremal
import faithfulness_against
import numpy as np
import pytest
import torch
from extremal import GAINS, kept, measure
from faithfulness import row_file
from faithfulness_report import CURVE_FIGURES, FIGURES
from nets import small_reid_net
from targets import Target

from reid_explain import ExtremalFAM
from reid_explain.explainers.descent import FILL_KINDS
from reid_explain.fills import FILLS
from reid_explain.metrics.sanity import spearman

X = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
ARGUMENTS = ["--queries", "1", "--methods", "ExtremalFAMFast"]


def small_target() -> Target:
    model = small_reid_net()
    return Target(model, model.backbone.layer4)


def test_an_interrupted_run_ends_with_the_same_table(tmp_path, capsys):
    extremal.main([*ARGUMENTS, "--output", str(tmp_path / "run")])
    table = capsys.readouterr().out
    assert [line.split("  ")[0] for line in table.splitlines()] == [
        "gain in points",
        *GAINS,
        "agreement",
        "least",
    ]
    extremal.main([*ARGUMENTS, "--output", str(tmp_path / "run"), "--resume"])
    assert capsys.readouterr().out == table
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 < results["methods"]["ExtremalFAMFast"]["least_agreement"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "ExtremalFAM,GradFAM"], "--methods: got GradFAM, expected names among Ex"),
        (["--queries", "0"], "--queries: got 0"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        extremal.main([*arguments, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_map_that_is_the_channel_mean_gains_nothing(monkeypatch):
    """A search whose first descent, from the channel mean, does not move."""
    monkeypatch.setattr("reid_explain.explainers.descent.STEP_SIZE", 1e-9)
    monkeypatch.setitem(
        extremal.METHODS,
        "ExtremalFAM",
        extremal.METHODS["ExtremalFAM"]._replace(
            explainer=lambda function, layer, seed: ExtremalFAM(
                function, layer, rounds=1, descents=1, seed=seed
            )
        ),
    )
    found = measure(small_target(), "ExtremalFAM", X[:1], X[1:])
    assert found.pop("agreement") == pytest.approx(1)
    assert found == pytest.approx(dict.fromkeys(GAINS, 0), abs=1e-4)


def test_agreement_is_of_two_seeds():
    target = small_target()
    found = measure(target, "ExtremalFAMFast", X[:1], X[1:])
    maps = [
        ExtremalFAM(target.embedding, target.layer, rounds=1, descents=4, seed=seed).attribute(
            X[:1]
        )
        for seed in (0, 1)
    ]
    assert found["agreement"] == pytest.approx(spearman(*maps).item())
    assert tuple(found) == (*(f"met: {kind}" for kind in FILL_KINDS), *FILLS, "agreement")


def test_what_is_kept_by_hand():
    """The embedding is the mean colour: red above, green below; the map keeps the upper part."""
    image = torch.zeros(1, 3, 20, 10)
    image[:, 0, :10] = image[:, 1, 10:] = 1
    model = torch.nn.AdaptiveAvgPool2d(1)
    target = Target(torch.nn.Sequential(model, torch.nn.Flatten()), model)
    map_ = torch.linspace(1, 0, 20)[None, None, :, None].expand(1, 1, 20, 10)
    areas = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
    red, green = np.minimum(areas, 0.5), np.maximum(areas - 0.5, 0)
    expected = ((red + green) / np.sqrt(2 * (red**2 + green**2))).mean()
    found = kept(target, map_, image, {"black": torch.zeros_like(image)})
    assert found == {"black": pytest.approx(expected)}


def a_run(folder, drops: dict[str, list[float]], **settings) -> str:
    """A finished run with two queries and the same drop at every area and fill."""
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"methods": list(drops)} | settings))
    (folder / "results.json").write_text("{}")
    rows = row_file(folder / "per_query.csv")
    for method, values in drops.items():
        for query, value in zip("ab", values, strict=True):
            rows.add((query, method), dict.fromkeys((*FIGURES, *CURVE_FIGURES), value))
    return str(folder)


def test_changes_in_percent(tmp_path, capsys):
    one = a_run(tmp_path / "one", {"ScoreFAM": [0.2, 0.6], "FullImage": [np.nan] * 2})
    other = a_run(tmp_path / "other", {"ExtremalFAM": [0.1, 0.5], "Centre": [0.2, 0.6]})
    faithfulness_against.main([one, other])
    tables = [part.splitlines() for part in capsys.readouterr().out.split("\n\n")]
    for lines, title in zip(tables, ("AS Drop", "AP Drop"), strict=True):
        assert lines[0].endswith("mean of fills")
        assert lines[1].split() == [*title.split()[:1], "Drop,", "ScoreFAM", *4 * ["40.0"]]
        assert lines[2].split()[0] == "ExtremalFAM"
        assert lines[2].count("-25.0 [-25.0, -25.0]") == 5  # 10 points of 40
        assert lines[3].count("0.0 [0.0, 0.0]") == 5
        assert len(lines) == 4
    faithfulness_against.main([other, one, "--against", "ExtremalFAM"])
    assert "33.3 [33.3, 33.3]" in capsys.readouterr().out


def test_runs_that_cannot_be_compared(tmp_path):
    one = a_run(tmp_path / "one", {"ScoreFAM": [0.2, 0.6]}, seed=0)
    other = a_run(tmp_path / "other", {"GradFAM": [0.2, 0.6]}, seed=1)
    for arguments, message in (
        ([one, other], "RUN: got .*other, expected the settings and queries of"),
        ([one, str(tmp_path)], "RUN: got .*, expected the output folder of a finished"),
        ([one, "--against", "LIME"], "--against: got LIME, expected one of ScoreFAM"),
    ):
        with pytest.raises(SystemExit, match=message):
            faithfulness_against.main(arguments)
