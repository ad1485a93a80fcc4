"""How images go through a model fastest: channels last, many at a time, in lower precision."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
AUTOCAST_DTYPES = (None, torch.bfloat16, torch.float16)
PIXELS_PER_FORWARD = {"cpu": 2**19, "cuda": 2**23}
"""What fills a device: pixels of all images in one forward pass."""


def images_per_forward(images: Tensor, device: torch.device | None = None) -> int:
    """Return how many images (B, C, H, W) of this size fill a device, by default their own."""
    kind = (device or images.device).type
    pixels = PIXELS_PER_FORWARD.get(kind, max(PIXELS_PER_FORWARD.values()))
    return max(1, pixels // images.shape[2:].numel())


def in_fast_format(
    function: Callable[[Tensor], Result], images: Tensor
) -> tuple[Result, torch.memory_format]:
    """Run ``function`` in channels_last, falling back to contiguous; return result and format.

    The fallback is for functions that take a view that only contiguous maps have.
    """
    try:
        fast = images.contiguous(memory_format=torch.channels_last)
        return function(fast), torch.channels_last
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        return function(images.contiguous()), torch.contiguous_format


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the precision for masked images; the casts of weights last as long as it.

    None leaves the precision as it is.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
