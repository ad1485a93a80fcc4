"""A data set of one's own: a folder of photographs for each identity."""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from reid_explain.datasets.files import FileDataset, image_files
from reid_explain.datasets.records import Record, Role
from reid_explain.datasets.registry import DATASETS
from reid_explain.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TABLE = "images.csv"
COLUMNS = {"path", "camera", "split"}
UNKNOWN = "unknown"
"""The identity of images of nobody known, as wildlife-datasets has it: junk."""
CAMERA_PATTERN = r"(?i)(?<![^\W_])c(?:am(?:era)?)?(\d+)(?=s\d|[\W_]|$)"
"""c3, cam3 or camera3 between other characters than letters and digits; Market-1501's c3s1 too."""
SPLITS = {
    **{name: (name,) for name in ("train", "query", "gallery")},
    "test": ("query", "gallery"),
}
"""The splits by the values of the column ``split``."""


@DATASETS.register
class FolderDataset(FileDataset):
    """People, products or anything else: ``root/NAME/IMAGE``, one folder per identity.

    Identities are 1 to n in the sorted order of the folders' names; ``identity_names`` gives the
    names back. All are persons, without attributes. Without a table every image is query and
    gallery, and ``train`` is empty.

    Retrieval leaves out the gallery images of the query's identity and camera. Cameras come from
    the table, or else from the file names; where no name has one, each image is its own camera.
    Whole numbers stay, other cameras are 1 to n in sorted order; ``camera_names`` gives them back.

    The table is a CSV file in UTF-8 with a header, or a pandas frame. Images that it does not list
    are left out, and the folders may lie deeper, for the folder that holds the image is the
    identity.

    - ``identity``, optional: a number or a name, in place of the folder's; ``unknown`` is junk.
      Beside it further columns are ignored: the ``df`` of wildlife-datasets is such a table.
    - ``path``: the image, relative to ``root``: ``anna/1.jpg``.
    - ``camera``, optional: a number or a name.
    - ``split``, optional: ``train``, ``query``, ``gallery``, or ``test`` for query and gallery
      both, which is also what it means to have no such column.

    Args:
        root: the folder of the identities' folders, or what the paths of the table start from.
        table: the CSV file or frame; by default ``images.csv`` in ``root`` if there is one.
        camera_pattern: regular expression searched for in the file names without suffix; its
            group 1 is the camera. By default ``c3``, ``cam3`` or ``camera3``, in either case, as
            in ``1_c3_2.jpg`` and in Market-1501's names. ``"(.+)"`` makes every name a camera.

    Raises:
        InputError: a folder is missing or holds no image; some names have a camera and others
            none (none at all is right by default only); the table is unreadable, has other
            columns or values, lists no, the same, or an absent image; a training identity is in
            another split too; or query and gallery are empty.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     for name in ("anna/1_c1.png", "anna/2_c2.png", "bob/1_c1.png"):
        ...         Path(root, name).parent.mkdir(exist_ok=True)
        ...         Path(root, name).touch()
        ...     dataset = FolderDataset(root)
        >>> [(record.identity, record.camera) for record in dataset.query], dataset.identity_names
        ([(1, 1), (1, 2), (2, 1)], {1: 'anna', 2: 'bob'})
    """

    name = "folder"

    def __init__(
        self,
        root: str | Path,
        *,
        table: Any = None,
        camera_pattern: str | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise InputError("root", f"no folder {root}", "a folder with one folder per identity")
        if table is None and not (root / TABLE).is_file():
            photos = _photos_in_folders(root)
        else:
            photos = _photos_in_table(root, root / TABLE if table is None else table)
        if photos[0].camera is None:
            photos = _with_cameras(photos, camera_pattern)
        people = sorted({photo.identity for photo in photos})
        identities = {name: number for number, name in enumerate(people, 1)}
        cameras = _camera_numbers(str(photo.camera) for photo in photos)
        splits: dict[str, list[Record]] = {"train": [], "query": [], "gallery": []}
        for photo in photos:
            place = identities[photo.identity], cameras[str(photo.camera)]
            role = Role.JUNK if photo.identity == UNKNOWN and photo.listed else Role.PERSON
            for split in SPLITS[photo.split]:
                splits[split].append(Record(photo.path, *place, role))
        train, query, gallery = map(tuple, splits.values())
        super().__init__(train, query, gallery)
        self.identity_names = {number: name for name, number in identities.items()}
        self.camera_names = {number: name for name, number in cameras.items()}


class Photo(NamedTuple):
    """One image before names have numbers."""

    path: Path
    camera: str | None = None
    split: str = "test"
    listed: str | None = None

    @property
    def identity(self) -> str:
        """The name that the table has, or that of the folder that holds the image."""
        return self.listed or self.path.parent.name


def _photos_in_folders(root: Path) -> list[Photo]:
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise InputError("root", f"no folder in {root}", "one folder per identity")
    found = {folder: image_files(folder, IMAGE_SUFFIXES) for folder in folders}
    if empty := [folder for folder in folders if not found[folder]]:
        expected = f"images ({' '.join(IMAGE_SUFFIXES)}) in each identity's folder"
        raise InputError("root", f"no image in {empty[0]}", expected)
    return [Photo(path) for paths in found.values() for path in paths]


def _photos_in_table(root: Path, table: Any) -> list[Photo]:
    columns, rows = _rows_of_csv(Path(table)) if isinstance(table, str | Path) else _rows_of(table)
    table = table if isinstance(table, str | Path) else "the frame"
    others = {*columns} - COLUMNS if "identity" not in columns else ()
    if "path" not in columns or len({*columns}) < len(columns) or others:
        got = f"columns {', '.join(columns) or 'none'} in {table}"
        expected = "path and, if wanted, camera and split, with commas; others beside identity"
        raise InputError("table", got, expected)
    photos = [_photo(root, row, where) for where, row in rows]
    twice = [path for path, n in Counter(photo.path for photo in photos).items() if n > 1]
    if twice:
        raise InputError("table", f"{twice[0]} twice in {table}", "one row for each image")
    for split in ("query", "gallery"):
        if not any(split in SPLITS[photo.split] for photo in photos):
            raise InputError("table", f"no {split} image in {table}", "at least one")
    return photos


Rows = tuple[list[str], list[tuple[str, dict[str, str]]]]
"""The columns of a table, and where each row is with its values."""


def _rows_of(frame: Any) -> Rows:
    """Return the rows of a pandas frame, as text."""
    if not hasattr(frame, "to_dict"):
        raise InputError("table", type(frame).__name__, "a CSV file or a pandas frame")
    rows = frame.astype(str).to_dict("records")
    return list(frame.columns), [(f"row {n} of the frame", row) for n, row in enumerate(rows)]


def _rows_of_csv(table: Path) -> Rows:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = list(reader.fieldnames or ())
            return columns, [(f"line {reader.line_num} of {table}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("table", f"{table} ({error})", "a readable CSV file in UTF-8") from error


def _photo(root: Path, row: dict[str, str], where: str) -> Photo:
    if None in row or None in row.values():
        raise InputError("table", where, "one value for each column")
    values = row.get("camera"), row.get("split", "test"), row.get("identity")
    photo = Photo(root / row["path"], *values)
    if not photo.path.is_file():
        raise InputError("table", f"no file {photo.path}, {where}", "a path relative to root")
    if photo.listed == "":
        raise InputError("table", f"no identity, {where}", "a number or a name")
    if photo.listed is None and photo.path.parent == root:
        raise InputError("table", f"{row['path']}, {where}", "a path like anna/1.jpg")
    if photo.camera == "":
        raise InputError("table", f"no camera, {where}", "a number or a name")
    if photo.split not in SPLITS:
        raise InputError("table", f"split {photo.split!r}, {where}", f"one of {', '.join(SPLITS)}")
    return photo


def _with_cameras(photos: list[Photo], pattern: str | None) -> list[Photo]:
    """Return the photographs with the cameras of their names; their own if no name has any."""
    try:
        form = re.compile(CAMERA_PATTERN if pattern is None else pattern)
    except re.error as error:
        got = f"{pattern} ({error})"
        raise InputError("camera_pattern", got, "a regular expression") from error
    if not form.groups:
        raise InputError("camera_pattern", pattern, "a group that is the camera, as in c([0-9]+)")
    matches = [(photo, form.search(photo.path.stem)) for photo in photos]
    without = [photo for photo, match in matches if not (match and match[1])]
    if pattern is None and len(without) == len(photos):
        return [photo._replace(camera=str(photo.path)) for photo in photos]
    if without:
        expected = f"a camera in every name, or {TABLE} with the column camera"
        raise InputError("root", f"no camera in the name of {without[0].path}", expected)
    return [photo._replace(camera=match[1]) for photo, match in matches if match]


def _camera_numbers(names: Iterable[str]) -> dict[str, int]:
    distinct = sorted({*names})
    if all(re.fullmatch(r"\d{1,9}", name) for name in distinct):
        return {name: int(name) for name in distinct}
    return {name: number for number, name in enumerate(distinct, 1)}
