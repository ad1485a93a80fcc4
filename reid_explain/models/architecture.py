"""Infer the architecture of a network from its state dict."""

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torchvision.models.resnet import Bottleneck

from reid_explain.models.osnet import CHANNELS
from reid_explain.models.resnet import LAST_PLANES, RESNETS

BLOCK = re.compile(r"^(backbone|branches\.b1)\.layer([1-4])\.(\d+\.)?conv1\.weight$")
"""The first convolution of a residual block; MGN has the rest of the stages in branches."""
UNSEEN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(RESNETS, ("last_stride", "ceil_mode", "stem_relu", "padding")),
        "pcb": ("parts", "ceil_mode", "padding"),
        "mgn": ("reduction", "ceil_mode", "padding"),
    }
)
"""Arguments of ``build_model`` that weights never show, or not always."""


def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of ``build_model`` for the network nearest to these weights.

    Args:
        state: weights under the names of this package.

    Returns:
        Name, ``num_classes``, and of the networks with a ResNet all that weights show; not
        ``UNSEEN``, but the parts of a PCB with classifiers, and the reduction of an MGN if it is
        linear. None if it is no network of this package.
    """
    if "conv1.conv.weight" in state:
        width = str(_rows(state["conv1.conv.weight"]) / CHANNELS[0]).replace(".", "_")
        return {"name": f"osnet_x{width}", "num_classes": class_count(state)}
    backbone = _resnet(state)
    if backbone is None:
        return None
    common = {"num_classes": class_count(state), "width": _width(state), "ibn": _any(state, ".IN.")}
    pooling = "gem" if {"pool.p", "pool.b1.p"} & set(state) else "avg"
    if "conv5.0.weight" in state:
        parts = sum(bool(re.match(r"classifier\.\d+\.weight", key)) for key in state)
        found: dict[str, Any] = {"parts": parts} if parts else {}
        return {"name": "pcb", "backbone": backbone, **common, **found}
    if _any(state, "branches."):
        found = {} if "neck.b1.3.weight" in state else {"reduction": "linear"}
        return {"name": "mgn", "backbone": backbone, **common, "pooling": pooling, **found}
    kernel = state.get("backbone.layer4.0.conv2.weight")
    return {
        "name": backbone,
        **common,
        "pooling": pooling,
        "neck": "batch_norm" if "neck.weight" in state else "none",
        "non_local": _any(state, ".non_local_"),
        "local": kernel is not None and kernel.shape[2:] == (1, 1),
    }


def class_count(state: Mapping[str, Tensor]) -> int:
    """Return the number of training identities, 0 without a classifier."""
    names = (key for key in state if re.match(r"classifier\.(\w+\.)?weight$", key))
    return next((_rows(state[name]) for name in names), 0)


def _resnet(state: Mapping[str, Tensor]) -> str | None:
    stages = Counter(found[2] for key in state if (found := BLOCK.match(key)))
    depths = [stages[stage] for stage in "1234"]
    bottleneck = "backbone.layer1.0.conv3.weight" in state
    for name, (block, layers) in RESNETS.items():
        if layers == depths and (block is Bottleneck) == bottleneck:
            return name
    return None


def _width(state: Mapping[str, Tensor]) -> float:
    last = (key for key in state if (found := BLOCK.match(key)) and found[2] == "4")
    return _rows(state[next(last)]) / LAST_PLANES


def _rows(weight: Tensor) -> int:
    return weight.shape[0] if weight.dim() else 0


def _any(state: Mapping[str, Tensor], part: str) -> bool:
    return any(part in key for key in state)
