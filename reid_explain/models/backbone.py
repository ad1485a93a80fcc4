"""The ResNet of every network here that has one: checked settings, weights of ImageNet."""

from pathlib import Path
from typing import Any, TypeAlias

from torchvision.models import WeightsEnum

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.models.checkpoints import load_state_dict, read_state_dict
from reid_explain.models.resnet import PADDINGS, RESNETS, ResNetBackbone

Weights: TypeAlias = WeightsEnum | str | Path | None


def build_backbone(
    name: str,
    last_stride: int = 1,
    width: float = 1.0,
    weights: Weights = None,
    **options: Any,
) -> ResNetBackbone:
    """Return a ``ResNetBackbone``, with weights if they are given.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        last_stride: stride of the last stage, 1 or 2.
        width: factor on the planes of the four stages.
        weights: torchvision weights, downloaded by torchvision when they are not cached, or a
            file of such weights; nothing is loaded by default.
        options: ``ibn``, ``non_local``, ``ceil_mode``, ``stem_relu``, ``padding`` and ``local``
            of ``ResNetBackbone``.

    Raises:
        InputError: an argument outside these, or weights that do not fit.
    """
    check_choice("backbone", name, tuple(RESNETS))
    check_choice("last_stride", last_stride, (1, 2))
    if not 1 / 64 <= width <= 16:
        raise InputError("width", width, "a factor from 1/64 to 16")
    check_choice("padding", options.get("padding", "zeros"), PADDINGS)
    backbone = ResNetBackbone(name, last_stride, width, **options)
    if weights is not None:
        _load_imagenet(backbone, weights)
    return backbone


def _load_imagenet(backbone: ResNetBackbone, weights: WeightsEnum | str | Path) -> None:
    if isinstance(weights, WeightsEnum):
        source, state = str(weights), dict(weights.get_state_dict(progress=True, check_hash=True))
    else:
        source, state = str(weights), read_state_dict(weights)
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    load_state_dict(backbone, body, source)
