"""A person to be drawn: outfit, looks and pose, joints, and the projection to pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reid_explain.datasets.synthetic.appearance import Appearance
from reid_explain.datasets.synthetic.attributes import Outfit
from reid_explain.datasets.synthetic.canvas import Color, Point, Tube, Window

SIDES = (-1, 1)
ANKLE, KNEE, HIP, SHOULDER = 0.045, 0.275, 0.505, 0.782
"""Heights of joints, in statures."""
HIP_JOINT, SHOULDER_JOINT = 0.05, 0.1
UPPER_ARM, FOREARM = 0.165, 0.15

Decals = list[tuple[Window, Color]]
"""Colored windows of a piece."""


@dataclass(frozen=True)
class Pose:
    """One moment of a walk; angles in radians.

    ``yaw`` is the heading: 0 faces the camera, pi/2 walks to the right, pi shows the back.
    ``creases`` are the folds of cloth of this moment, each (t, u, slant, light).
    """

    yaw: float
    phase: float
    stride: float
    arm_swing: float
    elbow: float
    lean: float
    creases: tuple[tuple[float, float, float, int], ...]


def sample_pose(rng: np.random.Generator, yaw: float) -> Pose:
    """Draw one moment of a walk with heading ``yaw``."""

    def draw(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    creases = tuple(
        (draw(0.1, 0.8), draw(-0.6, 0.4), draw(-0.25, 0.25), int(rng.integers(96, 116)))
        for _ in range(8)
    )
    phase, stride, swing = draw(0, 2 * math.pi), draw(0.12, 0.5), draw(0.05, 0.4)
    return Pose(yaw, phase, stride, swing, draw(0.1, 0.6), draw(-0.01, 0.03), creases)


class View:
    """Projection of a body to pixels.

    Body coordinates are in statures: x to the side, y up, z forward. ``feet`` is the pixel of the
    ground between the feet, ``stature`` a person's height in pixels, ``pitch`` the camera's tilt.
    """

    def __init__(self, yaw: float, pitch: float, feet: Point, stature: float) -> None:
        self.yaw = yaw
        self.cos, self.sin = math.cos(yaw), math.sin(yaw)
        self.tilt = math.sin(pitch)
        self.feet = feet
        self.stature = stature

    def depth(self, x: float, z: float) -> float:
        """Return how much nearer to the camera than the body's axis a point is, in statures."""
        return z * self.cos - x * self.sin

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the pixel of a point."""
        across = x * self.cos + z * self.sin
        down = self.tilt * self.depth(x, z) - y
        return self.feet[0] + self.stature * across, self.feet[1] + self.stature * down

    def extent(self, half_width: float, half_depth: float) -> float:
        """Return the half-width in pixels of an upright elliptical solid."""
        return self.stature * math.hypot(half_width * self.cos, half_depth * self.sin)

    def facing(self, start: float, end: float) -> list[tuple[float, float]]:
        """Return where (u, u) the angles from ``start`` to ``end`` around the body are visible.

        Angles run from the chest (0) to the side (pi/2) to the back (pi).
        """
        spans = []
        for turn in (-2 * math.pi, 0.0, 2 * math.pi):
            left = max(start + self.yaw + turn, -math.pi / 2)
            right = min(end + self.yaw + turn, math.pi / 2)
            if right - left > 0.05:
                spans.append((math.sin(left), math.sin(right)))
        return spans


class Proportions(NamedTuple):
    """Half-widths in statures that differ between men and women."""

    shoulder: float
    chest: float
    bust: float
    waist: float
    hip: float
    limb: float
    jaw: float


MAN = Proportions(0.118, 0.116, 0.078, 0.102, 0.098, 1.06, 1.06)
WOMAN = Proportions(0.096, 0.098, 0.092, 0.076, 0.112, 0.88, 0.9)


class Leg(NamedTuple):
    """Joints of a leg in pixels; ``order`` places it from back (low) to front (high)."""

    order: float
    hip: Point
    knee: Point
    ankle: Point
    heel: Point
    toe: Point


class Arm(NamedTuple):
    """Joints of an arm in pixels; ``grip`` is the palm in body coordinates."""

    order: float
    shoulder: Point
    elbow: Point
    hand: Point
    finger: Point
    grip: tuple[float, float, float]


@dataclass(frozen=True)
class Person:
    """Everything that decides how a figure is drawn, apart from the scene and the camera."""

    outfit: Outfit
    look: Appearance
    pose: Pose
    view: View

    @property
    def frame(self) -> Proportions:
        """Return the proportions of this person's gender."""
        return WOMAN if self.outfit.female else MAN

    @property
    def build(self) -> float:
        """Return the factor on widths."""
        return self.look.sizes["build"]

    @property
    def upper(self) -> Color:
        """Return the color of the upper garment."""
        return self.look.garment("upper", self.outfit.upper)

    @property
    def lower(self) -> Color:
        """Return the color of the lower garment."""
        return self.look.garment("lower", self.outfit.lower)

    def px(self, statures: float) -> float:
        """Return a length in pixels."""
        return self.view.stature * statures

    def girth(self, statures: float) -> float:
        """Return a limb's radius in pixels, for this build and gender."""
        return self.px(statures * self.build * self.frame.limb)

    def column(self, rows: Sequence[tuple[float, float, float, float]]) -> Tube:
        """Return an upright solid from rows (y, z, half-width, half-depth)."""
        return Tube(
            [self.view.project(0, y, z) for y, z, _, _ in rows],
            [self.view.extent(w, d) for _, _, w, d in rows],
        )

    def band(self, color: Color, t0: float, t1: float, start: float, end: float) -> Decals:
        """Return what shows of a color between two heights and two angles (degrees)."""
        spans = self.view.facing(math.radians(start), math.radians(end))
        return [(Window(t0, t1, u0, u1), color) for u0, u1 in spans]

    def folds(self, first: int, last: int) -> list[tuple[float, float, float, float, int]]:
        """Return creases of this moment."""
        return [
            (t, u, min(max(t + slant, 0.05), 0.95), u + 0.3, light)
            for t, u, slant, light in self.pose.creases[first:last]
        ]

    def leg(self, side: int) -> Leg:
        """Return the left (-1) or right (1) leg."""
        view, pose = self.view, self.pose
        swing = side * pose.stride * math.sin(pose.phase)
        bend = 0.08 + 1.5 * pose.stride * max(side * math.cos(pose.phase + 0.5), 0)
        knee_z = (HIP - KNEE) * math.sin(swing)
        knee_y = HIP - (HIP - KNEE) * math.cos(swing)
        ankle_z = knee_z + (KNEE - ANKLE) * math.sin(swing - bend)
        ankle_y = knee_y - (KNEE - ANKLE) * math.cos(swing - bend)
        x = side * HIP_JOINT
        return Leg(
            order=-1 + 0.3 * view.depth(x, ankle_z / 2),
            hip=view.project(x, HIP, 0),
            knee=view.project(x, knee_y, knee_z),
            ankle=view.project(x * 0.9, ankle_y, ankle_z),
            heel=view.project(x * 0.9, ankle_y - 0.028, ankle_z - 0.015),
            toe=view.project(x, ankle_y - 0.03, ankle_z + 0.078),
        )

    def arm(self, side: int) -> Arm:
        """Return the left (-1) or right (1) arm; its place does not depend on gender."""
        view, pose = self.view, self.pose
        swing = -side * pose.arm_swing * math.sin(pose.phase)
        reach = swing + pose.elbow
        elbow_y, elbow_z = SHOULDER - UPPER_ARM * math.cos(swing), UPPER_ARM * math.sin(swing)
        hand_y, hand_z = elbow_y - FOREARM * math.cos(reach), elbow_z + FOREARM * math.sin(reach)
        x = side * SHOULDER_JOINT * self.build
        depth = view.depth(x, 0)
        return Arm(
            order=(2 if depth > -0.04 else -2) + 0.1 * depth,
            shoulder=view.project(x, SHOULDER, pose.lean),
            elbow=view.project(x * 1.2, elbow_y, elbow_z + pose.lean),
            hand=view.project(x * 1.24, hand_y, hand_z),
            finger=view.project(x * 1.2, hand_y - 0.045, hand_z + 0.012),
            grip=(x * 1.24, hand_y - 0.03, hand_z),
        )
