"""SyntheticReID: a re-identification data set that is drawn, with its truth."""

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic.appearance import Appearance
from reid_explain.datasets.synthetic.attributes import (
    ATTRIBUTE_NAMES,
    GROUPS,
    Labels,
    attribute_file,
    toggle,
    transplant,
)
from reid_explain.datasets.synthetic.camera import CAMERAS
from reid_explain.datasets.synthetic.canvas import Canvas, Part
from reid_explain.datasets.synthetic.picture import (
    DISTRACTOR_IDENTITY,
    Painter,
    Shot,
    Stream,
    generator,
)
from reid_explain.datasets.synthetic.truth import (
    PARTS,
    Counterfactual,
    Mask,
    Removal,
    Rendering,
    attribute_masks,
    difference,
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
        train = (track for identity in known[:train_identities] for track in tracks[identity])
        self.train = self._split(shot for track in train for shot in track)
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
        return _decode(self._photograph(record))

    def render(self, record: Record) -> Rendering:
        """Return the image of a record with its truth."""
        return _fresh(_taken(self._painter, self._known(record)).rendering)

    def pieces(self, record: Record) -> dict[str, Mask]:
        """Return where each painted piece of a record's person shows, masks (256, 128) by name.

        The names are those of the body and of what is worn and carried, in ``Part``; a pixel may
        show several. ``PARTS`` says which pieces make a part that can be removed.
        """
        canvas = _taken(self._painter, self._known(record)).canvas
        person = (part for part in Part if part not in (Part.SCENE, Part.FRONT))
        return {part.name.lower(): canvas.shows([part]) for part in person}

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
        labels = toggle(self._painter.labels(shot.person), attribute)
        canvas = self._painter.paint(shot, labels)
        original, masks = self.render(record), attribute_masks(canvas, labels)
        index = self.attribute_names.index(attribute)
        region = self._spread(shot, original.attributes[index] | masks[index])
        image = self._retake(shot, self._painter.lit(shot, canvas), region)
        return Counterfactual(original, Rendering(image, person_mask(canvas), masks), region)

    def intervene(self, record: Record, changes: Mapping[str, Record]) -> Rendering:
        """Return a record's person with attributes of the people on other records.

        A color is set to the very shade that the other's garment has, also where it has no name; a
        belonging is had or not as by the other, and looks as the person's own would. Pose, camera,
        noise, background and all other attributes stay, pixel for pixel beyond the camera's
        spread; the masks are those of the person as painted. Where the attribute is hidden, or
        both people share it, nothing changes.

        Args:
            record: the image to change.
            changes: for each group of attributes (a name in ``GROUPS``) the record, anywhere in
                this world, of the person whose value is taken.

        Raises:
            InputError: an unknown group or record.
        """
        shot, painter = self._known(record), self._painter
        labels, look = self._dressed(shot, changes)
        canvas = painter.paint(shot, labels, look)
        lit = painter.lit(shot, canvas)
        region = self._spread(shot, difference(_taken(painter, shot).lit, lit))
        image = self._retake(shot, lit, region)
        return Rendering(image, person_mask(canvas), attribute_masks(canvas, labels))

    def remove(self, record: Record, *parts: str) -> Removal:
        """Return a record's image, and the same with parts of the person gone.

        What is behind a part shows instead: the scene, or other parts (under a long sleeve the
        bare arm, under a garment's body the scene). The person's shadow stays. Nothing changes for
        a part that the person does not have or does not show.

        Args:
            record: the image to change.
            parts: names in ``PARTS``; together they are removed from one image.

        Raises:
            InputError: an unknown part or record.
        """
        shot, painter = self._known(record), self._painter
        for part in parts:
            if part not in PARTS:
                raise InputError("part", repr(part), f"one of {', '.join(PARTS)}")
        gone = [piece for part in parts for piece in PARTS[part]]
        labels = painter.labels(shot.person)
        canvas = painter.paint(shot, labels, without=gone)
        shape = _taken(painter, shot).canvas.shows(gone)
        region = self._spread(shot, shape)
        image = self._retake(shot, painter.lit(shot, canvas), region)
        changed = Rendering(image, person_mask(canvas), attribute_masks(canvas, labels))
        return Removal(self.render(record), changed, region, shape)

    def swap_background(self, record: Record, other: Record) -> Rendering:
        """Return a record's person before the scene of another record.

        Behind the person are the other's place, bystander and unevenness of light, with the
        person's own shadow. The person, what stands in front of it, the crop, the camera's response
        and noise are the record's: beyond the camera's spread from the background no pixel changes.

        Args:
            record: the image to change; its masks stay.
            other: any record of this world, from which the scene is taken.

        Raises:
            InputError: an unknown record.
        """
        shot, place, painter = self._known(record), self._known(other, "other"), self._painter
        original = _taken(painter, shot)
        behind = np.asarray(original.canvas.parts) == Part.SCENE
        backdrop = painter.lit(place, painter.backdrop(shot, place))
        lit = np.where(behind[..., None], backdrop, original.lit)
        region = self._spread(shot, difference(original.lit, lit))
        return _fresh(original.rendering)._replace(image=self._retake(shot, lit, region))

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
            path.write_bytes(self._photograph(record))
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

    def _known(self, record: Record, argument: str = "record") -> Shot:
        if record not in self._shots:
            raise InputError(argument, record, "a record of this world's train, query or gallery")
        return self._shots[record]

    def _photograph(self, record: Record) -> bytes:
        shot, painter = self._known(record), self._painter
        canvas = painter.paint(shot, painter.labels(shot.person))
        return painter.exposure(shot).photograph(painter.lit(shot, canvas))

    def _dressed(self, shot: Shot, changes: Mapping[str, Record]) -> tuple[Labels, Appearance]:
        """Return a shot's person with the others' values of groups of attributes."""
        painter = self._painter
        labels, look = painter.labels(shot.person), painter.appearance(shot.person)
        for group, other in changes.items():
            if group not in GROUPS:
                raise InputError("changes", repr(group), f"groups among {', '.join(GROUPS)}")
            giver = self._known(other, f"changes[{group!r}]").person
            labels = transplant(labels, painter.labels(giver), group)
            if group.endswith(" color"):
                look = look.dyed_as(painter.appearance(giver), group.removesuffix(" color"))
        return labels, look

    def _spread(self, shot: Shot, shape: Mask) -> Mask:
        """Return the pixels that a camera's picture of a shape (256, 128) reaches."""
        return grow(shape, self._painter.exposure(shot).spread)

    def _retake(self, shot: Shot, lit: NDArray[np.uint8], region: Mask) -> NDArray[np.uint8]:
        """Return the photograph of another lit scene; outside of the region, the original."""
        image = np.asarray(_decode(self._painter.exposure(shot).photograph(lit)))
        return np.where(region[..., None], image, _taken(self._painter, shot).rendering.image)


class _Taken(NamedTuple):
    """A record's scene as painted and lit, and its rendering; shared, so not to be written to."""

    canvas: Canvas
    lit: NDArray[np.uint8]
    rendering: Rendering


@lru_cache(maxsize=4)
def _taken(painter: Painter, shot: Shot) -> _Taken:
    """Paint and photograph a shot; the last few are kept, as interventions come in series."""
    labels = painter.labels(shot.person)
    canvas = painter.paint(shot, labels)
    lit = painter.lit(shot, canvas)
    image = np.asarray(_decode(painter.exposure(shot).photograph(lit)))
    masks = attribute_masks(canvas, labels)
    return _Taken(canvas, lit, Rendering(image, person_mask(canvas), masks))


def _fresh(rendering: Rendering) -> Rendering:
    """Return a copy that may be written to."""
    return Rendering(*(part.copy() for part in rendering))


def _decode(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def _check(argument: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise InputError(argument, value, f"an integer from {low} to {high}")
