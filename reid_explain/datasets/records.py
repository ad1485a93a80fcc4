"""What every data set gives: records of path, identity and camera, and a way to load one."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

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

    ``train``, ``query`` and ``gallery`` are its splits; train identities are in no other split.
    """

    name: str
    train: Sequence[Record]
    query: Sequence[Record]
    gallery: Sequence[Record]

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record."""
        ...
