"""How images go through a model fastest: channels last, many at a time, in lower precision.

And without batch norms, where a model only embeds.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Result = TypeVar("Result")
AUTOCAST_DTYPES = (None, torch.bfloat16, torch.float16)
PIXELS_PER_FORWARD = {"cpu": 2**19, "cuda": 2**23}
"""What fills a device: pixels of all images in one forward pass."""

FOLDED = 1e-4
"""The share of a result that folding may move; rounding moves it by less."""


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


def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a model in eval mode whose batch norms are in the weights before them.

    It gives the same but for rounding, and no longer follows the model. A model that ``torch.fx``
    cannot trace, or whose copy answers ``example`` (B, C, H, W) otherwise, is returned itself.
    """
    from torch.fx.experimental.optimization import fuse  # here: explainers do without

    try:
        copy = fuse(model).to(memory_format=torch.channels_last)
        _clamp_in_place(copy)
        with torch.no_grad():
            wanted, found = model(example), copy(example)
        same = bool((found - wanted).abs().max() <= FOLDED * wanted.abs().max())
    except Exception:  # A tracer may stumble over anything.
        return model
    return copy if same else model


def _clamp_in_place(traced: Any) -> None:
    """Let ReLUs write into the result of a convolution that nothing else reads."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.target is not F.relu:
            continue
        (source, *_) = node.args
        made = source.op == "call_module" and isinstance(modules[source.target], nn.Conv2d)
        if made and len(source.users) == 1:
            node.kwargs = {**node.kwargs, "inplace": True}
    traced.recompile()
