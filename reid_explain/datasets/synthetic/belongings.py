"""What is worn on the head or carried: hat, backpack, shoulder bag, handbag."""

from collections.abc import Sequence
from itertools import pairwise

from reid_explain.datasets.synthetic.appearance import mix
from reid_explain.datasets.synthetic.canvas import (
    Colour,
    Part,
    Shape,
    Tube,
    Window,
    capsule,
    ellipse,
)
from reid_explain.datasets.synthetic.person import SIDES, Person
from reid_explain.datasets.synthetic.skeleton import arm


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
    view, look = person.view, person.look
    z = person.pose.lean + 0.012
    size = look.head * 1.2
    top = view.project(0, 0.945, z)
    dome = ellipse(top, size * view.extent(0.05, 0.061), person.px(0.074 * size), 11)
    band = mix(look.hat, (255, 255, 255), 0.35)
    crown = Shape(
        *(1.0, Part.HAT, dome, look.hat, Window(0, 0.44)),
        decals=[(Window(0.37, 0.43), band)],
    )
    if look.hat_style == "beanie":
        return [crown]
    if look.hat_style == "brim":
        edge = view.project(0, 0.956, z)
        rim = ellipse(edge, person.px(0.115), person.px(0.012 + 0.09 * view.tilt))
        return [Shape(0.99, Part.HAT, rim, mix(look.hat, (0, 0, 0), 0.15)), crown]
    peak = ellipse(view.project(0, 0.952, z + 0.07), view.extent(0.046, 0.05), person.px(0.014))
    order = 1.01 if view.cos > 0 else 0.65
    return [crown, Shape(order, Part.HAT, peak, mix(look.hat, (0, 0, 0), 0.25))]


def _backpack(person: Person) -> list[Shape]:
    """Return the pack behind the back, and the straps where the chest can be seen."""
    view, look = person.view, person.look
    size, z = look.backpack_size, -0.135
    rows = [
        (0.825, z + 0.02, 0.05 * size, 0.04),
        (0.8, z, 0.085 * size, 0.06),
        (0.7, z - 0.012, 0.1 * size, 0.072),
        (0.82 - 0.25 * size, z - 0.012, 0.104 * size, 0.072),
        (0.82 - 0.27 * size, z, 0.085 * size, 0.055),
    ]
    dark = mix(look.backpack, (0, 0, 0), 0.4)
    light = mix(look.backpack, (255, 255, 255), 0.25)
    decals = [(w, dark) for w in person.around(0.3, 0.34, 90, 270)]
    decals += [(w, light) for w in person.around(0.5, 0.86, 150, 210)]
    decals += [(w, dark) for w in person.around(0.56, 0.6, 150, 210)]
    order = 1.5 if view.depth(0, z) > -0.03 else -3
    shapes = [Shape(order, Part.BACKPACK, person.column(rows), look.backpack, decals=decals)]
    for side in SIDES:
        if view.depth(side * 0.07, 0.09) > 0:
            path = ((0.075, 0.838, -0.01), (0.078, 0.77, 0.075), (0.085, 0.7, 0.085))
            end = (0.1, 0.63, 0.04)
            shapes += _strap(
                *(person, Part.BACKPACK, dark, 1.3, 0.016),
                [(side * x * look.build, y, z) for x, y, z in (*path, end)],
            )
    return shapes


def _bag(person: Person) -> list[Shape]:
    """Return a shoulder bag on one hip, with its strap across the chest and the back."""
    view, look = person.view, person.look
    side, size = look.side, look.bag_size
    x = side * 0.128 * look.build
    centre = view.project(x, 0.47, 0)
    half = view.extent(0.042 * size, 0.078 * size)
    top, bottom = centre[1] - person.px(0.062 * size), centre[1] + person.px(0.062 * size)
    body = Tube(
        [(centre[0], top + f * (bottom - top)) for f in (0, 0.12, 0.5, 0.88, 1)],
        [half * f for f in (0.82, 1, 1.04, 1, 0.85)],
    )
    flap = mix(look.bag, (255, 255, 255), 0.22)
    depth = view.depth(x, 0)
    order = 2.5 if depth > -0.05 else -2.6
    pouch = Shape(order, Part.BAG, body, look.bag, decals=[(Window(0.1, 0.45), flap)])
    front = 0.088 if view.cos > 0 else -0.088
    path = ((-0.075, 0.838, 0), (-0.05, 0.77, front), (0.05, 0.62, front), (0.115, 0.52, 0))
    strap = [(side * sx * look.build, y, z * look.build) for sx, y, z in path]
    return [pouch, *_strap(person, Part.BAG, mix(look.bag, (0, 0, 0), 0.3), 1.4, 0.011, strap)]


def _handbag(person: Person) -> list[Shape]:
    """Return a bag that hangs from a hand."""
    joints = arm(person, person.look.side)
    order, (x, y, z) = joints.order - 1e-3, joints.grip
    look, view = person.look, person.view
    size = look.handbag_size
    grip, low = view.project(x, y, z), view.project(x, y - 0.15 * size, z)
    top = grip[1] + 0.4 * (low[1] - grip[1])
    half = view.extent(0.05 * size, 0.075 * size)
    body = Tube(
        [(grip[0], top), (grip[0], top + 0.5 * (low[1] - top)), (grip[0], low[1])],
        [half * 0.75, half, half * 1.05],
    )
    handle = [
        Shape(
            order, Part.HANDBAG, capsule(grip, (grip[0] + s * half * 0.5, top), w, w), look.handbag
        )
        for s, w in ((-1, person.px(0.007)), (1, person.px(0.007)))
    ]
    clasp = mix(look.handbag, (255, 255, 255), 0.4)
    decals = [(Window(0.12, 0.2), clasp)]
    return [*handle, Shape(order + 1e-4, Part.HANDBAG, body, look.handbag, decals=decals)]


def _strap(
    person: Person,
    part: Part,
    colour: Colour,
    order: float,
    radius: float,
    path: Sequence[tuple[float, float, float]],
) -> list[Shape]:
    """Return a band through points of the body."""
    points = [person.view.project(x, y, z) for x, y, z in path]
    thick = person.px(radius)
    return [Shape(order, part, capsule(a, b, thick, thick), colour) for a, b in pairwise(points)]
