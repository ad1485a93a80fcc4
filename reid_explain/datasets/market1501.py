"""Market-1501 as it lies on disk.

Zheng et al., "Scalable person re-identification: a benchmark", ICCV 2015.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reid_explain.datasets.attributes import IdentityAttributes, read_attributes
from reid_explain.datasets.images import load_image
from reid_explain.datasets.records import Record
from reid_explain.errors import InputError

NAME_PATTERN = re.compile(r"(-1|\d+)_c(\d+)s\d+_\d+_\d+\.jpg")
ATTRIBUTE_FILE = Path("attribute", "market_attribute.mat")


class Market1501:
    """Market-1501: 1,501 identities, six cameras, detector boxes of 128x64.

    Identity -1 is junk (boxes of body parts), identity 0 a distractor; both are in ``gallery``.
    ``labels[identity]`` holds the 26 attributes of ``attribute_names`` (1 or 2, see
    ``IdentityAttributes``) where ``attribute/market_attribute.mat`` is present; otherwise both
    are empty.

    Args:
        root: the folder with ``bounding_box_train``, ``query`` and ``bounding_box_test``.

    Raises:
        InputError: a folder is missing, holds no image, or has a name of another form; or the
            attribute file is unreadable.
    """

    name = "market1501"

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        self.train: Sequence[Record] = read_folder(root / "bounding_box_train")
        self.query: Sequence[Record] = read_folder(root / "query")
        self.gallery: Sequence[Record] = read_folder(root / "bounding_box_test")
        labelled = root / ATTRIBUTE_FILE
        attributes = read_attributes(labelled) if labelled.is_file() else IdentityAttributes((), {})
        self.attribute_names = attributes.names
        self.labels = attributes.labels

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record, in its own size.

        Raises:
            InputError: the file is absent, truncated or no image.
        """
        return load_image(record.path)


def read_folder(folder: Path) -> tuple[Record, ...]:
    """Return the records of one Market-1501 folder, sorted by file name.

    Raises:
        InputError: the folder is missing, holds no image, or has a name of another form.
    """
    if not folder.is_dir():
        raise InputError("root", f"no folder {folder}", "a Market-1501 folder")
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise InputError("root", f"no .jpg file in {folder}", "a Market-1501 folder")
    return tuple(_record(path) for path in paths)


def _record(path: Path) -> Record:
    match = NAME_PATTERN.fullmatch(path.name)
    if match is None:
        raise InputError(
            "root", f"{path.name} in {path.parent}", "names like 0002_c1s1_000451_03.jpg"
        )
    return Record(path, int(match[1]), int(match[2]))
