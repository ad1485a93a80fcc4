"""Files of weights, which are not trusted, and how weights differ from a model's."""

import pickle
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_explain.errors import InputError

MOST_NAMES = 6


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name, on the CPU, without ``module.``.

    Of a run of DINO they are the teacher's.

    Raises:
        InputError: the file is absent, truncated, empty, not a checkpoint or has code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("path", path, "a checkpoint file that exists")
    content = _read(path)
    for name in ("state_dict", "model", "teacher"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise InputError("path", f"{path} without a state dict", "a mapping of names to tensors")
    if not content:
        raise InputError("path", f"{path} with an empty state dict", "the weights of a network")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_state_dict(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    names: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Load ``state`` into ``model``; all of it or none. ``num_batches_tracked`` may be absent.

    Names or shapes that disagree raise an error that lists them, ``source``, the file's ``names``
    by the model's, and the ``hint``.
    """
    own = model.state_dict()

    def both(key: str) -> str:
        source = (names or {}).get(key, key)
        return key if source == key else f"{key} ({source})"

    # Versions of torch before 0.4.1 wrote no counts, and no evaluation reads them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [both(k) for k in state if k not in own]
    shapes = [
        f"{both(k)} {tuple(value.shape)} for {tuple(own[k].shape)}"
        for k, value in state.items()
        if k in own and value.shape != own[k].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    faults = [f"{kind}: {listed(keys)}" for kind, keys in found.items() if keys]
    if faults:
        expected = f"the entries of {type(model).__name__}{hint}"
        raise InputError("state_dict", f"{source} with {'; '.join(faults)}", expected)
    model.load_state_dict(dict(state))


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are besides."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace, *_numpy_scalars()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        got = f"{path}, whose content is no tensors and was not executed"
        expected = "a checkpoint of tensors and plain containers only"
        raise InputError("path", got, expected) from error
    except Exception as error:  # What garbage raises in a reader is anybody's guess.
        reason = str(error).split(". ")[0] or type(error).__name__
        raise InputError("path", f"{path} ({reason})", "a readable checkpoint") from error


def _numpy_scalars() -> list[Any]:
    """Return what unpickles numbers of NumPy: torchreid's and fast-reid's files have scores."""
    scalar = np.float64().__reduce__()[0]
    types = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]}
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
    return [np.dtype, *types, *((scalar, f"{module}.scalar") for module in modules)]
