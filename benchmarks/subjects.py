"""What the methods explain: images, and what some of them need beside these."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.datasets.images import IMAGE_SIZE, to_tensor
from reid_explain.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, Record


class Subject(NamedTuple):
    """Images (B, 3, H, W), the references of methods of pairs, the classes (B,) of class-based."""

    images: Tensor
    references: Tensor | None = None
    classes: Tensor | None = None


def match_of(query: Record, gallery: Sequence[Record]) -> Record | None:
    """Return the first image of the same person from another camera, if there is one."""
    if query.identity in (JUNK_IDENTITY, DISTRACTOR_IDENTITY):
        return None
    matches = (r for r in gallery if r.identity == query.identity and r.camera != query.camera)
    return next(matches, None)


def as_batch(image: NDArray[np.uint8], size: tuple[int, int] = IMAGE_SIZE) -> Tensor:
    """Return a drawn image (H, W, 3) as a model takes it, (1, 3, height, width)."""
    return to_tensor(Image.fromarray(image), size)[None]
