"""Every network of this package by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from reid_explain.errors import InputError
from reid_explain.models.mgn import MGN
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.osnet import OSNet
from reid_explain.models.parts import PartNet
from reid_explain.models.pcb import PCB
from reid_explain.models.reid import ReIDNet
from reid_explain.models.resnet import RESNETS
from reid_explain.models.timm_models import PREFIX, TimmNet, check_timm_name

OSNET_WIDTHS = {"osnet_x1_0": 1.0, "osnet_x0_75": 0.75, "osnet_x0_5": 0.5, "osnet_x0_25": 0.25}
BASELINES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ide": {"neck": "none", "last_stride": 2},
        "bot": {},
        "sbs": {"pooling": "gem", "ibn": True, "non_local": True, "ceil_mode": True},
    }
)
"""What makes a ``ReIDNet`` the baseline of that name; ``backbone`` is ResNet-50 by default."""
PART_NETS: Mapping[str, type[PartNet]] = MappingProxyType({"pcb": PCB, "mgn": MGN})
MODEL_NAMES = (*RESNETS, *BASELINES, *PART_NETS, *OSNET_WIDTHS)


def build_model(name: str, num_classes: int = 0, **options: Any) -> EmbeddingNet:
    """Return an untrained network.

    Args:
        name: one of ``MODEL_NAMES``; that of a ResNet stands for the strong baseline on it; or
            ``timm/NAME`` for a :class:`~reid_explain.models.timm_models.TimmNet`.
        num_classes: training identities; 0 builds no classifier.
        options: of a ``ReIDNet`` (``backbone``, ``pooling``, ``width``, ...), a ``PCB``, an
            ``MGN`` or a ``TimmNet``; an OSNet has none.

    Raises:
        InputError: another name, or an option that the network does not have.

    Example:
        >>> import torch
        >>> from reid_explain.models import build_model
        >>> model = build_model("resnet18", num_classes=5, width=0.125).eval()
        >>> images = torch.rand(2, 3, 128, 64)
        >>> model(images).shape, model.features(images).shape
        (torch.Size([2, 64]), torch.Size([2, 64, 8, 4]))
    """
    check_model_name(name)
    if name.startswith(PREFIX):
        return TimmNet(name.removeprefix(PREFIX), num_classes, **options)
    if name in RESNETS:
        return ReIDNet(name, num_classes, **options)
    if name in BASELINES:
        return ReIDNet(num_classes=num_classes, **{**BASELINES[name], **options})
    if name in PART_NETS:
        return PART_NETS[name](num_classes=num_classes, **options)
    if options:
        raise InputError("options", f"{', '.join(options)} for {name}", "none for an OSNet")
    return OSNet(OSNET_WIDTHS[name], num_classes)


def check_model_name(name: str) -> None:
    """Raise unless ``build_model`` knows a network of this name."""
    if name.startswith(PREFIX):
        check_timm_name(name.removeprefix(PREFIX))
    elif name not in MODEL_NAMES:
        raise InputError("name", repr(name), f"one of {', '.join(MODEL_NAMES)}, or {PREFIX}NAME")
