"""What makes one identity: build, skin, hair, shades, patterns and the shape of belongings."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from reid_explain.datasets.synthetic.canvas import Color, mix

SHADES: dict[str, tuple[Color, Color]] = {
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
"""The darkest and lightest shade that carries each color name."""
UNNAMED = {"upper": ("orange", "brown", "pink", "teal"), "lower": ("orange", "red", "teal")}
"""Colors of garments for which none of the 26 attributes is a name."""

SKINS: tuple[Color, ...] = (
    *((240, 204, 178), (228, 184, 150), (206, 156, 120)),
    *((168, 118, 84), (118, 80, 56), (84, 56, 42)),
)
HAIRS: tuple[Color, ...] = (
    *((20, 17, 17), (34, 26, 22), (62, 42, 28), (104, 68, 38)),
    *((176, 136, 78), (124, 54, 28), (150, 148, 146)),
)
LEATHERS: tuple[Color, ...] = (
    *((28, 28, 32), (60, 62, 70), (110, 70, 40), (150, 32, 38), (40, 60, 120)),
    *((52, 94, 60), (196, 160, 110), (206, 110, 130), (220, 196, 60), (120, 60, 130)),
)
SHOES: tuple[Color, ...] = (
    *((26, 26, 28), (232, 232, 230), (120, 80, 50), (150, 40, 44), (50, 70, 130), (120, 122, 126)),
)
DYES = {
    "skin": (SKINS, 3),
    "hair": (HAIRS, 2),
    "shoe": (SHOES, 2),
    "hat": (LEATHERS, 3),
    "backpack": (LEATHERS, 2),
    "bag": (LEATHERS, 3),
    "handbag": (LEATHERS, 3),
    "upper_accent": (LEATHERS, 10),
    "lower_accent": (LEATHERS, 10),
}
"""The colors of a person apart from the garments', and how many of them are the usual ones."""
STYLES: dict[str, tuple[str, ...]] = {
    "upper": (
        *("plain", "plain", "plain", "plain", "plain", "plain", "logo", "logo"),
        *("stripes", "print", "zip", "open", "checks", "panel", "yoke", "sides"),
    ),
    "lower": (
        *("plain", "plain", "plain", "plain", "plain", "plain"),
        *("fade", "fade", "seam", "checks", "band"),
    ),
    "hair": ("loose", "loose", "ponytail"),
    "hat": ("cap", "brim", "beanie"),
}
"""Patterns of the garments, cuts of hair and hat."""
SIZES = {
    "build": (0.9, 1.14),
    "head": (0.95, 1.06),
    "upper_shade": (0.0, 1.0),
    "lower_shade": (0.0, 1.0),
    "pattern": (0.75, 1.3),
    "hem": (0.455, 0.505),
    "leg": (0.85, 1.25),
    "skirt": (0.9, 1.25),
    "backpack": (0.85, 1.15),
    "bag": (0.8, 1.25),
    "handbag": (0.85, 1.2),
}
"""Ranges of factors; ``hem`` is a height in statures, a shade is 0 (dark) to 1 (light)."""


@dataclass(frozen=True)
class Appearance:
    """One identity apart from its attributes; the same in every image of it.

    ``dyes``, ``styles`` and ``sizes`` have the keys of the tables above; ``garments`` are the
    names and small shifts of red, green, blue of ``"upper"`` and ``"lower"``: the name is that of
    a garment whose color has none; ``side`` is -1 or 1, where a bag is.
    """

    dyes: Mapping[str, Color]
    styles: Mapping[str, str]
    sizes: Mapping[str, float]
    garments: Mapping[str, tuple[str, Color]]
    side: int

    def garment(self, which: str, name: str | None) -> Color:
        """Return this identity's shade of a color name (None: without one) on a garment."""
        unnamed, tint = self.garments[which]
        dark, light = SHADES[name or unnamed]
        return _clip(mix(dark, light, self.sizes[f"{which}_shade"]), tint)

    def dyed_as(self, other: "Appearance", which: str) -> "Appearance":
        """Return this identity with the other's shade of every color on a garment."""
        shade = f"{which}_shade"
        return replace(
            self,
            sizes={**self.sizes, shade: other.sizes[shade]},
            garments={**self.garments, which: other.garments[which]},
        )


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """Draw one identity."""

    def tint() -> Color:
        r, g, b = (int(v) for v in rng.integers(-10, 11, size=3))
        return r, g, b

    def dye(colors: tuple[Color, ...], usual: int) -> Color:
        among = colors[:usual] if rng.random() < 0.7 else colors
        return _clip(among[int(rng.integers(len(among)))], tint())

    def pick(choices: tuple[str, ...]) -> str:
        return choices[int(rng.integers(len(choices)))]

    return Appearance(
        dyes={name: dye(*rule) for name, rule in DYES.items()},
        styles={name: pick(choices) for name, choices in STYLES.items()},
        sizes={name: float(rng.uniform(*span)) for name, span in SIZES.items()},
        garments={name: (pick(names), tint()) for name, names in UNNAMED.items()},
        side=-1 if rng.random() < 0.5 else 1,
    )


def accent_on(base: Color, accent: Color) -> Color:
    """Return a pattern color that stands out from ``base``: the accent, else white or black."""
    if sum(abs(a - b) for a, b in zip(base, accent, strict=True)) > 150:
        return accent
    return (232, 232, 228) if sum(base) < 330 else (34, 34, 40)


def _clip(color: Color, tint: Color) -> Color:
    r, g, b = (min(max(c + t, 0), 255) for c, t in zip(color, tint, strict=True))
    return r, g, b
