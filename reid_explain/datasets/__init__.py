"""Data sets: records of path, identity, camera and role."""

from typing import TYPE_CHECKING, Any

from reid_explain.datasets.attributes import IdentityAttributes, read_attributes, record_labels
from reid_explain.datasets.files import FileDataset, ThreeFolderDataset
from reid_explain.datasets.folder import FolderDataset
from reid_explain.datasets.labels import Labelled, labels_from
from reid_explain.datasets.published import CUHK03, DukeMTMCreID, Market1501
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset, Role
from reid_explain.datasets.registry import DATASETS, open_dataset

if TYPE_CHECKING:
    from reid_explain.datasets.synthetic import SyntheticReID

__all__ = [
    "CUHK03",
    "DATASETS",
    "DukeMTMCreID",
    "FileDataset",
    "FolderDataset",
    "IdentityAttributes",
    "Labelled",
    "Market1501",
    "ReIDDataset",
    "Record",
    "RecordDataset",
    "Role",
    "SyntheticReID",
    "ThreeFolderDataset",
    "labels_from",
    "open_dataset",
    "read_attributes",
    "record_labels",
]


def __getattr__(name: str) -> Any:
    """Import the drawn world when it is asked for."""
    if name == "SyntheticReID":
        from reid_explain.datasets.synthetic import SyntheticReID

        return SyntheticReID
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
