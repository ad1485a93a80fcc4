"""From attribute maps to attribute-guided features, distances and contributions (AMD, 3.2)."""

from typing import Any

import torch
from torch import Tensor

from reid_explain.errors import InputError


def attribute_features(target: Any, features: Tensor, maps: Tensor) -> Tensor:
    r"""Return the attribute-guided features f^k = head(pool(F ∘ A^k)), (B, M, D).

    A pool with ``masked`` (every model of this package has one) gives all M pooled vectors by
    one matrix product; the (B, M, C, h, w) products are never made. Any other target embeds
    F ∘ A^k attribute by attribute.

    Args:
        target: with ``embed``, or with ``pool.masked`` and ``neck``.
        features: the target's maps F, (B, C, h, w).
        maps: the attribute maps A, (B, M, h, w).

    Source: AMD (Chen et al., ICCV 2021), equation 1.
    """
    batch, attributes = maps.shape[:2]
    masked = getattr(getattr(target, "pool", None), "masked", None)
    if masked is None or not hasattr(target, "neck"):
        rows = [target.embed(features * maps[:, k : k + 1]) for k in range(attributes)]
        return torch.stack(rows, dim=1)
    pooled: Tensor = masked(features, maps)
    vectors: Tensor = target.neck(pooled.flatten(0, 1))
    return vectors.view(batch, attributes, -1)


def attribute_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Return the distances d^k of pairs, (B, M), from features f^k (B, M, D) of both images.

    Example:
        >>> attribute_distances(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        tensor([[5., 1.]])
    """
    # norm() has the subgradient 0 at 0: identical images give no NaN.
    distances: Tensor = (query - gallery).norm(dim=-1)
    return distances


def all_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """Return the distance of each query row to each gallery row, (Q, G) or (M, Q, G).

    Computed from differences, not from inner products: attribute-guided features lie close
    together, and inner products would cancel their distances.

    Args:
        query: (Q, D), or (M, Q, D) for M at once.
        gallery: (G, D) or (M, G, D).
    """
    distances: Tensor = torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def contributions(distances: Tensor) -> Tensor:
    """Return r^k = d^k / Σ d^k, in the shape (..., M) of the distances; each row sums to 1.

    A row of zeros (identical images) contributes 1/M each.

    Example:
        >>> contributions(torch.tensor([[3.0, 1.0]]))
        tensor([[0.7500, 0.2500]])
    """
    total = distances.sum(dim=-1, keepdim=True)
    if distances.shape[-1] == 0:
        raise InputError("distances", tuple(distances.shape), "at least one attribute")
    shares = distances / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, shares, 1 / distances.shape[-1])


def nearest_prototype(parts: Tensor, prototypes: Tensor) -> Tensor:
    """Return for each image and attribute which of two prototypes is the nearer, 1 or 2.

    Args:
        parts: f^k, (B, M, D).
        prototypes: of label 1 and of label 2, (2, M, D).
    """
    nearest: Tensor = (parts[:, None] - prototypes).norm(dim=-1).argmin(dim=1)
    return nearest + 1
