"""Weights from files that are not trusted, with every disagreement named."""

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.architecture import UNSEEN, architecture_of, class_count
from reid_explain.models.build import build_model
from reid_explain.models.layouts import (
    LAYOUTS,
    OWN,
    Layout,
    find_layout,
    input_spec_of,
    translate,
    unseen_settings,
)
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.timm_models import PREFIX, TimmNet, has_fixed_size, timm_layout

CLASSIFIER_PREFIX = "classifier."
COUNT = "num_batches_tracked"
NESTED_UNDER = ("state_dict", "model")
MOST_NAMES = 6


def open_checkpoint(
    path: str | Path,
    layout: str | None = None,
    *,
    name: str | None = None,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> EmbeddingNet:
    """Return the network of a checkpoint, with its weights, in eval mode.

    The project, the architecture and the number of classes come from the file's names and
    shapes. What they do not show (strides, the first pooling and ReLU, the size, mean and
    deviation of the images) comes from the project, see ``reid_explain.models.layouts``.

    A file of timm does not tell its network: ``name="timm/NAME"`` does, with timm's own names in
    the file or ours. Its classifier becomes the network's, and position embeddings of another
    size (``img_size``, or ``input_spec``) are interpolated.

    Args:
        path: a file that ``load_checkpoint`` reads.
        layout: the project, a key of ``layouts.LAYOUTS``; None recognizes it.
        name: a name of ``build_model``, in place of the network and settings that were found.
        input_spec: the images that the network takes, in place of the project's.
        options: arguments of ``build_model`` that replace those found. With ``num_classes`` the
            classifier is a new one, or none with 0, and the file's is left out.

    Raises:
        InputError: as of ``load_checkpoint``; or the weights are of no network of this package;
            or neither file nor project tells all of it: ``last_stride`` and ``ceil_mode`` of
            files with our own names, which a card tells (``load_trained``); ``parts`` of a PCB
            without classifiers; ``reduction`` of an MGN of before version 1.0.
    """
    state = read_state_dict(path)
    if name is None:
        rules = LAYOUTS[find_layout(state, layout)]
        found = _architecture(path, state, rules, options)
    else:
        timm_name = name.removeprefix(PREFIX) if name.startswith(PREFIX) else None
        rules = timm_layout(timm_name, state) if timm_name else LAYOUTS[find_layout(state, layout)]
        found = {"name": name, "num_classes": class_count(translate(state, rules).tensors)}
        if timm_name:
            found["pretrained"] = False
            if input_spec is not None and has_fixed_size(timm_name):
                found["img_size"] = input_spec.size
    model = build_model(**(found | options))
    load_entries(model, state, str(path), layout, ignore_classifier="num_classes" in options)
    model.input_spec = input_spec or input_spec_of(state, rules) or model.input_spec
    return model.eval()


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    layout: str | None = None,
    *,
    ignore_classifier: bool = False,
) -> tuple[str, ...]:
    """Load the weights of ``path`` into ``model``; all of them or none.

    Reads files of this package, of torchreid, fast-reid, reid-strong-baseline, torchvision and,
    into a ``TimmNet``, timm, as plain state dicts, nested under ``state_dict`` or ``model``, with
    ``module.`` prefixes, or safetensors. Nothing in a file is ever executed. What weights do not
    show (see ``open_checkpoint``) has to be set in the model, except for the mean and deviation
    of fast-reid's images. Counts of batches (``num_batches_tracked``) may be absent.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file or one that ``torch.save`` wrote.
        layout: the project whose names the file has, a key of ``layouts.LAYOUTS``; None
            recognizes it, and leaves names alone that are the model's.
        ignore_classifier: leave ``classifier.*`` as it is in the model, whatever the file has:
            the way to use a checkpoint that was trained on other identities.

    Returns:
        The names of the file's entries that were left out: the classifier's, if asked for, that
        of a file of timm for a model without one, and those that are no weights, such as
        fast-reid's ``pixel_mean``.

    Raises:
        InputError: the file is absent, truncated, empty, not a checkpoint or has code in it; or
            its entries and the model's disagree: missing, unexpected and mis-shaped names, ours
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
    rules = _rules(model, state, layout)
    tensors, sources, extras = translate(state, rules)
    if isinstance(model, TimmNet):
        tensors = model.resampled(tensors)
    left_out = tuple(key for key in tensors if ignore_classifier and _is_classifier(key))
    kept = {key: value for key, value in tensors.items() if key not in left_out}
    if ignore_classifier:
        kept |= {key: value for key, value in own.items() if _is_classifier(key)}
    for key in set(rules.zeros) & set(own) - set(kept):
        kept[key] = torch.zeros_like(own[key])
    if faults := _disagreements(own, kept, sources):
        expected = f"the entries of {type(model).__name__}{_hint(own, state, tensors, rules)}"
        raise InputError("state_dict", f"{source} with {faults}", expected)
    model.load_state_dict(kept)
    spec = input_spec_of(state, rules)
    if spec is not None and isinstance(model, EmbeddingNet) and "pixel_mean" in state:
        pixels = {"mean": spec.mean, "std": spec.std, "scale": spec.scale}
        model.input_spec = model.input_spec.replace(**pixels)
    return tuple(key for key in state if key in extras or key in {sources[k] for k in left_out})


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name, on the CPU, without ``module.``.

    Raises:
        InputError: the file is absent, truncated, empty, not a checkpoint or has code in it.
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
    if not content:
        raise InputError("path", f"{path} with an empty state dict", "the weights of a network")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``model``; all of it or none.

    Raises:
        InputError: names or shapes disagree; the message lists them and ``source``.
    """
    if faults := _disagreements(model.state_dict(), state):
        expected = f"the entries of {type(model).__name__}"
        raise InputError("state_dict", f"{source} with {faults}", expected)
    model.load_state_dict(dict(state))


def _architecture(
    path: str | Path, state: Mapping[str, Tensor], rules: Layout, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of ``build_model`` for a file, as far as file and project tell."""
    found = architecture_of(translate(state, rules).tensors)
    if found is None:
        layout = next(name for name, known in LAYOUTS.items() if known is rules)
        networks = f"OSNet, {', '.join(UNSEEN)}, under names of {layout}"
        got = f"{path} with {_listed(list(state))}"
        raise InputError("path", got, f"{networks}; or name='timm/NAME' for a network of timm")
    unseen = UNSEEN.get(found["name"], ())
    settings = unseen_settings(state, rules)
    found |= {key: settings[key] for key in unseen if key in settings}
    if unknown := [key for key in unseen if key not in {**found, **options}]:
        expected = "its card (load_trained), or these as options"
        raise InputError("path", f"{path}, which does not tell {', '.join(unknown)}", expected)
    return found


def _rules(model: nn.Module, state: Mapping[str, Tensor], layout: str | None) -> Layout:
    """Return the layout of a file, in which names that are the model's stay."""
    if layout is None and _body(model.state_dict()) == _body(state):
        return LAYOUTS[OWN]
    if layout is None and isinstance(model, TimmNet):
        return model.layout_of(state)
    return LAYOUTS[find_layout(state, layout)]


def _disagreements(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    sources: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Describe how the names and shapes of ``state`` differ from ``own``, if they do."""

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
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in found.items() if names)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _hint(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    rules: Layout,
) -> str:
    """Name the layout, or the arguments of ``build_model``, that are nearer to the file."""
    if any(key.endswith("pos_embed") for key in own):
        return ", for images of one size: img_size=(H, W) sets it"
    if LAYOUTS[layout := find_layout(state)] is not rules and rules in LAYOUTS.values():
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
