"""Clothes: trousers or a skirt, the upper garment, its sleeves, and the patterns on them."""

from reid_explain.datasets.synthetic.appearance import accent_on, mix
from reid_explain.datasets.synthetic.canvas import Colour, Part, Shape, Window, capsule
from reid_explain.datasets.synthetic.person import SIDES, Decals, Person
from reid_explain.datasets.synthetic.skeleton import HIP, arm, leg

WAIST = 0.61


def garments(person: Person) -> list[Shape]:
    """Return the pieces of the clothes."""
    shapes = [_torso(person), *_lower_garment(person)]
    for side in SIDES:
        shapes += _sleeve(person, side)
        if person.outfit.trousers:
            shapes += _trouser_leg(person, side)
    return shapes


def _trouser_leg(person: Person, side: int) -> list[Shape]:
    """Return the thigh, and the shin of long trousers."""
    joints, width = leg(person, side), person.look.leg_width
    colour, decals = person.lower, _lower_decals(person)
    folds = person.folds(3, 5) if side > 0 else person.folds(4, 6)
    knee = person.girth(0.044 * width)
    thigh = capsule(
        *(joints.hip, joints.knee, person.girth(0.058), person.girth(0.045 * width)), cut=True
    )
    shapes = [Shape(joints.order + 4e-4, Part.HIPS, thigh, colour, decals=decals, creases=folds)]
    if not person.outfit.short_lower:
        shin = capsule(joints.knee, joints.ankle, knee, person.girth(0.032 * width))
        order = joints.order + 3e-4
        shapes.append(Shape(order, Part.SHIN, shin, colour, decals=decals, creases=folds))
    return shapes


def _lower_garment(person: Person) -> list[Shape]:
    """Return the seat of trousers, or a skirt."""
    frame, build, hip = person.frame, person.look.build, person.frame.hip
    top = [
        (WAIST, 0.0, frame.waist * build, 0.065 * build),
        (HIP + 0.03, 0.0, hip * build, 0.076 * build),
    ]
    if person.outfit.trousers:
        seat = [*top, (0.47, 0.0, hip * 0.98 * build, 0.072 * build)]
        seat.append((0.452, 0.0, hip * 0.8 * build, 0.06 * build))
        return [Shape(-0.3, Part.HIPS, person.column(seat), person.lower)]
    return _skirt(person, top)


def _skirt(person: Person, top: list[tuple[float, float, float, float]]) -> list[Shape]:
    """Return a skirt down to the knee and, if it is long, its lower part."""
    look = person.look
    flare = person.frame.hip * look.build * look.skirt_width
    knee = (0.3, 0.0, flare * 1.2, flare * 1.05)
    upper = person.column([*top, (0.42, 0.0, flare * 1.1, flare * 0.95), knee])
    folds = [(0.3, u, 0.98, u * 1.05, 96) for u in (-0.55, -0.1, 0.4)]
    decals = _lower_decals(person)
    skirt = Shape(-0.3, Part.HIPS, upper, person.lower, decals=decals, creases=folds)
    if person.outfit.short_lower:
        return [skirt]
    rows = [knee, (0.18, 0.0, flare * 1.24, flare * 1.1), (0.075, 0.0, flare * 1.3, flare * 1.15)]
    lower = person.column(rows)
    return [
        skirt,
        Shape(-0.31, Part.SHIN, lower, person.lower, decals=decals, creases=folds),
    ]


def _lower_decals(person: Person) -> Decals:
    """Return the pattern of the lower garment, on one of its pieces."""
    base, look = person.lower, person.look
    accent = accent_on(base, look.lower_accent)
    if look.lower_pattern == "seam":
        return [(window, accent) for window in person.around(0, 1, 80, 100)] + [
            (window, accent) for window in person.around(0, 1, 260, 280)
        ]
    if look.lower_pattern == "fade":
        pale = mix(base, (220, 222, 228), 0.25)
        return [(window, pale) for window in person.around(0.2, 1, -28, 28)]
    if look.lower_pattern == "checks":
        return _checks(mix(base, accent, 0.5), 4, 3)
    if look.lower_pattern == "band":
        return [(Window(0.78, 0.88), accent)]
    return []


