"""What tells a model from others: what it makes of two fixed images."""

from typing import Any

import torch
from torch import Tensor

from reid_explain.errors import InputError


def probe_images(image_size: tuple[int, int], like: Tensor) -> Tensor:
    """Return two fixed images (2, 3, H, W) with structure at every scale, for fingerprints."""
    height, width = image_size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = torch.arange(6, dtype=torch.float64).view(2, 3, 1, 1)
    slope = rows * (1 + phase) + columns * (2 + phase)
    waves = [torch.sin(slope / scale + phase) for scale in (2.0, 8.0, 32.0, 128.0)]
    return torch.stack(waves).mean(0).to(like)


def check_fingerprint(path: Any, saved: Tensor, fingerprint: Tensor, dtype: torch.dtype) -> None:
    """Raise unless embeddings (2, D) are the saved ones, to 1 % or the rounding of ``dtype``."""
    if saved.shape != fingerprint.shape:
        expected = f"embeddings of {saved.shape[-1]}, as for {path}"
        raise InputError("model", f"embeddings of {fingerprint.shape[-1]}", expected)
    difference = float((fingerprint - saved).norm() / saved.norm())
    if not difference <= max(1e-2, 8 * torch.finfo(dtype).eps):
        found = f"embeddings {100 * difference:.1f} % away from those that {path} was trained for"
        raise InputError("model", found, "that model")
