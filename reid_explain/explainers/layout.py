"""Layer outputs as maps: token sequences become grids, and maps are resized."""

import math

import torch.nn.functional as F
from torch import Tensor

from reid_explain.checks import describe
from reid_explain.errors import InputError

MAX_PREFIX_TOKENS = 16
"""The most class and register tokens that are believed to stand before the patches."""


def as_map(
    activation: Tensor, image_size: tuple[int, int], grid: tuple[int, int] | None = None
) -> Tensor:
    """Return a layer's output as (B, C, h, w).

    Args:
        activation: (B, C, h, w), returned as it is, or the tokens of a vision transformer
            (B, T, C), of which the last h * w are the patches of the image in row order.
        image_size: Height and width of the image in pixels.
        grid: Rows and columns of the patches, where the model tells them (they overlap); None
            where they tile the image.

    Raises:
        InputError: If the output is neither.
    """
    if activation.dim() == 4:
        return activation
    if activation.dim() == 3:
        h, w = grid or token_grid(activation.shape[1], image_size)
        if activation.shape[1] < h * w:
            got = f"output {describe(activation)}"
            raise InputError("layer", got, f"all tokens of a grid of {h} x {w} patches")
        patches = activation[:, activation.shape[1] - h * w :]
        return patches.transpose(1, 2).reshape(len(patches), -1, h, w)
    raise InputError(
        "layer",
        f"output {describe(activation)}",
        "a map (B, C, h, w) or tokens (B, T, C); give reshape_transform for another form",
    )


def token_grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the patch grid of a transformer that gave ``tokens`` tokens.

    The patches are squares that tile the image without overlap: the grid is the finest one that
    leaves at most ``MAX_PREFIX_TOKENS`` tokens for class and registers.
    """
    height, width = image_size
    for patch in range(1, math.gcd(height, width) + 1):
        h, w = height // patch, width // patch
        whole = h * patch == height and w * patch == width
        if whole and 0 <= tokens - h * w <= MAX_PREFIX_TOKENS:
            return h, w
    raise InputError(
        "layer",
        f"{tokens} tokens for an image of {height} x {width} pixels",
        "square patches that tile the image; give reshape_transform for another grid",
    )


def upsample(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize maps (B, C, h, w) to ``size``, with corners not aligned."""
    align_corners = False if mode in ("bilinear", "bicubic") else None
    return F.interpolate(maps, size=size, mode=mode, align_corners=align_corners)
