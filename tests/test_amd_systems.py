"""benchmarks/amd.py cross-domain and reweight: several systems, several data sets."""

import json
import shutil

import amd
import amd_report
import amd_systems
import numpy as np
import pytest
import scipy.io
import torch

from reid_explain.amd import AMDInterpreter
from reid_explain.amd.evaluation import decompose_records, evaluate
from reid_explain.datasets.published import (
    DUKE_ATTRIBUTES,
    MARKET_ATTRIBUTES,
    DukeMTMCreID,
    Market1501,
)
from reid_explain.datasets.synthetic import SyntheticReID

SHARED = sorted({*MARKET_ATTRIBUTES} & {*DUKE_ATTRIBUTES})
ON_MARKET, ON_DUKE = "trained_on_market1501", "trained_on_dukemtmc"


def export(folder, seed, distractors=3):
    world = SyntheticReID(seed=seed, train_identities=1, test_identities=5, distractors=distractors)
    world.export(folder)
    return folder


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return export(tmp_path_factory.mktemp("market") / "Market", 1)


@pytest.fixture(scope="module")
def duke(tmp_path_factory):
    """Duke's file names and 23 attributes; those that Market-1501 does not have are all 1."""
    root = export(tmp_path_factory.mktemp("duke") / "Duke", 2, distractors=0)
    drawn = Market1501(root)
    attribute_file = {}
    for split, records in (("train", drawn.train), ("test", drawn.query)):
        people = sorted({record.identity for record in records})
        table = {
            name: [drawn.labels[i][drawn.attribute_names.index(name)] for i in people]
            if name in SHARED
            else [1] * len(people)
            for name in DUKE_ATTRIBUTES
        }
        identities = np.array([f"{identity:04d}" for identity in people], dtype=object)
        attribute_file[split] = {**table, "image_index": identities}
    scipy.io.savemat(root / "attribute" / "duke_attribute.mat", {"duke_attribute": attribute_file})
    for number, path in enumerate(sorted(root.glob("*/*.jpg"))):
        identity, camera = path.name.split("_")[:2]
        path.rename(path.with_name(f"{identity}_{camera[:2]}_f{number:07d}.jpg"))
    return root


@pytest.fixture(scope="module")
def system(market, tmp_path_factory):
    """The folder of a training on Market-1501: in truth the shipped interpreter."""
    return training(tmp_path_factory.mktemp("amd") / "trained", market)


