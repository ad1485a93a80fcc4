"""A figure, painted from back to front: the body here, its clothes and belongings elsewhere."""

from collections.abc import Collection

from reid_explain.datasets.synthetic import belongings, garments
from reid_explain.datasets.synthetic.canvas import (
    WHOLE,
    Canvas,
    Part,
    Point,
    Shape,
    Window,
    capsule,
    ellipse,
    mix,
)
from reid_explain.datasets.synthetic.person import SIDES, Decals, Person


def paint(
    canvas: Canvas,
    person: Person,
    sun: float,
    part: Part | None = None,
    *,
    without: Collection[Part] = (),
) -> None:
    """Paint a person ``without`` some parts; see ``Canvas.shape`` for ``sun`` and ``part``."""
    shapes = [_neck(person), *_head(person)]
    for side in SIDES:
        shapes += [*_leg(person, side), *_arm(person, side)]
    shapes += [*garments.garments(person), *belongings.belongings(person)]
    for shape in sorted(shapes, key=lambda shape: shape.order):
        if shape.part not in without:
            canvas.shape(shape, sun, part)


def _leg(person: Person, side: int) -> list[Shape]:
    """Return a bare leg and its shoe."""
    joints, dyes = person.leg(side), person.look.dyes
    thigh = capsule(joints.hip, joints.knee, person.girth(0.05), person.girth(0.035))
    shin = capsule(joints.knee, joints.ankle, person.girth(0.036), person.girth(0.02))
    foot = capsule(joints.heel, joints.toe, person.px(0.024), person.px(0.017))
    return [
        Shape(joints.order, Part.LEG, thigh, dyes["skin"]),
        Shape(joints.order + 1e-4, Part.LEG, shin, dyes["skin"]),
        Shape(joints.order + 2e-4, Part.SHOE, foot, dyes["shoe"]),
    ]


def _arm(person: Person, side: int) -> list[Shape]:
    """Return a bare arm and its hand."""
    joints, skin = person.arm(side), person.look.dyes["skin"]
    upper = capsule(joints.shoulder, joints.elbow, person.girth(0.033), person.girth(0.026))
    fore = capsule(joints.elbow, joints.hand, person.girth(0.026), person.girth(0.018))
    hand = capsule(joints.hand, joints.finger, person.girth(0.02), person.girth(0.015))
    return [
        Shape(joints.order, Part.HAND, hand, skin),
        Shape(joints.order + 1e-4, Part.ARM, fore, skin),
        Shape(joints.order + 2e-4, Part.ARM, upper, skin),
    ]


def _neck(person: Person) -> Shape:
    view, lean, jaw = person.view, person.pose.lean, person.frame.jaw
    top, bottom = view.project(0, 0.9, lean), view.project(0, 0.825, lean + 0.012)
    tube = capsule(top, bottom, person.px(0.035 * jaw), person.px(0.038 * jaw))
    return Shape(0.3, Part.HEAD, tube, mix(person.look.dyes["skin"], (0, 0, 0), 0.12))


def _head(person: Person) -> list[Shape]:
    """Return the head with its face, and the hair."""
    view, look = person.view, person.look
    z = person.pose.lean + 0.012
    center, size = view.project(0, 0.926, z), look.sizes["head"]
    skull = ellipse(center, size * view.extent(0.05, 0.06), person.px(0.072 * size), 11)
    face = Shape(0.6, Part.HEAD, skull, look.dyes["skin"], decals=_face(person))
    long_hair = _long_hair(person, z) if person.outfit.long_hair else []
    return [face, *_short_hair(person, center), *long_hair]


def _face(person: Person) -> Decals:
    """Return brows, eyes, nose, mouth, and beard or lips, where they can be seen."""
    skin, hair, band = person.look.dyes["skin"], person.look.dyes["hair"], person.band
    decals = []
    for start in (-30, 16):
        decals += band(mix(skin, hair, 0.5), 0.44, 0.47, start, start + 16)
        decals += band(mix(skin, (20, 14, 12), 0.75), 0.5, 0.54, start + 2, start + 13)
    decals += band(mix(skin, (60, 30, 20), 0.25), 0.56, 0.67, -5, 6)
    if person.outfit.female:
        return decals + band((176, 52, 62), 0.76, 0.81, -14, 14)
    decals += band(mix(skin, (40, 34, 34), 0.2), 0.7, 0.98, -70, 70)
    return decals + band(mix(skin, (110, 40, 40), 0.5), 0.77, 0.8, -14, 14)


def _short_hair(person: Person, center: Point) -> list[Shape]:
    """Return the hair on the skull: above the face, and down to the neck behind it."""
    view, hair, size = person.view, person.look.dyes["hair"], person.look.sizes["head"] * 1.1
    raised = (center[0], center[1] - person.px(0.006))
    cap = ellipse(raised, size * view.extent(0.05, 0.062), person.px(0.072 * size), 11)
    crown = Shape(0.7, Part.HAIR, cap, hair, Window(0, 0.36))
    behind = person.band(hair, 0.34, 0.86, 78, 282)
    return [crown, *(Shape(0.71, Part.HAIR, cap, hair, window) for window, _ in behind)]


def _long_hair(person: Person, z: float) -> list[Shape]:
    """Return hair that falls over the back, and locks beside the face."""
    view, look = person.view, person.look
    ponytail, hair = look.styles["hair"] == "ponytail", look.dyes["hair"]
    width, length = (0.024, 0.74) if ponytail else (0.06, 0.725)
    rows = [
        (0.945, z - 0.05, width * 0.8, 0.02),
        (0.87, z - 0.058, width, 0.028),
        (0.8, z - 0.07, width * 1.08, 0.026),
        (length, z - 0.075, width * 0.6, 0.014),
    ]
    order = 0.9 if view.cos < 0.25 else -0.5
    creases = [(0.2, u, 0.9, u, 88) for u in (-0.4, 0.1, 0.5)]
    shapes = [Shape(order, Part.HAIR, person.column(rows), hair, WHOLE, (), creases)]
    if not ponytail:
        for side in SIDES:
            if view.depth(side * 0.05, 0.02) > 0:
                top = view.project(side * 0.045, 0.95, z + 0.004)
                end = view.project(side * 0.062, 0.765, z + 0.035)
                lock = capsule(top, end, person.px(0.013), person.px(0.02))
                shapes.append(Shape(0.75, Part.HAIR, lock, hair))
    return shapes
