"""Which place of one image goes with which place of another, and how much that counts."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reid_explain.checks import check_at_least, check_images, describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import as_args
from reid_explain.explainers.ram import ReferenceExplainer


class Matches(NamedTuple):
    """The strongest matches of a pair, the strongest first.

    ``query`` and ``gallery`` are the row and the column of each place in the maps, (n, 2);
    ``contributions`` (n,) is what each match adds to the similarity.
    """

    query: Tensor
    gallery: Tensor
    contributions: Tensor


@dataclass(frozen=True)
class PairExplanation:
    """What places of B query images have to do with places of their gallery images.

    Args:
        contributions: (B, h, w, h', w'), what each pair of places adds to the similarity.
        affinity: (B, h, w, h', w'), how well two places go together, however much that counts.
        similarity: cosines (B,) of the embeddings.
    """

    contributions: Tensor
    affinity: Tensor
    similarity: Tensor

    @property
    def error(self) -> Tensor:
        """The completeness error (B,): the similarity without the sum of all contributions."""
        return self.similarity - self.contributions.sum(dim=(1, 2, 3, 4))

    @property
    def query_map(self) -> Tensor:
        """The marginal of the query (B, 1, h, w): what each place adds to the similarity."""
        return self.contributions.sum(dim=(3, 4))[:, None]

    @property
    def gallery_map(self) -> Tensor:
        """The marginal of the gallery image, (B, 1, h', w')."""
        return self.contributions.sum(dim=(1, 2))[:, None]

    def top(self, k: int = 10) -> list[Matches]:
        """Return the mutual matches that contribute most, up to k for each of the B pairs.

        Two places match mutually if neither has a better one in the other image by affinity.

        Raises:
            InputError: k is less than 1.
        """
        check_at_least("k", k, 1)
        *_, width = self.contributions.shape[:3]
        other = self.contributions.shape[4]
        found = []
        for affinity, contributions in zip(self.affinity, self.contributions, strict=True):
            table = affinity.flatten(2).flatten(0, 1)
            best, back = table.argmax(dim=1), table.argmax(dim=0)
            places = torch.arange(len(table), device=table.device)
            places = places[back[best] == places]
            values = contributions.flatten(2).flatten(0, 1)[places, best[places]]
            order = values.argsort(descending=True, stable=True)[:k]
            query, gallery = places[order], best[places[order]]
            found.append(Matches(_cells(query, width), _cells(gallery, other), values[order]))
        return found


def _cells(places: Tensor, width: int) -> Tensor:
    """Return rows and columns (n, 2) of places (n,)."""
    return torch.stack([places // width, places % width], dim=1)


class Side(NamedTuple):
    """One side of the pairs: images (B or 1, C, H, W), and the model's further arguments."""

    images: Tensor
    args: tuple[Any, ...]


class PairExplainer(ReferenceExplainer):
    """Explains a similarity place by place; subclasses give ``_pairs`` and ``_map``.

    ``attribute`` returns the marginal of the inputs, ``explain`` the pairs of places.
    """

    def explain(
        self,
        query: Tensor,
        gallery: Tensor,
        additional_forward_args: Any = None,
        *,
        gallery_forward_args: Any = None,
    ) -> PairExplanation:
        """Explain the similarity of each query image to its gallery image.

        Args:
            query: Images (B or 1, C, H, W), as the model takes them; one serves all.
            gallery: Images (B or 1, C, H', W').
            additional_forward_args: Further arguments of ``forward_func`` for the query images, as
                in :meth:`attribute`.
            gallery_forward_args: For the gallery images; None for those of the query images.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        images, others = check_images("query", query), check_images("gallery", gallery)
        if len(images) != len(others) and 1 not in (len(images), len(others)):
            raise InputError("gallery", describe(others), f"1 or {len(images)} images")
        args = as_args(additional_forward_args)
        theirs = args if gallery_forward_args is None else as_args(gallery_forward_args)
        with self._evaluation():
            return self._pairs(Side(images, args), Side(others, theirs))

    def _pairs(self, query: Side, gallery: Side) -> PairExplanation:
        """Return the explanation of sides of B or 1 images."""
        raise NotImplementedError
