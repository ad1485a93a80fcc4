"""What the methods explain: images, and what some of them need beside these."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.datasets.records import Record, Role
from reid_explain.inputs import InputSpec


class Subject(NamedTuple):
    """Images (B, 3, H, W), the references of methods of pairs, the classes (B,) of class-based."""

    images: Tensor
    references: Tensor | None = None
    classes: Tensor | None = None


def match_of(query: Record, gallery: Sequence[Record]) -> Record | None:
    """Return the first image of the same person from another camera, if there is one."""
    if query.role is not Role.PERSON:
        return None
    matches = (r for r in gallery if r.identity == query.identity and r.camera != query.camera)
    return next(matches, None)


def as_batch(image: NDArray[np.uint8], size: tuple[int, int] = (256, 128)) -> Tensor:
    """Return a drawn image (H, W, 3) as a model takes it, (1, 3, height, width)."""
    return InputSpec(size).to_tensor(Image.fromarray(image))[None]
