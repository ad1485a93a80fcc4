"""The 26 attributes of Market-1501: names, coding, and people drawn with its frequencies."""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from reid_explain.datasets.published import MARKET_ATTRIBUTES

Labels = NDArray[np.int64]
"""One identity's attributes, (26,), values 1 or 2 in the coding of ``market_attribute.mat``."""

ATTRIBUTE_NAMES = MARKET_ATTRIBUTES
UPPER_COLORS = ("black", "blue", "gray", "green", "purple", "red", "white", "yellow")
LOWER_COLORS = (
    *("black", "blue", "brown", "gray", "green"),
    *("pink", "purple", "white", "yellow"),
)
CARRIED = ("backpack", "bag", "handbag")

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "upper color": tuple(f"up{color}" for color in UPPER_COLORS),
        "lower color": tuple(f"down{color}" for color in LOWER_COLORS),
        **{name: (name,) for name in ("up", "down", "clothes", "hat", "hair", *CARRIED, "gender")},
    }
)
"""The attributes that an intervention sets together: a garment's colors are one group."""

NO, YES = 1, 2
_INDEX = {name: index for index, name in enumerate(ATTRIBUTE_NAMES)}
_COLOR_PRIOR = 4


class Outfit(NamedTuple):
    """The attributes in words; a color is None where it has none of the 26 names."""

    female: bool
    long_hair: bool
    hat: bool
    short_sleeves: bool
    trousers: bool
    short_lower: bool
    backpack: bool
    bag: bool
    handbag: bool
    upper: str | None
    lower: str | None


_FLAGS = {
    **{"gender": "female", "hair": "long_hair", "hat": "hat", "up": "short_sleeves"},
    **{"clothes": "trousers", "down": "short_lower"},
    **{name: name for name in CARRIED},
}
"""The field of each attribute with two values."""


class _Group(NamedTuple):
    """Counts among Market-1501's 751 training identities, for one kind of person.

    ``carried`` counts nothing, backpack, bag, handbag (never two of them in Market-1501);
    the colors follow ``UPPER_COLORS`` and ``LOWER_COLORS``, then no named color.
    """

    size: int
    female: bool
    trousers: bool
    long_hair: int
    hat: int
    short_sleeves: int
    short_lower: int
    carried: tuple[int, ...]
    upper: tuple[int, ...]
    lower: tuple[int, ...]


_GROUPS = (
    _Group(
        *(431, False, True, 5, 7, 420, 241),
        carried=(197, 128, 63, 43),
        upper=(69, 35, 62, 35, 15, 38, 115, 23, 39),
        lower=(185, 68, 46, 89, 5, 2, 0, 24, 0, 12),
    ),
    _Group(
        *(210, True, True, 149, 6, 193, 121),
        carried=(56, 49, 75, 30),
        upper=(26, 8, 16, 12, 13, 27, 78, 7, 23),
        lower=(80, 44, 19, 26, 4, 12, 2, 12, 2, 9),
    ),
    _Group(
        *(110, True, False, 91, 7, 99, 95),
        carried=(28, 22, 47, 13),
        upper=(18, 3, 8, 9, 2, 13, 35, 6, 16),
        lower=(28, 11, 4, 8, 5, 15, 0, 22, 8, 9),
    ),
)


def sample_labels(rng: np.random.Generator) -> Labels:
    """Draw one identity's labels (26,) with the frequencies and correlations of Market-1501.

    Each color count is raised by four, so that purple trousers (2 of 751) occur too.
    """
    group = _GROUPS[_choose(rng, [group.size for group in _GROUPS])]
    carried = ("", *CARRIED)[_choose(rng, group.carried)]
    upper = (*UPPER_COLORS, None)[_choose(rng, [n + _COLOR_PRIOR for n in group.upper])]
    lower = (*LOWER_COLORS, None)[_choose(rng, [n + _COLOR_PRIOR for n in group.lower])]

    def happens(count: int) -> bool:
        return bool(rng.random() * group.size < count)

    flags = {
        **{"female": group.female, "long_hair": happens(group.long_hair)},
        **{"hat": happens(group.hat), "short_sleeves": happens(group.short_sleeves)},
        **{"trousers": group.trousers, "short_lower": happens(group.short_lower)},
        **{name: name == carried for name in CARRIED},
    }
    return labels_of(Outfit(**flags, upper=upper, lower=lower))


def _choose(rng: np.random.Generator, counts: tuple[int, ...] | list[int]) -> int:
    """Draw an index with probability proportional to its count."""
    return int(np.searchsorted(np.cumsum(counts), rng.integers(sum(counts)), side="right"))


def labels_of(outfit: Outfit) -> Labels:
    """Return the labels (26,) of an outfit."""
    yes = {name for name, field in _FLAGS.items() if getattr(outfit, field)}
    yes |= {f"up{outfit.upper}", f"down{outfit.lower}"}
    return np.array([YES if name in yes else NO for name in ATTRIBUTE_NAMES], dtype=np.int64)


def outfit_of(labels: Labels) -> Outfit:
    """Return the outfit that labels (26,) describe."""
    yes = {name for name, value in zip(ATTRIBUTE_NAMES, labels, strict=True) if value == YES}
    return Outfit(
        **{field: name in yes for name, field in _FLAGS.items()},
        upper=next((color for color in UPPER_COLORS if f"up{color}" in yes), None),
        lower=next((color for color in LOWER_COLORS if f"down{color}" in yes), None),
    )


def toggle(labels: Labels, attribute: str) -> Labels:
    """Return labels (26,) with one attribute changed.

    A garment has one color: switching a color on switches the others of that garment off, and
    switching it off leaves a color without a name (orange, teal, ...). Nothing else changes.
    """
    index = _INDEX[attribute]
    changed: Labels = labels.copy()
    for colors in (GROUPS["upper color"], GROUPS["lower color"]):
        if attribute in colors:
            changed[[_INDEX[name] for name in colors]] = NO
    changed[index] = NO if labels[index] == YES else YES
    return changed


def transplant(labels: Labels, other: Labels, group: str) -> Labels:
    """Return labels (26,) with the other's values of one group of attributes."""
    changed: Labels = labels.copy()
    indices = [_INDEX[name] for name in GROUPS[group]]
    changed[indices] = other[indices]
    return changed


def attribute_file(splits: Mapping[str, Mapping[int, Labels]]) -> bytes:
    """Return a file in the form of ``market_attribute.mat``, from labels by split and identity."""
    market = {}
    for split, labels in splits.items():
        table = np.array([*labels.values()], dtype=np.uint8).reshape(-1, len(ATTRIBUTE_NAMES))
        identities = np.array([f"{identity:04d}" for identity in labels], dtype=object)
        market[split] = {
            **dict(zip(ATTRIBUTE_NAMES, table.T, strict=True)),
            "image_index": identities,
        }
    buffer = io.BytesIO()
    savemat(buffer, {"market_attribute": market})
    header = b"MATLAB 5.0 MAT-file, written by reid_explain".ljust(116)
    return header + buffer.getvalue()[len(header) :]
