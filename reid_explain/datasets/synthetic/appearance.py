"""What makes one identity: build, skin, hair, shades, patterns and the shape of belongings."""

from dataclasses import dataclass

import numpy as np

from reid_explain.datasets.synthetic.canvas import Colour

SHADES: dict[str, tuple[Colour, Colour]] = {
    "black": ((14, 14, 18), (46, 44, 48)),
    "white": ((208, 208, 206), (246, 246, 244)),
    "gray": ((92, 93, 97), (156, 156, 158)),
    "red": ((142, 18, 26), (222, 48, 54)),
    "green": ((20, 84, 44), (98, 178, 84)),
    "blue": ((26, 44, 120), (74, 130, 214)),
    "purple": ((72, 34, 112), (158, 94, 188)),
    "yellow": ((214, 170, 24), (248, 226, 96)),
    "brown": ((76, 48, 28), (142, 100, 62)),
    "pink": ((222, 112, 146), (250, 178, 198)),
    "orange": ((218, 92, 18), (246, 142, 52)),
    "teal": ((12, 104, 112), (70, 178, 178)),
}
"""The darkest and lightest shade that carries each colour name."""

UNNAMED = {"up": ("orange", "brown", "pink", "teal"), "down": ("orange", "red", "teal")}
"""Colours of garments for which none of the 26 attributes is a name."""

SKINS: tuple[Colour, ...] = (
    *((240, 204, 178), (228, 184, 150), (206, 156, 120)),
    *((168, 118, 84), (118, 80, 56), (84, 56, 42)),
)
HAIRS: tuple[Colour, ...] = (
    *((20, 17, 17), (34, 26, 22), (62, 42, 28), (104, 68, 38)),
    *((176, 136, 78), (124, 54, 28), (150, 148, 146)),
)
LEATHERS: tuple[Colour, ...] = (
    *((28, 28, 32), (60, 62, 70), (110, 70, 40), (150, 32, 38), (40, 60, 120)),
    *((52, 94, 60), (196, 160, 110), (206, 110, 130), (220, 196, 60), (120, 60, 130)),
)
SHOES: tuple[Colour, ...] = (
    *((26, 26, 28), (232, 232, 230), (120, 80, 50), (150, 40, 44), (50, 70, 130), (120, 122, 126)),
)
"""Colours of skin, hair, belongings and shoes; in each the first few are the usual ones."""

UPPER_PATTERNS = (
    *("plain", "plain", "plain", "plain", "plain", "plain", "logo", "logo"),
    *("stripes", "print", "zip", "open", "checks", "panel", "yoke", "sides"),
)
LOWER_PATTERNS = (
    *("plain", "plain", "plain", "plain", "plain", "plain"),
    *("fade", "fade", "seam", "checks", "band"),
)
HAIRSTYLES = ("loose", "loose", "ponytail")
HATS = ("cap", "brim", "beanie")


@dataclass(frozen=True)
class Appearance:
    """One identity apart from its attributes; the same in every image of it.

    ``build`` scales widths; the shades are 0 (dark) to 1 (light) inside a colour name; the tints
    are small shifts of red, green and blue; ``side`` is -1 or 1; the sizes are relative to 1.
    """

    build: float
    head: float
    skin: Colour
    hair: Colour
    shoe: Colour
    hat: Colour
    backpack: Colour
    bag: Colour
    handbag: Colour
    upper_shade: float
    lower_shade: float
    upper_tint: Colour
    lower_tint: Colour
    upper_accent: Colour
    lower_accent: Colour
    upper_pattern: str
    lower_pattern: str
    upper_unnamed: str
    lower_unnamed: str
    pattern_scale: float
    hairstyle: str
    hat_style: str
    hem: float
    leg_width: float
    skirt_width: float
    backpack_size: float
    bag_size: float
    handbag_size: float
    side: int

    def upper(self, name: str | None) -> Colour:
        """Return this identity's shade of an upper garment colour (None: without a name)."""
        return _shade(name or self.upper_unnamed, self.upper_shade, self.upper_tint)

    def lower(self, name: str | None) -> Colour:
        """Return this identity's shade of a lower garment colour (None: without a name)."""
        return _shade(name or self.lower_unnamed, self.lower_shade, self.lower_tint)


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Draw one identity."""

    def pick(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    def shade(colours: tuple[Colour, ...], usual: int) -> Colour:
        among = colours[:usual] if rng.random() < 0.7 else colours
        return _clip(among[int(rng.integers(len(among)))], tint(10))

    def tint(spread: int) -> Colour:
        r, g, b = (int(v) for v in rng.integers(-spread, spread + 1, size=3))
        return r, g, b

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    return Appearance(
        build=between(0.9, 1.14),
        head=between(0.95, 1.06),
        skin=shade(SKINS, 3),
        hair=shade(HAIRS, 2),
        shoe=shade(SHOES, 2),
        hat=shade(LEATHERS, 3),
        backpack=shade(LEATHERS, 2),
        bag=shade(LEATHERS, 3),
        handbag=shade(LEATHERS, 3),
        upper_shade=between(0, 1),
        lower_shade=between(0, 1),
        upper_tint=tint(10),
        lower_tint=tint(10),
        upper_accent=shade(LEATHERS, 10),
        lower_accent=shade(LEATHERS, 10),
        upper_pattern=pick(UPPER_PATTERNS),
        lower_pattern=pick(LOWER_PATTERNS),
        upper_unnamed=pick(UNNAMED["up"]),
        lower_unnamed=pick(UNNAMED["down"]),
        pattern_scale=between(0.75, 1.3),
        hairstyle=pick(HAIRSTYLES),
        hat_style=pick(HATS),
        hem=between(0.455, 0.505),
        leg_width=between(0.85, 1.25),
        skirt_width=between(0.9, 1.25),
        backpack_size=between(0.85, 1.15),
        bag_size=between(0.8, 1.25),
        handbag_size=between(0.85, 1.2),
        side=-1 if rng.random() < 0.5 else 1,
    )


def accent_on(base: Colour, accent: Colour) -> Colour:
    """Return a pattern colour that stands out from ``base``: the accent, else white or black."""
    if sum(abs(a - b) for a, b in zip(base, accent, strict=True)) > 150:
        return accent
    return (232, 232, 228) if sum(base) < 330 else (34, 34, 40)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return ``first`` with a share (0 to 1) of ``second``."""
    r, g, b = (round(a + share * (c - a)) for a, c in zip(first, second, strict=True))
    return r, g, b


def _shade(name: str, share: float, tint: Colour) -> Colour:
    dark, light = SHADES[name]
    return _clip(mix(dark, light, share), tint)


def _clip(colour: Colour, tint: Colour) -> Colour:
    r, g, b = (min(max(c + t, 0), 255) for c, t in zip(colour, tint, strict=True))
    return r, g, b
