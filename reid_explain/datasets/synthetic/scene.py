"""What is around the person: walls and ground, clutter, other people, things in front."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_explain.datasets.synthetic.canvas import (
    HEIGHT,
    SUPERSAMPLING,
    WIDTH,
    Canvas,
    Colour,
    Point,
)


class Backdrop(NamedTuple):
    """The place one camera looks at; ``horizon`` is where the wall meets the ground, in pixels."""

    wall: Colour
    ground: Colour
    horizon: int
    facade: str
    paving: str


BACKDROPS = (
    Backdrop((132, 134, 130), (150, 146, 140), 92, "panels", "tiles"),
    Backdrop((92, 108, 70), (142, 140, 132), 78, "hedge", "tiles"),
    Backdrop((136, 96, 82), (118, 116, 116), 118, "bricks", "asphalt"),
    Backdrop((72, 78, 88), (164, 160, 152), 64, "windows", "tiles"),
    Backdrop((112, 132, 94), (112, 130, 82), 88, "hedge", "grass"),
    Backdrop((156, 152, 142), (128, 124, 120), 50, "panels", "asphalt"),
)
"""One place per camera."""


def background(canvas: Canvas, backdrop: Backdrop, rng: np.random.Generator) -> None:
    """Paint wall, ground and clutter."""
    horizon = backdrop.horizon + float(rng.uniform(-14, 14))
    _FACADES[backdrop.facade](canvas, backdrop.wall, horizon, rng)
    _ground(canvas, backdrop, horizon, rng)
    for _ in range(int(rng.integers(0, 4))):
        x = float(rng.uniform(-10, WIDTH + 10))
        clutter = _CLUTTER[int(rng.integers(len(_CLUTTER)))]
        clutter(canvas, (x, horizon + float(rng.uniform(4, 60))), rng)


def shadow(canvas: Canvas, feet: Point, stature: float) -> None:
    """Paint the shadow around a person's feet."""
    for scale, light in ((1.0, 108), (0.7, 86)):
        canvas.shadow(_oval(feet, 0.2 * scale * stature, 0.035 * scale * stature), light)


