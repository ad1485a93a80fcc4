"""Infer the architecture of a network from its state dict."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models.resnet import Bottleneck

from reid_explain.models.layouts import LAYOUTS, find_layout
from reid_explain.models.mobilenetv2 import STEM, WIDTHS
from reid_explain.models.osnet import CHANNELS
from reid_explain.models.resnet import LAST_PLANES, RESNETS

BLOCK = re.compile(r"^(backbone|branches\.b1)\.layer([1-4])\.(\d+\.)?conv1\.weight$")
"""The first convolution of a residual block; MGN has the rest of the stages in branches."""


def architecture_of(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of ``build_model`` for the network nearest to weights with our names.

    Name, ``num_classes`` and all that weights show; of what is ``unseen`` in the network only the
    parts of a PCB with classifiers, the reduction of an MGN if it is linear, and the patches of a
    vision transformer if they fit a usual size of images. None if it is no network of this package.
    """
    told = LAYOUTS[find_layout(state)].architecture
    if told is not None:
        return dict(told(state))

    def any_has(part: str) -> bool:
        return any(part in key for key in state)

    if "conv1.conv.weight" in state:
        return {"name": _torchreid_name(state), "num_classes": class_count(state)}
    blocks = [found for key in state if (found := BLOCK.match(key))]
    stages = Counter(found[2] for found in blocks)
    form = [stages[stage] for stage in "1234"], "backbone.layer1.0.conv3.weight" in state
    forms = {n: (depths, block is Bottleneck) for n, (block, depths) in RESNETS.items()}
    backbone = next((name for name in forms if forms[name] == form), None)
    if backbone is None:
        return None
    last = next(found[0] for found in blocks if found[2] == "4")
    width = _shape(state, last)[0] / LAST_PLANES
    common = {"num_classes": class_count(state), "width": width, "ibn": any_has(".IN.")}
    pooling = "gem" if {"pool.p", "pool.b1.p"} & {*state} else "avg"
    if "conv5.0.weight" in state:
        parts = sum(bool(re.match(r"classifier\.\d+\.weight", key)) for key in state)
        return {"name": "pcb", "backbone": backbone, **common} | ({"parts": parts} if parts else {})
    if any_has("branches."):
        linear = {} if "neck.b1.3.weight" in state else {"reduction": "linear"}
        return {"name": "mgn", "backbone": backbone, **common, "pooling": pooling, **linear}
    necks = {"neck.weight": "batch_norm", "neck.0.weight": "linear"}
    return {
        "name": backbone,
        **common,
        "pooling": pooling,
        "neck": next((neck for key, neck in necks.items() if key in state), "none"),
        "non_local": any_has(".non_local_"),
        "local": _shape(state, "backbone.layer4.0.conv2.weight")[2:] == (1, 1),
    }


def class_count(state: Mapping[str, Tensor]) -> int:
    """Return the number of training identities, 0 without a classifier."""
    names = (key for key in state if re.match(r"classifier(_\w+)?\.(\w+\.)?weight$", key))
    return next((_shape(state, name)[0] for name in names), 0)


def _torchreid_name(state: Mapping[str, Tensor]) -> str:
    """Return the name of a MobileNetV2 or an OSNet."""
    stem = _shape(state, "conv1.conv.weight")[0]
    if "conv9.conv.weight" in state:
        family, factor = "mobilenetv2", next((w for w in WIDTHS if int(STEM * w) == stem), 0)
    else:
        # AIN alone has instance norms behind the first stage.
        norm = "_ain" if "conv3.1.IN.weight" in state else ""
        norm = norm or ("_ibn" if "conv2.0.IN.weight" in state else "")
        family, factor = f"osnet{norm}", stem / CHANNELS[0]
    return f"{family}_x{factor}".replace(".", "_")


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape if name in state else ()) or (0,)
