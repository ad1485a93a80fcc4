"""Networks and their weights from the files of this project and of others."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.architecture import architecture_of, class_count
from reid_explain.models.build import MODELS, build_model, network_of
from reid_explain.models.graphs import GraphNet
from reid_explain.models.layouts import LAYOUTS, OWN, Layout, find_layout, first_of, sources_of
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.onnx_graphs import read_onnx
from reid_explain.models.openvino_graphs import read_openvino
from reid_explain.models.state_dicts import listed, load_state_dict, read_state_dict
from reid_explain.models.timm_models import (
    PREFIX,
    TimmNet,
    has_fixed_size,
    timm_layout,
    timm_settings,
)
from reid_explain.models.torchscript_graphs import is_torchscript, read_torchscript

Weights = Mapping[str, Tensor]
GRAPHS = {".xml": read_openvino, ".onnx": read_onnx}
"""Readers of whole networks, by the suffix of their files."""


def open_checkpoint(
    path: str | Path,
    layout: str | None = None,
    *,
    name: str | None = None,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> EmbeddingNet:
    """Return the network of a checkpoint, or of a graph, with its weights, in eval mode.

    The project, the architecture and the number of classes come from the file's names and
    shapes; what they do not show (strides, the first pooling and ReLU, the images) comes from the
    project, see module ``layouts``. A file of timm needs ``name="timm/NAME"``: its classifier
    becomes the network's, and position embeddings of another ``img_size`` are interpolated.

    A graph is whole: one of ONNX, OpenVINO's ``NAME.xml`` with its ``NAME.bin``, or a program of
    TorchScript becomes a ``GraphNet``.

    Args:
        path: a file that ``load_checkpoint`` reads, or a graph.
        layout: the project, a key of ``layouts.LAYOUTS``; None recognizes it.
        name: a name of ``build_model``, in place of the network and settings that were found.
        input_spec: the images that the network takes, in place of the project's.
        options: arguments of ``build_model`` that replace those found. With ``num_classes`` the
            classifier is a new one, or none with 0, and the file's is left out. Of a graph, those
            of ``GraphNet``: ``layer``, ``embedding``.

    Raises:
        InputError: as of ``load_checkpoint``, of a graph's reader and ``GraphNet``; the weights
            are of no network of this package; or file and project do not tell all of it, as with
            our own files, which need their card (``load_trained``).
    """
    read = GRAPHS.get(Path(path).suffix) or (read_torchscript if is_torchscript(path) else None)
    if read is not None and layout is None and name is None:
        return GraphNet(read(path), input_spec=input_spec, **options).eval()
    state = read_state_dict(path)
    timm_name = name.removeprefix(PREFIX) if name and name.startswith(PREFIX) else None
    rules = timm_layout(timm_name, state) if timm_name else LAYOUTS[find_layout(state, layout)]
    weights = {ours: state[theirs] for ours, theirs in sources_of(state, rules).items()}
    if name is None:
        found = _architecture(path, state, weights, rules, options)
    else:
        found = {"name": name, "num_classes": class_count(weights)}
    if timm_name:
        found |= {"pretrained": False, **timm_settings(weights)}
        if input_spec is not None and has_fixed_size(timm_name):
            found["img_size"] = input_spec.size
    model = build_model(**(found | options))
    own, project = model.input_spec, first_of(rules.inputs, state) or model.input_spec
    model.input_spec = project if model.token_grid is None else project.replace(size=own.size)
    _load(model, state, path, layout, ignore_classifier="num_classes" in options)
    model.input_spec = input_spec or model.input_spec
    return model.eval()


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    layout: str | None = None,
    *,
    ignore_classifier: bool = False,
) -> tuple[str, ...]:
    """Load the weights of ``path`` into ``model``; all of them or none.

    Reads files of this package, of the projects in ``layouts`` and, into a ``TimmNet``, of timm:
    state dicts, plain or nested under ``state_dict`` or ``model``, with ``module.`` prefixes or
    without, or safetensors. Nothing in a file is ever executed. What weights do not show has to
    be set in the model, but for the mean and deviation of fast-reid's images.

    Args:
        model: the network to fill.
        path: a ``.safetensors`` file or one that ``torch.save`` wrote.
        layout: the project whose names the file has, a key of ``layouts.LAYOUTS``; None
            recognizes it, and leaves names alone that are the model's.
        ignore_classifier: leave ``classifier.*`` as it is in the model, whatever the file has:
            the way to use a checkpoint that was trained on other identities.

    Returns:
        The file's entries that were left out: the classifier's, if asked for, that of a file of
        timm for a model without one, and those that are no weights, such as ``pixel_mean``.

    Raises:
        InputError: the file is absent, truncated, empty, not a checkpoint or has code in it; or
            its entries and the model's disagree: missing, unexpected and mis-shaped names, ours
            with the file's in brackets where they differ.
    """
    state = read_state_dict(path)
    return _load(model, state, path, layout, ignore_classifier=ignore_classifier)


def _load(
    model: nn.Module,
    state: Weights,
    path: str | Path,
    layout: str | None,
    *,
    ignore_classifier: bool,
) -> tuple[str, ...]:
    own, rules = model.state_dict(), _rules(model, state, layout)
    sources = sources_of(state, rules)
    weights = {ours: _fitted(state[theirs], own.get(ours)) for ours, theirs in sources.items()}
    hint = _hint(own, state, weights, rules)
    if isinstance(model, TimmNet):
        weights = model.resampled(weights)
    if ignore_classifier:
        weights = {key: value for key, value in weights.items() if not _is_classifier(key)}
        weights |= {key: value for key, value in own.items() if _is_classifier(key)}
    zeros = {*rules.zeros} & {*own} - {*weights}
    weights |= {key: torch.zeros_like(own[key]) for key in zeros}
    load_state_dict(model, weights, str(path), names=sources, hint=hint)
    if isinstance(model, EmbeddingNet) and "pixel_mean" in state:
        pixels = {name: state[f"pixel_{name}"].flatten().tolist() for name in ("mean", "std")}
        model.input_spec = model.input_spec.replace(scale=255, **pixels)
    used = {t for ours, t in sources.items() if not (ignore_classifier and _is_classifier(ours))}
    return tuple(key for key in state if key not in used)


def _architecture(
    path: str | Path, state: Weights, weights: Weights, rules: Layout, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of ``build_model`` for a file, as far as file and project tell."""
    found = architecture_of(weights)
    if found is None:
        layout = next(name for name, known in LAYOUTS.items() if known is rules)
        networks = dict.fromkeys(network_of(name).__name__ for name in MODELS)
        ours = f"{', '.join(networks)}, under names of {layout}"
        expected = f"{ours}; or, for one of timm, name='timm/NAME' (--model timm/NAME)"
        raise InputError("path", f"{path} with {listed(list(state))}", expected)
    unseen = network_of(found["name"]).unseen
    settings = first_of(rules.settings, state) or {}
    found = {key: settings[key] for key in unseen if key in settings} | found
    if unknown := [key for key in unseen if key not in {**found, **options}]:
        expected = "its card (load_trained), or these as options"
        raise InputError("path", f"{path}, which does not tell {', '.join(unknown)}", expected)
    return found


