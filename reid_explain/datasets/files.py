"""What data sets of image files have in common."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image

from reid_explain.datasets.attributes import IdentityAttributes, read_attributes
from reid_explain.datasets.records import Record, Role
from reid_explain.errors import InputError
from reid_explain.inputs import load_image

NO_ATTRIBUTES = IdentityAttributes((), {})


class FileDataset:
    """Records of image files, a ``ReIDDataset``; a subclass has a ``name`` and finds the records.

    Args:
        train: records to train on.
        query: records to search for.
        gallery: records to search in.
        attributes: ``attribute_names`` and ``labels[identity]``, empty where there are none.

    Raises:
        InputError: an identity of ``train`` is in another split too.
    """

    name: str

    def __init__(
        self,
        train: Sequence[Record],
        query: Sequence[Record],
        gallery: Sequence[Record],
        attributes: IdentityAttributes = NO_ATTRIBUTES,
    ) -> None:
        tested = {record.identity for record in (*query, *gallery)}
        shared = [record for record in train if record.identity in tested]
        if shared:
            count = len({record.identity for record in shared})
            got = f"{count} training identities in query or gallery too, first {shared[0].path}"
            raise InputError("root", got, "identities of either training or test images")
        self.train: Sequence[Record] = train
        self.query: Sequence[Record] = query
        self.gallery: Sequence[Record] = gallery
        self.attribute_names, self.labels = attributes

    def load(self, record: Record) -> Image.Image:
        """Return the RGB image of one record, in its own size, see ``load_image``."""
        return load_image(record.path)


class ThreeFolderDataset(FileDataset):
    """A data set laid out as Market-1501 is: three folders, identity and camera in the file names.

    A subclass is a row of a table: ``name``, the form of its file names and, where it has them,
    its ``folders``, the identities that are no person, and its attribute file. ``labels[identity]``
    has the attributes of ``attribute_names`` (1 or 2, see ``IdentityAttributes``) where that file
    is present in ``attribute``; otherwise both are empty.

    Args:
        root: the folder with the three ``folders``.

    Raises:
        InputError: a folder is missing, holds no image, or has a name of another form; a training
            identity is in another split too; or the attribute file is unreadable or another one.
    """

    #: Of train, query and gallery.
    folders: tuple[str, str, str] = ("bounding_box_train", "query", "bounding_box_test")
    #: The whole file name; group 1 is the identity, group 2 the camera.
    name_pattern: str
    name_example: str
    junk: tuple[int, ...] = ()
    distractors: tuple[int, ...] = ()
    attribute_file: str | None = None
    attributes_in_file: tuple[str, ...] = ()

    def __init__(self, root: str | Path) -> None:
        train, query, gallery = (self._read(Path(root, folder)) for folder in self.folders)
        super().__init__(train, query, gallery, self._attributes(Path(root)))

    def _attributes(self, root: Path) -> IdentityAttributes:
        path = root / "attribute" / (self.attribute_file or "")
        if not path.is_file():
            return NO_ATTRIBUTES
        attributes = read_attributes(path)
        found, wanted = {*attributes.names}, {*self.attributes_in_file}
        if found != wanted:
            missing, unexpected = (
                ", ".join(sorted(names)) or "none" for names in (wanted - found, found - wanted)
            )
            got = f"{path} with attributes missing: {missing}; unexpected: {unexpected}"
            raise InputError("root", got, f"the {len(wanted)} attributes of {self.name}")
        return attributes

    def _read(self, folder: Path) -> tuple[Record, ...]:
        expected = f"a folder of {self.name} with names like {self.name_example}"
        if not folder.is_dir():
            raise InputError("root", f"no folder {folder}", expected)
        suffix = Path(self.name_example).suffix
        records = []
        for path in image_files(folder, [suffix]):
            match = re.fullmatch(self.name_pattern, path.name)
            if match is None:
                raise InputError("root", f"{path.name} in {folder}", expected)
            records.append(Record(path, int(match[1]), int(match[2]), self._role(int(match[1]))))
        if not records:
            raise InputError("root", f"no {suffix} file in {folder}", expected)
        return tuple(records)

    def _role(self, identity: int) -> Role:
        if identity in self.junk:
            return Role.JUNK
        return Role.DISTRACTOR if identity in self.distractors else Role.PERSON


def listed_images(path: Path) -> list[tuple[str, int]]:
    """Return the images and identities of a text file with lines such as ``0001/a.jpg 1``.

    Raises:
        InputError: It is not there, has no line, or has one of another form.
    """
    expected = "lines of an image and the number of its identity"
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        found = [(name, int(identity)) for name, identity in filter(None, lines)]
    except (OSError, ValueError) as error:
        raise InputError("root", f"{path} ({error})", expected) from error
    if not found:
        raise InputError("root", f"no line in {path}", expected)
    return found


def image_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files of a folder with one of these suffixes (lower case), sorted by name.

    Hidden files, such as the ``._`` twins that macOS leaves in archives, are no images.
    """
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return sorted(path for path in files if not path.name.startswith("."))
