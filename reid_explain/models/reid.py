"""The networks of one ResNet, one pooling and one neck: IDE, the strong baseline, SBS."""

from functools import partial
from typing import Any

from torch import nn

from reid_explain.checks import check_at_least, check_choice
from reid_explain.inputs import InputSpec
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import POOLINGS
from reid_explain.models.resnet import RESNETS, SETTINGS, ResNetBackbone

LINEAR_DIM = 512


class ReIDNet(EmbeddingNet):
    """ResNet, pooling, neck, linear classifier; by default the strong baseline (BoT).

    Luo et al., "Bag of tricks and a strong baseline for deep person re-identification", CVPR
    workshops 2019: no last stride, batch norm without bias as the neck, a classifier without
    bias. Without a neck and with the last stride it is the IDE baseline (Zheng et al., "Person
    re-identification: past, present and future", 2016, section 3.2).

    Args:
        backbone: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        num_classes: training identities; 0 builds no classifier.
        pooling: ``"avg"`` or ``"gem"`` (generalized mean, learnable exponent from 3).
        neck: ``"batch_norm"``; ``"linear"``, to 512 values with batch norm and ReLU, as in
            torchreid's resnet50_fc512; or ``"none"``.
        resnet: keywords of ``ResNetBackbone``: ``last_stride``, ``width``, ``ibn``,
            ``non_local``, ``ceil_mode``, ``stem_relu``, ``padding``, ``local``, ``weights``.

    Raises:
        InputError: an argument outside these, or weights that do not fit the backbone.
    """

    map_layer = "backbone.layer4"
    trainable_stages = ("backbone.layer3", "backbone.layer4")
    card_settings = (*SETTINGS, "pooling", "neck")
    unseen = ("last_stride", "ceil_mode", "stem_relu", "padding")

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 0,
        pooling: str = "avg",
        neck: str = "batch_norm",
        **resnet: Any,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, tuple(POOLINGS))
        check_choice("neck", neck, ("batch_norm", "linear", "none"))
        check_at_least("num_classes", num_classes, 0)
        self.backbone = ResNetBackbone(backbone, **resnet)
        self.pool = POOLINGS[pooling]()
        self.channels = self.embedding_dim = self.backbone.out_channels
        if neck == "linear":
            self.embedding_dim = LINEAR_DIM
            linear = nn.Linear(self.channels, LINEAR_DIM)
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)
            self.neck = nn.Sequential(linear, nn.BatchNorm1d(LINEAR_DIM), nn.ReLU())
        else:
            norm = nn.BatchNorm1d(self.channels)
            norm.bias.requires_grad_(False)  # It stays 0.
            self.neck = nn.Identity() if neck == "none" else norm
        if num_classes:
            self.classifier = nn.Linear(self.embedding_dim, num_classes, bias=neck != "batch_norm")
            nn.init.normal_(self.classifier.weight, std=0.001)


class SBS(ReIDNet):
    """fast-reid's stronger baseline (He et al., 2020, arXiv:2006.02631), images of 384x128."""

    input_spec = InputSpec((384, 128))

    def __init__(self, backbone: str = "resnet50", num_classes: int = 0, **options: Any) -> None:
        stronger = {"pooling": "gem", "ibn": True, "non_local": True, "ceil_mode": True}
        super().__init__(backbone, num_classes, **{**stronger, **options})


for _name in RESNETS:
    MODELS.register(partial(ReIDNet, _name), name=_name)
MODELS.register(partial(ReIDNet, neck="none", last_stride=2), name="ide")
MODELS.register(partial(ReIDNet, "resnet50", neck="linear"), name="resnet50_fc512")
MODELS.register(ReIDNet, name="bot")
MODELS.register(SBS, name="sbs")
