"""Every network of this package by name, and those of plug-ins."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from reid_explain.errors import InputError
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.timm_models import PREFIX, TimmNet, check_timm_name
from reid_explain.registry import Registry

MODELS: Registry[Callable[..., EmbeddingNet]] = Registry(
    "reid_explain.models", package="reid_explain.models"
)
"""By name, a function of ``num_classes`` and of the network's own options."""


def build_model(name: str, num_classes: int = 0, **options: Any) -> EmbeddingNet:
    """Return an untrained network in training mode, with random weights.

    Args:
        name: one of ``MODELS``; that of a ResNet stands for the strong baseline on it; or
            ``timm/NAME`` for a ``TimmNet``; or ``"module:Class"``.
        num_classes: training identities; 0 builds no classifier.
        options: of a ``ReIDNet`` (``backbone``, ``pooling``, ``width``, ...), a ``PCB``, an
            ``MGN`` or a ``TimmNet``; an OSNet has none.

    Raises:
        InputError: another name, or an option that the network does not have.

    Warns:
        UserWarning: a network of timm without a word on ``pretrained``.

    Example:
        >>> import torch
        >>> from reid_explain.models import build_model
        >>> model = build_model("resnet18", num_classes=5, width=0.125).eval()
        >>> images = torch.rand(2, 3, 128, 64)
        >>> model(images).shape, model.features(images).shape
        (torch.Size([2, 64]), torch.Size([2, 64, 8, 4]))
    """
    make = _factory(name)
    if name.startswith(PREFIX) and "pretrained" not in options:
        hint = "pretrained=True, or open_checkpoint(file, name=...)"
        warnings.warn(f"{name} has random weights and is in training mode: {hint}", stacklevel=2)
    try:
        return make(num_classes=num_classes, **options)
    except TypeError as error:
        raise InputError("options", f"{options} ({error})", f"options of {name}") from error


def network_of(name: str) -> type[EmbeddingNet]:
    """Return the class of the network of this name, which imports no module by its name.

    One of neither ``MODELS`` nor timm raises ``InputError``.
    """
    make: Any = _factory(name, imports=False)
    network: type[EmbeddingNet] = getattr(make, "func", make)
    return network


def _factory(name: str, *, imports: bool = True) -> Callable[..., EmbeddingNet]:
    if name.startswith(PREFIX):
        if ":" in name and not imports:
            raise InputError("name", repr(name), f"{PREFIX}NAME, which is read from no other place")
        check_timm_name(name.removeprefix(PREFIX))
        return partial(TimmNet, name.removeprefix(PREFIX))
    if name not in MODELS and not (imports and ":" in name):
        raise InputError("name", repr(name), f"one of {', '.join(MODELS)}, or {PREFIX}NAME")
    return MODELS.resolve(name)
