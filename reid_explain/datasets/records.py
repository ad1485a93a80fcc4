"""What every data set gives: records of path, identity and camera, and a way to load one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JUNK_IDENTITY = -1
DISTRACTOR_IDENTITY = 0


class Record(NamedTuple):
    """One image of a person.

    ``identity`` is ``-1`` for junk (never counted) and ``0`` for a distractor (always wrong).
    """

    path: Path
    identity: int
    camera: int


class ReIDDataset(Protocol):
    """A re-identification data set; folders on disk and drawn worlds alike.

    Train identities are in no other split. ``attribute_names`` and ``labels`` are empty where
    nothing is known of attributes.
    """

    @property
    def name(self) -> str:
        """What ``open_dataset`` calls it."""
        ...

    @property
    def train(self) -> Sequence[Record]:
        """Images to train on."""
        ...

    @property
    def query(self) -> Sequence[Record]:
        """Images to search for."""
        ...

    @property
    def gallery(self) -> Sequence[Record]:
        """Images to search in."""
        ...

    @property
    def attribute_names(self) -> Sequence[str]:
        """The binary attributes of an identity."""
        ...

    @property
    def labels(self) -> Mapping[int, NDArray[np.int64]]:
        """By identity, an array (len(attribute_names),): 1 or 2 as published, 0 unknown."""
        ...

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record."""
        ...
