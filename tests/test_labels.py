"""Labels by a recognizer: closed forms, files, and an interpreter for a folder of crops."""

import json
import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import SHARED, present
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import small_card
from PIL import Image

from reid_explain import AMDInterpreter, AttributeDirections
from reid_explain.benchmark import attributes
from reid_explain.datasets import (
    FolderDataset,
    IdentityAttributes,
    Labelled,
    Record,
    Role,
    SyntheticReID,
    labels_from,
    record_labels,
)
from reid_explain.datasets.labels import open_recognizer, read_labels, write_labels
from reid_explain.errors import InputError
from reid_explain.inputs import BGR_255, InputSpec
from reid_explain.models import load_trained

SPEC = InputSpec((4, 2), mean=(0, 0, 0), std=(1, 1, 1))
ROOT = Path(__file__).parents[1]


class Colors:
    """Images of one color, (red, green, blue) of 0 to 255, by identity and camera."""

    name = "colors"
    attribute_names = ()
    labels: ClassVar = {}

    def __init__(self, colors, distractors=()):
        self.colors = colors
        records = [Record(Path(f"{i}_{c}.png"), i, c) for i, c in colors]
        roles = {i: Role.DISTRACTOR for i in distractors}
        records = [r._replace(role=roles.get(r.identity, Role.PERSON)) for r in records]
        self.train, self.query, self.gallery = records[:1], records[1:], records[1:]

    def load(self, record):
        return Image.new("RGB", (6, 8), self.colors[record.identity, record.camera])


def mean_color(images):
    return images.mean(dim=(2, 3))


def labelled(dataset, recognizer=mean_color, names=("red", "green", "blue"), **options):
    options = {"spec": SPEC, "show_progress": False, **options}
    return labels_from(recognizer, dataset, names=names, **options)


def test_the_mean_color_between_two_thresholds():
    """255 is a yes, 0 a no; 51 / 255 = 0.2 and 204 / 255 = 0.8 are the thresholds themselves."""
    world = Colors({(1, 1): (255, 0, 128), (2, 1): (0, 204, 51), (3, 1): (50, 203, 205)})
    found = labelled(world, thresholds=(0.2, 0.8))
    assert found.names == ("red", "green", "blue")
    assert {i: row.tolist() for i, row in found.labels.items()} == {
        1: [2, 1, 0],
        2: [1, 2, 0],
        3: [1, 0, 2],
    }
    assert all(row.dtype == np.int64 for row in found.labels.values())


def test_the_images_of_an_identity_are_averaged():
    """Three images of 1, 1 and 0.1: their mean is 0.7, the majority would be 1, the last 0.1."""
    world = Colors({(7, 1): (255, 0, 0), (7, 2): (255, 0, 0), (7, 3): (25, 0, 0)})
    assert labelled(world, thresholds=(0.69, 0.71)).labels[7][0] == 0
    assert labelled(world, thresholds=(0.5, 0.69)).labels[7][0] == 2
    assert labelled(world, thresholds=(0.71, 0.9)).labels[7][0] == 1


def test_an_image_in_two_splits_counts_once():
    world = Colors({(7, 1): (255, 0, 0), (7, 2): (0, 0, 0)})
    assert [r.camera for r in world.query] == [r.camera for r in world.gallery] == [2]
    assert labelled(world, thresholds=(0.49, 0.51)).labels[7][0] == 0


def test_only_people_are_labelled_and_only_those_of_the_records():
    world = Colors({(i, 1): (0, 0, 0) for i in range(1, 5)}, distractors=[3])
    assert [*labelled(world).labels] == [1, 2, 4]
    assert [*labelled(world, records=world.query).labels] == [2, 4]


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 5))
def test_batches_of_any_size_give_the_same(batch, seed):
    random = np.random.default_rng(seed)
    colors = random.integers(256, size=(7, 3)).tolist()
    world = Colors({(1 + k % 3, k): tuple(color) for k, color in enumerate(colors)})
    sizes = []

    def recognizer(images):
        sizes.append(len(images))
        return mean_color(images)

    found, whole = labelled(world, recognizer, batch_size=batch), labelled(world)
    assert max(sizes) <= batch
    assert sum(sizes) == 7
    assert all((found.labels[i] == row).all() for i, row in whole.labels.items())


def test_the_recognizer_gets_what_its_spec_says_and_names_itself():
    class Blue:
        attributes = ("blue",)
        input_spec = BGR_255.replace(size=(5, 3))

        def __call__(self, images):
            assert images.shape[1:] == (3, 5, 3)
            return images[:, 0].mean(dim=(1, 2))[:, None] / 255

    world = Colors({(1, 1): (0, 0, 255), (2, 1): (255, 255, 0)})
    found = labels_from(Blue(), world, show_progress=False)
    assert found.names == ("blue",)
    assert [found.labels[i].tolist() for i in (1, 2)] == [[2], [1]]


