"""What the methods explain: images, and what some of them need beside these."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

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
