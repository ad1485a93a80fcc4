"""One image of a world: the numbers of its name in, a painted scene and its photograph out."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_explain.datasets.records import Record, Role
from reid_explain.datasets.synthetic.appearance import Appearance, sample_appearance
from reid_explain.datasets.synthetic.attributes import Labels, outfit_of, sample_labels
from reid_explain.datasets.synthetic.camera import CAMERAS, Exposure, expose
from reid_explain.datasets.synthetic.canvas import HEIGHT, WIDTH, Canvas, Part
from reid_explain.datasets.synthetic.figure import paint
from reid_explain.datasets.synthetic.person import Person, Pose, View, sample_pose
from reid_explain.datasets.synthetic.scene import (
    background,
    foreground,
    sample_place,
    shadow,
    texture,
)

DISTRACTOR_IDENTITY = 0
"""What names of distractors begin with, as in Market-1501."""


class Stream(IntEnum):
    """What a generator is for; two purposes never share numbers."""

    LABELS = 1
    APPEARANCE = 2
    CAMERAS = 3
    TRACK = 4
    POSE = 5
    SCENE = 6
    TEXTURE = 7
    SENSOR = 8
    BYSTANDER = 9


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one purpose and one thing (identity, camera, frame, ...)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, *key])))


class Shot(NamedTuple):
    """The numbers in a record's name, which decide everything about its image."""

    identity: int
    camera: int
    sequence: int
    frame: int
    number: int

    @property
    def record(self) -> Record:
        """Return the record, with a name in the form of Market-1501."""
        name = f"{self.identity:04d}_c{self.camera}s{self.sequence}"
        path = Path(f"{name}_{self.frame:06d}_{self.number:02d}.jpg")
        role = Role.DISTRACTOR if self.identity == DISTRACTOR_IDENTITY else Role.PERSON
        return Record(path, self.identity, self.camera, role)

    @property
    def person(self) -> tuple[int, int]:
        """Return the key of the person: every distractor is somebody else."""
        return self.identity, (self.frame if self.identity == DISTRACTOR_IDENTITY else 0)


@dataclass(frozen=True)
class Painter:
    """Paints and photographs the shots of one world."""

    seed: int
    severity: float

    def labels(self, person: tuple[int, int]) -> Labels:
        """Return the labels (26,) of a person."""
        return sample_labels(generator(self.seed, Stream.LABELS, *person))

    def exposure(self, shot: Shot) -> Exposure:
        """Return what the camera does to this image."""
        rng = generator(self.seed, Stream.SENSOR, *shot)
        return expose(CAMERAS[shot.camera - 1], self.severity, rng)

    def appearance(self, person: tuple[int, int]) -> Appearance:
        """Return the looks of a person apart from the labels."""
        return sample_appearance(generator(self.seed, Stream.APPEARANCE, *person))

    def lit(self, shot: Shot, canvas: Canvas) -> NDArray[np.uint8]:
        """Return a painted scene (512, 256, 3) in the uneven light of a shot."""
        return canvas.lit(texture(generator(self.seed, Stream.TEXTURE, *shot)))

    def paint(
        self,
        shot: Shot,
        labels: Labels,
        look: Appearance | None = None,
        without: Collection[Part] = (),
    ) -> Canvas:
        """Paint the scene of one record, with the given labels on its person.

        ``look`` replaces the person's appearance; parts in ``without`` are not painted.
        """
        look = look or self.appearance(shot.person)
        pose, view, sun = self._moment(shot)
        scene = generator(self.seed, Stream.SCENE, *shot)
        canvas = self._behind(shot, shot, scene)
        paint(canvas, Person(outfit_of(labels), look, pose, view), sun, without=without)
        canvas.things = Part.FRONT
        if scene.random() < 0.2 * self.severity:
            foreground(canvas, scene)
        if scene.random() < 0.05 * self.severity:
            self._bystander(canvas, shot, sun, scene)
        return canvas

    def backdrop(self, shot: Shot, place: Shot) -> Canvas:
        """Paint what is behind the person of one shot, in the place of another."""
        return self._behind(shot, place, generator(self.seed, Stream.SCENE, *place))

    def _behind(self, shot: Shot, where: Shot, scene: np.random.Generator) -> Canvas:
        """Paint the place and the bystander of one shot, with the shadow of another's person."""
        _, view, sun = self._moment(where)
        canvas, place = Canvas((0, 0, 0)), sample_place(CAMERAS[where.camera - 1].pitch, scene)
        background(canvas, place, scene)
        if scene.random() < 0.12 * self.severity:
            self._bystander(canvas, where, sun, scene, place.horizon, view.feet[1])
        _, view, sun = self._moment(shot)
        shadow(canvas, view.feet, view.stature, sun)
        canvas.defocus(float(scene.uniform(0.5, 1.5)))
        return canvas

    def _moment(self, shot: Shot) -> tuple[Pose, View, float]:
        """Draw the pose of a shot's person, its place in the image, and the angle of the sun."""
        camera = CAMERAS[shot.camera - 1]
        track = generator(self.seed, Stream.TRACK, *shot.person, shot.camera, shot.sequence)
        rng = generator(self.seed, Stream.POSE, *shot)
        pose = sample_pose(rng, camera.heading(track) + float(rng.uniform(-0.2, 0.2)))
        view = self._crop(pose.yaw, math.radians(camera.pitch), rng)
        return pose, view, float(rng.uniform(-1, 1))

    def _crop(self, yaw: float, pitch: float, rng: np.random.Generator) -> View:
        """Draw the place of the person in the image; one crop in four is badly off."""
        off = self.severity * (3.0 if rng.random() < 1 / 4 else 1.0)
        stature = HEIGHT * 0.89 * math.exp(off * float(rng.uniform(-0.05, 0.06)))
        x = WIDTH * (0.5 + off * float(rng.uniform(-0.05, 0.05)))
        middle = HEIGHT * (0.5 + off * float(rng.uniform(-0.025, 0.025)))
        return View(yaw, pitch, (x, middle + 0.5 * stature), stature)

    def _bystander(
        self,
        canvas: Canvas,
        shot: Shot,
        sun: float,
        scene: np.random.Generator,
        horizon: float = 0.0,
        feet: float = 0.0,
    ) -> None:
        """Paint somebody else as part of the scene: at a distance, or cut off in front."""
        behind = feet > horizon
        rng = generator(self.seed, Stream.BYSTANDER, *shot, int(behind))
        pose = sample_pose(rng, float(scene.uniform(-math.pi, math.pi)))
        edge = float(scene.uniform(0, 30) if behind else scene.uniform(-16, 0))
        x = edge if scene.random() < 0.5 else WIDTH - edge
        nearness = float(scene.uniform(0.35, 0.8) if behind else scene.uniform(1.05, 1.2))
        ground = horizon + nearness * (feet - horizon) if behind else HEIGHT * nearness
        view = View(pose.yaw, 0.2, (x, ground), 0.89 * HEIGHT * nearness)
        person = Person(outfit_of(sample_labels(rng)), sample_appearance(rng), pose, view)
        paint(canvas, person, sun, canvas.things)