def test_no_graph_is_kept():
    weight = torch.ones(3, requires_grad=True)
    world = Colors({(1, 1): (255, 0, 0), (2, 1): (0, 0, 0)})
    assert labelled(world, lambda images: mean_color(images) * weight).labels[1].tolist()[0] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"names": ("red", "red", "blue")},
            "names: got .*'red', 'red'.*, expected different names",
        ),
        ({"names": ()}, "names: got .*, expected different names, at least one"),
        ({"names": "red"}, "names: got 'red'"),
        ({"names": None}, "names: got"),
        ({"spec": None}, "spec: got NoneType, expected an InputSpec, or a recognizer with"),
        ({"names": ("red", "green")}, r"recognizer: got \(2, 3\) float32, expected .*= 2.*= 2"),
        ({"recognizer": lambda x: mean_color(x)[:1]}, r"recognizer: got \(1, 3\)"),
        ({"recognizer": lambda x: mean_color(x) * 2}, "recognizer: got values from 0 to 2, expect"),
        ({"recognizer": lambda x: mean_color(x) - 1}, "recognizer: got values from -1 to 0"),
        ({"recognizer": lambda x: mean_color(x) / 0}, "recognizer: got values from nan"),
        ({"recognizer": lambda x: mean_color(x).int()}, "recognizer: got .*int32, expected a flo"),
        ({"recognizer": lambda x: 1}, "recognizer: got int"),
        ({"thresholds": (0.6, 0.4)}, "thresholds: got 0.6 and 0.4, expected"),
        ({"thresholds": (0.5, 1.5)}, "thresholds: got"),
        ({"records": []}, "records: got none, expected at least one image of a person"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_wrong_input(changes, message):
    world = Colors({(1, 1): (255, 0, 0), (2, 1): (0, 0, 0)})
    with pytest.raises(InputError, match=message):
        labelled(world, **changes)


def test_a_data_set_with_labels_is_what_training_and_directions_take():
    world = Colors({(1, 1): (255, 0, 0), (2, 1): (0, 0, 255), (3, 1): (0, 255, 255)}, [3])
    own = Labelled(world, labelled(world))
    again = pickle.loads(pickle.dumps(own))
    for dataset in (own, again):
        assert (dataset.name, dataset.train) == (world.name, world.train)
        assert dataset.load(world.train[0]).getpixel((0, 0)) == (255, 0, 0)
    records = [*again.train, *again.gallery]
    found = record_labels(again, records, ["blue", "red", "beard"])
    assert found.tolist() == [[1, 2, 0], [2, 1, 0], [0, 0, 0]]
    labels = record_labels(own, records[:2], own.attribute_names)
    directions = AttributeDirections.fit(torch.eye(2), labels, own.attribute_names)
    assert directions.attributes == ("red", "green", "blue")


@pytest.fixture
def people(tmp_path):
    """Folders of crops: 4 people to train on in a dark or a bright picture, 2 to test."""
    rows = ["path,camera,split"]
    for number, name in enumerate(("anna", "ben", "cara", "dan", "eve, sr.", "finn")):
        for camera in (1, 2):
            path = tmp_path / "people" / name / f"{camera}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16), (255 * (number % 2), 128, 40 * camera)).save(path)
            rows.append(f'"{name}/{camera}.png",{camera},{"train" if number < 4 else "test"}')
    (tmp_path / "people" / "images.csv").write_text("\n".join(rows))
    return tmp_path / "people"


def test_a_file_of_labels_is_readable_and_comes_back(people, tmp_path):
    folder, path = FolderDataset(people), tmp_path / "labels.csv"
    found = labelled(folder)
    write_labels(path, found, folder)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["identity,red,green,blue", "anna,no,unknown,no", "ben,yes,unknown,no"]
    assert lines[5] == '"eve, sr.",no,unknown,no'
    assert same(read_labels(path, folder), found)
    assert same(read_labels(path, Labelled(folder, found)), found)
    world = Colors({(5, 1): (255, 0, 128)})
    write_labels(path, labelled(world), world)
    assert path.read_text(encoding="utf-8").splitlines()[1] == "5,yes,no,unknown"
    assert same(read_labels(path, world), labelled(world))


def same(one: IdentityAttributes, other: IdentityAttributes):
    first, second = ({i: row.tolist() for i, row in found.labels.items()} for found in (one, other))
    return one.names == other.names and first == second


def test_files_follow_the_names_of_folders(people, tmp_path):
    """Another person before the others shifts the numbers; labels stay with their people."""
    path = tmp_path / "labels.csv"
    write_labels(path, labelled(FolderDataset(people)), FolderDataset(people))
    (people / "aaron").mkdir()
    Image.new("RGB", (8, 16)).save(people / "aaron" / "1.png")
    with (people / "images.csv").open("a") as file:
        file.write("\naaron/1.png,1,train\n")
    more = FolderDataset(people)
    found = read_labels(path, more)
    assert {more.identity_names[i] for i in found.labels} == {*more.identity_names.values()} - {
        "aaron"
    }
    assert found.labels[3].tolist() == [2, 0, 1]  # ben, who was 2
    with pytest.raises(InputError, match="without attributes of 1 identities: 1"):
        record_labels(Labelled(more, found), more.train, ["red"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels: got .*, expected a readable CSV"),
        ("name,red\nanna,yes\n", "labels: got first column name .*, expected identity"),
        ("identity\nanna\n", "names: got"),
        ("identity,red,red\nanna,yes,no\n", "names: got"),
        ("identity,red\nanna,maybe\n", "labels: got maybe of anna .*, expected 1 times unknown"),
        ("identity,red\nanna,yes,no\n", "labels: got yes, no of anna"),
        ("identity,red\nanna,yes\nanna,no\n", "labels: got 1 identities twice"),
    ],
)
def test_files_of_labels_that_are_wrong(text, message, people, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "labels.csv", FolderDataset(people))


def test_a_file_of_labels_that_is_absent(people, tmp_path):
    with pytest.raises(InputError, match="labels: got"):
        read_labels(tmp_path / "labels.csv", FolderDataset(people))


RED = """
import torch
from reid_explain.inputs import InputSpec

class Red:
    attributes = ("red", "blue")
    input_spec = InputSpec((4, 2), mean=(0, 0, 0), std=(1, 1, 1))
    calls = 0

    def __call__(self, images):
        Red.calls += 1
        return images[:, ::2].mean(dim=(2, 3))

def nameless(images):
    return images

class NeedsMore(Red):
    def __init__(self, path):
        pass

class Interrupted(Red):
    again = False

    def __call__(self, images):
        if not Interrupted.again:
            Interrupted.again = True
            raise KeyboardInterrupt
        return super().__call__(images)

class NoFile(Red):
    def __init__(self):
        open("no/such/file")
"""


@pytest.fixture
def recognizers(tmp_path, monkeypatch):
    """A module of the user's, under a name of this test's."""
    name = f"recognizers_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(RED)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_recognizers_by_name(recognizers):
    red = open_recognizer(f"{recognizers}:Red")
    assert red.attributes == ("red", "blue")
    assert red(torch.ones(1, 3, 4, 2)).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "name: got 'nothing', expected one of"),
        (":nameless", "recognizer: got .* without attributes and input_spec, expected a function"),
        (":NeedsMore", "recognizer: got .* expected a class that needs no arguments"),
        (":NoFile", "recognizer: got .*No such file.*expected a class that needs no arguments"),
        (":Green", "name: got .* expected an importable"),
    ],
)
def test_recognizers_that_are_none(name, message, recognizers):
    with pytest.raises(InputError, match=message):
        open_recognizer(recognizers + name if name.startswith(":") else name)


