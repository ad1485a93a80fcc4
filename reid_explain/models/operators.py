"""Operators that the formats of graphs share, on tensors of torch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_explain.errors import InputError

CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Window:
    """A window that moves over an image, as attributes of convolutions and poolings say it.

    Args:
        kernel, strides, dilations: by axis; strides and dilations are 1 by default.
        begins, ends: padding before and after each axis, 0 by default.
        auto_pad: where it pads instead: ``"valid"`` (nowhere), ``"same_upper"`` or
            ``"same_lower"``, to ⌈size / stride⌉ places, the odd pixel at the end or the beginning.
    """

    def __init__(
        self,
        kernel: Sequence[int],
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        begins: Sequence[int] | None = None,
        ends: Sequence[int] | None = None,
        auto_pad: str = "explicit",
    ) -> None:
        ones, zeros = [1] * len(kernel), [0] * len(kernel)
        self.kernel, self.auto_pad = list(kernel), auto_pad.lower()
        self.strides, self.dilations = list(strides or ones), list(dilations or ones)
        self.begins, self.ends = list(begins or zeros), list(ends or zeros)

    def padded(self, x: Tensor, value: float = 0.0) -> tuple[Tensor, list[int]]:
        """Return ``x``, padded if the padding is uneven, and the padding that is left to do."""
        begins, ends = self.begins, self.ends
        if self.auto_pad == "valid":
            begins = ends = [0] * len(self.kernel)
        elif self.auto_pad.startswith("same"):
            sizes = zip(x.shape[2:], self.kernel, self.strides, self.dilations, strict=True)
            totals = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes]
            less = [total // 2 for total in totals]
            more = [total - half for total, half in zip(totals, less, strict=True)]
            begins, ends = (less, more) if self.auto_pad == "same_upper" else (more, less)
        if begins == ends:
            return x, begins
        sides = [side for pair in zip(begins, ends, strict=True) for side in pair]
        flat = [side for i in range(len(sides) - 2, -1, -2) for side in sides[i : i + 2]]
        return F.pad(x, flat, value=value), [0] * len(begins)


def convolve(x: Tensor, weight: Tensor, window: Window, bias: Tensor | None = None) -> Tensor:
    """Return the convolution of ``x`` with weights (C', C / groups, ...)."""
    groups = x.shape[1] // weight.shape[1]
    x, padding = window.padded(x)
    function = CONVOLUTIONS[len(padding)]  # torch.convolution is not cast by autocast
    made: Tensor = function(x, weight, bias, window.strides, padding, window.dilations, groups)
    return made


def max_pool(x: Tensor, window: Window, *, ceil: bool) -> Tensor:
    """Return the largest value in each window; padding is never the largest."""
    x, padding = window.padded(x, -torch.inf)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(window.kernel) - 1]
    return pool(x, window.kernel, window.strides, padding, window.dilations, ceil)


def average_pool(x: Tensor, window: Window, *, ceil: bool, count_padding: bool) -> Tensor:
    """Return the mean of each window, over padding too or not."""
    came = x.shape
    x, padding = window.padded(x)
    if x.shape != came and not count_padding:
        raise InputError("path", "an average pooling of uneven padding", "one of even padding")
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(window.kernel) - 1]
    return pool(x, window.kernel, window.strides, padding, ceil, count_padding)


def normalized(x: Tensor, axes: Sequence[int], epsilon: float, *, inside: bool = True) -> Tensor:
    """Return ``x`` at mean 0 and variance 1 over ``axes``, ε inside the square root or after it."""
    centered = x - x.mean(dim=[*axes], keepdim=True)
    variance = centered.square().mean(dim=[*axes], keepdim=True)
    if inside:
        return centered / (variance + epsilon).sqrt()
    tiny = torch.finfo(x.dtype).tiny  # The root of 0 has no finite slope.
    return centered / ((variance + tiny).sqrt() + epsilon)


def reshape(x: Tensor, target: Tensor, *, zero_copies: bool) -> Tensor:
    """Return ``x`` in another shape, in which a 0 may be the size that ``x`` has there."""
    sizes = target.tolist()
    return x.reshape([x.shape[i] if n == 0 and zero_copies else n for i, n in enumerate(sizes)])


def concatenated(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Return the parts along an axis; one of a single row goes with each row of the others."""
    rows = max(len(part) if part.dim() else 1 for part in parts)
    if axis % parts[0].dim():
        parts = [part.expand(rows, *part.shape[1:]) if len(part) == 1 else part for part in parts]
    return torch.cat([*parts], dim=axis)


def gathered(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return the slices of ``x`` along an axis at the places ``index``, of any shape."""
    axis %= x.dim()
    flat = x.index_select(axis, index.reshape(-1).to(x.device, torch.long) % x.shape[axis])
    return flat.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def squeezed(x: Tensor, axes: Sequence[int] | None) -> Tensor:
    """Return ``x`` without axes of one place, by default without all of them."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueezed(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return ``x`` with axes of one place where the result has ``axes``."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def permuted(x: Tensor, order: Sequence[int] | None) -> Tensor:
    """Return ``x`` with its axes in another order, by default the reverse."""
    return x.permute([*(order or reversed(range(x.dim())))])


def shape_of(x: Tensor) -> Tensor:
    """Return the shape of ``x``."""
    return torch.tensor(x.shape)


def as_list(tensor: Any) -> Any:
    """Return the numbers of a tensor, None of none."""
    return None if tensor is None else tensor.reshape(-1).tolist()
