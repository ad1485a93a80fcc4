"""Clothes: trousers or a skirt, the upper garment, its sleeves, and the patterns on them."""

from reid_explain.datasets.synthetic.appearance import accent_on
from reid_explain.datasets.synthetic.canvas import WHOLE, Color, Part, Shape, Window, capsule, mix
from reid_explain.datasets.synthetic.person import HIP, SIDES, Decals, Person

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
    joints, width, girth = person.leg(side), person.look.sizes["leg"], person.girth
    cloth = (
        person.lower,
        WHOLE,
        _lower_decals(person),
        person.folds(*((3, 5) if side > 0 else (4, 6))),
    )
    thigh = capsule(joints.hip, joints.knee, girth(0.058), girth(0.045 * width), cut=True)
    shapes = [Shape(joints.order + 4e-4, Part.HIPS, thigh, *cloth)]
    if not person.outfit.short_lower:
        shin = capsule(joints.knee, joints.ankle, girth(0.044 * width), girth(0.032 * width))
        shapes.append(Shape(joints.order + 3e-4, Part.SHIN, shin, *cloth))
    return shapes


def _lower_garment(person: Person) -> list[Shape]:
    """Return the seat of trousers; or a skirt to the knee and, if it is long, its lower part."""
    frame, build, hip = person.frame, person.build, person.frame.hip
    top = [
        (WAIST, 0.0, frame.waist * build, 0.065 * build),
        (HIP + 0.03, 0.0, hip * build, 0.076 * build),
    ]
    if person.outfit.trousers:
        seat = [*top, (0.47, 0.0, hip * 0.98 * build, 0.072 * build)]
        seat.append((0.452, 0.0, hip * 0.8 * build, 0.06 * build))
        return [Shape(-0.3, Part.HIPS, person.column(seat), person.lower)]
    flare = hip * build * person.look.sizes["skirt"]
    knee = (0.3, 0.0, flare * 1.2, flare * 1.05)
    folds = [(0.3, u, 0.98, u * 1.05, 96) for u in (-0.55, -0.1, 0.4)]
    cloth = person.lower, WHOLE, _lower_decals(person), folds
    skirt = person.column([*top, (0.42, 0.0, flare * 1.1, flare * 0.95), knee])
    shapes = [Shape(-0.3, Part.HIPS, skirt, *cloth)]
    if not person.outfit.short_lower:
        calf, hem = (
            (y, 0.0, flare * w, flare * d) for y, w, d in ((0.18, 1.24, 1.1), (0.075, 1.3, 1.15))
        )
        shapes.append(Shape(-0.31, Part.SHIN, person.column([knee, calf, hem]), *cloth))
    return shapes


def _lower_decals(person: Person) -> Decals:
    """Return the pattern of the lower garment, on one of its pieces."""
    base, accent = person.lower, accent_on(person.lower, person.look.dyes["lower_accent"])
    match person.look.styles["lower"]:
        case "seam":
            return person.band(accent, 0, 1, 80, 100) + person.band(accent, 0, 1, 260, 280)
        case "fade":
            return person.band(mix(base, (220, 222, 228), 0.25), 0.2, 1, -28, 28)
        case "checks":
            return _checks(mix(base, accent, 0.5), 4, 3)
        case "band":
            return [(Window(0.78, 0.88), accent)]
    return []


def _checks(color: Color, rows: int, columns: int) -> Decals:
    """Return thin stripes along and across."""
    along = [(i + 0.4) / rows for i in range(rows)]
    across = [2 * (i + 0.4) / columns - 1 for i in range(columns)]
    return [(Window(t, t + 0.25 / rows), color) for t in along] + [
        (Window(0, 1, u, u + 0.5 / columns), color) for u in across
    ]


def _torso(person: Person) -> Shape:
    """Return the upper garment without its sleeves."""
    frame, b, lean = person.frame, person.build, person.pose.lean
    rows = [
        (0.856, lean, 0.038, 0.038),
        (0.836, lean, frame.shoulder * 0.58 * b, 0.045 * b),
        (0.815, lean, frame.shoulder * 0.9 * b, 0.058 * b),
        (0.785, lean, frame.shoulder * b, 0.068 * b),
        (0.72, lean, frame.chest * b, frame.bust * b),
        (WAIST, 0.0, frame.waist * b, 0.07 * b),
        (HIP + 0.03, 0.0, frame.hip * 1.02 * b, 0.079 * b),
        (person.look.sizes["hem"], 0.0, frame.hip * 1.04 * b, 0.08 * b),
    ]
    tube, decals = person.column(rows), _upper_decals(person)
    return Shape(0, Part.TORSO, tube, person.upper, WHOLE, decals, person.folds(0, 4))


def _upper_decals(person: Person) -> Decals:
    """Return the pattern of the upper garment's body, and its hem."""
    base, scale, band = person.upper, person.look.sizes["pattern"], person.band
    accent = accent_on(base, person.look.dyes["upper_accent"])
    hem = [(Window(0.955, 1), mix(base, (0, 0, 0), 0.3))]
    match person.look.styles["upper"]:
        case "stripes":
            count = round(5 * scale)
            rows = [Window((i + 0.5) / count, (i + 0.9) / count) for i in range(count)]
            return [*((row, accent) for row in rows), *hem]
        case "logo":
            return band(accent, 0.28, 0.28 + 0.12 * scale, -26 * scale, 26 * scale) + hem
        case "print":
            return band(accent, 0.26, 0.56, -42, 42) + band(accent, 0.24, 0.6, 140, 220) + hem
        case "zip":
            return band(accent, 0.08, 1, -5, 5) + hem
        case "open":
            return band(accent, 0.05, 1, -20, 20) + hem
        case "panel":
            return [(Window(0.27, 0.27 + 0.16 * scale), accent), *hem]
        case "yoke":
            return [(Window(0, 0.24), accent), *hem]
        case "sides":
            return band(accent, 0.2, 1, 62, 118) + band(accent, 0.2, 1, 242, 298) + hem
        case "checks":
            return _checks(mix(base, accent, 0.5), round(6 * scale), round(5 * scale))
    return hem


def _sleeve(person: Person, side: int) -> list[Shape]:
    """Return a short or long sleeve."""
    joints, girth, style = person.arm(side), person.girth, person.look.styles["upper"]
    accent = accent_on(person.upper, person.look.dyes["upper_accent"])
    decals: Decals = []
    if style == "stripes":
        decals = [(Window(t, t + 0.1), accent) for t in (0.3, 0.5, 0.7)]
    elif style == "checks":
        decals = _checks(mix(person.upper, accent, 0.5), 4, 2)
    cloth = accent if style == "yoke" else person.upper, WHOLE, decals
    order, (x0, y0), (x1, y1) = joints.order + 3e-4, joints.shoulder, joints.elbow
    if person.outfit.short_sleeves:
        hem = (x0 + 0.55 * (x1 - x0), y0 + 0.55 * (y1 - y0))
        tube = capsule(joints.shoulder, hem, girth(0.037), girth(0.037), cut=True)
        return [Shape(order, Part.SLEEVE, tube, *cloth)]
    upper = capsule(joints.shoulder, joints.elbow, girth(0.037), girth(0.032))
    fore = capsule(joints.elbow, joints.hand, girth(0.032), girth(0.025))
    return [
        Shape(order, Part.SLEEVE, fore, *cloth),
        Shape(order + 1e-4, Part.SLEEVE, upper, *cloth),
    ]
