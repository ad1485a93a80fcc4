"""A person to be drawn: the outfit, the look, the pose and the view, and lengths in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reid_explain.datasets.synthetic.appearance import Appearance
from reid_explain.datasets.synthetic.attributes import Outfit
from reid_explain.datasets.synthetic.canvas import Colour, Tube, Window
from reid_explain.datasets.synthetic.pose import Pose, View

SIDES = (-1, 1)

Decals = list[tuple[Window, Colour]]
"""Coloured windows of a piece."""


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
    def upper(self) -> Colour:
        """Return the colour of the upper garment."""
        return self.look.upper(self.outfit.upper)

    @property
    def lower(self) -> Colour:
        """Return the colour of the lower garment."""
        return self.look.lower(self.outfit.lower)

    def px(self, statures: float) -> float:
        """Return a length in pixels."""
        return self.view.stature * statures

    def girth(self, statures: float) -> float:
        """Return a limb's radius in pixels, for this build and gender."""
        return self.px(statures * self.look.build * self.frame.limb)

    def column(self, rows: Sequence[tuple[float, float, float, float]]) -> Tube:
        """Return an upright solid from rows (y, z, half-width, half-depth)."""
        return Tube(
            [self.view.project(0, y, z) for y, z, _, _ in rows],
            [self.view.extent(w, d) for _, _, w, d in rows],
        )

    def around(self, t0: float, t1: float, start: float, end: float) -> list[Window]:
        """Return the visible windows of a column between two heights and two angles (degrees)."""
        spans = self.view.facing(math.radians(start), math.radians(end))
        return [Window(t0, t1, u0, u1) for u0, u1 in spans]

    def folds(self, first: int, last: int) -> list[tuple[float, float, float, float, int]]:
        """Return creases of this moment."""
        return [
            (t, u, min(max(t + slant, 0.05), 0.95), u + 0.3, light)
            for t, u, slant, light in self.pose.creases[first:last]
        ]
