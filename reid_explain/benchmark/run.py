"""The folder of a run: settings that are held to, rows as they come, files written at once.

Rows are appended to shards, one for each start of each process: lines of JSON behind their
checksum. No shard is ever rewritten; a line that was cut short is ignored.
"""

import json
import os
import platform
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch

import reid_explain
from reid_explain.errors import InputError
from reid_explain.files import atomic, named_errors, partial_of

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = "settings.json"
COLUMNS = ("task", "case", "identity", "method", "metric", "value")
"""Columns of a frame, which has one row for each number that was measured."""


class Group(NamedTuple):
    """Which process of a run this is, of how many: as torchrun and accelerate launch say.

    The processes share a folder and nothing else: one that is killed disturbs no other.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Group":
        """Return the group of this process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def wait_until(ready: Callable[[], bool], seconds: float = 0.1) -> None:
    """Wait for what another process does, asking at intervals."""
    while not ready():
        time.sleep(seconds)


class Row(NamedTuple):
    """What was measured of one method on one case, by the name of the metric."""

    case: str
    identity: int
    method: str
    values: Mapping[str, float]


class Rows:
    """The rows of a run, in memory and, with a folder, in its shards.

    Reading changes nothing; the first ``add`` creates a shard, with the rank in its name.
    """

    def __init__(self, folder: Path | None = None, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank
        self.identities: dict[str, int] = {}
        self.values: dict[tuple[str, str], dict[str, float]] = {}
        self._shard: BinaryIO | None = None
        self._read: dict[Path, int] = {}
        self.read()

    def read(self) -> None:
        """Read what shards have more; of values with equal names, those of the later are kept."""
        for path in sorted(self.folder.glob("rows-*.jsonl")) if self.folder else ():
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")
                self._read[path] = file.tell() - len(whole[2])
            for line in whole[0].split(b"\n"):
                checksum, _, text = line.partition(b" ")
                if checksum == _checksum(text):
                    self._keep(Row(*json.loads(text)))

    def add(self, row: Row) -> None:
        """Append a row; all of it or nothing is read again."""
        if self.folder is not None:
            name = f"rows-{time.time_ns():020}-{self.rank}-{uuid.uuid4().hex}.jsonl"
            path = Path(self._shard.name) if self._shard else self.folder / name
            with named_errors(path):
                self._shard = self._shard or path.open("xb")
                text = json.dumps(row).encode()
                self._shard.write(b"%s %s\n" % (_checksum(text), text))
                self._shard.flush()
        self._keep(row)

    def has(self, case: str, method: str, columns: Collection[str]) -> bool:
        """Tell whether all of ``columns`` have been measured of a method on a case."""
        return self.values.get((case, method), {}).keys() >= {*columns}

    def frame(self, task: str, cases: Sequence[str], methods: Sequence[str]) -> "pd.DataFrame":
        """Return a frame of ``COLUMNS``, by case and method in the order given."""
        import pandas as pd  # here: the pages of the command line have no frames

        rows = (
            (task, case, self.identities[case], method, metric, value)
            for case in cases
            for method in methods
            for metric, value in self.values[case, method].items()
        )
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        for column in ("task", "case", "method", "metric"):
            frame[column] = pd.Categorical(frame[column], frame[column].unique())
        return frame

    def _keep(self, row: Row) -> None:
        self.identities[row.case] = row.identity
        self.values.setdefault((row.case, row.method), {}).update(row.values)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def by_method(frame: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
    """Return the rows of each method: by case and identity, with a column for each metric."""
    return {
        str(name): part.pivot(
            index=["case", "identity"], columns="metric", values="value"
        ).rename_axis(columns=None)
        for name, part in frame.groupby("method", observed=True)
    }


def claim(folder: Path, settings: Mapping[str, Any], *, resume: bool, rank: int = 0) -> None:
    """Make ``folder`` the output of a run with these ``settings``; the first process does it.

    Raises:
        InputError: If the folder holds anything but a run with the same settings, or holds that
            and ``resume`` is not set.
    """
    path, text = folder / SETTINGS, json.dumps(settings, indent=1) + "\n"
    if rank > 0:
        wait_until(path.is_file)
        resume = True
    elif not path.is_file():
        if folder.is_dir() and any(file.suffix != ".partial" for file in folder.iterdir()):
            raise InputError("output", f"{folder} with other files in it", "an empty folder")
        with named_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if _created(path, text):
            return
    there, here = read_settings(folder), json.loads(text)
    if differ := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
        pairs = (f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differ)
        came = f"{folder} of a run with other settings ({'; '.join(pairs)})"
        raise InputError("output", came, "another folder")
    if not resume:
        raise InputError("output", f"{folder} of an earlier run", "another folder, or --resume")


def _created(path: Path, text: str) -> bool:
    """Create a file, whole, unless another process was faster; tell whether it is ours."""
    partial = partial_of(path)
    try:
        with named_errors(path):
            partial.write_text(text, encoding="utf-8")
            os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder, or raise an ``InputError``."""
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("run", f"{folder} ({error})", "the output folder of a run") from error
    return settings


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    import captum
    import torchvision

    packages = (reid_explain, torch, torchvision, captum)
    found = {package.__name__: str(package.__version__) for package in packages}
    return {**found, "python": platform.python_version()}
