"""From attribute maps to attribute-guided features, distances and contributions (AMD, 3.2)."""

from typing import Any

import torch
from torch import Tensor

from reid_explain.checks import at_least_float32
from reid_explain.errors import InputError


def embed(model: Any, features: Tensor) -> Tensor:
    """Return the embeddings (B, D) of maps F, (B, C, h, w), in at least float32."""
    return at_least_float32(model.embed(as_parameters(features, model)))


def attribute_features(model: Any, features: Tensor, maps: Tensor) -> Tensor:
    r"""Return the attribute-guided features f^k = head(pool(F ∘ A^k)), (B, M, D).

    With ``pool.masked`` and ``neck``, as every model of this package has them, all M are pooled
    by one matrix product; the (B, M, C, h, w) products are never made. Any other model embeds
    F ∘ A^k attribute by attribute. Source: AMD (Chen et al., ICCV 2021), equation 1.

    Args:
        model: with the seam of ``AMDInterpreter``.
        features: the model's maps F, (B, C, h, w).
        maps: the attribute maps A, (B, M, h, w).
    """
    batch, attributes = maps.shape[:2]
    masked = getattr(getattr(model, "pool", None), "masked", None)
    if masked is None or not hasattr(model, "neck"):
        rows = [embed(model, features * maps[:, k : k + 1]) for k in range(attributes)]
        return torch.stack(rows, dim=1)
    pooled: Tensor = masked(features, maps)
    vectors: Tensor = model.neck(as_parameters(pooled.flatten(0, 1), model))
    return at_least_float32(vectors).view(batch, attributes, -1)


def as_parameters(values: Tensor, model: Any) -> Tensor:
    """Return ``values`` in the dtype of the parameters of ``model``, if it has some."""
    return values.to(next(model.parameters(), values).dtype)


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
    """Return the distances (..., Q, G) of all rows (..., Q, D) to all rows (..., G, D)."""
    # Inner products would cancel the distances of features that lie close together.
    distances: Tensor = torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def contributions(distances: Tensor) -> Tensor:
    """Return r^k = d^k / Σ d^k, (..., M) as the distances; 1/M each for a row of zeros.

    Example:
        >>> contributions(torch.tensor([[3.0, 1.0]]))
        tensor([[0.7500, 0.2500]])
    """
    if distances.shape[-1] == 0:
        raise InputError("distances", tuple(distances.shape), "at least one attribute")
    total = distances.sum(dim=-1, keepdim=True)
    shares = distances / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, shares, 1 / distances.shape[-1])
