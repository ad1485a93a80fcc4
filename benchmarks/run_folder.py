"""The output folder of a benchmark: one run's settings, its rows as they come, its results."""

import argparse
import csv
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reid_explain import InputError
from reid_explain.datasets import Record

FREE_SETTINGS = ("output", "resume", "device")
"""What may differ between a run and its continuation."""


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def fixed_settings(settings: argparse.Namespace) -> dict[str, Any]:
    """Return what two runs must have in common to be one, as JSON has it."""
    fixed = {name: value for name, value in vars(settings).items() if name not in FREE_SETTINGS}
    return {name: str(v) if isinstance(v, Path) else v for name, v in fixed.items()}


def image_name(record: Record, root: Path | None) -> str:
    """Return the path of an image in its data set: names alone may repeat."""
    return os.path.relpath(record.path, root)


def claim(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Make ``folder`` the output of a run with these ``settings``.

    Raises:
        InputError: If the folder holds anything but a run with the same settings, or holds that
            and ``resume`` is not set.
    """
    path = folder / "settings.json"
    wanted = json.dumps(settings, indent=1) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != wanted:
            raise InputError("--output", f"{folder} of a run with other settings", "another folder")
        if not resume:
            raise InputError(
                "--output", f"{folder} of an earlier run", "another folder, or --resume"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError("--output", f"{folder} with other files in it", "an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, wanted)


class Rows:
    """A CSV file that grows by whole rows, each with a checksum, and survives any interruption.

    Args:
        path: The file; rows that are there and whole are kept, others are dropped.
        key: Names of the columns that say what a row is about, as text.
        figures: Names of the columns of numbers.
    """

    def __init__(self, path: Path, key: Sequence[str], figures: Sequence[str]) -> None:
        self.path = path
        self.key = tuple(key)
        self.figures = tuple(figures)
        self.rows: dict[tuple[str, ...], dict[str, float]] = {}
        if path.is_file():
            self.rows.update(self._whole_rows(path.read_bytes().decode("utf-8", "replace")))
        header = csv_line([*self.key, *self.figures, "checksum"])
        write_text(path, header + "".join(self._line(key) for key in self.rows))

    def add(self, key: Sequence[str], figures: Mapping[str, float]) -> None:
        """Append a row and hand it to the operating system."""
        self.rows[tuple(key)] = {name: float(figures[name]) for name in self.figures}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line(tuple(key)))

    def __contains__(self, key: Sequence[str]) -> bool:
        return tuple(key) in self.rows

    def _line(self, key: tuple[str, ...]) -> str:
        cells = [*key, *(repr(value) for value in self.rows[key].values())]
        return csv_line([*cells, checksum(cells)])

    def _whole_rows(self, text: str) -> Iterator[tuple[tuple[str, ...], dict[str, float]]]:
        for line in text.split("\n"):
            *values, last = cells_of(line)
            if len(values) == len(self.key) + len(self.figures) and last == checksum(values):
                numbers = map(float, values[len(self.key) :])
                figures = dict(zip(self.figures, numbers, strict=True))
                yield tuple(values[: len(self.key)]), figures


def cells_of(line: str) -> list[str]:
    """Return the cells of one line of CSV; one empty cell if it is damaged."""
    try:
        return next(csv.reader([line]), [""]) or [""]
    except csv.Error:
        return [""]


def csv_line(cells: Sequence[str]) -> str:
    """Return one line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def checksum(cells: Sequence[str]) -> str:
    """Return the CRC-32 of a row's cells in hexadecimal."""
    return f"{zlib.crc32(csv_line(cells).encode()):08x}"
