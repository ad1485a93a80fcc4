"""What is around the person: walls and ground, clutter, things in front, unevenness of light."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_explain.datasets.synthetic.canvas import (
    HEIGHT,
    SUPERSAMPLING,
    WIDTH,
    Canvas,
    Color,
    Point,
)


class Brush:
    """A canvas and a generator: painting of things that differ a little each time."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator) -> None:
        self.canvas = canvas
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return float(self.rng.uniform(low, high))

    def vary(self, color: Color, spread: int) -> Color:
        """Draw a color of a little other brightness."""
        change = int(self.rng.integers(-spread, spread + 1))
        r, g, b = (min(max(c + change, 0), 255) for c in color)
        return r, g, b

    def any_color(self) -> Color:
        """Draw the paint of a car or a bicycle."""
        r, g, b = (int(v) for v in self.rng.integers(30, 195, size=3))
        return r, g, b

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """Paint a rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.canvas.polygon(corners, color)

    def oval(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        """Paint an ellipse, given its half-axes."""
        self.canvas.polygon(oval((x, y), width, height), color)


def oval(center: Point, width: float, height: float) -> list[Point]:
    """Return the points of an ellipse with these half-axes."""
    angles = [2 * math.pi * i / 16 for i in range(16)]
    return [(center[0] + width * math.cos(a), center[1] + height * math.sin(a)) for a in angles]


Facade = Callable[[Brush, Color, float], None]
"""Paints a wall of a color down to the horizon."""


class Place(NamedTuple):
    """Where a person is seen; ``horizon`` is where wall and ground meet, in pixels."""

    facade: Facade
    wall: Color
    paving: Facade
    ground: Color
    horizon: float


def sample_place(pitch: float, rng: np.random.Generator) -> Place:
    """Draw a place, in view of a camera that looks down by ``pitch`` degrees.

    Every camera sees every kind of place, so that none tells which camera an image is of.
    """
    horizon = 124 - 3.2 * pitch + float(rng.uniform(-26, 26))
    return Place(*_draw(FACADES, rng), *_draw(PAVINGS, rng), horizon)


def _draw(
    kinds: tuple[tuple[Facade, tuple[Color, ...]], ...], rng: np.random.Generator
) -> tuple[Facade, Color]:
    """Draw a kind, and a color of it."""
    kind, colors = kinds[int(rng.integers(len(kinds)))]
    tint = rng.integers(-7, 8, size=3) + rng.integers(-16, 17)
    r, g, b = (
        int(c + t) for c, t in zip(colors[int(rng.integers(len(colors)))], tint, strict=True)
    )
    return kind, (r, g, b)


def background(canvas: Canvas, place: Place, rng: np.random.Generator) -> None:
    """Paint wall, ground and clutter."""
    brush, horizon = Brush(canvas, rng), place.horizon
    place.facade(brush, place.wall, horizon)
    for i, share in enumerate((1.0, 0.6, 0.3)):
        r, g, b = (min(c + 5 * i, 255) for c in place.ground)
        brush.box(0, HEIGHT - share * (HEIGHT - horizon), WIDTH, HEIGHT, (r, g, b))
    place.paving(brush, place.ground, horizon)
    for _ in range(int(rng.integers(0, 4))):
        x, depth = brush.between(-10, WIDTH + 10), brush.between(0.04, 0.5)
        thing = (_pole, _bicycle, _bicycle, _bush)[int(rng.integers(4))]
        thing(brush, x, horizon + depth * (HEIGHT - horizon), 0.6 + depth)


def shadow(canvas: Canvas, feet: Point, stature: float, sun: float) -> None:
    """Paint the shadow of a person: under the feet, and away from the sun (radians)."""
    reach = -0.35 * stature * math.sin(sun)
    away = feet[0] + reach, feet[1] - 0.02 * stature
    canvas.shadow(oval(away, abs(reach) + 0.08 * stature, 0.03 * stature), 106)
    canvas.shadow(oval(feet, 0.15 * stature, 0.03 * stature), 84)


def foreground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint one thing in front of the person."""
    brush = Brush(canvas, rng)
    x = brush.between(4, 40) if rng.random() < 0.5 else brush.between(88, 124)
    things = ((_pole, 10, 1.2), (_bicycle, 2, 2.0), (_bush, 4, 1.8), (_board, 0, 1.0))
    thing, below, scale = things[int(rng.integers(len(things)))]
    thing(brush, x, HEIGHT + below, scale)


