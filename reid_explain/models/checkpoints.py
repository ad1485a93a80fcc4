"""Weights from files that are not trusted, with every disagreement named."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_explain.errors import InputError

CLASSIFIER_PREFIX = "classifier."


def load_checkpoint(
    model: nn.Module, path: str | Path, *, ignore_classifier: bool = False
) -> tuple[str, ...]:
    """Load the weights of ``path`` into ``model``; all of them or none.

    Reads torchreid's files, plain state dicts (also nested under ``state_dict`` or with
    ``module.`` prefixes) and safetensors. Nothing in a file is ever executed.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file or one that ``torch.save`` wrote.
        ignore_classifier: leave ``classifier.*`` as it is in the model, whatever the file has:
            the way to use a checkpoint that was trained on other identities.

    Returns:
        The names of the file's entries that were left out; empty unless asked for.

    Raises:
        InputError: the file is absent, truncated, not a checkpoint or has code in it; or its
            entries and the model's disagree: all missing, unexpected and mis-shaped names.
    """
    state = read_state_dict(path)
    left_out = tuple(key for key in state if ignore_classifier and _is_classifier(key))
    kept = {key: value for key, value in state.items() if key not in left_out}
    if ignore_classifier:
        own = model.state_dict()
        kept |= {key: value for key, value in own.items() if _is_classifier(key)}
    load_state_dict(model, kept, str(path))
    return left_out


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name, on the CPU, without ``module.``.

    Raises:
        InputError: the file is absent, truncated, not a checkpoint or has code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("path", path, "a checkpoint file that exists")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise InputError("path", f"{path} without a state dict", "a mapping of names to tensors")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``model``; all of it or none.

    Raises:
        InputError: names or shapes disagree; the message lists them all and ``source``.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    faults = [f"{kind}: {', '.join(names)}" for kind, names in found.items() if names]
    if faults:
        raise InputError(
            "state_dict", f"{source} with {'; '.join(faults)}", f"the entries of {_name(model)}"
        )
    model.load_state_dict(dict(state))


def _is_classifier(key: str) -> bool:
    return key.startswith(CLASSIFIER_PREFIX)


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError("path", f"{path} ({error})", "a readable safetensors file") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "path",
            f"{path}, whose content is no tensors and was not executed",
            "a checkpoint of tensors and plain containers only",
        ) from error
    except Exception as error:  # What garbage raises in the unpickler is anybody's guess.
        raise InputError("path", f"{path} ({error})", "a readable checkpoint") from error
