"""Data sets: records of path, identity and camera."""

from reid_explain.datasets.attributes import IdentityAttributes, read_attributes
from reid_explain.datasets.images import (
    IMAGE_SIZE,
    RecordDataset,
    denormalize,
    load_image,
    normalize,
    to_tensor,
)
from reid_explain.datasets.market1501 import Market1501
from reid_explain.datasets.records import (
    DISTRACTOR_IDENTITY,
    JUNK_IDENTITY,
    Record,
    ReIDDataset,
)
from reid_explain.datasets.synthetic import SyntheticReID

__all__ = [
    "DISTRACTOR_IDENTITY",
    "IMAGE_SIZE",
    "JUNK_IDENTITY",
    "IdentityAttributes",
    "Market1501",
    "ReIDDataset",
    "Record",
    "RecordDataset",
    "SyntheticReID",
    "denormalize",
    "load_image",
    "normalize",
    "read_attributes",
    "to_tensor",
]