def texture(rng: np.random.Generator) -> NDArray[np.uint16]:
    """Draw unevenness of light (512, 256) around ``NEUTRAL``: broad patches and fine grain."""
    broad = Image.fromarray(rng.integers(106, 151, size=(4, 2), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(112, 145, size=(HEIGHT // 2, WIDTH // 2), dtype=np.uint8))
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    uneven = Image.blend(broad.resize(size, Image.Resampling.BICUBIC), fine.resize(size), 0.4)
    return np.asarray(uneven, dtype=np.uint16)


# ------------------------------------------------------------------ walls


def _panels(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint a wall of large plates."""
    brush.box(0, 0, WIDTH, horizon, wall)
    step, start = brush.between(22, 40), brush.between(-30, 0)
    for i in range(6):
        x, y = start + 1.7 * i * step, min(start + i * step, horizon)
        brush.canvas.line([(x, 0), (x, horizon)], brush.vary(wall, 40), 1)
        brush.canvas.line([(0, y), (WIDTH, y)], brush.vary(wall, 40), 1)


def _plaster(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint a plain wall with a base, and a door or a window here and there."""
    brush.box(0, 0, WIDTH, horizon, wall)
    for _ in range(int(brush.rng.integers(0, 3))):
        left, width = brush.between(-20, WIDTH - 10), brush.between(20, 44)
        door = brush.rng.random() < 0.5
        bottom = horizon * (1 if door else brush.between(0.5, 0.75))
        brush.box(left, -5, left + width, bottom, brush.vary(wall, 50))
        glass = brush.vary((66, 72, 80), 24)
        brush.box(left + 3, -5, left + width - 3, bottom - (0 if door else 4), glass)
    base = brush.vary((100, 98, 96), 20)
    brush.box(0, horizon - brush.between(4, 14), WIDTH, horizon, base)


def _bricks(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint rows of bricks."""
    brush.box(0, 0, WIDTH, horizon, brush.vary((150, 140, 130), 16))
    start = brush.between(-14, 0)
    for row in range(int(horizon // 7) + 1):
        for column in range(11):
            left, top = start + 14 * column - 7 * (row % 2), 7 * row
            brush.box(left, top, left + 13, min(top + 6, horizon), brush.vary(wall, 16))


def _windows(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint a front of glass."""
    brush.box(0, 0, WIDTH, horizon, wall)
    left, glass = brush.between(-30, 0), brush.vary((72, 82, 94), 40)
    while left < WIDTH:
        width = brush.between(20, 44)
        brush.box(left + 2, 4, left + width, horizon - 6, brush.vary(glass, 22))
        left += width + 3


def _hedge(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint leaves."""
    brush.box(0, 0, WIDTH, horizon, wall)
    for _ in range(60):
        x, y, size = brush.between(0, WIDTH), brush.between(0, horizon), brush.between(2, 9)
        brush.oval(x, y, size, 0.7 * size, brush.vary(wall, 30))


def _shutter(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint lowered shutters, or a fence of boards."""
    brush.box(0, 0, WIDTH, horizon, wall)
    dark, step = brush.vary(wall, 30), brush.between(5, 12)
    upright = brush.rng.random() < 0.5
    for i in range(1, int((WIDTH if upright else horizon) / step) + 1):
        at = i * step
        start, end = ((at, 0), (at, horizon)) if upright else ((0, at), (WIDTH, at))
        brush.canvas.line([start, end], dark, 1)


def _street(brush: Brush, wall: Color, horizon: float) -> None:
    """Paint what is far away: sky, houses, parked cars."""
    brush.box(0, 0, WIDTH, horizon, brush.vary((190, 200, 208), 24))
    left = brush.between(-30, 0)
    while left < WIDTH:
        width, top = brush.between(24, 60), horizon * brush.between(-0.2, 0.5)
        brush.box(left, top, left + width, horizon, brush.vary(wall, 34))
        left += width
    for _ in range(int(brush.rng.integers(0, 3))):
        x, size = brush.between(-10, WIDTH), brush.between(11, 18)
        top = horizon - 0.9 * size
        brush.oval(x, top, size, 0.7 * size, (60, 66, 74))
        brush.box(x - 1.7 * size, top, x + 1.7 * size, horizon, brush.any_color())


FACADES: tuple[tuple[Facade, tuple[Color, ...]], ...] = (
    (_panels, ((132, 134, 130), (156, 152, 142), (110, 116, 124))),
    (_plaster, ((176, 166, 148), (150, 132, 116), (188, 186, 180), (134, 142, 150))),
    (_bricks, ((136, 96, 82), (118, 84, 70), (148, 118, 98))),
    (_windows, ((72, 78, 88), (96, 92, 86), (120, 124, 128))),
    (_hedge, ((82, 100, 62), (96, 112, 78), (68, 88, 58))),
    (_shutter, ((120, 128, 134), (146, 140, 128), (98, 108, 104))),
    (_street, ((128, 124, 120), (110, 106, 104), (150, 146, 140))),
)
"""What stands behind people, and the colors of each kind."""

# ------------------------------------------------------------------ ground


def _grass(brush: Brush, ground: Color, horizon: float) -> None:
    for _ in range(50):
        x, y = brush.between(0, WIDTH), brush.between(horizon, HEIGHT)
        brush.oval(x, y, brush.between(3, 12), 2, brush.vary(ground, 14))


def _asphalt(brush: Brush, ground: Color, horizon: float) -> None:
    """Paint a line on the road, sometimes."""
    if brush.rng.random() < 0.4:
        y, slope = brush.between(horizon + 6, HEIGHT), brush.between(-20, 20)
        paint = brush.vary((196, 194, 184), 16)
        brush.canvas.line([(-5, y), (WIDTH + 5, y + slope)], paint, brush.between(2, 6))


def _tiles(brush: Brush, ground: Color, horizon: float) -> None:
    """Paint joints that run to a vanishing point."""
    joint, vanish = brush.vary(ground, 26), brush.between(-80, WIDTH + 80)
    for i in range(-8, 9):
        brush.canvas.line([(vanish + 12 * i, horizon), (vanish + 60 * i, HEIGHT)], joint, 0.6)
    for i in range(1, 8):
        y = horizon + (HEIGHT - horizon) * i * i / 49
        brush.canvas.line([(0, y), (WIDTH, y)], joint, 0.6)


PAVINGS: tuple[tuple[Facade, tuple[Color, ...]], ...] = (
    (_tiles, ((150, 146, 140), (164, 160, 152), (138, 134, 132), (152, 138, 124))),
    (_asphalt, ((112, 112, 114), (128, 124, 120), (98, 100, 104))),
    (_grass, ((108, 124, 80), (122, 128, 88))),
)
"""Kinds of ground, and the colors of each."""

# ------------------------------------------------------------------ things that stand at (x, y)


def _pole(brush: Brush, x: float, y: float, scale: float) -> None:
    """Paint a lamp post; it leaves the image at the top."""
    half, color = scale * brush.between(1.5, 4), brush.vary((96, 98, 100), 40)
    brush.box(x - half, -5, x + half, y, color)
    brush.box(x - half, -5, x - 0.3 * half, y, brush.vary(color, 30))


def _bicycle(brush: Brush, x: float, y: float, scale: float) -> None:
    """Paint a parked bicycle."""
    radius, frame = scale * brush.between(13, 19), brush.any_color()
    for dx in (-1.1 * radius, 1.1 * radius):
        hub = x + dx, y - radius
        wheel = oval(hub, radius, radius)
        brush.canvas.line([*wheel, wheel[0]], (32, 32, 34), 1.2 * scale)
        for i in range(0, 16, 4):
            brush.canvas.line([hub, wheel[i]], (120, 120, 120), 0.5)
    seat, bars = (x - 0.4 * radius, y - 2.1 * radius), (x + 0.8 * radius, y - 2.3 * radius)
    pedals, fork = (x, y - radius), (x + 1.1 * radius, y - radius)
    brush.canvas.line([(x - 1.1 * radius, y - radius), seat, bars, fork], frame, 1.3 * scale)
    brush.canvas.line([seat, pedals, bars], frame, 1.3 * scale)
    brush.canvas.line([(seat[0] - 4, seat[1]), (seat[0] + 4, seat[1])], (24, 24, 24), 2 * scale)


def _bush(brush: Brush, x: float, y: float, scale: float) -> None:
    """Paint a low shrub."""
    for _ in range(22):
        dx, dy, size = brush.between(-20, 20), brush.between(0, 26), brush.between(3, 7)
        leaf = x + scale * dx, y - scale * dy
        brush.oval(*leaf, scale * size, 0.8 * scale * size, brush.vary((58, 88, 44), 28))


def _board(brush: Brush, x: float, y: float, scale: float) -> None:
    """Paint a low barrier across the bottom of the image, as of a car or a railing."""
    top, slope = y - scale * brush.between(24, 64), brush.between(-14, 14)
    color = brush.vary((128, 130, 134), 70)
    brush.canvas.polygon([(0, top), (WIDTH, top + slope), (WIDTH, HEIGHT), (0, HEIGHT)], color)
    brush.canvas.line([(0, top), (WIDTH, top + slope)], brush.vary(color, 60), 2.5)
