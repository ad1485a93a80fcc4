"""Painting solids: color, light and the name of the part, each on a layer of its own."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 128, 256
SUPERSAMPLING = 2
NEUTRAL = 128
"""Value of the light layer that leaves a color as it is."""

Point = tuple[float, float]
Color = tuple[int, int, int]
Section = tuple[float, float, float, float]
_Bits = TypeVar("_Bits", np.uint16, np.bool_)


def mix(first: Color, second: Color, share: float) -> Color:
    """Return ``first`` with a share (0 to 1) of ``second``."""
    r, g, b = (round(a + share * (c - a)) for a, c in zip(first, second, strict=True))
    return r, g, b


class Part(IntEnum):
    """What a pixel shows. ``SCENE`` is everything behind the person, ``FRONT`` what covers it.

    ``HEAD`` is face and neck. The values are bits of ``Canvas.seen``.
    """

    SCENE = 0
    HEAD = 1
    ARM = 2
    LEG = 3
    HAIR = 4
    HAT = 5
    TORSO = 6
    SLEEVE = 7
    HIPS = 8
    SHIN = 9
    SHOE = 10
    BACKPACK = 11
    BAG = 12
    HANDBAG = 13
    HAND = 14
    FRONT = 15


class Window(NamedTuple):
    """A piece of a tube: along it (0 start, 1 end) and across it (-1 left, 1 right)."""

    t0: float = 0.0
    t1: float = 1.0
    u0: float = -1.0
    u1: float = 1.0


WHOLE = Window()


class Tube:
    """A round solid seen from the side: points of its axis in pixels, a radius at each."""

    def __init__(self, axis: Sequence[Point], radii: Sequence[float]) -> None:
        self.axis = axis
        self.arms = [_normal(axis, i, radius) for i, radius in enumerate(radii)]
        steps = [math.hypot(b[0] - a[0], b[1] - a[1]) + 1e-6 for a, b in pairwise(axis)]
        self.stations = [0.0, *(length / sum(steps) for length in accumulate(steps))]

        self._sections: dict[tuple[float, float], list[Section]] = {}

    def point(self, t: float, u: float) -> Point:
        """Return the pixel at t along (a share of the length) and u across."""
        x, y, a, b = self._section(t)
        return x + u * a, y + u * b

    def outline(self, window: Window) -> list[Point]:
        """Return the polygon of a window."""
        t0, t1, u0, u1 = window
        if (t0, t1) not in self._sections:
            inner = [t for t in self.stations[1:-1] if t0 < t < t1]
            self._sections[t0, t1] = [self._section(t) for t in (t0, *inner, t1)]
        sections = self._sections[t0, t1]
        left = [(x + u0 * a, y + u0 * b) for x, y, a, b in sections]
        return left + [(x + u1 * a, y + u1 * b) for x, y, a, b in reversed(sections)]

    def _section(self, t: float) -> Section:
        """Return the axis point (x, y) and the arm (a, b) at t along."""
        i = min(bisect_right(self.stations, t), len(self.stations) - 1) - 1
        f = (t - self.stations[i]) / (self.stations[i + 1] - self.stations[i])
        (x0, y0), (x1, y1) = self.axis[i], self.axis[i + 1]
        (a0, b0), (a1, b1) = self.arms[i], self.arms[i + 1]
        return x0 + f * (x1 - x0), y0 + f * (y1 - y0), a0 + f * (a1 - a0), b0 + f * (b1 - b0)


def _normal(axis: Sequence[Point], i: int, radius: float) -> Point:
    """Return the arm from axis point i to the right edge of a tube that runs down the image."""
    (x0, y0), (x1, y1) = axis[max(i - 1, 0)], axis[min(i + 1, len(axis) - 1)]
    length = math.hypot(x1 - x0, y1 - y0)
    if length < 1e-6:
        return radius, 0.0
    return radius * (y1 - y0) / length, -radius * (x1 - x0) / length


_ROUND = ((0.95, 0.3), (0.7, 0.72), (0.0, 1.0))
_FLAT = ((0.0, 1.0),)
"""Ends of limbs: how far beyond the joint, and how wide there, in radii."""


def capsule(
    start: Point, end: Point, start_radius: float, end_radius: float, *, cut: bool = False
) -> Tube:
    """Return a limb: a tapered tube with round ends, or with a ``cut`` end as of a sleeve."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = ((x1 - x0) / length, (y1 - y0) / length) if length > 1e-6 else (0.0, 1.0)
    axis = [(x0 - s * start_radius * dx, y0 - s * start_radius * dy) for s, _ in _ROUND]
    radii = [r * start_radius for _, r in _ROUND]
    for s, r in _FLAT if cut else reversed(_ROUND):
        axis.append((x1 + s * end_radius * dx, y1 + s * end_radius * dy))
        radii.append(r * end_radius)
    return Tube(axis, radii)


def ellipse(center: Point, half_width: float, half_height: float, stations: int = 9) -> Tube:
    """Return an upright ellipse."""
    steps = [2 * i / (stations - 1) - 1 for i in range(stations)]
    return Tube(
        [(center[0], center[1] + s * half_height) for s in steps],
        [half_width * math.sqrt(max(1 - s * s, 0.02)) for s in steps],
    )


