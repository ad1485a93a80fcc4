"""What is worn on the head or carried: hat, backpack, shoulder bag, handbag."""

from collections.abc import Sequence
from itertools import pairwise

from reid_explain.datasets.synthetic.canvas import (
    WHOLE,
    Color,
    Part,
    Shape,
    Tube,
    Window,
    capsule,
    ellipse,
    mix,
)
from reid_explain.datasets.synthetic.person import SIDES, Person

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def belongings(person: Person) -> list[Shape]:
    """Return the pieces of what the person has."""
    outfit = person.outfit
    return [
        *(_hat(person) if outfit.hat else []),
        *(_backpack(person) if outfit.backpack else []),
        *(_bag(person) if outfit.bag else []),
        *(_handbag(person) if outfit.handbag else []),
    ]


def _hat(person: Person) -> list[Shape]:
    """Return a cap, a hat with a brim all round, or a beanie."""
    view, color, style = person.view, person.look.dyes["hat"], person.look.styles["hat"]
    z, size = person.pose.lean + 0.012, person.look.sizes["head"] * 1.2
    top = view.project(0, 0.945, z)
    dome = ellipse(top, size * view.extent(0.05, 0.061), person.px(0.074 * size), 11)
    decals = [(Window(0.37, 0.43), mix(color, WHITE, 0.35))]
    crown = Shape(1.0, Part.HAT, dome, color, Window(0, 0.44), decals)
    if style == "beanie":
        return [crown]
    if style == "brim":
        edge = view.project(0, 0.956, z)
        rim = ellipse(edge, person.px(0.115), person.px(0.012 + 0.09 * view.tilt))
        return [Shape(0.99, Part.HAT, rim, mix(color, BLACK, 0.15)), crown]
    peak = ellipse(view.project(0, 0.952, z + 0.07), view.extent(0.046, 0.05), person.px(0.014))
    order = 1.01 if view.cos > 0 else 0.65
    return [crown, Shape(order, Part.HAT, peak, mix(color, BLACK, 0.25))]


def _backpack(person: Person) -> list[Shape]:
    """Return the pack behind the back, and the straps where the chest can be seen."""
    view, color, size = person.view, person.look.dyes["backpack"], person.look.sizes["backpack"]
    z, low = -0.135, 0.82 - 0.27 * size
    rows = [
        (0.832, z + 0.03, 0.03 * size, 0.025),
        (0.822, z + 0.015, 0.062 * size, 0.045),
        (0.8, z, 0.085 * size, 0.06),
        (0.7, z - 0.012, 0.1 * size, 0.072),
        (low + 0.04, z - 0.012, 0.104 * size, 0.072),
        (low + 0.01, z - 0.005, 0.098 * size, 0.066),
        (low, z, 0.085 * size, 0.055),
    ]
    dark, light = mix(color, BLACK, 0.4), mix(color, WHITE, 0.25)
    decals = person.band(dark, 0.3, 0.34, 90, 270)
    decals += person.band(light, 0.5, 0.86, 150, 210) + person.band(dark, 0.56, 0.6, 150, 210)
    order = 1.5 if view.depth(0, z) > -0.03 else -3
    shapes = [Shape(order, Part.BACKPACK, person.column(rows), color, WHOLE, decals)]
    path = ((0.075, 0.838, -0.01), (0.078, 0.79, 0.05), (0.085, 0.7, 0.068), (0.1, 0.63, 0.04))
    for side in SIDES:
        if view.depth(side * 0.07, 0.09) > 0:
            points = [(side * x * person.build, y, z) for x, y, z in path]
            shapes += _strap(person, Part.BACKPACK, dark, 1.3, 0.016, points)
    return shapes


def _bag(person: Person) -> list[Shape]:
    """Return a shoulder bag on one hip, with its strap across the chest and the back."""
    view, look, side = person.view, person.look, person.look.side
    color, size, x = look.dyes["bag"], look.sizes["bag"], side * 0.128 * person.build
    center, half = view.project(x, 0.47, 0), view.extent(0.042 * size, 0.078 * size)
    top, bottom = center[1] - person.px(0.062 * size), center[1] + person.px(0.062 * size)
    body = Tube(
        [(center[0], top + f * (bottom - top)) for f in (0, 0.12, 0.5, 0.88, 1)],
        [half * f for f in (0.82, 1, 1.04, 1, 0.85)],
    )
    order = 2.5 if view.depth(x, 0) > -0.05 else -2.6
    flap = [(Window(0.1, 0.45), mix(color, WHITE, 0.22))]
    front = 0.066 if view.cos > 0 else -0.066
    path = ((-0.07, 0.838, 0), (-0.045, 0.77, front), (0.05, 0.62, front), (0.115, 0.52, 0))
    points = [(side * x * person.build, y, z * person.build) for x, y, z in path]
    strap = _strap(person, Part.BAG, mix(color, BLACK, 0.3), 1.4, 0.011, points)
    return [Shape(order, Part.BAG, body, color, WHOLE, flap), *strap]


def _handbag(person: Person) -> list[Shape]:
    """Return a bag that hangs from a hand."""
    joints, view, look = person.arm(person.look.side), person.view, person.look
    color, size = look.dyes["handbag"], look.sizes["handbag"]
    order, (x, y, z) = joints.order - 1e-3, joints.grip
    grip, low = view.project(x, y, z), view.project(x, y - 0.15 * size, z)
    top, half = grip[1] + 0.4 * (low[1] - grip[1]), view.extent(0.05 * size, 0.075 * size)
    body = Tube(
        [(grip[0], top), (grip[0], top + 0.5 * (low[1] - top)), (grip[0], low[1])],
        [half * 0.75, half, half * 1.05],
    )
    shapes = []
    for side in SIDES:
        end = grip[0] + side * half * 0.5, top
        handle = capsule(grip, end, person.px(0.007), person.px(0.007))
        shapes.append(Shape(order, Part.HANDBAG, handle, color))
    clasp = [(Window(0.12, 0.2), mix(color, WHITE, 0.4))]
    return [*shapes, Shape(order + 1e-4, Part.HANDBAG, body, color, WHOLE, clasp)]


def _strap(
    person: Person,
    part: Part,
    color: Color,
    order: float,
    radius: float,
    path: Sequence[tuple[float, float, float]],
) -> list[Shape]:
    """Return a band through points of the body."""
    points, thick = [person.view.project(*point) for point in path], person.px(radius)
    return [Shape(order, part, capsule(a, b, thick, thick), color) for a, b in pairwise(points)]
