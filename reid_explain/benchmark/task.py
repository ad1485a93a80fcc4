"""A benchmark: settings -> cases -> rows -> one frame -> tables, figures, results.json."""

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.benchmark.methods import (
    Explain,
    Explainable,
    Method,
    Subject,
    all_methods,
    find_methods,
    left_out,
)
from reid_explain.benchmark.remembered import remembered
from reid_explain.benchmark.run import (
    Group,
    Row,
    Rows,
    by_method,
    claim,
    versions,
    wait_until,
    write_json,
)
from reid_explain.benchmark.tables import html_table
from reid_explain.benchmark.target import Target
from reid_explain.capture import evaluation
from reid_explain.datasets.records import Record, ReIDDataset, Role
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError
from reid_explain.explainers.layout import upsample
from reid_explain.files import atomic
from reid_explain.retrieval import Embedded, Gallery, embed_records

Item = TypeVar("Item")
FAILED = "failed"
"""Column of a method that raised an error on a case, where runs go on."""


class Case(NamedTuple):
    """What methods are measured on: a name, the identity it shows, and what a task needs of it."""

    name: str
    identity: int
    data: Any = None


class Report(NamedTuple):
    """What rows say: a part of results.json, tables as text, figures by file name."""

    results: dict[str, Any]
    tables: str
    figures: Mapping[str, Callable[[], Figure]] = {}


