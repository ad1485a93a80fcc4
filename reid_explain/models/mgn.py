"""MGN, the multiple granularity network (Wang et al., ACM Multimedia 2018), as in fast-reid."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.checks import check_at_least, check_choice
from reid_explain.errors import InputError
from reid_explain.models.build import MODELS
from reid_explain.models.parts import REDUCED_DIM, PartNet, part_classifiers, reducing_layers
from reid_explain.models.pooling import POOLINGS
from reid_explain.models.resnet import SETTINGS, ResNetBackbone

BRANCHES = ("b1", "b2", "b3")
SHARED = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
PARTS: Mapping[str, tuple[int, int, int]] = {
    **{f"b{i + 1}": (i, 1, 0) for i in range(3)},
    **{f"b2{i + 1}": (1, 2, i) for i in range(2)},
    **{f"b3{i + 1}": (2, 3, i) for i in range(3)},
}
"""Branch, number of stripes and stripe of the eight parts, in fast-reid's order and names."""


@MODELS.register(name="mgn")
class MGN(PartNet):
    """ResNet that branches in its third stage; eight parts of the three branches' maps.

    Each branch is pooled as a whole, the second in two stripes as well and the third in three;
    each of the eight vectors has a pooling, a reduction and a classifier of its own. The
    embedding is the eight side by side, ``embedding.unflatten(1, (8, 256))[:, i]`` for part i.

    F is the three branches' maps one above the other, (B, 3 C, h, w). A part depends on one
    branch alone, and is explained as well on its layer of ``branch_layers``.

    This is fast-reid's network. In the paper (section 3) the first branch has a stride in its
    last stage, all pooling is by maximum, the classifiers of b1, b2 and b3 read the 2048
    channels before the reduction, and the reduction ends with a ReLU.

    Args:
        backbone: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        num_classes: training identities; 0 builds no classifiers.
        pooling: ``"gem"`` or ``"avg"``.
        reduction: ``"linear"``, 1x1 convolution and batch norm, as in fast-reid from version 1.0
            on; or ``"relu"``, with a ReLU and a second batch norm behind these, as before.
        resnet: keywords of ``ResNetBackbone``, as in ``ReIDNet``; ``weights`` are those before
            it branches.

    Attributes:
        branch_layers: dotted names of the layers that give the branches' maps.

    Raises:
        InputError: an argument outside these, or weights that do not fit the backbone.
    """

    map_layer = "branches"
    branch_layers = tuple(f"branches.{name}" for name in BRANCHES)
    trainable_stages = ("branches",)
    card_settings = (*SETTINGS, "pooling", "reduction")
    unseen = ("reduction", "ceil_mode", "padding")
    part_names = tuple(PARTS)
    embedding_dim = len(PARTS) * REDUCED_DIM

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 0,
        pooling: str = "gem",
        reduction: str = "linear",
        **resnet: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        check_choice("pooling", pooling, tuple(POOLINGS))
        check_choice("reduction", reduction, ("linear", "relu"))
        body = ResNetBackbone(backbone, **resnet)
        layers = OrderedDict((name, getattr(body, name)) for name in SHARED)
        self.backbone = nn.Sequential(layers | {"layer3": body.layer3[0]})
        branch = OrderedDict(layer3=nn.Sequential(*body.layer3[1:]), layer4=body.layer4)
        self.branches = Branches({n: copy.deepcopy(nn.Sequential(branch)) for n in BRANCHES})
        self.pool = PartPools({name: POOLINGS[pooling]() for name in PARTS})
        self.neck = PartNecks({name: _neck(body.out_channels, reduction) for name in PARTS})
        self.channels = len(PARTS) * body.out_channels
        if num_classes:
            self.classifier = part_classifiers(self.part_names, num_classes, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """Return F, (B, 3 C, H/16, W/16), the branches' maps of images (B, 3, H, W)."""
        out: Tensor = self.branches(self.backbone(x))
        return out

    def vectors(self, pooled: Tensor) -> Tensor:
        """Return the part vectors, (B, 8, 256), of pooled maps (B, 8 C)."""
        return self._split(self.neck(pooled))

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the mean logits of the parts, (B, num_classes), of embeddings (B, 2048).

        They are inner products, also of a network that was trained with a loss on cosines.
        """
        return self._classified(self._split(embedding)).mean(dim=1)

    def _split(self, embedding: Tensor) -> Tensor:
        return embedding.reshape(len(embedding), len(PARTS), -1)


class Branches(nn.ModuleDict):
    """Stages side by side, which give their maps one above the other."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C', h', w') to (B, 3 C, h, w)."""
        return torch.cat([branch(x) for branch in self.values()], dim=1)


class PartPools(nn.ModuleDict):
    """The pooling of each part: (B, 3 C, h, w) to (B, 8 C)."""

    def rows(self, height: int) -> list[slice]:
        """Return the rows of each part in maps of this height; raise if too low for stripes."""
        return [_chunk(height, stripes, stripe) for _, stripes, stripe in PARTS.values()]

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``features``."""
        places = self._places(features)
        return torch.cat([pool(features[:, c, rows]) for pool, c, rows in places], dim=1)

    def masked(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool ``features`` times each of the ``masks`` (B, M, h, w): (B, M, 8 C)."""
        places = self._places(features)
        pooled = [pool.masked(features[:, c, rows], masks[:, :, rows]) for pool, c, rows in places]
        return torch.cat(pooled, dim=2)

    def _places(self, features: Tensor) -> Iterator[tuple[Any, slice, slice]]:
        """Yield pooling, channels and rows of each part."""
        width = features.shape[1] // len(BRANCHES)
        rows = self.rows(features.shape[2])
        for (name, (branch, *_)), part_rows in zip(PARTS.items(), rows, strict=True):
            yield self[name], slice(branch * width, (branch + 1) * width), part_rows


class PartNecks(nn.ModuleDict):
    """The reduction of each part: (B, 8 C) to (B, 2048)."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Reduce each part of ``pooled``."""
        vectors = pooled[..., None, None].chunk(len(self), dim=1)
        necks = zip(self.values(), vectors, strict=True)
        return torch.cat([neck(vector) for neck, vector in necks], dim=1).flatten(1)


def _neck(channels: int, kind: str) -> nn.Sequential:
    """Return the layers from a pooled part (B, C, 1, 1) to its vector (B, 256, 1, 1)."""
    layers: list[Any] = [*reducing_layers(channels)]
    if kind == "relu":
        layers += [nn.ReLU(), nn.BatchNorm2d(REDUCED_DIM)]
    layers[-1].bias.requires_grad_(False)  # It stays 0, as in the neck of the strong baseline.
    return nn.Sequential(*layers)


def _chunk(height: int, stripes: int, stripe: int) -> slice:
    """Return the rows of one of the stripes, equally high but for the last, which is no higher."""
    step = -(-height // stripes)
    if (stripes - 1) * step >= height:
        raise InputError("features", f"maps of {height} rows", f"rows for {stripes} stripes")
    return slice(stripe * step, min((stripe + 1) * step, height))
