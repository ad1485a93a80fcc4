"""What every data set gives: records of path, identity, camera and role, and their images."""

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from reid_explain.inputs import InputSpec


class Role(enum.Enum):
    """What an image counts as in retrieval."""

    PERSON = 0
    """Of its identity: a match of the same identity in another camera."""
    DISTRACTOR = 1
    """Of nobody who is searched for: always wrong."""
    JUNK = 2
    """Never counted, neither right nor wrong."""


class Record(NamedTuple):
    """One image, of a person or of whatever else has an identity."""

    path: Path
    identity: int
    camera: int
    role: Role = Role.PERSON


class ReIDDataset(Protocol):
    """A re-identification data set; folders on disk and drawn worlds alike.

    Train identities are in no other split. ``attribute_names`` and ``labels`` are empty where
    nothing is known of attributes. What a model makes of an image's size is the model's business
    (``InputSpec``): a data set does not resize.
    """

    @property
    def name(self) -> str:
        """What ``open_dataset`` calls it."""

    @property
    def train(self) -> Sequence[Record]:
        """Images to train on."""

    @property
    def query(self) -> Sequence[Record]:
        """Images to search for."""

    @property
    def gallery(self) -> Sequence[Record]:
        """Images to search in."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """The binary attributes of an identity."""

    @property
    def labels(self) -> Mapping[int, NDArray[np.int64]]:
        """By identity, an array (len(attribute_names),): 1 or 2 as published, 0 unknown."""

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record."""


class RecordDataset(Dataset[tuple[Tensor, int, int]]):
    """Records as (image tensor (3, H, W), identity, camera).

    Args:
        dataset: loads the images.
        records: which images, in this order.
        spec: what the model takes.
    """

    def __init__(self, dataset: ReIDDataset, records: Sequence[Record], spec: InputSpec) -> None:
        self.dataset = dataset
        self.records = records
        self.spec = spec

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Load and transform one record."""
        record = self.records[index]
        image = self.spec.to_tensor(self.dataset.load(record))
        return image, record.identity, record.camera
