"""Attributes of people without labels: what a recognizer sees, averaged over their images."""

import csv
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.checks import check_at_least, check_rows, describe
from reid_explain.datasets.attributes import IdentityAttributes
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset, Role
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.registry import Registry

Recognizer = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) to the probabilities (B, M) of M attributes, 0 to 1.

One that names itself has ``attributes``, the M names, and ``input_spec``, what it takes.
"""
RECOGNIZERS: Registry[Recognizer | type[Recognizer]] = Registry("reid_explain.recognizers")
THRESHOLDS = (0.4, 0.6)
WORDS = ("unknown", "no", "yes")
"""The labels 0, 1 and 2 in files."""


class Labelled:
    """A data set with attributes of its identities; a ``ReIDDataset`` with all else as it was.

    Args:
        dataset: has the records and loads the images.
        attributes: names and labels, in place of the data set's own.
    """

    def __init__(self, dataset: ReIDDataset, attributes: IdentityAttributes) -> None:
        self.dataset = dataset
        self.attribute_names, self.labels = attributes
        self.name = dataset.name
        self.train, self.query, self.gallery = dataset.train, dataset.query, dataset.gallery
        self.identity_names: Mapping[int, str] = getattr(dataset, "identity_names", {})

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record."""
        return self.dataset.load(record)


def labels_from(
    recognizer: Recognizer,
    dataset: ReIDDataset,
    records: Sequence[Record] | None = None,
    *,
    names: Sequence[str] | None = None,
    spec: InputSpec | None = None,
    thresholds: tuple[float, float] = THRESHOLDS,
    batch_size: int = 64,
    workers: int = 0,
    show_progress: bool = True,
) -> IdentityAttributes:
    """Label the people of a data set by what a recognizer sees in their images.

    The probabilities of an attribute are averaged over the images of an identity. A mean below
    the lower threshold is a no (1), one of at least the upper a yes (2), between them the
    attribute is unknown (0).

    Args:
        recognizer: images (B, 3, H, W), float32 on the CPU, to probabilities (B, M).
        dataset: loads the images.
        records: which images; by default all of the data set. Distractors and junk are left out.
        names: the M attributes; by default ``recognizer.attributes``.
        spec: what the recognizer takes; by default ``recognizer.input_spec``.
        thresholds: the lower and the upper one, between 0 and 1.
        batch_size: images per call.
        workers: processes that load images; 0 loads in this one.
        show_progress: show a progress bar.

    Returns:
        Names, in the recognizer's order, and labels by identity.

    Raises:
        InputError: names missing or repeated, no spec, thresholds out of order, no image of a
            person, or what the recognizer returns are not B rows of M probabilities.

    Example:
        >>> from reid_explain.datasets import SyntheticReID
        >>> world = SyntheticReID(train_identities=2, test_identities=2, distractors=0)
        >>> def dark(images):
        ...     return 1 - images.mean(dim=(1, 2, 3))[:, None]
        >>> spec = InputSpec(mean=(0, 0, 0), std=(1, 1, 1))
        >>> found = labels_from(dark, world, names=["dark"], spec=spec, show_progress=False)
        >>> found.names, sorted(found.labels) == sorted({r.identity for r in everybody(world)})
        (('dark',), True)
    """
    names = check_names(getattr(recognizer, "attributes", ()) if names is None else names)
    spec = getattr(recognizer, "input_spec", None) if spec is None else spec
    if not isinstance(spec, InputSpec):
        raise InputError("spec", describe(spec), "an InputSpec, or a recognizer with input_spec")
    low, high = check_thresholds(thresholds)
    check_at_least("batch_size", batch_size, 1)
    people = everybody(dataset) if records is None else persons(records)
    if not people:
        raise InputError("records", "none", "at least one image of a person")
    seen: dict[int, list[NDArray[np.float64]]] = {}
    loader = DataLoader(RecordDataset(dataset, people, spec), batch_size, num_workers=workers)
    bar = tqdm(loader, desc="recognize", unit="batch", disable=not show_progress)
    with torch.no_grad():
        for images, identities, _ in bar:
            found = _probabilities(recognizer(images), len(images), len(names))
            for identity, row in zip(identities.tolist(), found, strict=True):
                seen.setdefault(identity, []).append(row)
    means = {identity: np.mean(rows, axis=0) for identity, rows in sorted(seen.items())}
    labels = {i: np.where(p >= high, 2, np.where(p < low, 1, 0)) for i, p in means.items()}
    return IdentityAttributes(names, labels)


