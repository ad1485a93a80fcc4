"""The data sets by name, for command lines."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from reid_explain.checks import check_choice
from reid_explain.datasets.cuhk03 import CUHK03
from reid_explain.datasets.dukemtmc import DukeMTMCreID
from reid_explain.datasets.folder import FolderDataset
from reid_explain.datasets.market1501 import Market1501
from reid_explain.datasets.records import ReIDDataset
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.errors import InputError

SYNTHETIC = "synthetic"
IN_A_FOLDER: dict[str, Callable[[str | Path], ReIDDataset]] = {
    "market1501": Market1501,
    "cuhk03": CUHK03,
    "cuhk03_detected": partial(CUHK03, boxes="detected"),
    "dukemtmc": DukeMTMCreID,
    "folder": FolderDataset,
}
DATASET_NAMES = (SYNTHETIC, *IN_A_FOLDER)


def open_dataset(name: str, root: str | Path | None = None) -> ReIDDataset:
    """Return the data set of a name, with its default settings.

    Args:
        name: one of ``DATASET_NAMES``; the data set's ``name`` is the same.
        root: the data set's folder; none for ``"synthetic"``, which is drawn.

    Raises:
        InputError: another name; a root missing or not wanted; or what the data set raises.
    """
    check_choice("name", name, DATASET_NAMES)
    if name == SYNTHETIC:
        if root is not None:
            raise InputError("root", root, f"none, {SYNTHETIC} is drawn, not read")
        return SyntheticReID()
    if root is None:
        raise InputError("root", "nothing", f"the folder of {name}")
    return IN_A_FOLDER[name](root)
