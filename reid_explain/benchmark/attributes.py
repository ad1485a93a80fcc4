"""Train, measure and look at interpreters (attribute-guided metric distillation, AMD).

    python benchmarks/amd.py train|calibrate|evaluate|explain|cross-domain|reweight --help

A *system* is a model with its interpreter: a folder that ``train`` wrote, or ``synthetic``, the
one of the package. ``cross-domain`` and ``reweight`` test each on the data set that it was trained
on, on those of the others and on those of --on; each test has a folder that both share.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from reid_explain.amd import (
    AMDInterpreter,
    Calibration,
    calibrate,
    decompose_records,
    evaluate,
)
from reid_explain.amd.calibration import CALIBRATION, drawn_identities
from reid_explain.amd.recipe import Recipe
from reid_explain.benchmark import attribute_figures, attribute_tables, attribute_truth
from reid_explain.benchmark.command_line import (
    SHIPPED,
    one_line_errors,
    open_device,
    open_model,
    read,
)
from reid_explain.benchmark.run import claim, read_settings, versions, write_json
from reid_explain.benchmark.target import Target
from reid_explain.datasets.labels import (
    THRESHOLDS,
    Labelled,
    check_thresholds,
    labels_from,
    open_recognizer,
    read_labels,
    unknown_labels,
    write_labels,
)
from reid_explain.datasets.records import ReIDDataset
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError
from reid_explain.files import atomic
from reid_explain.visualization import training_figure

FILE = "interpreter.safetensors"
LABELS = "labels.csv"
FREE = ("output", "resume", "workers", "device")
"""Settings that may differ between a run and its continuation."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run.

    Args:
        output: folder of this run
        resume: go on with the run in --output
        workers: processes that load images
    """

    output: Path
    resume: bool = False
    workers: int = 0

    def claim(self, folder: Path, settings: dict[str, Any]) -> None:
        """Make a folder that of a run with these settings; paths do not depend on where it runs."""
        free = FREE if settings.get("recognizer") else (*FREE, "thresholds")
        fixed = {name: value for name, value in settings.items() if name not in free}
        paths = {k: str(v.resolve()) for k, v in fixed.items() if isinstance(v, Path)}
        claim(folder, {**fixed, **paths}, resume=self.resume)


@dataclass(frozen=True, kw_only=True)
class ModelRun(Run):
    """A run of one model on one data set.

    Args:
        model: synthetic (the package's own), a name that build_model takes, or timm/NAME
        weights: its checkpoint, or the .json card that train_target.py wrote
        dataset: synthetic, market1501, ..., or module:Class
        root: the data set's folder; synthetic has none
        labels: a CSV file with the attributes of the people, as --recognizer leaves it
        recognizer: module:NAME, which labels the people; the folder of the run keeps labels.csv
        thresholds: a mean probability below the first is a no, from the second on a yes
    """

    model: str = SHIPPED
    weights: Path | None = None
    dataset: str = SYNTHETIC
    root: Path | None = None
    labels: Path | None = None
    recognizer: str | None = None
    thresholds: tuple[float, float] = THRESHOLDS

    def open_data(self) -> ReIDDataset:
        """Return the data set; what --recognizer sees is unknown until ``recognized``."""
        dataset = open_labelled(self.dataset, self.root, self.labels)
        if self.recognizer is None:
            return dataset
        if self.labels is not None:
            raise InputError("labels", f"{self.labels} and --recognizer", "one of the two")
        check_thresholds(self.thresholds)
        return Labelled(dataset, unknown_labels(dataset, self._recognizer.attributes))

    @cached_property
    def _recognizer(self) -> Any:
        return open_recognizer(self.recognizer or "")

    def recognized(self, dataset: ReIDDataset) -> ReIDDataset:
        """Return the data set with the labels of --recognizer, which are found only once."""
        if self.recognizer is None:
            return dataset
        path = self.output / LABELS
        if not path.is_file():
            options: Any = {"thresholds": self.thresholds, "workers": self.workers}
            found = labels_from(self._recognizer, dataset, **options)
            with atomic(path) as partial:
                write_labels(partial, found, dataset)
            print(attribute_tables.label_counts(found))
        return Labelled(dataset, read_labels(path, dataset))


@dataclass(frozen=True, kw_only=True)
class Train(ModelRun):
    """Train an interpreter and save it.

    Args:
        hidden: channels between the convolutions of the head, C/8 by default
        precision: of the forward passes
        stored_dtype: of the saved matrices and kernels
    """

    recipe: Recipe = field(default_factory=Recipe)
    hidden: int | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    stored_dtype: Literal["float32", "float16"] = "float32"

    def run(self) -> None:
        """Train; an interrupted training goes on after its last completed epoch."""
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        from reid_explain.amd.trainer import train_interpreter, training_parts

        mixed = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[self.precision]
        accelerator = Accelerator(mixed_precision=mixed, cpu=not torch.accelerator.is_available())
        processes, main = accelerator.num_processes, accelerator.is_main_process
        dataset = self.open_data()
        if not dataset.attribute_names:
            expected = "--recognizer, which labels the people, or --labels, a CSV file of them"
            raise InputError("dataset", f"{dataset.name} without labels of people", expected)
        set_seed(self.recipe.seed)
        model = open_model(self.model, self.weights)
        interpreter = AMDInterpreter(model, dataset.attribute_names, hidden=self.hidden)
        interpreter.to(memory_format=torch.channels_last)
        training_parts(interpreter, dataset, self.recipe, processes=processes)
        if main:
            self.claim(self.output, {**asdict(self), "processes": processes})
        accelerator.wait_for_everyone()
        with accelerator.main_process_first():
            dataset = self.recognized(dataset)
        options: Any = {"accelerator": accelerator, "workers": self.workers}
        log = train_interpreter(interpreter, dataset, self.output, self.recipe, **options)
        if main:
            with atomic(self.output / FILE) as path:
                interpreter.save(path, dtype=getattr(torch, self.stored_dtype))
            with atomic(self.output / "log.png") as path:
                training_figure(log).savefig(path, format="png", dpi=200)
            if self.recipe.validation_identities:
                text = (self.output / CALIBRATION).read_text(encoding="utf-8")
                print(Calibration(**json.loads(text)))


@dataclass(frozen=True, kw_only=True)
class InterpreterRun(ModelRun):
    """A run of one interpreter on one data set.

    Args:
        interpreter: a file of train; by default the package's own
        cross_domain: the data set may have other attributes; they are matched by name
        world: synthetic: seed of the world; calibrate takes one that it was neither trained nor
            is tested on, evaluate one to choose by
        device: cpu, cuda, cuda:1, ...
        seed: of every random choice
    """

    interpreter: Path | None = None
    cross_domain: bool = False
    world: int | None = None
    device: str = "cpu"
    seed: int = 0

    def open_data(self) -> ReIDDataset:
        """Return the data set, of --world if it is drawn."""
        if self.world is None:
            return super().open_data()
        if self.dataset != SYNTHETIC or self.labels or self.recognizer:
            raise InputError("world", self.world, "none but of the drawn world with its labels")
        return open_dataset(self.dataset, self.root, seed=self.world)

    def load(self, device: str) -> AMDInterpreter:
        """Return the interpreter on its model."""
        target = Target(open_model(self.model, self.weights).to(open_device(device)))
        interpreter = AMDInterpreter.for_target(target, interpreter=self.interpreter)
        return interpreter.to(memory_format=torch.channels_last)

    def open(self) -> tuple[AMDInterpreter, ReIDDataset]:
        """Return interpreter and data set, and claim the folder."""
        dataset, interpreter = self.open_data(), self.load(self.device)
        if not self.cross_domain and {*dataset.attribute_names} != {*interpreter.attributes}:
            came = f"{dataset.name} with other attributes than the interpreter's"
            raise InputError("dataset", came, "the same attributes, by --labels, or --cross-domain")
        self.claim(self.output, asdict(self))
        return interpreter, self.recognized(dataset)


@dataclass(frozen=True, kw_only=True)
class Calibrate(InterpreterRun):
    """Scale the distances of an interpreter by people whom it was not trained on.

    Args:
        composite: upper and lower halves of two people, as train does it: needed for people whom
            the model was trained on
        identities: how many of the training identities; those that a training with the same
            number as --validation-identities and the same --seed held out
        stored_dtype: of the saved matrices and kernels
    """

    composite: bool = False
    identities: int = 50
    stored_dtype: Literal["float32", "float16"] = "float32"

    def run(self) -> None:
        """Print what changes and write the interpreter with its scale."""
        dataset, interpreter = self.open_data(), self.load(self.device)
        most = len({record.identity for record in dataset.train})
        if not 2 <= self.identities <= most:
            raise InputError("identities", self.identities, f"from 2 to {most}")
        self.claim(self.output, asdict(self))
        chosen = drawn_identities(dataset.train, self.identities, self.seed)
        records = [record for record in dataset.train if record.identity in chosen]
        options: Any = {"composite": self.composite, "workers": self.workers}
        found = calibrate(interpreter, dataset, records, **options)
        with atomic(self.output / FILE) as path:
            interpreter.save(path, dtype=getattr(torch, self.stored_dtype))
        write_json(self.output / CALIBRATION, found._asdict())
        print(found)


@dataclass(frozen=True, kw_only=True)
class Evaluate(InterpreterRun):
    """Measure an interpreter on the test split of a data set.

    Args:
        gamma: weight of the largest exclusive distance
        pairs: synthetic: one-difference pairs per attribute
    """

    gamma: float = 1.0
    pairs: int = 10

    def run(self) -> None:
        """Print the tables and write results.json."""
        interpreter, dataset = self.open()
        results = measure(interpreter, dataset, workers=self.workers, gamma=self.gamma)
        test = [attribute_tables.Test(dataset.name, dataset.name, self.cross_domain, results)]
        print(attribute_tables.decomposition(test), attribute_tables.reweighting(test), sep="\n\n")
        if hasattr(dataset, "counterfactual"):
            table = attribute_truth.scores(interpreter, dataset, self.pairs, self.seed)
            results["truth"] = attribute_truth.summarize(table)
            results["truth_by_pair"] = table.reset_index().to_dict("records")
            count = len(interpreter.attributes)
            print("", attribute_truth.as_table(results["truth"], count), sep="\n")
        write_json(self.output / "results.json", {**results, "versions": versions()})


@dataclass(frozen=True, kw_only=True)
class Explain(InterpreterRun):
    """Draw pairs, the average map of each attribute and, on synthetic data, the true masks.

    Args:
        figures: pairs to explain
    """

    figures: int = 6

    def run(self) -> None:
        """Write the pictures."""
        interpreter, dataset = self.open()
        for name, figure in attribute_figures.draw(interpreter, dataset, self.figures, self.seed):
            with atomic(self.output / f"{name}.png") as path:
                figure.savefig(path, format="png", dpi=200)


@dataclass(frozen=True, kw_only=True)
class Systems(Run):
    """A comparison of systems; finished tests are read with --resume.

    Args:
        systems: folders of train, or synthetic
        on: DATASET[=ROOT]: more data sets, or where one that a system was trained on lies now
        device: cpu, cuda, cuda:1, ...
    """

    systems: tyro.conf.Positional[tuple[str, ...]]
    on: tuple[str, ...] = ()
    device: str = "cpu"

    def tests(self) -> list[attribute_tables.Test]:
        """Return each system on each data set, its own first; what is there is not done again."""
        systems = {Path(place).resolve().name: open_system(place) for place in self.systems}
        if len(systems) < len(self.systems) or not systems:
            raise InputError("systems", ", ".join(self.systems), "folders of different names")
        roots = roots_of([*systems.values()], self.on)
        labels = labels_of([*systems.values()])
        # Whatever cannot be opened is found before the first hour of work.
        datasets = {
            name: open_labelled(name, root, labels.get(name)) for name, root in roots.items()
        }
        interpreters = {name: system.load(self.device) for name, system in systems.items()}
        pairs = [
            (name, tested)
            for name, system in systems.items()
            for tested in sorted(roots, key=lambda tested, own=system.dataset: tested != own)  # type: ignore[misc]
        ]
        for name, tested in pairs:
            test = {"tested_on": tested, "tested_root": roots[tested]}
            test |= {"tested_labels": labels.get(tested)}
            self.claim(self.output / f"{name}_on_{tested}", {**asdict(systems[name]), **test})
        tests = []
        for name, tested in pairs:
            path = self.output / f"{name}_on_{tested}" / "results.json"
            if not path.is_file():
                options: Any = {"workers": self.workers, "title": f"{path.parent.name}: "}
                results = measure(interpreters[name], datasets[tested], **options)
                write_json(path, {**results, "versions": versions()})
            own = systems[name].dataset
            title = f"{name}: {tested if tested == own else f'{own} -> {tested}'}"
            results = json.loads(path.read_text(encoding="utf-8"))
            tests.append(attribute_tables.Test(title, tested, tested != own, results))
        return tests


@dataclass(frozen=True, kw_only=True)
class CrossDomain(Systems):
    """Compare systems on the data sets of each other, table 2 of the paper."""

    def run(self) -> None:
        """Print the table."""
        print(attribute_tables.decomposition(self.tests()))


@dataclass(frozen=True, kw_only=True)
class Reweight(Systems):
    """Re-weight the distances of several systems, table 3 of the paper."""

    def run(self) -> None:
        """Print the table."""
        print(attribute_tables.reweighting(self.tests()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a wrong input ends with one line that says what was wrong."""
    with one_line_errors("amd.py"):
        commands: Any = Train | Calibrate | Evaluate | Explain | CrossDomain | Reweight
        read(commands, arguments, "amd.py").run()


def open_system(place: str) -> InterpreterRun:
    """Return the system of a folder, or the shipped one."""
    if place == SHIPPED:
        return InterpreterRun(output=Path(SHIPPED))
    folder = Path(place)
    trained = read_settings(folder)
    try:
        own = {name: trained[name] for name in ("model", "weights", "dataset", "root")}
    except (KeyError, TypeError) as error:
        raise InputError("systems", f"{place} without {error}", "a folder of train") from error
    own["labels"] = folder / LABELS if trained.get("recognizer") else trained.get("labels")
    paths = {k: Path(own[k]) for k in ("weights", "root", "labels") if own[k]}
    return InterpreterRun(output=folder, interpreter=folder / FILE, **{**own, **paths})


def open_labelled(name: str, root: Path | None, labels: Path | None) -> ReIDDataset:
    """Return a data set, with the labels of a file if there is one."""
    dataset = open_dataset(name, root)
    return Labelled(dataset, read_labels(labels, dataset)) if labels else dataset


def labels_of(systems: Sequence[ModelRun]) -> dict[str, Path | None]:
    """Return the files of labels by data set, None where it has its own."""
    own: dict[str, Path | None] = {}
    for system in systems:
        labels = own.setdefault(system.dataset, system.labels)
        if labels != system.labels:
            came = f"{system.dataset} with labels {labels} and {system.labels}"
            raise InputError("systems", came, "the same labels of a data set")
    return own


def roots_of(systems: Sequence[ModelRun], on: Sequence[str]) -> dict[str, Path | None]:
    """Return the data sets by name, each with its folder; --on goes before the systems' own."""
    named = (text.partition("=") for text in on)
    given = {name: Path(root) if root else None for name, _, root in named}
    own: dict[str, Path | None] = {}
    for system in systems:
        root = own.setdefault(system.dataset, system.root)
        if root != system.root and system.dataset not in given:
            came = f"{system.dataset} in {root} and in {system.root}"
            expected = f"which one to test on, as --on {system.dataset}=ROOT"
            raise InputError("systems", came, expected)
    return {**own, **given}


def measure(
    interpreter: AMDInterpreter,
    dataset: ReIDDataset,
    *,
    workers: int = 0,
    gamma: float = 1.0,
    title: str = "",
) -> dict[str, Any]:
    """Return the results of an interpreter on the test split of a data set, as JSON has them."""
    query, gallery = (
        decompose_records(
            interpreter, dataset, records, workers=workers, description=f"{title}{name}"
        )
        for name, records in (("query", dataset.query), ("gallery", dataset.gallery))
    )
    results = evaluate(query, gallery, interpreter.network.frequencies.cpu(), gamma=gamma)
    names = interpreter.attributes
    accuracy = dict(zip(names, results["balanced_accuracy"], strict=True))
    labelled = [name for name in names if name in dataset.attribute_names]
    return {**results, "labelled": labelled, "balanced_accuracy": accuracy}
