"""The image towers of CLIP-ReID (Li et al., AAAI 2023), whose files open as they are.

The text tower serves training alone: its weights are left out.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import Bottleneck, ResNet

from reid_explain.checks import check_at_least, check_choice
from reid_explain.inputs import InputSpec
from reid_explain.models.architecture import class_count
from reid_explain.models.build import MODELS
from reid_explain.models.layouts import LAYOUTS, Layout
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.transformers import (
    HEAD_DIM,
    NECKS,
    PATCH,
    PatchNet,
    bottleneck,
    camera_table,
    check_size,
    count_of,
    identity_classifier,
    patch_grid,
    rows_of_cameras,
    usual_grid,
)

NAMES = (
    *(("ln_1", "norm1"), ("attn.in_proj", "attn.qkv"), ("attn.out_proj", "attn.proj")),
    *(("ln_2", "norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
)
"""Of a block's layers, in CLIP and in timm."""
STEM_WIDTH = 64
"""Channels of the stem, and planes of the first stage, of CLIP's ResNet-50."""


class TwoVectors(EmbeddingNet):
    """A network that pools a vector, and its projection to the space of the texts.

    The embedding is both side by side. With ``neck="before"`` they are as pooled, as in the
    authors' configurations (``TEST.NECK_FEAT``); with ``"after"`` each is behind its batch norm.
    """

    neck_name: str

    def _build_head(self, dim: int, projected: int, num_classes: int, neck: str) -> None:
        check_at_least("num_classes", num_classes, 0)
        check_choice("neck", neck, NECKS[:2])
        self.neck_name, self.dim = neck, dim
        self.channels = self.embedding_dim = dim + projected
        self.bottleneck, self.bottleneck_proj = bottleneck(dim), bottleneck(projected)
        if num_classes:
            self.classifier = identity_classifier(dim, num_classes)
            self.classifier_proj = identity_classifier(projected, num_classes)

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, D) of pooled vectors (B, D)."""
        return self._normed(pooled) if self.neck_name == "after" else pooled

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the mean logits (B, num_classes) of both vectors; ``InputError`` without any."""
        self._check_classes()
        read = self._normed(embedding) if self.neck_name == "before" else embedding
        vector, projected = read[:, : self.dim], read[:, self.dim :]
        out: Tensor = (self.classifier(vector) + self.classifier_proj(projected)) / 2
        return out

    def _normed(self, both: Tensor) -> Tensor:
        vector, projected = both[:, : self.dim], both[:, self.dim :]
        return torch.cat([self.bottleneck(vector), self.bottleneck_proj(projected)], dim=1)