TRAIN = """train --dataset folder --epochs 1 --images-per-epoch 8 --identities 4 --instances 2
    --warmup-epochs 0 --learning-rate 1e-4"""


def run(*words):
    AcceleratorState._reset_state(reset_partial_state=True)
    attributes.main([word for text in words for word in str(text).split()])


def refused(*words):
    with pytest.raises(SystemExit) as caught:
        run(*words)
    return str(caught.value)


@pytest.mark.slow
def test_an_interpreter_for_a_folder_of_crops(people, recognizers, tmp_path, capsys):
    card = small_card(tmp_path)
    model = ("--weights", card, "--root", people)
    red = f"--recognizer {recognizers}:Red"
    trained = tmp_path / "trained"
    run(TRAIN, red, *model, "--output", trained)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("identities yes no unknown red 3 3 0 blue 0 6 0")
    labels = trained / "labels.csv"
    assert labels.read_text().splitlines()[1:3] == ["anna,no,no", "ben,yes,no"]
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["recognizer"] == f"{recognizers}:Red"
    assert settings["thresholds"] == [0.4, 0.6]
    interpreter = AMDInterpreter.load(trained / "interpreter.safetensors", load_trained(card))
    assert interpreter.attributes == ("red", "blue")
    assert interpreter.network.frequencies.tolist() == [0.5, 0]

    # Labels are computed once: those in the folder are the ones that count.
    red_class = type(open_recognizer(f"{recognizers}:Red"))
    calls = red_class.calls
    before = (trained / "interpreter.safetensors").read_bytes()
    run(TRAIN, red, *model, "--resume --output", trained)
    assert (trained / "interpreter.safetensors").read_bytes() == before
    assert red_class.calls == calls
    assert "thresholds" in refused(
        TRAIN, red, *model, "--thresholds 0.1 0.2 --resume --output", trained
    )

    # A training on the file is the same training.
    run(TRAIN, "--labels", labels, *model, "--output", tmp_path / "by_file")
    assert (tmp_path / "by_file" / "interpreter.safetensors").read_bytes() == before
    assert red_class.calls == calls

    # The file serves the other commands, as the folder of the training does.
    it = ("--dataset folder --interpreter", trained / "interpreter.safetensors", *model)
    run("evaluate", *it, "--labels", labels, "--output", tmp_path / "by_labels")
    run("evaluate", *it, red, "--output", tmp_path / "by_recognizer")
    run("cross-domain", trained, "--output", tmp_path / "systems")
    assert (tmp_path / "by_recognizer" / "labels.csv").read_text() == labels.read_text()
    folders = ("by_labels", "by_recognizer", "systems/trained_on_folder")
    results = [json.loads((tmp_path / f / "results.json").read_text()) for f in folders]
    assert results[0]["labelled"] == ["red", "blue"]
    assert results[0]["X-mAP_e"]["interpreter"]["mean"] is not None
    assert all(found["X-mAP_e"] == results[0]["X-mAP_e"] for found in results)


