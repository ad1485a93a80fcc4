"""The strong-baseline re-identification network: ResNet, pooling, BN neck, classifier.

Luo et al., "Bag of tricks and a strong baseline for deep person re-identification",
CVPR workshops 2019.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from reid_explain.checks import check_at_least, check_choice
from reid_explain.errors import InputError
from reid_explain.models.checkpoints import load_state_dict, read_state_dict
from reid_explain.models.pooling import POOLINGS

RESNETS: Mapping[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = MappingProxyType(
    {
        "resnet18": (BasicBlock, [2, 2, 2, 2]),
        "resnet34": (BasicBlock, [3, 4, 6, 3]),
        "resnet50": (Bottleneck, [3, 4, 6, 3]),
        "resnet101": (Bottleneck, [3, 4, 23, 3]),
    }
)
LAST_PLANES = 512


class ResNetBackbone(ResNet):  # type: ignore[misc]
    """Torchvision's ResNet up to its last map, with the stride of ``layer4`` and a width.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        last_stride: stride of ``layer4``; 1 keeps a map of twice the height and width.
        width: factor on the planes of the four stages (the stem keeps its 64).
    """

    def __init__(self, name: str, last_stride: int = 1, width: float = 1.0) -> None:
        # _make_layer runs inside ResNet.__init__ and reads both.
        self.last_stride = last_stride
        self.width = width
        block, layers = RESNETS[name]
        super().__init__(block, layers)
        self.out_channels: int = self.inplanes
        del self.avgpool, self.fc

    def _make_layer(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        if planes == LAST_PLANES:
            stride = self.last_stride
        stage: nn.Sequential = super()._make_layer(
            block, round(planes * self.width), blocks, stride, dilate
        )
        return stage

    def stem(self, x: Tensor) -> Tensor:
        """Return the input of ``layer1``, (B, 64, H/4, W/4), for images (B, 3, H, W)."""
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of ``layer4``, (B, C, h, w), for images (B, 3, H, W)."""
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return out


class ReIDNet(nn.Module):
    """The strong baseline: ResNet without its last stride, pooling, BN neck, linear classifier.

    ``forward(x) = embed(features(x))`` in both modes. Training reads two more outputs of the
    seam: ``pool(F)`` feeds the triplet loss and ``classify(embed(F))`` the identity loss.
    ``map_layer`` names the layer that gives F, ``own_stages`` those that an ``AMDInterpreter``
    makes its own.

    Args:
        backbone: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        num_classes: training identities; 0 builds no classifier.
        pooling: ``"avg"`` or ``"gem"`` (generalised mean, learnable exponent from 3).
        last_stride: stride of the last stage, 1 (the paper's) or 2 (ImageNet's).
        width: factor on the planes of the four stages.
        weights: torchvision weights, downloaded by torchvision when they are not cached, or a
            file of such weights, for the backbone; nothing is loaded by default.

    Raises:
        InputError: an argument outside these, or weights that do not fit the backbone.
    """

    map_layer = "backbone.layer4"
    own_stages = ("backbone.layer3", "backbone.layer4")

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 0,
        pooling: str = "avg",
        last_stride: int = 1,
        width: float = 1.0,
        weights: WeightsEnum | str | Path | None = None,
    ) -> None:
        super().__init__()
        check_choice("backbone", backbone, tuple(RESNETS))
        check_choice("pooling", pooling, tuple(POOLINGS))
        check_choice("last_stride", last_stride, (1, 2))
        check_at_least("num_classes", num_classes, 0)
        if not 1 / 64 <= width <= 16:
            raise InputError("width", width, "a factor from 1/64 to 16")
        self.backbone = ResNetBackbone(backbone, last_stride, width)
        self.pool = POOLINGS[pooling]()
        self.channels = self.embedding_dim = self.backbone.out_channels
        self.neck = _bn_neck(self.channels)
        if num_classes:
            self.classifier = nn.Linear(self.embedding_dim, num_classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)
        if weights is not None:
            _load_imagenet(self.backbone, weights)

    def features(self, x: Tensor) -> Tensor:
        """Return the last map F, (B, C, h, w), of images (B, 3, H, W); h = H/16 at stride 1."""
        out: Tensor = self.backbone(x)
        return out

    def embed(self, features: Tensor) -> Tensor:
        """Return the embedding f, (B, D), D = C: the neck of the pooled ``features``."""
        out: Tensor = self.neck(self.pool(features))
        return out

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of embeddings (B, D).

        Raises:
            InputError: the network was built without classes.
        """
        if not hasattr(self, "classifier"):
            raise InputError("model", "a ReIDNet with num_classes=0", "one with a classifier")
        out: Tensor = self.classifier(embedding)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (B, D) of images (B, 3, H, W)."""
        return self.embed(self.features(x))


def _bn_neck(channels: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(channels)
    neck.bias.requires_grad_(False)
    return neck


def _load_imagenet(backbone: ResNetBackbone, weights: WeightsEnum | str | Path) -> None:
    if isinstance(weights, WeightsEnum):
        source, state = str(weights), dict(weights.get_state_dict(progress=True, check_hash=True))
    else:
        source, state = str(weights), read_state_dict(weights)
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    load_state_dict(backbone, body, source)
