"""Several systems on several data sets: the AMD paper's tables 2 and 3.

    python benchmarks/amd.py cross-domain SYSTEM ... [--on DATASET[=ROOT] ...] --output FOLDER
    python benchmarks/amd.py reweight SYSTEM ... [--on DATASET[=ROOT] ...] --output FOLDER

A system is a trained target with its interpreter: a folder that ``amd.py train`` wrote, or
``synthetic``, the one of the package. Each is tested on the data set that it was trained on, for
reference, on those of the other systems and on those of --on.

Each test has a folder of its own in --output, whichever of the two commands asks for it. With
--resume finished tests are read, not repeated: systems and data sets can be added later.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from amd_report import Measured, arrow, as_json, decomposition_table, reweighting_table
from command_line import SHIPPED
from run_folder import claim, write_json
from tables import versions
from targets import open_device, open_model

from reid_explain import InputError
from reid_explain.amd.evaluation import decompose_records, evaluate
from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.datasets.catalogue import SYNTHETIC, open_dataset
from reid_explain.datasets.records import ReIDDataset


class System(NamedTuple):
    """A target with its interpreter (None: the package's own), and what both learned from."""

    name: str
    target: str
    weights: Path | None
    interpreter: Path | None
    dataset: str
    root: Path | None


def add_systems(parser: argparse.ArgumentParser) -> None:
    """Add the systems and the data sets."""
    add = parser.add_argument
    add("systems", nargs="+", metavar="SYSTEM", help=f"a folder of train, or {SHIPPED}")
    add(
        "--on",
        nargs="+",
        default=[],
        metavar="DATASET[=ROOT]",
        help="more data sets, or where one that a system was trained on lies now",
    )


def cross_domain(settings: argparse.Namespace) -> None:
    """Compare systems on the data sets of each other, table 2 of the paper."""
    print(decomposition_table(measured_systems(settings)))


def reweight(settings: argparse.Namespace) -> None:
    """Re-weight the distances of several systems, table 3 of the paper."""
    print(reweighting_table(measured_systems(settings)))


def measured_systems(settings: argparse.Namespace) -> list[Measured]:
    """Return each system on each data set, its own first; what is there is not done again."""
    systems = [open_system(place) for place in settings.systems]
    check_names(systems)
    roots = roots_of(systems, settings.on)
    # Whatever cannot be opened is to be found before the first hour of work.
    datasets = {name: open_dataset(name, root) for name, root in roots.items()}
    interpreters = {
        system.name: open_interpreter(
            system.target, system.weights, system.interpreter, settings.device
        )
        for system in systems
    }
    tests = [
        (system, name, settings.output / f"{system.name}_on_{name}")
        for system in systems
        for name in sorted(roots, key=lambda name, own=system.dataset: name != own)
    ]
    for system, name, folder in tests:
        fixed = {**system._asdict(), "tested_on": name, "tested_root": roots[name]}
        claim(folder, as_text(fixed), resume=settings.resume)
    return [
        Measured(
            f"{system.name}: {arrow(system.dataset, name)}",
            name,
            system.dataset != name,
            results_of(interpreters[system.name], datasets[name], folder, settings.workers),
        )
        for system, name, folder in tests
    ]


def open_system(place: str) -> System:
    """Return the system of a folder, or the shipped one."""
    if place == SHIPPED:
        return System(SHIPPED, SHIPPED, None, None, SYNTHETIC, None)
    folder = Path(place)
    try:
        trained = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        target, dataset = trained["target"], trained["dataset"]
        weights, root = (trained[name] and Path(trained[name]) for name in ("weights", "root"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("SYSTEM", f"{place} ({error})", "a folder of amd.py train") from error
    return System(
        folder.resolve().name, target, weights, folder / "interpreter.safetensors", dataset, root
    )


def check_names(systems: Sequence[System]) -> None:
    """Raise if two systems have one name."""
    names = [system.name for system in systems]
    if len({*names}) < len(names):
        raise InputError("SYSTEM", ", ".join(names), "folders of different names")


def roots_of(systems: Sequence[System], on: Sequence[str]) -> dict[str, Path | None]:
    """Return the data sets by name, each with its folder; --on goes before the systems' own."""
    named = (text.partition("=") for text in on)
    given = {name: Path(root) if root else None for name, _, root in named}
    own: dict[str, Path | None] = {}
    for system in systems:
        root = own.setdefault(system.dataset, system.root)
        if root != system.root and system.dataset not in given:
            raise InputError(
                "SYSTEM",
                f"{system.dataset} in {root} and in {system.root}",
                f"which one to test on, as --on {system.dataset}=ROOT",
            )
    return {**own, **given}


def results_of(
    interpreter: AMDInterpreter, dataset: ReIDDataset, folder: Path, workers: int
) -> dict[str, Any]:
    """Return what an interpreter reaches on a data set, from ``folder`` if it is there."""
    path = folder / "results.json"
    if not path.is_file():
        results = measure(interpreter, dataset, workers=workers, title=f"{folder.name}: ")
        write_json(path, {**results, "versions": versions()})
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def open_interpreter(
    target: str, weights: Path | None, file: Path | None, device: str
) -> AMDInterpreter:
    """Return the interpreter of a file on its target; without a file, the package's own."""
    if file is not None:
        interpreter = AMDInterpreter.load(file, open_model(target, weights))
    elif weights is None and target == SHIPPED:
        interpreter = AMDInterpreter.from_pretrained(SHIPPED)
    else:
        raise InputError("--interpreter", "nothing", f"the file for {target}")
    return interpreter.to(open_device(device), memory_format=torch.channels_last)


def measure(
    interpreter: AMDInterpreter,
    dataset: ReIDDataset,
    *,
    workers: int,
    gamma: float = 1.0,
    title: str = "",
) -> dict[str, Any]:
    """Return the figures of an interpreter on the test split of a data set, as JSON has them."""
    query, gallery = (
        decompose_records(
            interpreter, dataset, records, workers=workers, description=f"{title}{name}"
        )
        for name, records in (("query", dataset.query), ("gallery", dataset.gallery))
    )
    frequencies = interpreter.network.frequencies.cpu()
    found = evaluate(query, gallery, frequencies, gamma=gamma)
    return as_json(found, interpreter.attributes, dataset.attribute_names)


def as_text(settings: dict[str, Any]) -> dict[str, str | None]:
    """Return settings as JSON has them."""
    return {name: None if value is None else str(value) for name, value in settings.items()}
