"""All methods on several models and data sets: one table, and whether they rank alike.

    python benchmarks/leaderboard.py
    python benchmarks/leaderboard.py --plan benchmarks/leaderboard.json --queries 16
    python benchmarks/leaderboard.py --report --tables docs/_static

Each entry of the plan is a model on a data set. Its runs of the speed, faithfulness and, where the
truth is known, localization and causal benchmarks lie in ``OUTPUT/ENTRY/TASK/NUMBER``: the same
command goes on where it was, and methods that are new get runs of their own.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reid_explain.benchmark.causal import Causal
from reid_explain.benchmark.command_line import (
    RunOptions,
    TargetOptions,
    one_line_errors,
    read,
)
from reid_explain.benchmark.faithfulness import Faithfulness
from reid_explain.benchmark.leaderboard_results import METRIC_NAMES
from reid_explain.benchmark.leaderboard_tables import write_tables
from reid_explain.benchmark.localization import Localization
from reid_explain.benchmark.methods import Subject, all_methods, find_methods, left_out
from reid_explain.benchmark.run import SETTINGS, Rows, read_settings
from reid_explain.benchmark.speed import Speed
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Task
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import ReIDDataset
from reid_explain.datasets.registry import open_dataset
from reid_explain.errors import InputError

SCRIPT = "leaderboard.py"
CAPTUM = (
    "captum:Saliency",
    "captum:InputXGradient",
    "captum:IntegratedGradients(n_steps=20)",
    "captum:Occlusion(sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16))",
)
"""Captum's attributions that are measured beside the package's methods."""


class Entry(NamedTuple):
    """A model on a data set, by the name of its rows."""

    name: str
    target: TargetOptions = TargetOptions()
    run: RunOptions = RunOptions()

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)

    def open(self) -> tuple[Target, ReIDDataset]:
        """Return the target and the data set."""
        drawn = self.run.drawn()
        return self.target.open(), open_dataset(self.run.dataset, self.run.root, **drawn)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """All methods on several models and data sets: one table, and whether they rank alike.

    Args:
        plan: JSON, a list of entries: name, and any of model, weights, layer, image_size, dataset,
            root, world; variables of the environment are filled in. By default the package's
            model on the drawn world
        only: names of entries, or parts of names; by default all
        methods: names, module:Class or captum:NAME; by default those that suit and are no descents,
            and four of Captum
        queries: of each entry; images of the causal benchmark
        pairs: of the localization benchmark, for each attribute
        budget: the most passes of the model for one map; methods of more have their cost alone
        report: measure nothing, write the tables of what is there
        output: the folder of the runs
        tables: the folder of the tables, by default that of the runs. What is in its
            leaderboard.json stays, and new rows join it
    """

    plan: Path | None = None
    only: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    queries: int = 16
    pairs: int = 1
    budget: int = 2000
    report: bool = False
    output: Path = field(default_factory=lambda: Path("outputs", "leaderboard"))
    tables: Path | None = None

    def run(self) -> None:
        """Measure what has not been measured yet, and write the tables.

        Raises:
            InputError: If an argument, an entry or a folder is not what is expected.
        """
        for name in ("queries", "pairs", "budget"):
            check_at_least(name, getattr(self, name), 1)
        entries = (
            [Entry("drawn target, drawn world")] if self.plan is None else entries_of(self.plan)
        )
        chosen = [e for e in entries if not self.only or any(part in e.name for part in self.only)]
        for entry in () if self.report else chosen:
            self.measure(entry)
        frames = {entry.name: self.rows(entry) for entry in entries}
        write_tables(frames, self.tables or self.output)

    def rows(self, entry: Entry) -> dict[str, pd.DataFrame]:
        """Return the rows of all runs of an entry, by task."""
        folder = self.output / entry.folder
        return {path.name: rows_of(path) for path in sorted(folder.glob("*")) if path.is_dir()}

    def measure(self, entry: Entry) -> None:
        """Run the tasks of an entry: first what methods cost, then those within the budget."""
        target, dataset = entry.open()
        suited = self.suited(target, dataset)
        folder = self.output / entry.folder
        go_on(Speed(images=1), target, dataset, folder, suited)
        costs = rows_of(folder / Speed.name)
        passes = costs[costs["metric"] == "forwards"].groupby("method")["value"].max()
        within = {name: text for name, text in suited.items() if passes.get(name, 1) <= self.budget}
        tasks: list[Task] = [Faithfulness(queries=self.queries, metrics=METRIC_NAMES, examples=0)]
        if hasattr(dataset, "remove"):
            tasks += [Localization(pairs=self.pairs), Causal(images=self.queries)]
        for task in tasks:
            go_on(task, target, dataset, folder, within)

    def suited(self, target: Target, dataset: ReIDDataset) -> dict[str, str]:
        """Return the methods that suit a target: by name, the text that names them."""
        image = target.spec.to_tensor(dataset.load(dataset.query[0]))[None]
        subject = Subject(image, image, target.check(image))
        known = all_methods()
        wanted = self.methods or (*known, *CAPTUM)
        methods = find_methods(wanted, known)
        found, reasons = {}, {}
        for text, (name, method) in zip(wanted, methods.items(), strict=True):
            if self.methods or method.fact("cost") != "descent":
                try:
                    method.tried_on(target, subject)
                except InputError as error:
                    reasons[name] = str(error)
                except Exception as error:  # One method's failure is not that of hours of others.
                    reasons[name] = repr(error)
                else:
                    found[name] = text
        if reasons:
            print(left_out(reasons), file=sys.stderr)
        return found


def go_on(
    task: Task, target: Target, dataset: ReIDDataset, folder: Path, methods: Mapping[str, str]
) -> None:
    """Finish the runs of a task that are there, and run the methods that none of them has."""

    def measure(names: Iterable[str], run: Path) -> None:
        texts = [methods.get(name, name) for name in names]
        task.run(target, dataset, methods=texts, output=run, resume=True, goes_on=True)

    left = [*methods]
    for number in count(1):
        run = folder / task.name / str(number)
        if not (run / SETTINGS).is_file():
            break
        there = read_settings(run)["methods"]
        if not (run / "results.json").is_file():
            measure(there, run)
        left = [name for name in left if name not in there]
    if left:
        measure(left, run)


def rows_of(folder: Path) -> pd.DataFrame:
    """Return the rows of all runs of a task, of cases that a run has of all its methods."""
    found: list[tuple[Any, ...]] = []
    for run in sorted(path.parent for path in folder.glob(f"*/{SETTINGS}")):
        rows, methods = Rows(run), read_settings(run)["methods"]
        whole = [c for c in rows.identities if all((c, name) in rows.values for name in methods)]
        found += (
            (case, rows.identities[case], name, metric, value)
            for case in whole
            for name in methods
            for metric, value in rows.values[case, name].items()
        )
    return pd.DataFrame(found, columns=["case", "identity", "method", "metric", "value"])


def entries_of(plan: Path) -> list[Entry]:
    """Return the entries of a plan.

    Raises:
        InputError: If it is not JSON, or an entry has unknown keys or no name of its own.
    """
    try:
        items = json.loads(os.path.expandvars(plan.read_text(encoding="utf-8")))
        entries = [_entry(item) for item in items]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        expected = "a JSON list of objects with a name and options"
        raise InputError("plan", f"{plan} ({error!r})", expected) from error
    if len({entry.folder for entry in entries}) < len(entries) or not entries:
        raise InputError("plan", f"{plan} without entries, or two of one name", "other names")
    return entries


def _entry(item: Mapping[str, Any]) -> Entry:
    options: dict[str, Any] = {
        name: Path(value) if name in ("weights", "root") else value for name, value in item.items()
    }
    name = str(options.pop("name"))
    if "image_size" in options:
        options["image_size"] = tuple(options["image_size"])
    own = {f.name for f in fields(TargetOptions)} & {*options}
    run = {key: value for key, value in options.items() if key not in own}
    return Entry(name, TargetOptions(**{key: options[key] for key in own}), RunOptions(**run))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the leaderboard of a command line."""
    options = read(Leaderboard, arguments, SCRIPT)
    with one_line_errors(SCRIPT):
        options.run()
