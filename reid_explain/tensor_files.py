"""Tensors and what is to be known of them in one safetensors file; no code in it ever runs."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reid_explain.errors import InputError


def write_tensors(
    path: str | Path,
    state: Mapping[str, Tensor],
    kind: str,
    about: Any,
    *,
    dtype: torch.dtype | None = None,
    whole: Collection[str] = (),
) -> None:
    """Write tensors by name and ``about``, anything that JSON has; ``read_tensors`` reads both.

    Args:
        path: The file.
        state: Tensors of any device.
        kind: What the file is: the key of ``about`` in its metadata.
        about: What is to be known of the tensors.
        dtype: Of the stored matrices and kernels; vectors and integers stay as they are.
        whole: Names of others that do.

    Raises:
        InputError: The file cannot be written.
    """
    stored = {}
    for name, value in state.items():
        compact = value.dim() > 1 and value.is_floating_point() and name not in whole
        kept = dtype if dtype is not None and compact else value.dtype
        stored[name] = value.detach().to("cpu", kept).contiguous()
    try:
        save_file(stored, path, {kind: json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise InputError("path", f"{path} ({error})", "a file that can be written") from error


def read_tensors(path: str | Path, kind: str, expected: str) -> tuple[dict[str, Tensor], Any]:
    """Return what ``write_tensors`` wrote.

    Args:
        path: The file.
        kind: As it was written.
        expected: What the file should be, for the error.

    Raises:
        InputError: No such file, a damaged one, or one of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[kind])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise InputError("path", f"{path} ({error})", expected) from error
