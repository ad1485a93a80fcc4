"""Attribute labels of identities, as Lin et al. publish them.

Lin et al., "Improving person re-identification by attribute and identity learning",
Pattern Recognition 2019: one MATLAB file per data set.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_explain.datasets.records import Record, ReIDDataset, Role
from reid_explain.errors import InputError

NOT_BINARY = ("age", "image_index")


class IdentityAttributes(NamedTuple):
    """Binary attributes by identity.

    ``labels[identity]`` is an int array (len(names),) in the order of ``names``, which
    ``read_attributes`` sorts: 1 or 2 as published (2: yes, or female, long hair, short sleeve,
    short lower clothing, trousers, long top, light shoes), 0 unknown.
    """

    names: tuple[str, ...]
    labels: dict[int, NDArray[np.int64]]


def read_attributes(path: str | Path) -> IdentityAttributes:
    """Read ``market_attribute.mat`` or ``duke_attribute.mat``, training and test identities.

    Fields are matched by name; the four-valued ``age`` is left out.

    Raises:
        InputError: the file is absent, unreadable or of another form.
    """
    from scipy.io import loadmat  # here: only these files need it

    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # What garbage raises in the reader is anybody's guess.
        raise InputError("path", f"{path} ({error})", "a readable MATLAB v5 file") from error
    try:
        (root,) = (value for key, value in content.items() if not key.startswith("__"))
        parts = [root.train, root.test]
        names = sorted(set(root.train._fieldnames) - set(NOT_BINARY))
        labels = {identity: row for part in parts for identity, row in _rows(part, names).items()}
    except (ValueError, AttributeError) as error:
        raise InputError("path", f"{path} ({error})", "an attribute file of Lin et al.") from error
    return IdentityAttributes(tuple(names), labels)


def _rows(part: Any, names: list[str]) -> dict[int, NDArray[np.int64]]:
    table = np.stack([np.atleast_1d(getattr(part, name)) for name in names], axis=1)
    pairs = zip(np.atleast_1d(part.image_index), table.astype(np.int64), strict=True)
    return {int(identity): row for identity, row in pairs}


def record_labels(dataset: ReIDDataset, records: Sequence[Record], names: Sequence[str]) -> Tensor:
    """Return the attributes of the identity of each record, (N, len(names)), int64.

    1 or 2, and 0 where unknown: all attributes of junk and distractors, and those of ``names``,
    which are matched by name, that the data set does not label.

    Raises:
        InputError: the data set labels none of ``names``, or misses an identity.
    """
    places = {name: place for place, name in enumerate(dataset.attribute_names)}
    columns = [places.get(name) for name in names]
    if all(column is None for column in columns):
        raise InputError("dataset", f"{dataset.name} without labels of {', '.join(names)}", "some")
    people = {record.identity for record in records if record.role is Role.PERSON}
    if missing := people - {*dataset.labels}:
        shown = ", ".join(map(str, sorted(missing)[:5]))
        got = f"{dataset.name} without attributes of {len(missing)} identities: {shown}"
        raise InputError("dataset", got, "attributes of every identity")
    rows = {i: [0 if c is None else int(dataset.labels[i][c]) for c in columns] for i in people}
    unknown = [0] * len(names)
    return torch.tensor([rows[r.identity] if r.role is Role.PERSON else unknown for r in records])