@MODELS.register(name="clip_reid_vit")
class CLIPReIDViT(PatchNet, TwoVectors):
    """CLIP's vision transformer with positions for rectangles; patches may overlap.

    F is the tokens (B, 1 + h w, C) behind the last norm; the two vectors are their class token
    and its projection.

    Args:
        num_classes: training identities; 0 builds no classifiers.
        img_size: height and width of the images; weights fit one size alone.
        stride: pixels from patch to patch: 16, or 12 if they overlap.
        cameras: rows of the table that is added to the class token; 0 for none.
        neck: ``"before"`` or ``"after"``.
        embed_dim: C, a multiple of 64, the channels of a head.
        depth: number of blocks.
        projected: width of the projection.
        side_weight: factor on the rows of the table (``MODEL.SIE_COE``).

    Raises:
        InputError: an argument outside these, or timm is not installed.
    """

    card_settings = (*PatchNet.card_settings, "projected")

    def __init__(
        self,
        num_classes: int = 0,
        img_size: tuple[int, int] = (256, 128),
        stride: int = PATCH,
        cameras: int = 0,
        neck: str = "before",
        embed_dim: int = 768,
        depth: int = 12,
        projected: int = 512,
        side_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.side_weight = side_weight
        form = {"pre_norm": True, "norm_layer": partial(nn.LayerNorm, eps=1e-5)}
        self.image_encoder = self._tower(
            img_size, stride, embed_dim, depth, "image_encoder", act_layer="quick_gelu", **form
        )
        scale = embed_dim**-0.5
        self.image_encoder.proj = nn.Parameter(scale * torch.randn(embed_dim, projected))
        self.cv_embed = camera_table(cameras, embed_dim)
        self._build_head(embed_dim, projected, num_classes, neck)

    def features(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the tokens F, (B, 1 + h w, C), of images (B, 3, H, W)."""
        check_size(x, self.input_spec.size)
        encoder = self.image_encoder
        start = encoder.cls_token.expand(len(x), -1, -1)
        side = rows_of_cameras(self.cv_embed, cameras)
        if side is not None:
            start = start + self.side_weight * side[:, None]
        tokens = torch.cat([start, encoder.patch_embed(x)], dim=1) + encoder.pos_embed
        out: Tensor = encoder.norm(encoder.blocks(encoder.norm_pre(tokens)))
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token and its projection, (B, D)."""
        start = features[:, 0]
        return torch.cat([start, start @ self.image_encoder.proj], dim=1)


@MODELS.register(name="clip_reid_resnet")
class CLIPReIDResNet(TwoVectors):
    """CLIP's ResNet-50 without its last stride.

    F is the map of the last stage; the two vectors are its mean and what the attention pooling
    makes of it.

    Args:
        num_classes: training identities; 0 builds no classifiers.
        img_size: height and width of the images, which the positions of the pooling are for.
        neck: ``"before"`` or ``"after"``.
        width: channels of the stem.
        depths: blocks of the four stages.
        projected: width of the projection.

    Raises:
        InputError: an argument outside these.
    """

    card_settings = ("num_classes", "img_size", "neck", "width", "depths", "projected")
    unseen = ("img_size",)
    map_layer = "image_encoder.layer4"
    trainable_stages = ("image_encoder.layer3", "image_encoder.layer4")

    def __init__(
        self,
        num_classes: int = 0,
        img_size: tuple[int, int] = (256, 128),
        neck: str = "before",
        width: int = STEM_WIDTH,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        projected: int = 1024,
    ) -> None:
        super().__init__()
        self.input_spec = InputSpec(img_size)
        rows, columns = patch_grid(self.input_spec.size, PATCH)
        self.image_encoder = CLIPResNet(width, list(depths))
        channels = self.image_encoder.inplanes
        self.image_encoder.attnpool = AttentionPool(channels, rows * columns, projected)
        self._build_head(channels, projected, num_classes, neck)

    def features(self, x: Tensor) -> Tensor:
        """Return F, (B, C, H/16, W/16), of images (B, 3, H, W)."""
        check_size(x, self.input_spec.size)
        out: Tensor = self.image_encoder(x)
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean of F and its attention pooling, (B, D)."""
        return torch.cat([features.mean((2, 3)), self.image_encoder.attnpool(features)], dim=1)


class CLIPBlock(Bottleneck):  # type: ignore[misc]
    """CLIP's bottleneck, whose stride is a mean (Radford et al., ICML 2021, section 2.4)."""

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: Any = None,
        *args: Any,
        **options: Any,
    ) -> None:
        if downsample is not None:
            downsample[0].stride = (1, 1)
        super().__init__(inplanes, planes, 1, downsample, *args, **options)
        self.shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inplanes, h, w) to (B, 4 planes, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.shrink(self.relu(self.bn2(self.conv2(y))))
        skipped = x if self.downsample is None else self.downsample(self.shrink(x))
        out: Tensor = self.relu(self.bn3(self.conv3(y)) + skipped)
        return out


class CLIPResNet(ResNet):  # type: ignore[misc]
    """CLIP's ResNet up to its last map: three convolutions and a mean are its stem."""

    def __init__(self, width: int, depths: list[int]) -> None:
        # _make_layer runs inside ResNet.__init__ and reads it.
        self.width = width
        super().__init__(CLIPBlock, depths)
        del self.fc, self.maxpool
        for i, (inputs, outputs) in enumerate(
            ((3, width // 2), (width // 2,) * 2, (width // 2, width))
        ):
            convolution = nn.Conv2d(inputs, outputs, 3, 1 if i else 2, padding=1, bias=False)
            setattr(self, f"conv{i + 1}", convolution)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(outputs))
        self.avgpool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of ``layer4``, (B, C, H/16, W/16), of images (B, 3, H, W)."""
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = self.relu(norm(conv(x)))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.avgpool(x)))))
        return out

    def _make_layer(
        self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        first, last = STEM_WIDTH, 8 * STEM_WIDTH
        if planes == first:
            self.inplanes = self.width
        planes, stride = planes * self.width // STEM_WIDTH, 1 if planes == last else stride
        stage: nn.Sequential = super()._make_layer(block, planes, blocks, stride, dilate)
        return stage


class AttentionPool(nn.Module):
    """CLIP's attention pooling: what the mean of the places attends to (section 2.4)."""

    def __init__(self, channels: int, places: int, outputs: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        positions = torch.randn(places + 1, channels) / channels**0.5
        self.positional_embedding = nn.Parameter(positions)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return vectors (B, outputs) of maps (B, channels, h, w)."""
        places = features.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1)
        places = places + self.positional_embedding
        parts = (self.q_proj(places[:, :1]), self.k_proj(places), self.v_proj(places))
        query, key, value = (
            part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in parts
        )
        read = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.c_proj(read.flatten(1))
        return out


def _vit(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the transformer with these weights."""
    tokens, dim = state["image_encoder.pos_embed"].shape[-2:]
    table = state.get("cv_embed")
    return {
        "name": "clip_reid_vit",
        "num_classes": class_count(state),
        **usual_grid(tokens - 1),
        "cameras": 0 if table is None else len(table),
        "embed_dim": dim,
        "depth": count_of(state, "image_encoder.blocks."),
        "projected": state["image_encoder.proj"].shape[1],
    }


def _resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the ResNet with these weights."""
    found = usual_grid(len(state["image_encoder.attnpool.positional_embedding"]) - 1)
    return {
        "name": "clip_reid_resnet",
        "num_classes": class_count(state),
        **({"img_size": found["img_size"]} if found.get("stride") == PATCH else {}),
        "width": len(state["image_encoder.conv3.weight"]),
        "depths": tuple(count_of(state, f"image_encoder.layer{i}.") for i in range(1, 5)),
        "projected": len(state["image_encoder.attnpool.c_proj.weight"]),
    }


TEXT = (r"^(prompt_learner|text_encoder)\.",)
BLOCK = r"^image_encoder\.transformer\.resblocks\.(\d+)\."
LAYOUTS.register(
    Layout(
        r"^image_encoder\.(class_embedding|cls_token)$",
        renames=(
            (r"^image_encoder\.conv1\.", "image_encoder.patch_embed.proj."),
            (r"^image_encoder\.class_embedding$", "image_encoder.cls_token"),
            (r"^image_encoder\.positional_embedding$", "image_encoder.pos_embed"),
            (r"^image_encoder\.ln_pre\.", "image_encoder.norm_pre."),
            (r"^image_encoder\.ln_post\.", "image_encoder.norm."),
            *(
                (rf"{BLOCK}{theirs}[._]", rf"image_encoder.blocks.\1.{ours}.")
                for theirs, ours in NAMES
            ),
        ),
        extras=TEXT,
        architecture=_vit,
    ),
    name="clip-reid",
)
LAYOUTS.register(
    # cv_embed: the authors' ResNet has the table of cameras and never reads it.
    Layout(r"^image_encoder\.attnpool\.", extras=(*TEXT, r"^cv_embed$"), architecture=_resnet),
    name="clip-reid-resnet",
)
