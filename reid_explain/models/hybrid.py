"""A vision transformer whose patches are those of a convolutional map.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, section 3.1 (hybrid).
"""

from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.capture import evaluation
from reid_explain.checks import check_at_least, check_choice
from reid_explain.inputs import InputSpec
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.resnet import SETTINGS, ResNetBackbone
from reid_explain.models.timm_models import timm_module

STAGES = 4


@MODELS.register(name="hybrid_vit")
class HybridViT(EmbeddingNet):
    """A vision transformer on the map of the first stages of a ResNet.

    F is the tokens (B, 1 + h w, C) behind the last norm; the embedding is their class token. A stem
    whose weights are all frozen stays in eval mode.

    Args:
        num_classes: training identities; 0 builds no classifier.
        backbone: of the stem, as a ``ReIDNet`` has it.
        stages: of the stem, 1 to 4.
        img_size: height and width of the images.
        patch_size: side of a patch in cells of the stem's map.
        embed_dim: C.
        depth: number of blocks.
        num_heads: of each attention.
        resnet: keywords of ``ResNetBackbone``, such as ``width``.

    Raises:
        InputError: an argument outside these, or timm is not installed.
    """

    card_settings = (
        *(*SETTINGS, "stages", "img_size", "patch_size"),
        *("embed_dim", "depth", "num_heads"),
    )
    trainable_stages = ()

    def __init__(
        self,
        num_classes: int = 0,
        backbone: str = "resnet18",
        stages: int = 2,
        img_size: tuple[int, int] = (256, 128),
        patch_size: int = 2,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        **resnet: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        check_choice("stages", stages, range(1, STAGES + 1))
        height, width = img_size
        self.input_spec = InputSpec((height, width))
        self.stem = ResNetBackbone(backbone, **resnet)
        for number in range(stages + 1, STAGES + 1):
            setattr(self.stem, f"layer{number}", nn.Identity())
        with torch.no_grad(), evaluation(self.stem, self.stem):
            map_ = self.stem(torch.zeros(1, 3, *self.input_spec.size))
        self.vit = timm_module().models.VisionTransformer(
            img_size=tuple(map_.shape[2:]),
            patch_size=patch_size,
            in_chans=map_.shape[1],
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
        )
        self.channels = self.embedding_dim = embed_dim
        self.map_layer = f"vit.blocks.{depth - 1}.norm1"
        if num_classes:
            self.classifier = nn.Linear(embed_dim, num_classes)

    def train(self, mode: bool = True) -> "HybridViT":
        """Set the mode; a frozen stem stays in eval mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.stem.parameters()):
            self.stem.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return the tokens F, (B, 1 + h w, C), of images (B, 3, H, W)."""
        out: Tensor = self.vit.forward_features(self.stem(x))
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token (B, C)."""
        return features[:, 0]

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, C), which is the class token."""
        return pooled
