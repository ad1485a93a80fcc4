"""Data sets: records of path, identity, camera and role."""

from typing import TYPE_CHECKING, Any

from reid_explain.datasets.attributes import IdentityAttributes as IdentityAttributes
from reid_explain.datasets.attributes import read_attributes as read_attributes
from reid_explain.datasets.attributes import record_labels as record_labels
from reid_explain.datasets.files import FileDataset as FileDataset
from reid_explain.datasets.files import ThreeFolderDataset as ThreeFolderDataset
from reid_explain.datasets.folder import FolderDataset as FolderDataset
from reid_explain.datasets.labels import Labelled as Labelled
from reid_explain.datasets.labels import labels_from as labels_from
from reid_explain.datasets.published import CUHK03 as CUHK03
from reid_explain.datasets.published import MSMT17 as MSMT17
from reid_explain.datasets.published import DukeMTMCreID as DukeMTMCreID
from reid_explain.datasets.published import Market1501 as Market1501
from reid_explain.datasets.published import VehicleID as VehicleID
from reid_explain.datasets.published import VeRi776 as VeRi776
from reid_explain.datasets.records import Record as Record
from reid_explain.datasets.records import RecordDataset as RecordDataset
from reid_explain.datasets.records import ReIDDataset as ReIDDataset
from reid_explain.datasets.records import Role as Role
from reid_explain.datasets.registry import DATASETS as DATASETS
from reid_explain.datasets.registry import open_dataset as open_dataset

if TYPE_CHECKING:
    from reid_explain.datasets.synthetic import SyntheticReID as SyntheticReID


def __getattr__(name: str) -> Any:
    """Import the drawn world when it is asked for."""
    if name == "SyntheticReID":
        from reid_explain.datasets.synthetic import SyntheticReID

        return SyntheticReID
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