@pytest.mark.slow
def test_what_cannot_be_trained_claims_no_folder(people, recognizers, tmp_path):
    out = ("--weights", small_card(tmp_path), "--root", people, "--output", tmp_path / "a")
    red = f"--recognizer {recognizers}:Red"
    assert "--recognizer" in refused(TRAIN, *out)
    assert "recognizer: got" in refused(TRAIN, f"--recognizer {recognizers}:NoFile", *out)
    assert "labels: got" in refused(TRAIN, red, "--labels", people / "images.csv", *out)
    assert "labels: got" in refused(TRAIN, "--labels", people / "images.csv", *out)
    assert "thresholds: got" in refused(TRAIN, red, "--thresholds 2 3", *out)
    assert "identities" in refused(TRAIN, red, "--identities 5", *out)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_run_that_stopped_while_it_looked_at_people_goes_on(people, recognizers, tmp_path):
    words = (f"--recognizer {recognizers}:Interrupted --weights", small_card(tmp_path))
    words = (*words, "--root", people, "--output", tmp_path / "a")
    assert "--resume goes on" in refused(TRAIN, *words)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"settings.json"}
    run(TRAIN, *words, "--resume")
    assert (tmp_path / "a" / "labels.csv").is_file()
    assert (tmp_path / "a" / "interpreter.safetensors").is_file()


def test_one_data_set_has_one_file_of_labels():
    one, other = (SimpleNamespace(dataset="folder", labels=labels) for labels in ("a", "b"))
    assert attributes.labels_of([one, one]) == {"folder": "a"}
    with pytest.raises(InputError, match="systems: got folder with labels a and b"):
        attributes.labels_of([one, other])


CROSSROAD = "weights/openvino/person-attributes-recognition-crossroad-0230.xml"


@pytest.mark.slow
def test_a_network_of_open_model_zoo_agrees_with_the_drawn_world():
    """Long hair and long trousers more often than chance; 60 people, 3 images of each."""
    pytest.importorskip("openvino", reason="openvino is an extra")
    path = present(SHARED / CROSSROAD)
    example = runpy.run_path(str(ROOT / "examples" / "recognizers" / "crossroad.py"))
    recognizer = example["Crossroad"](path)
    world = SyntheticReID(train_identities=60, test_identities=2)
    images = {r.identity: [q for q in world.train if q.identity == r.identity] for r in world.train}
    records = [r for own in images.values() for r in own[:3]]
    found = labels_from(recognizer, world, records, thresholds=(0.5, 0.5), show_progress=False)
    known = world.attribute_names
    trousers = {
        i: row[known.index("clothes")] == 2 and row[known.index("down")] == 1
        for i, row in world.labels.items()
    }
    hair = {i: row[known.index("hair")] == 2 for i, row in world.labels.items()}
    for name, truth in (("has_longpants", trousers), ("has_longhair", hair)):
        said = {i: row[found.names.index(name)] == 2 for i, row in found.labels.items()}
        assert balanced(said, truth) > 0.65, name


def balanced(said, truth):
    """Balanced accuracy: 0.5 by chance."""
    shares = [[said[i] == truth[i] for i in said if truth[i] == value] for value in (False, True)]
    return float(np.mean([np.mean(share) for share in shares]))