def _probabilities(found: object, rows: int, columns: int) -> NDArray[np.float64]:
    """Return what a recognizer gave for a batch, checked."""
    values = check_rows("recognizer", found, rows=rows, width=columns).double().cpu()
    if not ((values >= 0) & (values <= 1)).all():
        got = f"values from {values.min():.3g} to {values.max():.3g}"
        raise InputError("recognizer", got, "probabilities from 0 to 1")
    return np.asarray(values)


def persons(records: Iterable[Record]) -> list[Record]:
    """Return the records of persons, each once."""
    return [record for record in dict.fromkeys(records) if record.role is Role.PERSON]


def everybody(dataset: ReIDDataset) -> list[Record]:
    """Return the images of persons of all splits, each once."""
    return persons([*dataset.train, *dataset.query, *dataset.gallery])


def unknown_labels(dataset: ReIDDataset, names: Sequence[str]) -> IdentityAttributes:
    """Return attributes that nobody is known to have or not to have."""
    people = {record.identity for record in everybody(dataset)}
    return IdentityAttributes(
        check_names(names), {i: np.zeros(len(names), dtype=np.int64) for i in people}
    )


def open_recognizer(name: str) -> Recognizer:
    """Return the recognizer of a name or of ``"module:NAME"``; of a class, an instance.

    Raises:
        InputError: no such name, an object that is not called, has no ``attributes`` or no
            ``input_spec``, or a class that cannot be made without arguments.
    """
    found = RECOGNIZERS.resolve(name)
    try:
        recognizer = found() if inspect.isclass(found) else found
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        expected = "a class that needs no arguments and finds its files"
        raise InputError("recognizer", f"{name} ({error})", expected) from error
    lacking = [part for part in ("attributes", "input_spec") if not hasattr(recognizer, part)]
    if lacking or not callable(recognizer):
        got = f"{name} without {' and '.join(lacking) or 'a call'}"
        raise InputError("recognizer", got, "a function with attributes and input_spec")
    return recognizer


def write_labels(path: str | Path, attributes: IdentityAttributes, dataset: ReIDDataset) -> None:
    """Write a CSV file: a row per identity, yes, no or unknown for each attribute.

    An identity is the name of its folder where the data set has ``identity_names``, else its
    number.
    """
    people: Mapping[int, str] = getattr(dataset, "identity_names", {})
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["identity", *attributes.names])
        for identity, row in attributes.labels.items():
            writer.writerow([people.get(identity, identity), *(WORDS[label] for label in row)])


def read_labels(path: str | Path, dataset: ReIDDataset) -> IdentityAttributes:
    """Read what ``write_labels`` wrote, or what was written by hand.

    Rows of identities that the data set does not have are left out.

    Raises:
        InputError: the file is unreadable, or has other columns, values, or an identity twice.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("labels", f"{path} ({error})", "a readable CSV file in UTF-8") from error
    if header[0] != "identity":
        raise InputError("labels", f"first column {header[0]} in {path}", "identity")
    names, labels = check_names(header[1:]), {}
    known: Mapping[int, str] = getattr(dataset, "identity_names", {})
    people = {str(known.get(i, i)): i for i in {record.identity for record in everybody(dataset)}}
    if twice := len(rows) - len({row[0] for row in rows}):
        raise InputError("labels", f"{twice} identities twice in {path}", "one row for each")
    for identity, *words in rows:
        if len(words) != len(names) or {*words} - {*WORDS}:
            got = f"{', '.join(words)} of {identity} in {path}"
            raise InputError("labels", got, f"{len(names)} times {', '.join(WORDS)}")
        if identity in people:
            labels[people[identity]] = np.array([WORDS.index(word) for word in words])
    return IdentityAttributes(names, labels)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of attributes if there are some and none repeats."""
    fits = not isinstance(names, str) and all(isinstance(name, str) and name for name in names)
    if not fits or not names or len({*names}) < len(names):
        raise InputError("names", repr(names), "different names, at least one")
    return tuple(names)


def check_thresholds(thresholds: tuple[float, float]) -> tuple[float, float]:
    """Return two thresholds if they are in order and between 0 and 1."""
    low, high = thresholds
    if not 0 <= low <= high <= 1:
        raise InputError("thresholds", f"{low} and {high}", "two numbers from 0 to 1, in order")
    return low, high
