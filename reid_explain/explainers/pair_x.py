"""PAIR-X: mutually nearest places of two images, weighted by their relevance.

Source: Shrack et al., Pairwise matching of intermediate representations for fine-grained
explainability, 2025, arXiv:2503.22881.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reid_explain.explainers.gradient import gradient
from reid_explain.explainers.pairs import (
    PairExplainer,
    PairExplanation,
    Places,
    Side,
    inner_products,
)
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.objectives import Objective, Verification
from reid_explain.vectors import cosine, unit


@EXPLAINERS.register
class PairX(PairExplainer):
    r"""PAIR-X: places match if their features do, and count as much as both are relevant.

    .. math:: R_p = \sum_k \frac{\partial}{\partial A^k_p} \frac{\langle f(X), f(X_g) \rangle}
        {\|f(X)\| \|f(X_g)\|} A^k_p, \quad M_{pq} = R^+_p R^+_q

    with the lengths and the other embedding held fixed; the affinity of two places is the cosine of
    their features. ``attribute`` returns R. Contributions do not add up to the similarity.

    The paper's relevance is LRP's; gradient times activation is what its basic rule gives for a
    network with ReLUs (Ancona et al., ICLR 2018), and takes any network.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.

    Example:
        >>> import torch
        >>> from reid_explain.explainers.pair_x import PairX
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> query, gallery = torch.zeros(2, 1, 3, 2, 1)
        >>> query[0, 0, 0] = query[0, 1, 1] = 1  # red above, green below
        >>> gallery[0, 2, 0] = gallery[0, 0, 1] = 1  # blue above, red below
        >>> (matches,) = PairX(mean_color, layer).explain(query, gallery).top(1)
        >>> matches.query, matches.gallery  # red goes with red
        (tensor([[0, 0]]), tensor([[1, 0]]))
    """

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        score = objective.prepare(self._batch(images, args))
        maps = []
        with torch.enable_grad():
            for part in self._captures(images, args):
                own = objective.check(part.result.detach())
                slope = gradient(score(part.result, own, part.rows), part.activation)
                relevance = self._as_map(slope * part.activation.detach(), part.images)
                maps.append(relevance.sum(dim=1, keepdim=True))
                del part
        return torch.cat(maps)

    def _pairs(self, sides: Sequence[Side], places: Sequence[Places]) -> PairExplanation:
        first, second = places
        relevance = []
        for side, other in zip(sides, (second.embeddings, first.embeddings), strict=True):
            images, args = side.repeated(len(other)) if len(side.images) == 1 else side
            relevance.append(self._map(images, args, Verification(other))[:, 0].relu())
        return PairExplanation(
            relevance[0][:, :, :, None, None] * relevance[1][:, None, None],
            inner_products(unit(first.vectors), unit(second.vectors)),
            cosine(first.embeddings, second.embeddings),
        )