def _fitted(value: Tensor, own: Tensor | None) -> Tensor:
    """Return a weight in the shape of the model's if the two differ in dimensions of 1 alone."""
    if own is None or value.squeeze().shape != own.squeeze().shape:
        return value
    return value.reshape(own.shape)


def _rules(model: nn.Module, state: Weights, layout: str | None) -> Layout:
    """Return the layout of a file, in which names that are the model's stay."""
    if layout is None and _body(model.state_dict()) == _body(state):
        return LAYOUTS[OWN]
    if layout is None and isinstance(model, TimmNet):
        return timm_layout(model.name, state, classes=hasattr(model, "classifier"))
    return LAYOUTS[find_layout(state, layout)]


def _hint(own: Weights, state: Weights, weights: Weights, rules: Layout) -> str:
    """Name the layout, or the arguments of ``build_model``, that are nearer to the file."""
    if any(key.endswith("pos_embed") for key in own):
        return ", for images of one size: img_size=(H, W) sets it"
    if LAYOUTS[layout := find_layout(state)] is not rules and rules in LAYOUTS.values():
        return f"; the file looks like layout={layout!r}"
    wanted, there = architecture_of(weights) or {}, architecture_of(own) or {}
    differing = [f"{key}={value!r}" for key, value in wanted.items() if there.get(key) != value]
    if not there or not differing:
        return ""
    return f"; the file looks like build_model with {', '.join(differing)} (see open_checkpoint)"


def _body(names: Iterable[str]) -> set[str]:
    return {name for name in names if not _is_classifier(name)}


def _is_classifier(key: str) -> bool:
    return bool(re.match(r"classifier(_\w+)?\.", key))
