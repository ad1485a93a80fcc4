"""Which place of one image goes with which place of another, and how much that counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.checks import check_at_least, check_images, describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import Shared, as_args, only_tensor, per_image, rows_of
from reid_explain.explainers.ram import ReferenceExplainer
from reid_explain.objectives import Objective, Projection, Verification

PAIRS = 16
"""Pairs whose vectors are kept at a time."""


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

    def top(self, k: int = 10, apart: int = 0) -> list[Matches]:
        """Return the mutual matches that contribute most, up to k for each of the B pairs.

        Two places match mutually if neither has a better one in the other image by affinity.

        Args:
            k: how many.
            apart: matches of which an end is within so many rows and columns of that of a stronger
                one are left out, so that those of a figure spread.

        Raises:
            InputError: k is less than 1, or apart than 0.
        """
        check_at_least("k", k, 1)
        check_at_least("apart", apart, 0)
        *_, width = self.contributions.shape[:3]
        other = self.contributions.shape[4]
        found = []
        for affinity, contributions in zip(self.affinity, self.contributions, strict=True):
            table = affinity.flatten(2).flatten(0, 1)
            best, back = table.argmax(dim=1), table.argmax(dim=0)
            places = torch.arange(len(table), device=table.device)
            places = places[back[best] == places]
            values = contributions.flatten(2).flatten(0, 1)[places, best[places]]
            order = values.argsort(descending=True, stable=True)
            ends = _cells(places[order], width), _cells(best[places[order]], other)
            kept = _spread(ends, k, apart)
            found.append(Matches(ends[0][kept], ends[1][kept], values[order][kept]))
        return found


def _spread(ends: tuple[Tensor, Tensor], k: int, apart: int) -> Tensor:
    """Return the first k of ordered matches whose ends (n, 2) are apart from those before."""
    first, second = ((end[:, None] - end).abs().amax(dim=2) for end in ends)
    near = (torch.minimum(first, second) <= apart).cpu()  # mutual matches share no end
    kept: list[int] = []
    for number in range(len(near)):
        if len(kept) < k and not near[number, kept].any():
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long, device=first.device)


def _cells(places: Tensor, width: int) -> Tensor:
    """Return rows and columns (n, 2) of places (n,)."""
    return torch.stack([places // width, places % width], dim=1)


class Side(NamedTuple):
    """One side of the pairs: images (B, C, H, W), and the model's further arguments."""

    images: Tensor
    args: tuple[Any, ...]

    def rows(self, rows: Tensor) -> "Side":
        """Return these ``rows``; what all images share they share, too, however few they are."""
        count = len(self.images)
        args = (
            arg[rows] if per_image(arg, count) else arg if isinstance(arg, Shared) else Shared(arg)
            for arg in self.args
        )
        return Side(self.images[rows], tuple(args))

    def repeated(self, count: int) -> "Side":
        """Return ``count`` times the one image."""
        return self.rows(torch.zeros(count, dtype=torch.long, device=self.images.device))


class Places(NamedTuple):
    """Vectors of the places of images, (B, h, w, D'), and the embeddings (B, D)."""

    vectors: Tensor
    embeddings: Tensor


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products (B, h, w, h', w') of vectors (B or 1, h, w, D)."""
    count = max(len(a), len(b))
    left, right = (each.expand(count, -1, -1, -1).flatten(1, 2) for each in (a, b))
    return torch.matmul(left, right.mT).view(count, *a.shape[1:3], *b.shape[1:3])


class PairExplainer(ReferenceExplainer):
    """Explains a similarity place by place; subclasses give ``_pairs``.

    ``explain`` returns what pairs of places contribute, ``attribute`` what places do.
    """

    objective = Verification

    def explain(
        self,
        query: Tensor,
        gallery: Tensor,
        additional_forward_args: Any = None,
        *,
        gallery_forward_args: Any = None,
        show_progress: bool = False,
    ) -> PairExplanation:
        """Explain the similarity of each query image to its gallery image.

        Args:
            query: Images (B or 1, C, H, W), as the model takes them; one serves all.
            gallery: Images (B or 1, C, H', W').
            additional_forward_args: Further arguments of ``forward_func`` for the query images, as
                in :meth:`attribute`.
            gallery_forward_args: For the gallery images; None for those of the query images.
            show_progress: Whether to show a bar on standard error.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        images, others = check_images("query", query), check_images("gallery", gallery)
        if len(images) != len(others) and 1 not in (len(images), len(others)):
            raise InputError("gallery", describe(others), f"1 or {len(images)} images")
        args = as_args(additional_forward_args)
        theirs = args if gallery_forward_args is None else as_args(gallery_forward_args)
        sides = Side(images, args), Side(others, theirs)
        numbers = torch.arange(max(len(images), len(others)), device=images.device)
        with self._evaluation():
            served = [self._features(side) if len(side.images) == 1 else None for side in sides]
            parts = []
            with tqdm(total=len(numbers), unit="pair", disable=not show_progress) as progress:
                for part in torch.split(numbers, PAIRS):
                    own = [s if len(s.images) == 1 else s.rows(part) for s in sides]
                    places = [p or self._features(s) for p, s in zip(served, own, strict=True)]
                    parts.append(self._pairs(own, places))
                    progress.update(len(part))
        return PairExplanation(
            torch.cat([part.contributions for part in parts]),
            torch.cat([part.affinity for part in parts]),
            torch.cat([part.similarity for part in parts]),
        )

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        """Return the marginals (B, 1, h, w), of references that are images."""
        assert isinstance(objective, Projection)
        others = check_images("references", only_tensor("references", objective.references))
        each, rest = divmod(len(images), len(others))
        if rest:
            expected = f"a number of images that divides {len(images)}"
            raise InputError("references", describe(others), expected)
        rows = torch.arange(len(others), device=others.device).repeat_interleave(each)
        own = objective.forward_args
        theirs = args if own is None else rows_of(as_args(own), rows, len(others))
        sides = Side(images, args), Side(others[rows], theirs)
        return self._pairs(sides, [self._features(side) for side in sides]).query_map

    def _pairs(self, sides: Sequence[Side], places: Sequence[Places]) -> PairExplanation:
        """Return the explanation of two sides of B or 1 images, and of what ``_features`` gives."""
        raise NotImplementedError

    def _features(self, side: Side) -> Places:
        """Return the vectors of the places, by default the layer's own (B, h, w, C)."""
        parts = list(self._captures(*side))
        maps = torch.cat([self._as_map(part.activation, part.images) for part in parts])
        return Places(maps.permute(0, 2, 3, 1), torch.cat([part.result for part in parts]))