def foreground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint one thing in front of the person."""
    x = float(rng.choice([rng.uniform(4, 40), rng.uniform(88, 124)]))
    thing = int(rng.integers(4))
    if thing == 0:
        _pole(canvas, (x, HEIGHT + 10), rng)
    elif thing == 1:
        _bicycle(canvas, (x, HEIGHT + 2), rng, scale=2.0)
    elif thing == 2:
        _bush(canvas, (x, HEIGHT + 4), rng, scale=1.8)
    else:
        _board(canvas, rng)


def texture(rng: np.random.Generator) -> NDArray[np.uint16]:
    """Draw unevenness of light (512, 256) around ``NEUTRAL``: broad patches and fine grain."""
    broad = Image.fromarray(rng.integers(96, 154, size=(12, 6), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(110, 146, size=(HEIGHT // 2, WIDTH // 2), dtype=np.uint8))
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    uneven = Image.blend(broad.resize(size, Image.Resampling.BICUBIC), fine.resize(size), 0.45)
    return np.asarray(uneven, dtype=np.uint16)


def _vary(colour: Colour, rng: np.random.Generator, spread: int) -> Colour:
    """Return a colour of a little other brightness."""
    change = int(rng.integers(-spread, spread + 1))
    r, g, b = (min(max(c + change, 0), 255) for c in colour)
    return r, g, b


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _oval(centre: Point, width: float, height: float) -> list[Point]:
    angles = [2 * math.pi * i / 16 for i in range(16)]
    return [(centre[0] + width * math.cos(a), centre[1] + height * math.sin(a)) for a in angles]


# ------------------------------------------------------------------ walls and ground


def _panels(canvas: Canvas, wall: Colour, horizon: float, rng: np.random.Generator) -> None:
    """Paint a wall of large plates."""
    canvas.polygon(_box(0, 0, WIDTH, horizon), _vary(wall, rng, 18))
    step, start = float(rng.uniform(22, 40)), float(rng.uniform(-30, 0))
    for i in range(6):
        x, y = start + 1.7 * i * step, start + i * step
        canvas.line([(x, 0), (x, horizon)], _vary(wall, rng, 40), 1)
        canvas.line([(0, min(y, horizon)), (WIDTH, min(y, horizon))], _vary(wall, rng, 40), 1)


def _bricks(canvas: Canvas, wall: Colour, horizon: float, rng: np.random.Generator) -> None:
    """Paint rows of bricks."""
    canvas.polygon(_box(0, 0, WIDTH, horizon), (150, 140, 130))
    rows, start = int(horizon // 7) + 1, float(rng.uniform(-14, 0))
    for row in range(rows):
        for column in range(11):
            left, top = start + 14 * column - 7 * (row % 2), 7 * row
            bottom = min(top + 6, horizon)
            canvas.polygon(_box(left, top, left + 13, bottom), _vary(wall, rng, 22))


def _windows(canvas: Canvas, wall: Colour, horizon: float, rng: np.random.Generator) -> None:
    """Paint a dark front of glass."""
    canvas.polygon(_box(0, 0, WIDTH, horizon), wall)
    left = float(rng.uniform(-30, 0))
    while left < WIDTH:
        width = float(rng.uniform(20, 44))
        canvas.polygon(_box(left + 2, 4, left + width, horizon - 6), _vary((48, 56, 66), rng, 26))
        left += width + 3


def _hedge(canvas: Canvas, wall: Colour, horizon: float, rng: np.random.Generator) -> None:
    """Paint leaves."""
    canvas.polygon(_box(0, 0, WIDTH, horizon), wall)
    for _ in range(45):
        centre = float(rng.uniform(0, WIDTH)), float(rng.uniform(0, horizon))
        size = float(rng.uniform(4, 13))
        canvas.polygon(_oval(centre, size, 0.7 * size), _vary(wall, rng, 34))


_FACADES = {"panels": _panels, "bricks": _bricks, "windows": _windows, "hedge": _hedge}


def _ground(canvas: Canvas, backdrop: Backdrop, horizon: float, rng: np.random.Generator) -> None:
    """Paint the ground plane, with joints that run to a vanishing point if it is tiled."""
    colour = _vary(backdrop.ground, rng, 16)
    canvas.polygon(_box(0, horizon, WIDTH, HEIGHT), colour)
    if backdrop.paving == "grass":
        for _ in range(40):
            centre = float(rng.uniform(0, WIDTH)), float(rng.uniform(horizon, HEIGHT))
            canvas.polygon(_oval(centre, float(rng.uniform(4, 16)), 2.5), _vary(colour, rng, 18))
    if backdrop.paving == "tiles":
        joint, vanish = _vary(colour, rng, 30), float(rng.uniform(-80, WIDTH + 80))
        for i in range(-8, 9):
            canvas.line([(vanish + 12 * i, horizon), (vanish + 60 * i, HEIGHT)], joint, 0.6)
        for i in range(1, 8):
            y = horizon + (HEIGHT - horizon) * i * i / 49
            canvas.line([(0, y), (WIDTH, y)], joint, 0.6)


# ------------------------------------------------------------------ things


def _pole(canvas: Canvas, foot: Point, rng: np.random.Generator) -> None:
    """Paint a lamp post; it leaves the image at the top."""
    (x, y), half = foot, float(rng.uniform(1.5, 4))
    colour = _vary((96, 98, 100), rng, 40)
    canvas.polygon(_box(x - half, -5, x + half, y), colour)
    canvas.polygon(_box(x - half, -5, x - 0.3 * half, y), _vary(colour, rng, 30))


def _bicycle(canvas: Canvas, foot: Point, rng: np.random.Generator, scale: float = 1.0) -> None:
    """Paint a parked bicycle."""
    x, y = foot
    radius = scale * float(rng.uniform(13, 19))
    colour = tuple(int(v) for v in rng.integers(20, 190, size=3))
    frame: Colour = (colour[0], colour[1], colour[2])
    for dx in (-1.1 * radius, 1.1 * radius):
        wheel = _oval((x + dx, y - radius), radius, radius)
        canvas.line([*wheel, wheel[0]], (32, 32, 34), 1.2 * scale)
        for i in range(0, 16, 4):
            canvas.line([(x + dx, y - radius), wheel[i]], (120, 120, 120), 0.5)
    seat, bars = (x - 0.4 * radius, y - 2.1 * radius), (x + 0.8 * radius, y - 2.3 * radius)
    hub, fork = (x, y - radius), (x + 1.1 * radius, y - radius)
    canvas.line([(x - 1.1 * radius, y - radius), seat, bars, fork], frame, 1.3 * scale)
    canvas.line([seat, hub, bars], frame, 1.3 * scale)
    canvas.line([(seat[0] - 4, seat[1]), (seat[0] + 4, seat[1])], (24, 24, 24), 2 * scale)


def _bush(canvas: Canvas, foot: Point, rng: np.random.Generator, scale: float = 1.0) -> None:
    """Paint a low shrub."""
    for _ in range(14):
        dx, dy = float(rng.uniform(-20, 20)), float(rng.uniform(0, 26))
        size = scale * float(rng.uniform(4, 9))
        leaf = _vary((58, 88, 44), rng, 28)
        canvas.polygon(_oval((foot[0] + scale * dx, foot[1] - scale * dy), size, 0.8 * size), leaf)


def _board(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a low barrier across the bottom of the image, as of a car or a railing."""
    top = HEIGHT - float(rng.uniform(24, 64))
    colour = _vary((128, 130, 134), rng, 70)
    slope = float(rng.uniform(-14, 14))
    canvas.polygon([(0, top), (WIDTH, top + slope), (WIDTH, HEIGHT), (0, HEIGHT)], colour)
    canvas.line([(0, top), (WIDTH, top + slope)], _vary(colour, rng, 60), 2.5)


_CLUTTER = (_pole, _bicycle, _bicycle, _bush)
