"""The truth of an image: where the person is, where each attribute shows, what a change touched."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from reid_explain.datasets.synthetic.attributes import (
    ATTRIBUTE_NAMES,
    LOWER_COLORS,
    UPPER_COLORS,
    YES,
    Labels,
)
from reid_explain.datasets.synthetic.canvas import HEIGHT, WIDTH, Canvas, Part, among, coarse

Mask = NDArray[np.bool_]

SHOWN_BY: dict[str, tuple[Part, ...]] = {
    "gender": (
        *(Part.HEAD, Part.HAND, Part.ARM, Part.LEG),
        *(Part.TORSO, Part.SLEEVE, Part.HIPS, Part.SHIN),
    ),
    "hair": (Part.HAIR,),
    "up": (Part.ARM, Part.SLEEVE),
    "down": (Part.LEG, Part.SHIN),
    "clothes": (Part.HIPS, Part.SHIN),
    "hat": (Part.HAT,),
    "backpack": (Part.BACKPACK,),
    "bag": (Part.BAG,),
    "handbag": (Part.HANDBAG,),
    **{f"up{color}": (Part.TORSO, Part.SLEEVE) for color in UPPER_COLORS},
    **{f"down{color}": (Part.HIPS, Part.SHIN) for color in LOWER_COLORS},
}
"""The parts on which each attribute shows.

Gender, hair, up, down and clothes have two values and show for either: gender on the body and
its clothes (its proportions and face, not hair, shoes, hat or belongings), up (sleeve length) on
the arms, down (length) on the lower legs and what covers them, clothes (dress or trousers) on the
lower garment. All others show only where they are "yes".
"""
TWO_VALUED = ("gender", "hair", "up", "down", "clothes")

PARTS: Mapping[str, tuple[Part, ...]] = MappingProxyType(
    {
        "head": (Part.HEAD,),
        "hair": (Part.HAIR,),
        "hat": (Part.HAT,),
        "upper": (Part.TORSO, Part.SLEEVE),
        "arms": (Part.ARM, Part.HAND),
        "lower": (Part.HIPS, Part.SHIN),
        "legs": (Part.LEG,),
        "shoes": (Part.SHOE,),
        **{"backpack": (Part.BACKPACK,), "bag": (Part.BAG,), "handbag": (Part.HANDBAG,)},
    }
)
"""The parts of a person that can be removed. Each painted piece belongs to exactly one.

``head`` is face and neck; ``upper`` and ``lower`` are the garments (with sleeves and trouser
legs); ``arms`` and ``legs`` are what is bare: arms and hands, legs below a short garment.
"""


class Rendering(NamedTuple):
    """One image with its truth.

    ``image`` is uint8 (256, 128, 3); ``person`` is bool (256, 128), the visible pixels of the
    person with everything worn and carried; ``attributes`` is bool (26, 256, 128), for each
    attribute the pixels where it shows.
    """

    image: NDArray[np.uint8]
    person: Mask
    attributes: Mask


class Counterfactual(NamedTuple):
    """One image, and the same image with one attribute changed.

    ``region``, bool (256, 128), is where the attribute shows in either image, grown by the
    camera's point spread: outside it the two images are equal.
    """

    original: Rendering
    changed: Rendering
    region: Mask


class Removal(NamedTuple):
    """One image, and the same image with parts of the person painted over by what is behind.

    ``shape``, bool (256, 128), is where the parts showed; ``region`` is that grown by the
    camera's point spread: outside it the two images are equal.
    """

    original: Rendering
    changed: Rendering
    region: Mask
    shape: Mask


def person_mask(canvas: Canvas) -> Mask:
    """Return the visible pixels (256, 128) of the person and everything worn and carried."""
    return canvas.shows({*Part} - {Part.SCENE, Part.FRONT})


def attribute_masks(canvas: Canvas, labels: Labels) -> Mask:
    """Return the masks (26, 256, 128) of the attributes that show."""
    masks, seen = np.zeros((len(ATTRIBUTE_NAMES), HEIGHT, WIDTH), dtype=bool), canvas.seen()
    for index, name in enumerate(ATTRIBUTE_NAMES):
        if labels[index] == YES or name in TWO_VALUED:
            masks[index] = among(seen, SHOWN_BY[name])
    return masks


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Mask:
    """Return the pixels (256, 128) in which two lit pictures (512, 256, 3) differ."""
    return coarse((first != second).any(axis=2))


def grow(mask: Mask, radius: int) -> Mask:
    """Return a mask grown by a square of the given radius in pixels."""
    grown = maximum_filter(mask.view(np.uint8), 2 * radius + 1, mode="constant")
    return np.asarray(grown, dtype=bool)