@dataclass
class Bench:
    """What a task works on: methods on a target, a data set, and the rows of the run."""

    target: Target
    dataset: ReIDDataset
    group: Group
    explain: dict[str, Explain] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rows: Rows = field(default_factory=Rows)
    named: bool = False
    """Whether the methods were named; else they are those that suit."""
    goes_on: bool = False
    """Whether a method that fails on a case ends neither its own run nor that of the others."""
    current: Any = None
    """What a task keeps of the case that it measures."""

    @property
    def controls(self) -> list[str]:
        """Names of the methods that know nothing of the embedding."""
        return [name for name, method in self.methods.items() if method.fact("is_control")]

    @cached_property
    def root(self) -> str:
        """The folder of the test images; empty for images that are drawn."""
        records = (*self.dataset.query, *self.dataset.gallery)
        return os.path.commonpath([record.path.parent for record in records])

    def name(self, record: Record) -> str:
        """Return the path of an image in its data set: file names alone may repeat."""
        return (record.path.relative_to(self.root) if self.root else record.path).as_posix()

    def image(self, record: Record) -> Tensor:
        """Return the image of a record as the target takes it, (1, 3, H, W)."""
        return self.target.spec.to_tensor(self.dataset.load(record))[None]

    def full_size(self, map_: Tensor) -> Tensor:
        """Return a map (1, 1, h, w) at the size of the target's images."""
        size = self.target.spec.size
        return map_ if map_.shape[2:] == size else upsample(map_, size)

    @cached_property
    def people(self) -> list[Record]:
        """The gallery without distractors and junk."""
        return [record for record in self.dataset.gallery if record.role is Role.PERSON]

    def match(self, record: Record) -> Record | None:
        """Return the first image in the gallery of the same identity from another camera."""
        same = self._by_identity.get(record.identity, []) if record.role is Role.PERSON else []
        return next((other for other in same if other.camera != record.camera), None)

    def matched(self) -> list[int]:
        """Return the numbers of the queries that have a match.

        Raises:
            InputError: If none has, or the gallery shows one person.
        """
        numbers = [n for n, r in enumerate(self.dataset.query) if self.match(r) is not None]
        if not numbers:
            raise InputError("root", "no query with a match in the gallery", "at least one")
        if len({record.identity for record in self.people}) == 1:
            raise InputError("root", "a gallery of one person", "several people")
        return numbers

    def stranger(self, record: Record, seed: int) -> Record:
        """Return an image in the gallery of another person, chosen at random."""
        others = [other for other in self.people if other.identity != record.identity]
        generator = torch.Generator().manual_seed(seed)
        return others[int(torch.randint(len(others), (), generator=generator))]

    def subject(self, record: Record) -> Subject:
        """Return the image of a record that has a match, with that and the predicted class."""
        image, match = self.image(record), self.match(record)
        assert match is not None
        return Subject(image, self.image(match), self.target.predicted(image))

    @cached_property
    def _by_identity(self) -> dict[int, list[Record]]:
        found: dict[int, list[Record]] = {}
        for record in self.people:
            found.setdefault(record.identity, []).append(record)
        return found

    @cached_property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """``target.embed``, faster, of a model that stays as it is: see :meth:`.Target.folded`."""
        return self.target.folded(self.image(self.dataset.query[0])).embed

    @cached_property
    def queries(self) -> Embedded:
        """The queries of the data set, embedded once."""
        return self._embedded("query")

    @cached_property
    def embedded(self) -> Embedded:
        """The images of the gallery, embedded once."""
        return self._embedded("gallery")

    @cached_property
    def gallery(self) -> Gallery:
        """The gallery of the data set, ready to be searched."""
        return Gallery(self.embedded, device=self.target.device)

    def _embedded(self, split: str) -> Embedded:
        """Embed a split in the first process, unless its file is there; read the file in all."""

        def embed() -> Embedded:
            records = getattr(self.dataset, split)
            return embed_records(self.embed, self.dataset, records, spec=self.target.spec)

        if self.rows.folder is None:
            return embed()
        path = self.rows.folder / f"{split}.safetensors"
        if self.group.rank == 0 and not path.is_file():
            with atomic(path) as partial:
                save_file(embed()._asdict(), partial)
        wait_until(path.is_file)
        return Embedded(**load_file(path))


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return items in a random order."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return [items[place] for place in order.tolist()]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """The settings of a benchmark; a subclass says what it measures and what that shows.

    Args:
        seed: seed of every random choice
    """

    seed: int = 0

    name: ClassVar[str]
    gives: ClassVar[Sequence[str]] = ()
    """The columns, where they are the same for every method."""
    untrained: ClassVar[bool] = False
    """Whether a network without weights will do."""
    remembers: ClassVar[bool] = False
    """Whether the model passes no batch twice for a case: nothing is timed, and no weight moves."""
    free: ClassVar[tuple[str, ...]] = ("metrics",)
    """Settings that may differ between a run and its continuation."""

    def known(self) -> dict[str, Method]:
        """Return the methods that have a name here."""
        return all_methods()

    def runs(self, method: Method) -> bool:
        """Tell whether a method runs unless told otherwise."""
        return method.by_default

    @abstractmethod
    def cases(self, bench: Bench) -> Sequence[Case]:
        """Check the settings and return what methods are measured on; compute nothing yet."""

    def columns(self, bench: Bench, method: str) -> Sequence[str]:
        """Return the names of what ``measure`` gives of a method."""
        return self.gives

    @abstractmethod
    def measure(self, bench: Bench, case: Case, method: str) -> Mapping[str, float]:
        """Return what is measured of a method on a case, by column."""

    @abstractmethod
    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return what the rows say."""

    def run(
        self,
        target: Target,
        dataset: ReIDDataset | None = None,
        *,
        methods: Sequence[Explainable] = (),
        output: str | Path | None = None,
        resume: bool = False,
        show: bool = False,
        goes_on: bool = False,
    ) -> pd.DataFrame:
        """Measure methods on a target and return every number.

        Whatever can be wrong is found before the folder is claimed and anything computed. In a
        folder an interrupted run goes on where it was, and several processes share the work.

        Args:
            target: What is explained.
            dataset: Where the images come from; the synthetic world by default.
            methods: Names, ``"module:Class"``, explainer classes or partials of them; by default
                the registered ones that suit the target.
            output: Folder for rows, results.json, rows.csv, table.html and figures; none by
                default.
            resume: Whether to go on with the run in ``output``.
            show: Whether to print the tables.
            goes_on: Whether a method that fails on a case has NaN there, and 1 as ``failed``,
                where else the run ends. The folder keeps it so.

        Returns:
            One row for each number: task, case, identity, method, metric, value (NaN for none).
            The task's module says what they are and their units.

        Raises:
            InputError: If anything does not fit, or ``output`` is of another run.
            OSError: If a file cannot be written, with its name.
        """
        with evaluation(target.model, target.layer):
            dataset = dataset or open_dataset(SYNTHETIC)
            group = Group.here()
            bench = Bench(target, dataset, group, named=bool(methods), goes_on=goes_on)
            self._choose(bench, methods)
            cases = self.cases(bench)
            columns = {name: self.columns(bench, name) for name in bench.methods}
            if output is not None:
                again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
                settings = self.settings(bench)
                claim(Path(output), settings, resume=resume or again, rank=group.rank)
                bench.rows = Rows(Path(output), group.rank)
            elif group.size > 1:
                raise InputError("output", f"none for {group.size} processes", "a folder of all")
            self._work(bench, cases, columns)
            frame = bench.rows.frame(self.name, [case.name for case in cases], [*bench.methods])
            if group.rank == 0 and (show or output is not None):
                report = self.report(bench, cases, frame)
                self._write(bench, report, frame)
                if show:
                    print(report.tables)
        return frame

    def settings(self, bench: Bench) -> dict[str, Any]:
        """Return what two runs must have in common to be one, as JSON has it."""
        return {
            "task": self.name,
            "dataset": bench.dataset.name,
            "world": getattr(bench.dataset, "seed", None),
            "root": str(Path(bench.root).resolve()) if bench.root else None,
            "images": [len(bench.dataset.query), len(bench.dataset.gallery)],
            **bench.target.settings(),
            "methods": list(bench.methods),
            **{name: value for name, value in asdict(self).items() if name not in self.free},
        }

    def _choose(self, bench: Bench, wanted: Sequence[Explainable]) -> None:
        """Have methods explain one image; leave out those that cannot, unless they are wanted."""
        known = self.known()
        methods = find_methods(wanted, known) if wanted else known
        image = bench.image(bench.dataset.query[0])
        subject = Subject(image, image, bench.target.check(image))
        all_methods()["ActivationMean"].on(bench.target)(subject)
        for name, method in methods.items():
            if not wanted and not self.runs(method):
                continue
            try:
                explain = method.tried_on(bench.target, subject)
            except InputError as error:
                if wanted:
                    raise
                bench.skipped[name] = str(error)
            else:
                bench.methods[name], bench.explain[name] = method, explain
        if bench.skipped and bench.group.rank == 0:
            print(left_out(bench.skipped), file=sys.stderr)

    def _work(
        self, bench: Bench, cases: Sequence[Case], columns: Mapping[str, Sequence[str]]
    ) -> None:
        """Measure this process's share of the cases, unless it is there; wait for the others."""
        rank, size = bench.group
        for case in tqdm(cases[rank::size], desc=self.name, unit="case", disable=rank > 0):
            bench.current = None
            with remembered(bench.target.model) if self.remembers else nullcontext():
                for name in bench.methods:
                    if not bench.rows.has(case.name, name, columns[name]):
                        values = self._measured(bench, case, name, columns[name])
                        bench.rows.add(Row(case.name, case.identity, name, values))

        def complete() -> bool:
            bench.rows.read()
            keys = ((case.name, name) for case in cases for name in bench.methods)
            return all(bench.rows.has(*key, columns[key[1]]) for key in keys)

        wait_until(complete, seconds=1)

    def _measured(
        self, bench: Bench, case: Case, name: str, columns: Sequence[str]
    ) -> Mapping[str, float]:
        """Return what is measured of a method on a case; that it failed, where others go on."""
        try:
            return self.measure(bench, case, name)
        except Exception as error:
            if not bench.goes_on:
                raise
            print(f"{name} failed on {case.name}: {error!r}", file=sys.stderr)
            return dict.fromkeys(columns, math.nan) | {FAILED: 1.0}

    def _write(self, bench: Bench, report: Report, frame: pd.DataFrame) -> None:
        """Write a report into the folder of the run, if it has one."""
        if (folder := bench.rows.folder) is None:
            return
        settings = self.settings(bench)
        results = {
            **{name: settings[name] for name in ("dataset", "model")},
            "settings": settings,
            "skipped": bench.skipped,
            **report.results,
            "versions": versions(),
        }
        with atomic(folder / "rows.csv") as path:
            pd.concat(by_method(frame), names=["method"]).to_csv(path)
        for name, draw in report.figures.items():
            with atomic(folder / f"{name}.png") as path:
                draw().savefig(path, format="png", dpi=150)
        facts = settings | versions()
        title = f"{self.name}: {bench.dataset.name}, {bench.target.label}"
        page = html_table(title, report.results.get("methods", {}), bench.controls, facts)
        if page is not None:
            with atomic(folder / "table.html") as path:
                path.write_text(page, encoding="utf-8")
        write_json(folder / "results.json", results)