@dataclass(frozen=True)
class Shape:
    """One painted piece: a window of a tube, with decals on it and creases in it.

    ``order`` sorts the pieces from back to front. A crease is ``(t0, u0, t1, u1, light)``.
    """

    order: float
    part: Part
    tube: Tube
    color: Color
    window: Window = WHOLE
    decals: Sequence[tuple[Window, Color]] = ()
    creases: Sequence[tuple[float, float, float, float, int]] = ()


class Canvas:
    """Three layers of (512, 256): color, light and part; coordinates are pixels of the image.

    ``things`` is the part that polygons and lines are: ``SCENE``, later ``FRONT``.
    """

    def __init__(self, color: Color) -> None:
        self.things = Part.SCENE
        size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        self.color = Image.new("RGB", size, color)
        self.light = Image.new("L", size, NEUTRAL)
        self.parts = Image.new("L", size, Part.SCENE)
        self._color = ImageDraw.Draw(self.color)
        self._light = ImageDraw.Draw(self.light)
        self._parts = ImageDraw.Draw(self.parts)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Paint a polygon of the scene on all layers."""
        self._fill(_scaled(points), color, NEUTRAL, self.things)

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        """Paint a line of the scene on all layers."""
        scaled, pixels = _scaled(points), max(1, round(width * SUPERSAMPLING))
        self._color.line(scaled, fill=color, width=pixels)
        self._light.line(scaled, fill=NEUTRAL, width=pixels)
        self._parts.line(scaled, fill=self.things, width=pixels)

    def shadow(self, points: Sequence[Point], light: int) -> None:
        """Darken a polygon of the scene."""
        self._light.polygon(_scaled(points), fill=light)

    def defocus(self, radius: float) -> None:
        """Blur all that is painted so far, by a radius in pixels."""
        for layer in (self.color, self.light):
            half = layer.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(radius))
            layer.paste(half.resize(layer.size, Image.Resampling.BILINEAR))

    def shape(self, shape: Shape, sun: float, part: Part | None = None) -> None:
        """Paint one piece, lit as a cylinder from the angle ``sun`` (radians, 0 = in front).

        ``part`` overrides the shape's own: people who are not the subject are ``SCENE``. Every
        pixel that a stroke touches is set on all three layers, so that nothing painted before
        shines through and the layer of parts is exact.
        """
        label = shape.part if part is None else part
        bands = _bands(shape.window, sun)
        decals = [(_scaled(shape.tube.outline(window)), color) for window, color in shape.decals]
        for points in (_scaled(shape.tube.outline(shape.window)), *(d for d, _ in decals)):
            self._fill(points, shape.color, bands[0][1], label)
        for band, light in bands:
            self._fill(_scaled(shape.tube.outline(band)), shape.color, light, label)
        for points, color in decals:
            self._color.polygon(points, fill=color)
        for t0, u0, t1, u1, shade in shape.creases:
            points = _scaled((shape.tube.point(t0, u0), shape.tube.point(t1, u1)))
            self._light.line(points, fill=shade, width=2 * SUPERSAMPLING)

    def _fill(self, points: list[Point], color: Color, light: int, part: int) -> None:
        self._color.polygon(points, fill=color)
        self._light.polygon(points, fill=light)
        self._parts.polygon(points, fill=part)

    def lit(self, texture: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Return the lit picture (512, 256, 3); ``texture`` (512, 256) is unevenness of light."""
        color = np.asarray(self.color, dtype=np.uint16)
        light = np.asarray(self.light, dtype=np.uint16) * texture // NEUTRAL
        return np.asarray(np.minimum(color * light[..., None] // NEUTRAL, 255), dtype=np.uint8)

    def seen(self) -> NDArray[np.uint16]:
        """Return the parts that show in each pixel of the image, (256, 128), as bits."""
        bits = np.left_shift(1, np.arange(len(Part))).astype(np.uint16)
        return coarse(bits[np.asarray(self.parts)])

    def shows(self, parts: Iterable[Part]) -> NDArray[np.bool_]:
        """Return the pixels of the image, bool (256, 128), in which any of the parts shows."""
        return among(self.seen(), parts)


def among(seen: NDArray[np.uint16], parts: Iterable[Part]) -> NDArray[np.bool_]:
    """Return where any of the parts is among those seen (``Canvas.seen``)."""
    return np.asarray(seen & np.uint16(sum(1 << part for part in set(parts))) != 0)


def coarse(fine: NDArray[_Bits]) -> NDArray[_Bits]:
    """Return for each pixel of the image, (256, 128), the bits that its fine pixels have."""
    blocks = fine.reshape(HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING)
    return np.asarray(np.bitwise_or.reduce(blocks, axis=(1, 3)))


def _scaled(points: Sequence[Point]) -> list[Point]:
    """Return the points in fine pixels, rounded so that no machine's last bit matters."""
    return [(round(x * SUPERSAMPLING, 2), round(y * SUPERSAMPLING, 2)) for x, y in points]


def _bands(window: Window, sun: float, count: int = 7) -> list[tuple[Window, int]]:
    """Cut a window lengthwise into bands of light, each painted over the right of the last."""
    step = (window.u1 - window.u0) / count
    starts = [window.u0 + i * step for i in range(count)]
    return [(window._replace(u0=u0), _lambert(u0 + step / 2, sun)) for u0 in starts]


def _lambert(u: float, sun: float) -> int:
    """Return the light on a cylinder at u across it."""
    facing = math.sqrt(max(1 - u * u, 0.0)) * math.cos(sun) + u * math.sin(sun)
    return round(NEUTRAL * (0.62 + 0.46 * max(facing, 0.0)))
