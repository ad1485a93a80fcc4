"""SyntheticReID: a re-identification data set that is drawn, with its truth."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic.attributes import (
    ATTRIBUTE_NAMES,
    Labels,
    attribute_file,
    toggle,
)
from reid_explain.datasets.synthetic.camera import CAMERAS
from reid_explain.datasets.synthetic.picture import (
    DISTRACTOR_IDENTITY,
    Painter,
    Shot,
    Stream,
    generator,
)
from reid_explain.datasets.synthetic.truth import (
    Counterfactual,
    Rendering,
    attribute_masks,
    grow,
    person_mask,
)
from reid_explain.errors import InputError


class SyntheticReID:
    """Drawn pedestrians with Market-1501's 26 attributes, six cameras, and the truth of both.

    Nothing is stored: an image is drawn when it is asked for, and depends on ``seed``,
    ``severity`` and its record's name alone. Satisfies ``ReIDDataset``.

    Args:
        seed: the world; 0 or more.
        train_identities: people of the training split, numbered from 1.
        test_identities: people of the query and gallery splits, numbered on from there.
        images_per_camera: images of a person in each of the 4 to 6 cameras that see it; the first
            of a test identity is its query there, the others are gallery images. At least 2.
        distractors: gallery images of other people, identity 0.
        severity: how much the cameras differ from a perfect one, and how often things stand in
            front of people and crops are wrong; 0 to 2. The one setting of difficulty.

    Attributes:
        attribute_names: the 26 names.
        version: of the drawing; a seed gives the same bytes for the same version.

    Example:
        >>> world = SyntheticReID(train_identities=2, test_identities=1, distractors=1)
        >>> world.load(world.train[0]).size
        (128, 256)
    """

    name = "synthetic"
    version = 2
    attribute_names = ATTRIBUTE_NAMES

    def __init__(
        self,
        seed: int = 0,
        train_identities: int = 500,
        test_identities: int = 100,
        images_per_camera: int = 2,
        distractors: int = 1000,
        severity: float = 1.5,
    ) -> None:
        _check("seed", seed, 0, 2**32 - 1)
        _check("train_identities", train_identities, 0, 9999)
        _check("test_identities", test_identities, 0, 9999 - train_identities)
        _check("images_per_camera", images_per_camera, 2, 99)
        _check("distractors", distractors, 0, 99999)
        if not 0 <= severity <= 2:
            raise InputError("severity", severity, "a number from 0 to 2")
        self.seed = seed
        self.severity = severity
        self._painter = Painter(seed, severity)
        known = range(1, train_identities + test_identities + 1)
        tracks = {identity: self._tracks(identity, images_per_camera) for identity in known}
        test = [track for identity in known[train_identities:] for track in tracks[identity]]
        self._shots: dict[Record, Shot] = {}
        self.train = self._split(
            shot
            for identity in known[:train_identities]
            for track in tracks[identity]
            for shot in track
        )
        self.query = self._split(track[0] for track in test)
        others = [self._distractor(number) for number in range(1, distractors + 1)]
        self.gallery = self._split([*(shot for track in test for shot in track[1:]), *others])
        self._labels = {identity: self._painter.labels((identity, 0)) for identity in known}

    @property
    def labels(self) -> Mapping[int, Labels]:
        """Labels by identity, read-only: arrays (26,) of 1 and 2 in Market-1501's coding."""
        return MappingProxyType(self._labels)

    def load(self, record: Record) -> Image.Image:
        """Return the image of a record, 128 wide and 256 high, RGB."""
        return _decode(self._photograph(self._known(record)))

    def render(self, record: Record) -> Rendering:
        """Return the image of a record with its truth."""
        shot = self._known(record)
        return self._render(shot, self._painter.labels(shot.person))

    def counterfactual(self, record: Record, attribute: str) -> Counterfactual:
        """Return a record's image, and the same with one attribute changed.

        Pose, camera, noise, background and all other attributes stay; a color switched on
        switches the garment's other colors off, and one switched off leaves a color without a
        name. The scene changes only where the attribute shows; the camera's blur spreads that
        into ``region``. JPEG's faint echoes beyond it are taken back, so that the pixels outside
        ``region`` are equal. Where the attribute is hidden, nothing changes.
        """
        if attribute not in self.attribute_names:
            raise InputError("attribute", repr(attribute), f"one of {', '.join(ATTRIBUTE_NAMES)}")
        shot = self._known(record)
        labels = self._painter.labels(shot.person)
        index = self.attribute_names.index(attribute)
        original = self._render(shot, labels)
        changed = self._render(shot, toggle(labels, attribute))
        shape = original.attributes[index] | changed.attributes[index]
        region = grow(shape, self._painter.exposure(shot).spread)
        image = np.where(region[..., None], changed.image, original.image)
        return Counterfactual(original, changed._replace(image=image), region)

    def export(self, root: str | Path) -> None:
        """Write the world as a Market-1501 folder: three folders of images and the attributes.

        The files decode to exactly what ``load`` returns. An interrupted export is completed by
        running it again; a folder with other images in it is refused.
        """
        root = Path(root)
        folders = {
            "bounding_box_train": self.train,
            "query": self.query,
            "bounding_box_test": self.gallery,
        }
        files = {root / folder / r.path: r for folder in folders for r in folders[folder]}
        others = sum(path not in files for path in root.glob("*/*.jpg"))
        if others:
            raise InputError("root", f"{root} with {others} other images", "a new or empty folder")
        for folder in (*folders, "attribute"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for path, record in tqdm(files.items(), desc="export", unit="image"):
            path.write_bytes(self._photograph(self._known(record)))
        splits = {
            "train": {r.identity: self.labels[r.identity] for r in self.train},
            "test": {r.identity: self.labels[r.identity] for r in self.query},
        }
        (root / "attribute" / "market_attribute.mat").write_bytes(attribute_file(splits))

    def _tracks(self, identity: int, images: int) -> list[list[Shot]]:
        """Return the shots of one identity: a list for each camera that sees it."""
        rng = generator(self.seed, Stream.CAMERAS, identity)
        seen = rng.permutation(len(CAMERAS))[: int(rng.integers(4, len(CAMERAS) + 1))]
        tracks = []
        for camera in sorted(int(c) + 1 for c in seen):
            start, step = int(rng.integers(1, 900_000)), int(rng.integers(5, 60))
            frames = [start + step * i for i in range(images)]
            tracks.append([Shot(identity, camera, 1, f, i + 1) for i, f in enumerate(frames)])
        return tracks

    def _distractor(self, number: int) -> Shot:
        rng = generator(self.seed, Stream.CAMERAS, DISTRACTOR_IDENTITY, number)
        return Shot(DISTRACTOR_IDENTITY, int(rng.integers(len(CAMERAS))) + 1, 1, number, 1)

    def _split(self, shots: Iterable[Shot]) -> Sequence[Record]:
        """Return the records of shots, and keep which is whose."""
        split = {shot.record: shot for shot in shots}
        self._shots |= split
        return tuple(split)

    def _known(self, record: Record) -> Shot:
        if record not in self._shots:
            raise InputError("record", record, "a record of this world's train, query or gallery")
        return self._shots[record]

    def _photograph(self, shot: Shot) -> bytes:
        canvas = self._painter.paint(shot, self._painter.labels(shot.person))
        return self._painter.photograph(shot, canvas)

    def _render(self, shot: Shot, labels: Labels) -> Rendering:
        canvas = self._painter.paint(shot, labels)
        image = np.asarray(_decode(self._painter.photograph(shot, canvas)))
        return Rendering(image, person_mask(canvas), attribute_masks(canvas, labels))


def _decode(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def _check(argument: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise InputError(argument, value, f"an integer from {low} to {high}")
