"""Pooling of a map to a vector, plain and under masks."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def masked_means(features: Tensor, masks: Tensor) -> Tensor:
    """Return the means over the map of F ∘ A^k, (B, M, C), for F (B, C, h, w), A (B, M, h, w)."""
    places = features.shape[2] * features.shape[3]
    return masks.flatten(2) @ features.flatten(2).transpose(1, 2) / places


class GlobalAveragePool(nn.Module):
    """Mean over the map: (B, C, h, w) to (B, C)."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features``."""
        return features.mean((2, 3))

    def masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool ``features`` times each of the ``masks`` (B, M, h, w): (B, M, C)."""
        return masked_means(features, masks)


class GeneralizedMeanPool(nn.Module):
    """(mean_hw F^p)^(1/p) with one learnable exponent: (B, C, h, w) to (B, C).

    Radenovic et al., "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019,
    equation 3. Values below ``eps`` count as ``eps``.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features``."""
        return features.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)

    def masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool ``features`` times each of the ``masks`` (B, M, h, w) > 0: (B, M, C).

        The power of a product is the product of the powers: mean (F A)^p = <F^p, A^p> / Z.
        Here ``eps`` bounds F and A before the product, and the product's mean after it.
        """
        powers = features.clamp(min=self.eps).pow(self.p), masks.clamp(min=self.eps).pow(self.p)
        least = (self.eps**self.p).clamp(min=torch.finfo(features.dtype).tiny)
        return masked_means(*powers).clamp(min=least).pow(1 / self.p)


class StripePool(nn.Module):
    """Mean over each of ``parts`` horizontal stripes: (B, C, h, w) to (B, C * parts).

    Entry c * parts + i is the mean of channel c over stripe i, from the top down.
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def rows(self, height: int) -> list[slice]:
        """Return each stripe's rows in maps of this height; neighbors may share a row."""
        parts = self.parts
        return [slice(i * height // parts, -(-(i + 1) * height // parts)) for i in range(parts)]

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features``."""
        return functional.adaptive_avg_pool2d(features, (self.parts, 1)).flatten(1)

    def masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool ``features`` times each of the ``masks`` (B, M, h, w): (B, M, C * parts)."""
        stripes = self.rows(features.shape[2])
        means = [masked_means(features[:, :, rows], masks[:, :, rows]) for rows in stripes]
        return torch.stack(means, dim=-1).flatten(2)


POOLINGS = {"avg": GlobalAveragePool, "gem": GeneralizedMeanPool}
