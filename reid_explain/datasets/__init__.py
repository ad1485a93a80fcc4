"""Data sets: records of path, identity and camera."""

from reid_explain.datasets.attributes import IdentityAttributes, read_attributes
from reid_explain.datasets.catalogue import DATASET_NAMES, open_dataset
from reid_explain.datasets.cuhk03 import CUHK03
from reid_explain.datasets.dukemtmc import DukeMTMCreID
from reid_explain.datasets.files import FileDataset, ThreeFolderDataset
from reid_explain.datasets.folder import FolderDataset
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
    "CUHK03",
    "DATASET_NAMES",
    "DISTRACTOR_IDENTITY",
    "IMAGE_SIZE",
    "JUNK_IDENTITY",
    "DukeMTMCreID",
    "FileDataset",
    "FolderDataset",
    "IdentityAttributes",
    "Market1501",
    "ReIDDataset",
    "Record",
    "RecordDataset",
    "SyntheticReID",
    "ThreeFolderDataset",
    "denormalize",
    "load_image",
    "normalize",
    "open_dataset",
    "read_attributes",
    "to_tensor",
]
