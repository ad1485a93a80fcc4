"""Weights from files that are not trusted, with every disagreement named."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.models.architecture import architecture_of
from reid_explain.models.layouts import LAYOUTS, OWN, find_layout, translate

CLASSIFIER_PREFIX = "classifier."
COUNT = "num_batches_tracked"
NESTED_UNDER = ("state_dict", "model")


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    layout: str | None = None,
    *,
    ignore_classifier: bool = False,
) -> tuple[str, ...]:
    """Load the weights of ``path`` into ``model``; all of them or none.

    Reads files of this package, of torchreid, fast-reid and reid-strong-baseline, as plain state
    dicts, nested under ``state_dict`` or ``model``, with ``module.`` prefixes, or safetensors.
    Nothing in a file is ever executed. What weights do not show (strides, the first pooling and
    ReLU, see ``reid_explain.models.layouts``) has to be set in the model: ``open_checkpoint``
    knows it by project. Counts of batches (``num_batches_tracked``) may be absent.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file or one that ``torch.save`` wrote.
        layout: the project whose names the file has, a key of ``layouts.LAYOUTS``; None
            recognises it, and leaves names alone that are the model's.
        ignore_classifier: leave ``classifier.*`` as it is in the model, whatever the file has:
            the way to use a checkpoint that was trained on other identities.

    Returns:
        The names of the file's entries that were left out: the classifier's, if asked for, and
        those that are no weights, such as fast-reid's ``pixel_mean``.

    Raises:
        InputError: the file is absent, truncated, not a checkpoint or has code in it; or its
            entries and the model's disagree: all missing, unexpected and mis-shaped names, ours
            with the file's in brackets where they differ.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> trained, model = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": trained.state_dict()}, Path(folder, "model.pth"))
        ...     left_out = load_checkpoint(model, Path(folder, "model.pth"))
        >>> left_out, torch.equal(model.weight, trained.weight)
        ((), True)
    """
    state = read_state_dict(path)
    return load_entries(model, state, str(path), layout, ignore_classifier=ignore_classifier)


def load_entries(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    layout: str | None = None,
    *,
    ignore_classifier: bool = False,
) -> tuple[str, ...]:
    """Load what ``read_state_dict`` returned, see ``load_checkpoint``."""
    own = model.state_dict()
    if layout is None and _body(own) == _body(state):
        layout = OWN
    layout = find_layout(state, layout)
    tensors, sources, extras = translate(state, layout)
    left_out = tuple(key for key in tensors if ignore_classifier and _is_classifier(key))
    kept = {key: value for key, value in tensors.items() if key not in left_out}
    if ignore_classifier:
        kept |= {key: value for key, value in own.items() if _is_classifier(key)}
    for key in set(LAYOUTS[layout].zeros) & set(own) - set(kept):
        kept[key] = torch.zeros_like(own[key])
    if faults := _disagreements(own, kept, sources):
        expected = f"the entries of {_name(model)}{_hint(own, state, tensors, layout)}"
        raise InputError("state_dict", f"{source} with {faults}", expected)
    model.load_state_dict(kept)
    return tuple(key for key in state if key in extras or key in {sources[k] for k in left_out})


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name, on the CPU, without ``module.``.

    Raises:
        InputError: the file is absent, truncated, not a checkpoint or has code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("path", path, "a checkpoint file that exists")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for name in NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
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
    if faults := _disagreements(model.state_dict(), state):
        expected = f"the entries of {_name(model)}"
        raise InputError("state_dict", f"{source} with {faults}", expected)
    model.load_state_dict(dict(state))


def _disagreements(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    sources: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Say how the names and shapes of ``state`` differ from ``own``; nothing if they do not."""

    def both(key: str) -> str:
        source = sources.get(key, key)
        return key if source == key else f"{key} ({source})"

    # Versions of torch before 0.4.1 wrote no counts, and no evaluation reads them.
    missing = [key for key in own if key not in state and not key.endswith(COUNT)]
    unexpected = [both(key) for key in state if key not in own]
    shapes = [
        f"{both(key)} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)


def _hint(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], used: str
) -> str:
    """Say which layout, or which arguments of ``build_model``, are nearer to the file."""
    if (layout := find_layout(state)) != used:
        return f"; the file looks like layout={layout!r}"
    wanted, there = architecture_of(tensors), architecture_of(own)
    if wanted is None or there is None:
        return ""
    differing = [f"{key}={value!r}" for key, value in wanted.items() if there.get(key) != value]
    if not differing:
        return ""
    return f"; the file looks like build_model with {', '.join(differing)} (see open_checkpoint)"


def _body(names: Iterable[str]) -> set[str]:
    return {name for name in names if not _is_classifier(name)}


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
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "path",
            f"{path}, whose content is no tensors and was not executed",
            "a checkpoint of tensors and plain containers only",
        ) from error
    except Exception as error:  # What garbage raises in the unpickler is anybody's guess.
        raise InputError("path", f"{path} ({error})", "a readable checkpoint") from error


def _numpy_scalars() -> list[Any]:
    """Return what unpickles numbers of NumPy: torchreid's and fast-reid's files have scores."""
    scalar = np.float64().__reduce__()[0]
    types = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"]}
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
    return [np.dtype, *types, *((scalar, f"{module}.scalar") for module in modules)]
