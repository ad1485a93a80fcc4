"""Every network of this package by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.osnet import OSNet
from reid_explain.models.reid import ReIDNet
from reid_explain.models.resnet import RESNETS

OSNET_WIDTHS = {"osnet_x1_0": 1.0, "osnet_x0_75": 0.75, "osnet_x0_5": 0.5, "osnet_x0_25": 0.25}
BASELINES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ide": {"neck": "none", "last_stride": 2},
        "bot": {},
        "sbs": {"pooling": "gem", "ibn": True, "non_local": True, "ceil_mode": True},
    }
)
"""What makes a ``ReIDNet`` the baseline of that name; ``backbone`` is ResNet-50 by default."""
MODEL_NAMES = (*RESNETS, *BASELINES, *OSNET_WIDTHS)


def build_model(name: str, num_classes: int = 0, **options: Any) -> EmbeddingNet:
    """Return an untrained network.

    Args:
        name: one of ``MODEL_NAMES``; that of a ResNet stands for the strong baseline on it.
        num_classes: training identities; 0 builds no classifier.
        options: of a ``ReIDNet`` (``backbone``, ``pooling``, ``width``, ...); an OSNet has none.

    Raises:
        InputError: another name, or an option that the network does not have.
    """
    check_choice("name", name, MODEL_NAMES)
    if name in RESNETS:
        return ReIDNet(name, num_classes, **options)
    if name in BASELINES:
        return ReIDNet(num_classes=num_classes, **{**BASELINES[name], **options})
    if options:
        raise InputError("options", f"{', '.join(options)} for {name}", "none for an OSNet")
    return OSNet(OSNET_WIDTHS[name], num_classes)
