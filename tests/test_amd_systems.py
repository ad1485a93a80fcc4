"""benchmarks/amd.py cross-domain and reweight: several systems, several data sets."""

import json
import shutil

import numpy as np
import pytest
import scipy.io
import torch
from nets import small_card

from reid_explain.amd import AMDInterpreter
from reid_explain.amd.evaluation import decompose_records, evaluate
from reid_explain.benchmark import attribute_tables, attributes
from reid_explain.datasets.published import (
    DUKE_ATTRIBUTES,
    MARKET_ATTRIBUTES,
    DukeMTMCreID,
    Market1501,
)
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_trained

pytestmark = pytest.mark.slow
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
    """The folder of a training on Market-1501, as far as it goes: nothing was learned."""
    return training(tmp_path_factory.mktemp("amd") / "trained", market)


def training(folder, root):
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    card = small_card(folder)
    interpreter = AMDInterpreter(load_trained(card), MARKET_ATTRIBUTES)
    interpreter.network.prototypes.normal_()
    interpreter.network.frequencies.uniform_()
    interpreter.save(folder / "interpreter.safetensors")
    settings = {"model": "synthetic", "weights": str(card)}
    settings |= {"dataset": "market1501", "root": str(root), "epochs": 12}
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def compared(system, duke, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared") / "run"
    words = ["cross-domain", system, "--on", f"dukemtmc={duke}", "--output", output]
    attributes.main([*map(str, words)])
    return output


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


def cells(out):
    """The table's cells: columns are two blanks or more apart."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in out.splitlines()]


def resume(command, *words):
    attributes.main([command, *map(str, words), "--resume"])


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
def test_the_results_are_those_of_the_interpreter(compared, system, market, duke, name):
    """In one piece, and with labels put into the interpreter's order here."""
    dataset = Market1501(market) if name == ON_MARKET else DukeMTMCreID(duke)
    model = load_trained(system / "model.json")
    interpreter = AMDInterpreter.load(system / "interpreter.safetensors", model)

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
    for key in ("X-mAP_e", "X-mAP_c"):
        figures = [part[key]["interpreter"]["mean"] for part in (found, expected)]
        assert figures[0] == pytest.approx(figures[1])
        for floor in ("fixed_order", "random_order"):
            assert found[key][floor] == pytest.approx(expected[key][floor])
    assert found["ADRE"]["mean"] == pytest.approx(expected["ADRE"]["mean"], rel=1e-3)
    for way in ("target", "reconstructed", "reweighted", "oracle"):
        assert found["retrieval"][way]["mAP"] == pytest.approx(expected["retrieval"][way]["mAP"])


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
    monkeypatch.setattr(attributes, "measure", None)
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


def test_an_interruption_costs_what_was_not_finished(system, duke, tmp_path, monkeypatch):
    done = []

    def measure(interpreter, dataset, **settings):
        done.append(dataset.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(attributes, "measure", measure)
    monkeypatch.setattr(attribute_tables, "decomposition", len)
    words = (system, "--on", f"dukemtmc={duke}", "--output", tmp_path / "run")
    with pytest.raises(SystemExit, match="--resume goes on"):
        attributes.main(["cross-domain", *map(str, words)])
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

    monkeypatch.setattr(attributes, "measure", measure)
    words = (system, second, "--on", f"dukemtmc={duke}", "--output", tmp_path / "run")
    resume("cross-domain", *words)
    assert done == ["second_on_market1501: ", "second_on_dukemtmc: "]


def test_the_shipped_system_by_name(market, tmp_path, monkeypatch):
    """It learned from the synthetic world; every data set of another system is foreign to it."""
    monkeypatch.setattr(attributes, "measure", lambda *a, **k: {})
    found = []
    monkeypatch.setattr(attribute_tables, "decomposition", found.extend)
    second = training(tmp_path / "second", market)
    attributes.main(["cross-domain", "synthetic", str(second), "--output", str(tmp_path / "run")])
    assert [(one.title, one.dataset, one.cross_domain) for one in found] == [
        ("synthetic: synthetic", "synthetic", False),
        ("synthetic: synthetic -> market1501", "market1501", True),
        ("second: market1501", "market1501", False),
        ("second: market1501 -> synthetic", "synthetic", True),
    ]


def test_a_data_set_that_lies_elsewhere_now(market, tmp_path, monkeypatch):
    roots = []
    monkeypatch.setattr(attributes, "measure", lambda _, dataset, **k: roots.append(dataset) or {})
    monkeypatch.setattr(attribute_tables, "decomposition", len)
    moved = training(tmp_path / "moved", tmp_path / "gone")
    words = ["cross-domain", str(moved), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="gone"):
        attributes.main(words)
    assert not (tmp_path / "run").exists()
    attributes.main([*words, "--on", f"market1501={market}"])
    assert roots[0].query[0].path.is_relative_to(market)


def refused(*words):
    with pytest.raises(SystemExit) as caught:
        attributes.main([*map(str, words)])
    return str(caught.value)


def test_wrong_input_ends_with_one_line(compared, system, market, duke, tmp_path):
    out = ("--output", tmp_path / "run")
    assert "run: got" in refused("cross-domain", tmp_path / "none", *out)
    assert "run: got" in refused("reweight", compared, *out)
    twin = training(tmp_path / "trained", market)
    assert "different names" in refused("reweight", system, twin, *out)
    other = training(tmp_path / "other", duke)
    assert "as --on market1501=ROOT" in refused("cross-domain", system, other, *out)
    assert "root: got nothing" in refused("reweight", system, "--on", "dukemtmc", *out)
    assert "name: got 'duke'" in refused("reweight", system, "--on", f"duke={duke}", *out)
    assert "device: got" in refused("reweight", system, "--device", "cuda:99", *out)
    (twin / "interpreter.safetensors").unlink()
    assert "path: got" in refused("reweight", twin, *out)
    assert not (tmp_path / "run").exists()
    again = ("cross-domain", system, "--on", f"dukemtmc={duke}", "--output", compared)
    assert "of an earlier run" in refused(*again)
    copy = shutil.copytree(market, tmp_path / "copy")
    moved = ("cross-domain", system, "--on", f"market1501={copy}", "--output", compared)
    assert "with other settings" in refused(*moved, "--resume")
    (twin / "settings.json").write_text("[]")
    assert "systems: got" in refused("reweight", twin, *out)
