"""Lengths and cosines of embeddings."""

import torch
from torch import Tensor


def unit(embeddings: Tensor) -> Tensor:
    """Return embeddings (..., D) at unit length; a zero row stays zero.

    Rows are scaled by their largest component first, so that no length under- or overflows.

    Example:
        >>> unit(torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    largest = embeddings.detach().abs().amax(dim=-1, keepdim=True)
    scaled = embeddings / largest.where(largest > 0, torch.ones_like(largest))
    lengths: Tensor = scaled.norm(dim=-1, keepdim=True)
    return scaled / lengths.where(largest > 0, torch.ones_like(lengths))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity (...) of the rows of a and b (..., D); 0 with a zero row."""
    return (unit(a) * unit(b)).sum(dim=-1)