def _checks(colour: Colour, rows: int, columns: int) -> Decals:
    """Return thin stripes along and across."""
    along = [(i + 0.4) / rows for i in range(rows)]
    across = [2 * (i + 0.4) / columns - 1 for i in range(columns)]
    return [(Window(t, t + 0.25 / rows), colour) for t in along] + [
        (Window(0, 1, u, u + 0.5 / columns), colour) for u in across
    ]


def _torso(person: Person) -> Shape:
    """Return the upper garment without its sleeves."""
    frame, look = person.frame, person.look
    b, lean = look.build, person.pose.lean
    rows = [
        (0.856, lean, 0.038, 0.038),
        (0.836, lean, frame.shoulder * 0.58 * b, 0.045 * b),
        (0.815, lean, frame.shoulder * 0.9 * b, 0.058 * b),
        (0.785, lean, frame.shoulder * b, 0.068 * b),
        (0.72, lean, frame.chest * b, frame.bust * b),
        (WAIST, 0.0, frame.waist * b, 0.07 * b),
        (HIP + 0.03, 0.0, frame.hip * 1.02 * b, 0.079 * b),
        (look.hem, 0.0, frame.hip * 1.04 * b, 0.08 * b),
    ]
    tube = person.column(rows)
    decals, folds = _upper_decals(person), person.folds(0, 4)
    return Shape(0, Part.TORSO, tube, person.upper, decals=decals, creases=folds)


def _upper_decals(person: Person) -> Decals:
    """Return the pattern of the upper garment's body."""
    base, look, scale = person.upper, person.look, person.look.pattern_scale
    accent = accent_on(base, look.upper_accent)
    around: list[Window] = []
    if look.upper_pattern == "stripes":
        count = round(5 * scale)
        around = [Window((i + 0.5) / count, (i + 0.9) / count) for i in range(count)]
    elif look.upper_pattern == "logo":
        around = person.around(0.28, 0.28 + 0.12 * scale, -26 * scale, 26 * scale)
    elif look.upper_pattern == "print":
        around = person.around(0.26, 0.56, -42, 42) + person.around(0.24, 0.6, 140, 220)
    elif look.upper_pattern == "zip":
        around = person.around(0.08, 1, -5, 5)
    elif look.upper_pattern == "open":
        around = person.around(0.05, 1, -20, 20)
    elif look.upper_pattern == "panel":
        around = [Window(0.27, 0.27 + 0.16 * scale)]
    elif look.upper_pattern == "yoke":
        around = [Window(0, 0.24)]
    elif look.upper_pattern == "sides":
        around = person.around(0.2, 1, 62, 118) + person.around(0.2, 1, 242, 298)
    elif look.upper_pattern == "checks":
        return _checks(mix(base, accent, 0.5), round(6 * scale), round(5 * scale))
    hem = (Window(0.955, 1), mix(base, (0, 0, 0), 0.3))
    return [*((window, accent) for window in around), hem]


def _sleeve(person: Person, side: int) -> list[Shape]:
    """Return a short or long sleeve."""
    joints, look, base = arm(person, side), person.look, person.upper
    accent, decals = accent_on(base, look.upper_accent), _sleeve_decals(person)
    colour = accent if look.upper_pattern == "yoke" else base
    order, (x0, y0), (x1, y1) = joints.order + 3e-4, joints.shoulder, joints.elbow
    if person.outfit.short_sleeves:
        hem = (x0 + 0.55 * (x1 - x0), y0 + 0.55 * (y1 - y0))
        tube = capsule(joints.shoulder, hem, person.girth(0.037), person.girth(0.037), cut=True)
        return [Shape(order, Part.SLEEVE, tube, colour, decals=decals)]
    upper = capsule(joints.shoulder, joints.elbow, person.girth(0.037), person.girth(0.032))
    fore = capsule(joints.elbow, joints.hand, person.girth(0.032), person.girth(0.025))
    return [
        Shape(order, Part.SLEEVE, fore, colour, decals=decals),
        Shape(order + 1e-4, Part.SLEEVE, upper, colour, decals=decals),
    ]


def _sleeve_decals(person: Person) -> Decals:
    """Return the pattern of the upper garment on a piece of sleeve."""
    base, look = person.upper, person.look
    accent = accent_on(base, look.upper_accent)
    if look.upper_pattern == "stripes":
        return [(Window(t, t + 0.1), accent) for t in (0.3, 0.5, 0.7)]
    if look.upper_pattern == "checks":
        return _checks(mix(base, accent, 0.5), 4, 2)
    return []
