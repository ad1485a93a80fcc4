"""How a person stands in front of a camera: heading, gait, place in the crop."""

import math
from dataclasses import dataclass

import numpy as np

from reid_explain.datasets.synthetic.canvas import Point


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

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    creases = tuple(
        (between(0.1, 0.8), between(-0.6, 0.4), between(-0.25, 0.25), int(rng.integers(96, 116)))
        for _ in range(8)
    )
    return Pose(
        yaw=yaw,
        phase=between(0, 2 * math.pi),
        stride=between(0.12, 0.5),
        arm_swing=between(0.05, 0.4),
        elbow=between(0.1, 0.6),
        lean=between(-0.01, 0.03),
        creases=creases,
    )


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
