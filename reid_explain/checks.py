"""Checks of what a caller hands in, each answered with an `InputError`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reid_explain.errors import InputError


def describe(value: object) -> str:
    """Describe a value for an error message: a tensor's shape and dtype, or else its type."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__


def at_least_float32(values: Tensor) -> Tensor:
    """Return ``values`` in float32 if their own precision is lower."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_images(argument: str, images: object) -> Tensor:
    """Return ``images`` if it is a finite floating point batch (B, C, H, W) with B of at least 1.

    It comes back without history, and as a normal tensor if it was made under
    ``torch.inference_mode``.
    """
    if not (isinstance(images, Tensor) and images.dim() == 4 and images.numel() > 0):
        raise InputError(argument, describe(images), "images (B, C, H, W) with B of at least 1")
    return check_finite(argument, images)


def check_maps(argument: str, maps: Tensor) -> Tensor:
    """Return ``maps`` if they are (B, 1, H, W), floating point and finite."""
    maps = check_images(argument, maps)
    if maps.shape[1] != 1:
        raise InputError(argument, describe(maps), "maps (B, 1, H, W)")
    return maps


def check_embeddings(
    argument: str, embeddings: object, *, rows: int | None = None, width: int | None = None
) -> Tensor:
    """Return ``embeddings`` if it is a finite floating point batch (B, D).

    ``rows`` and ``width`` say what B and D have to be.
    """
    return check_finite(argument, check_rows(argument, embeddings, rows=rows, width=width))


def check_rows(
    argument: str, embeddings: object, *, rows: int | None = None, width: int | None = None
) -> Tensor:
    """Return ``embeddings`` if it is a floating point batch (B, D); the values are not read."""
    expected = f"(B{f' = {rows}' if rows else ''}, D{f' = {width}' if width else ''})"
    fits = (
        isinstance(embeddings, Tensor)
        and embeddings.dim() == 2
        and embeddings.numel() > 0
        and rows in (None, len(embeddings))
        and width in (None, embeddings.shape[1])
    )
    if not fits:
        raise InputError(argument, describe(embeddings), f"one row per image, {expected}")
    assert isinstance(embeddings, Tensor)
    check_floating(argument, embeddings)
    return embeddings


def check_floating(argument: str, values: Tensor) -> None:
    """Raise unless ``values`` are floating point."""
    if not values.is_floating_point():
        raise InputError(argument, describe(values), "a floating point dtype")


def check_finite(argument: str, values: Tensor) -> Tensor:
    """Return ``values`` detached if they are floating point and neither NaN nor infinite."""
    check_floating(argument, values)
    # A sum takes a hundredth of the time; it can also overflow, which settles nothing.
    if not (torch.isfinite(values.sum()) or torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise InputError(argument, f"{bad} NaN or infinite values", "finite values")
    values = values.detach()
    return values.clone() if values.is_inference() else values


def check_nonzero(argument: str, embeddings: Tensor) -> Tensor:
    """Return ``embeddings`` (B, D) if no row is zero: the zero vector has no direction."""
    zero = (embeddings == 0).all(dim=1).nonzero().flatten().tolist()
    if zero:
        raise InputError(argument, f"the zero vector in rows {zero}", "embeddings that are not 0")
    return embeddings


def check_choice(argument: str, value: object, choices: Sequence[object]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(argument, repr(value), f"one of {', '.join(map(repr, choices))}")


def check_at_least(argument: str, value: object, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(argument, repr(value), f"a whole number of at least {least}")


def check_share(argument: str, value: object) -> None:
    """Raise unless ``value`` is a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(argument, repr(value), "a number in (0, 1]")