def training(folder, root):
    folder.mkdir(parents=True)
    AMDInterpreter.from_pretrained("synthetic").save(folder / "interpreter.safetensors")
    settings = {"command": "train", "target": "synthetic", "weights": None}
    settings |= {"dataset": "market1501", "root": str(root), "epochs": 12}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def compared(system, duke, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared") / "run"
    amd.main(["cross-domain", str(system), "--on", f"dukemtmc={duke}", "--output", str(output)])
    return output


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


def cells(out):
    """The table's cells: columns are two blanks or more apart."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in out.splitlines()]


def resume(command, *words):
    amd.main([command, *map(str, words), "--resume"])


def test_each_system_is_tested_on_its_own_and_on_the_other_data_sets(compared):
    assert {path.name for path in compared.iterdir()} == {ON_MARKET, ON_DUKE}
    for folder in compared.iterdir():
        assert {path.name for path in folder.iterdir()} == {"settings.json", "results.json"}
    own, other = results_in(compared / ON_MARKET), results_in(compared / ON_DUKE)
    assert set(own["labelled"]) == set(MARKET_ATTRIBUTES)
    assert sorted(other["labelled"]) == SHARED
    unknown = {k for k, value in other["balanced_accuracy"].items() if value is None}
    assert unknown >= {*MARKET_ATTRIBUTES} - {*SHARED}


@pytest.mark.parametrize("name", [ON_MARKET, ON_DUKE])
def test_the_figures_are_those_of_the_interpreter(compared, market, duke, name):
    """In one piece, and with labels put into the interpreter's order here."""
    dataset = Market1501(market) if name == ON_MARKET else DukeMTMCreID(duke)
    interpreter = AMDInterpreter.from_pretrained("synthetic")

    def decomposed(records):
        (part,) = decompose_records(interpreter, dataset, records, batch_size=1000)
        known = [*dataset.attribute_names]
        labels = [
            [
                int(dataset.labels[r.identity][known.index(attribute)])
                if r.identity in dataset.labels and attribute in known
                else 0
                for attribute in interpreter.attributes
            ]
            for r in records
        ]
        return part._replace(labels=torch.tensor(labels))

    parts = (decomposed(records) for records in (dataset.query, dataset.gallery))
    expected = evaluate(*([part] for part in parts), interpreter.network.frequencies)
    found = results_in(compared / name)
    for ranking in ("exclusive", "common"):
        key, figures = f"X-mAP_{ranking[0]}", getattr(expected, ranking)
        assert found[key]["interpreter"]["mean"] == pytest.approx(figures.interpreter.mean)
        assert found[key]["fixed_order"] == pytest.approx(figures.fixed_order)
        assert found[key]["random_order"] == pytest.approx(figures.random_order)
    assert found["ADRE"]["mean"] == pytest.approx(expected.adre.mean, rel=1e-3)
    for way in ("target", "reconstructed", "reweighted", "oracle"):
        assert found["retrieval"][way]["mAP"] == pytest.approx(expected.retrieval[way].mean_ap)


def test_the_table_of_cross_domain_evaluation(compared, system, duke, capsys):
    resume("cross-domain", system, "--on", f"dukemtmc={duke}", "--output", compared)
    rows = cells(capsys.readouterr().out)
    titles = [row[0] for row in rows[1:10:4]]
    assert titles[:2] == ["trained: market1501", "trained: market1501 -> dukemtmc"]
    found = results_in(compared / ON_DUKE)
    target, interpreter, fixed, random = rows[5:9]
    accuracy = [
        [f"{found['retrieval'][way][k]:.2f}" for k in ("rank1", "rank5", "mAP")]
        for way in ("target", "reconstructed")
    ]
    rankings = [found[name] for name in ("X-mAP_e", "X-mAP_c")]
    assert target[1:] == ["target", *accuracy[0], *"-----"]
    assert interpreter == [
        *("interpreter", *accuracy[1]),
        *(f"{ranking['interpreter']['mean']:.2f}" for ranking in rankings),
        *(f"{found['ADRE']['mean']:.2f}", f"{found['bias']['mean']:+.2f}"),
        f"{len(SHARED)} of 26",
    ]
    for row, name in ((fixed, "fixed_order"), (random, "random_order")):
        assert row[4:6] == [f"{part[name]:.2f}" for part in rankings]
    marked = [row for row in rows if row[0].startswith("published, full test split: ")]
    assert {row[0].split(": ")[1] for row in marked} == {"market1501", "market1501 -> dukemtmc"}
    assert "28.41" in marked[-1]


def test_reweighting_reads_what_cross_domain_measured(compared, system, duke, capsys, monkeypatch):
    monkeypatch.setattr(amd_systems, "measure", None)
    resume("reweight", system, "--on", f"dukemtmc={duke}", "--output", compared)
    rows = cells(capsys.readouterr().out)
    gain = results_in(compared / ON_DUKE)["gain"]
    after = rows[7]
    assert after[0] == "+ re-weighting"
    low, high = gain["reweighted"]["mAP"]["interval"]
    assert after[4] == f"{gain['reweighted']['mAP']['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"
    assert rows[8][0] == "+ re-weighting, oracle: true labels"
    marked = [row for row in rows if row[0].startswith("published, full test split: ")]
    assert len(marked) == 10
    assert {row[0].split(": ")[1] for row in marked} == {"market1501"}


def test_gains_are_paired_over_the_queries(compared):
    """The interval resamples queries, not the two sides on their own."""
    found = results_in(compared / ON_MARKET)
    for way, figures in found["gain"].items():
        for figure, value in figures.items():
            after, before = (np.array(found["per_query"][k][figure]) for k in (way, "target"))
            both = [found["retrieval"][k][figure] for k in (way, "target")]
            np.testing.assert_allclose([after.mean(), before.mean()], both)
            assert value["mean"] == pytest.approx(both[0] - both[1], abs=1e-9)
            draws = np.random.default_rng(5).integers(len(after), size=(4000, len(after)))
            bounds = np.quantile((after - before)[draws].mean(1), [0.025, 0.975])
            np.testing.assert_allclose(value["interval"], bounds, atol=0.3 * np.ptp(bounds))


def test_queries_without_a_match_are_null_and_gain_nothing():
    ranks, better = (
        [torch.tensor([1, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([0])],
        [torch.tensor([0, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([0])],
    )
    before, after = map(amd_report.per_query, (ranks, better))
    assert [*map(amd_report.or_null, after["mAP"].tolist())] == [75, None, 100]
    assert before["mAP"].tolist()[::2] == [50, 100]
    found = amd_report.gain(after, before)
    assert found["mAP"] == {"mean": 12.5, "interval": [0, 25]}
    assert found["rank1"] == {"mean": 50, "interval": [0, 100]}


def test_an_interruption_costs_what_was_not_finished(system, duke, tmp_path, monkeypatch):
    done = []

    def measure(interpreter, dataset, **settings):
        done.append(dataset.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(amd_systems, "measure", measure)
    monkeypatch.setattr(amd_systems, "decomposition_table", len)
    words = (system, "--on", f"dukemtmc={duke}", "--output", tmp_path / "run")
    with pytest.raises(SystemExit, match="--resume goes on"):
        amd.main(["cross-domain", *map(str, words)])
    assert not (tmp_path / "run" / ON_DUKE / "results.json").exists()
    resume("cross-domain", *words)
    assert done == ["market1501", "dukemtmc", "dukemtmc"]
    assert (tmp_path / "run" / ON_DUKE / "results.json").exists()


def test_systems_and_data_sets_can_be_added(compared, system, duke, market, tmp_path, monkeypatch):
    done = []
    shutil.copytree(compared, tmp_path / "run")
    second = training(tmp_path / "second", market)

    def measure(interpreter, dataset, *, title, **settings):
        done.append(title)
        return results_in(compared / ON_DUKE)

    monkeypatch.setattr(amd_systems, "measure", measure)
    words = (system, second, "--on", f"dukemtmc={duke}", "--output", tmp_path / "run")
    resume("cross-domain", *words)
    assert done == ["second_on_market1501: ", "second_on_dukemtmc: "]


def test_the_shipped_system_by_name(market, tmp_path, monkeypatch):
    """It learned from the synthetic world; every data set of another system is foreign to it."""
    monkeypatch.setattr(amd_systems, "measure", lambda *a, **k: {})
    found = []
    monkeypatch.setattr(amd_systems, "decomposition_table", found.extend)
    second = training(tmp_path / "second", market)
    amd.main(["cross-domain", "synthetic", str(second), "--output", str(tmp_path / "run")])
    assert [(one.title, one.dataset, one.cross_domain) for one in found] == [
        ("synthetic: synthetic", "synthetic", False),
        ("synthetic: synthetic -> market1501", "market1501", True),
        ("second: market1501", "market1501", False),
        ("second: market1501 -> synthetic", "synthetic", True),
    ]


def test_a_data_set_that_lies_elsewhere_now(market, tmp_path, monkeypatch):
    roots = []
    monkeypatch.setattr(amd_systems, "measure", lambda _, dataset, **k: roots.append(dataset) or {})
    monkeypatch.setattr(amd_systems, "decomposition_table", len)
    moved = training(tmp_path / "moved", tmp_path / "gone")
    words = ["cross-domain", str(moved), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="gone"):
        amd.main(words)
    assert not (tmp_path / "run").exists()
    amd.main([*words, "--on", f"market1501={market}"])
    assert roots[0].query[0].path.is_relative_to(market)


def refused(*words):
    with pytest.raises(SystemExit) as caught:
        amd.main([*map(str, words)])
    return str(caught.value)


def test_wrong_input_ends_with_one_line(compared, system, market, duke, tmp_path):
    out = ("--output", tmp_path / "run")
    assert "SYSTEM: got" in refused("cross-domain", tmp_path / "none", *out)
    assert "SYSTEM: got" in refused("reweight", compared, *out)
    twin = training(tmp_path / "trained", market)
    assert "different names" in refused("reweight", system, twin, *out)
    other = training(tmp_path / "other", duke)
    assert "as --on market1501=ROOT" in refused("cross-domain", system, other, *out)
    assert "root: got nothing" in refused("reweight", system, "--on", "dukemtmc", *out)
    assert "name: got 'duke'" in refused("reweight", system, "--on", f"duke={duke}", *out)
    assert "--device: got" in refused("reweight", system, "--device", "cuda:99", *out)
    (twin / "interpreter.safetensors").unlink()
    assert "path: got" in refused("reweight", twin, *out)
    assert not (tmp_path / "run").exists()
    again = ("cross-domain", system, "--on", f"dukemtmc={duke}", "--output", compared)
    assert "of an earlier run" in refused(*again)
    copy = shutil.copytree(market, tmp_path / "copy")
    moved = ("cross-domain", system, "--on", f"market1501={copy}", "--output", compared)
    assert "with other settings" in refused(*moved, "--resume")
    (twin / "settings.json").write_text("[]")
    assert "SYSTEM: got" in refused("reweight", twin, *out)
