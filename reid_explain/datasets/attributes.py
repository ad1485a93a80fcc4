"""Attribute labels of identities, as Lin et al. publish them.

Lin et al., "Improving person re-identification by attribute and identity learning",
Pattern Recognition 2019: one MATLAB file per data set.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from numpy.typing import NDArray

from reid_explain.errors import InputError

NOT_BINARY = ("age", "image_index")


class IdentityAttributes(NamedTuple):
    """Binary attributes by identity.

    ``names`` are sorted; ``labels[identity]`` is an int array (len(names),) in that order:
    1 or 2 as published (2: yes, or female, long hair, short sleeve, short lower clothing,
    trousers, long top, light shoes), 0 unknown.
    """

    names: tuple[str, ...]
    labels: dict[int, NDArray[np.int64]]


def read_attributes(path: str | Path) -> IdentityAttributes:
    """Read ``market_attribute.mat`` or ``duke_attribute.mat``, training and test identities.

    Fields are matched by name (the two parts list them in different orders); the four-valued
    ``age`` is left out.

    Raises:
        InputError: the file is absent, unreadable or of another form.
    """
    try:
        content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
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
    identities = np.atleast_1d(part.image_index)
    return {
        int(identity): row for identity, row in zip(identities, table.astype(np.int64), strict=True)
    }
