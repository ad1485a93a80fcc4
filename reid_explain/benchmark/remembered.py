"""A model that passes no batch twice: methods of pairs mask one image alike for each reference."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def remembered(model: nn.Module) -> Iterator[None]:
    """Give the results again of batches (B, 3, H, W) that the model has had within the block.

    To the bit, and in the same precision. A pass with gradients, or that a hook within the model or
    a function mode (such as ``Attentions``) watches, is made each time. The weights have to stay as
    they are.
    """
    forward, own = model.forward, vars(model).get("forward")
    results: dict[Any, Any] = {}

    def remember(*inputs: Any, **options: Any) -> Any:
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        watched = hooked or torch._C._len_torch_function_stack() > 0
        images = inputs[0] if len(inputs) == 1 and not options else None
        if watched or torch.is_grad_enabled() or not isinstance(images, Tensor):
            return forward(*inputs, **options)
        key = _key(images)
        if key not in results:
            results[key] = forward(images)
        return results[key].clone()

    model.forward = remember
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


def _key(images: Tensor) -> tuple[Any, ...]:
    """Return what a result depends on: the images, how they lie in memory, and the precision."""
    kind = images.device.type
    precision = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    return images.shape, images.stride(), precision, digest(images)


def digest(values: Tensor) -> bytes:
    """Return 20 bytes that tell the values of tensors of one shape apart."""
    raw = values.contiguous().view(torch.uint8).cpu().numpy().data
    return hashlib.sha1(raw, usedforsecurity=False).digest()
