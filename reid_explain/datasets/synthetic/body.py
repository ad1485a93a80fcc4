"""The body without its clothes: legs, shoes, arms, neck, head and hair."""

from reid_explain.datasets.synthetic.appearance import mix
from reid_explain.datasets.synthetic.canvas import Part, Point, Shape, Window, capsule, ellipse
from reid_explain.datasets.synthetic.person import SIDES, Decals, Person
from reid_explain.datasets.synthetic.skeleton import arm, leg


def body(person: Person) -> list[Shape]:
    """Return the pieces of the body."""
    shapes = [_neck(person), *_head(person)]
    for side in SIDES:
        shapes += [*_leg(person, side), *_arm(person, side)]
    return shapes


def _leg(person: Person, side: int) -> list[Shape]:
    """Return a bare leg and its shoe."""
    joints, look = leg(person, side), person.look
    thigh = capsule(joints.hip, joints.knee, person.girth(0.05), person.girth(0.035))
    shin = capsule(joints.knee, joints.ankle, person.girth(0.036), person.girth(0.02))
    foot = capsule(joints.heel, joints.toe, person.px(0.024), person.px(0.017))
    return [
        Shape(joints.order, Part.LEG, thigh, look.skin),
        Shape(joints.order + 1e-4, Part.LEG, shin, look.skin),
        Shape(joints.order + 2e-4, Part.SHOE, foot, look.shoe),
    ]


def _arm(person: Person, side: int) -> list[Shape]:
    """Return a bare arm and its hand."""
    joints, skin = arm(person, side), person.look.skin
    upper = capsule(joints.shoulder, joints.elbow, person.girth(0.033), person.girth(0.026))
    fore = capsule(joints.elbow, joints.hand, person.girth(0.026), person.girth(0.018))
    hand = capsule(joints.hand, joints.finger, person.girth(0.02), person.girth(0.015))
    return [
        Shape(joints.order, Part.SKIN, hand, skin),
        Shape(joints.order + 1e-4, Part.ARM, fore, skin),
        Shape(joints.order + 2e-4, Part.ARM, upper, skin),
    ]


def _neck(person: Person) -> Shape:
    view, lean, jaw = person.view, person.pose.lean, person.frame.jaw
    top, bottom = view.project(0, 0.9, lean), view.project(0, 0.825, lean + 0.012)
    tube = capsule(top, bottom, person.px(0.035 * jaw), person.px(0.038 * jaw))
    return Shape(0.3, Part.SKIN, tube, mix(person.look.skin, (0, 0, 0), 0.12))


def _head(person: Person) -> list[Shape]:
    """Return the head with its face, and the hair."""
    view, look = person.view, person.look
    z = person.pose.lean + 0.012
    centre = view.project(0, 0.926, z)
    size = look.head
    skull = ellipse(centre, size * view.extent(0.05, 0.06), person.px(0.072 * size), 11)
    face = Shape(0.6, Part.SKIN, skull, look.skin, decals=_face(person))
    long_hair = _long_hair(person, z) if person.outfit.long_hair else []
    return [face, *_short_hair(person, centre), *long_hair]


def _face(person: Person) -> Decals:
    """Return eyes, mouth, and beard or lips, where they can be seen."""
    skin = person.look.skin
    dark = mix(skin, (20, 14, 12), 0.75)
    decals = []
    for start in (-34, 14):
        decals += [(w, dark) for w in person.around(0.5, 0.56, start, start + 20)]
    decals += [(w, mix(skin, (60, 30, 20), 0.3)) for w in person.around(0.56, 0.68, -6, 8)]
    if person.outfit.female:
        decals += [(w, (176, 52, 62)) for w in person.around(0.76, 0.82, -18, 18)]
    else:
        shadow = mix(skin, (40, 34, 34), 0.25)
        decals += [(w, shadow) for w in person.around(0.72, 0.98, -70, 70)]
        decals += [(w, dark) for w in person.around(0.77, 0.81, -18, 18)]
    return decals


def _short_hair(person: Person, centre: Point) -> list[Shape]:
    """Return the hair on the skull: above the face, and down to the neck behind it."""
    view, look = person.view, person.look
    size = look.head * 1.1
    raised = (centre[0], centre[1] - person.px(0.006))
    cap = ellipse(raised, size * view.extent(0.05, 0.062), person.px(0.072 * size), 11)
    crown = Shape(0.7, Part.HAIR, cap, look.hair, Window(0, 0.36))
    behind = [
        Shape(0.71, Part.HAIR, cap, look.hair, window)
        for window in person.around(0.34, 0.86, 78, 282)
    ]
    return [crown, *behind]


def _long_hair(person: Person, z: float) -> list[Shape]:
    """Return hair that falls over the back, and locks beside the face."""
    view, look = person.view, person.look
    ponytail = look.hairstyle == "ponytail"
    width, length = (0.024, 0.74) if ponytail else (0.06, 0.725)
    rows = [
        (0.945, z - 0.05, width * 0.8, 0.02),
        (0.87, z - 0.058, width, 0.028),
        (0.8, z - 0.07, width * 1.08, 0.026),
        (length, z - 0.075, width * 0.6, 0.014),
    ]
    order = 0.9 if view.cos < 0.25 else -0.5
    creases = [(0.2, u, 0.9, u, 88) for u in (-0.4, 0.1, 0.5)]
    shapes = [Shape(order, Part.HAIR, person.column(rows), look.hair, creases=creases)]
    if not ponytail:
        shapes += [_lock(person, side, z) for side in SIDES if view.depth(side * 0.05, 0.02) > 0]
    return shapes


def _lock(person: Person, side: int, z: float) -> Shape:
    top = person.view.project(side * 0.045, 0.95, z + 0.004)
    end = person.view.project(side * 0.062, 0.765, z + 0.035)
    return Shape(
        0.75, Part.HAIR, capsule(top, end, person.px(0.013), person.px(0.02)), person.look.hair
    )
