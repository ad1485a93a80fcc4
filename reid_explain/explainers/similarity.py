"""Lengths and cosines of embeddings, in at least float32."""

import torch
from torch import Tensor


def unit(embeddings: Tensor) -> Tensor:
    """Return embeddings (B, D) at unit length; a zero row stays zero."""
    tiny = torch.finfo(embeddings.dtype).tiny
    lengths: Tensor = embeddings.norm(dim=1, keepdim=True)
    return embeddings / lengths.clamp_min(tiny)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity (B,) of the rows of a and b (B, D), in [-1, 1].

    The cosine with a zero row is 0.
    """
    return (unit(a) * unit(b)).sum(dim=1)
