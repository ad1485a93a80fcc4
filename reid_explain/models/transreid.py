"""TransReID (He et al., ICCV 2021) and TransReID-SSL (Luo et al., 2021, arXiv:2111.12084).

The names are those of the authors' files, which open as they are.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.checks import check_at_least, check_choice
from reid_explain.models.architecture import class_count
from reid_explain.models.build import MODELS
from reid_explain.models.layouts import LAYOUTS, Layout
from reid_explain.models.resnet import IBN
from reid_explain.models.transformers import (
    PATCH,
    BottleneckNet,
    PatchNet,
    bottleneck,
    camera_table,
    check_size,
    count_of,
    identity_classifier,
    rows_of_cameras,
    usual_grid,
)

NORM = partial(nn.LayerNorm, eps=1e-6)
STEM_CHANNELS = 64
LOCAL_PARTS = 4
"""So many share the patches, and each counts in the embedding for one of so many."""
GROUPS = 2


class TransReID(PatchNet, BottleneckNet):
    """A vision transformer whose patches overlap and whose tokens know the camera.

    F is the tokens (B, 1 + h w, D) behind the last norm, ``pool`` their class token.

    Args:
        num_classes: training identities; 0 builds no classifier.
        img_size: height and width of the images; weights fit one size alone.
        stride: pixels from patch to patch, 16, or less if they overlap (section 3.1).
        cameras: rows of the table of side information (section 3.3): cameras, viewpoints, or
            camera * viewpoints + viewpoint; 0 for none.
        neck: ``"before"``, ``"after"`` or ``"none"``, see ``BottleneckNet``.
        stem: ``"patch"``, or ``"convolutional"``, three convolutions with IBN before patches that
            do not overlap (TransReID-SSL, section 3.2).
        embed_dim: D, a multiple of 64, the channels of a head.
        depth: number of blocks.
        side_weight: factor on the side information (``MODEL.SIE_COE``).

    Raises:
        InputError: an argument outside these, or timm is not installed.
    """

    card_settings = (*PatchNet.card_settings, "stem")

    def __init__(
        self,
        num_classes: int = 0,
        img_size: tuple[int, int] = (256, 128),
        stride: int = PATCH,
        cameras: int = 0,
        neck: str = "before",
        stem: str = "patch",
        embed_dim: int = 768,
        depth: int = 12,
        side_weight: float = 3.0,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        check_choice("stem", stem, ("patch", "convolutional"))
        self.stem, self.side_weight = stem, side_weight
        self.base = self._tower(img_size, stride, embed_dim, depth, "base", norm_layer=NORM)
        if stem == "convolutional":
            check_choice("stride", stride, (PATCH,))
            _add_stem(self.base.patch_embed, embed_dim)
        self.base.sie_embed = camera_table(cameras, 1, embed_dim)
        self._build_head(embed_dim, num_classes, neck)

    def features(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the tokens F, (B, 1 + h w, D), of images (B, 3, H, W)."""
        out: Tensor = self.base.norm(self.base.blocks(self.tokens(x, cameras)))
        return out

    def tokens(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the tokens before the blocks: class and patches, position, camera (equation 4)."""
        check_size(x, self.input_spec.size)
        if self.stem == "convolutional":
            x = self.base.patch_embed.conv(x)
        patches = self.base.patch_embed(x)
        start = self.base.cls_token.expand(len(x), -1, -1)
        tokens: Tensor = torch.cat([start, patches], dim=1) + self.base.pos_embed
        side = rows_of_cameras(self.base.sie_embed, cameras)
        return tokens if side is None else tokens + self.side_weight * side[:, None]

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token (B, D)."""
        return features[:, 0]


class TransReIDJPM(TransReID):
    """TransReID with the jigsaw patch module (section 3.2): a global vector and four local ones.

    After all blocks but the last, one block makes the global vector of all tokens; another makes
    each local vector of the class token and a quarter of the patches, shifted and shuffled. The
    embedding is the five side by side, the local ones at a quarter of their length. F is the tokens
    that all five read. ``functools.partial(model.part, index=i)`` explains one.

    Args:
        shift: by how many tokens the patches are shifted (``MODEL.SHIFT_NUM``): 5, 8 for VeRi-776.
        options: of ``TransReID``. The last block and the norm of ``base`` are never used; the
            files have them.

    Attributes:
        part_places: the patches of each local part, (4, N // 4), counted in row order.
    """

    card_settings = (*TransReID.card_settings, "shift")
    part_names = ("global", *(f"local {i + 1}" for i in range(LOCAL_PARTS)))

    def __init__(self, num_classes: int = 0, shift: int = 5, **options: Any) -> None:
        super().__init__(num_classes, **options)
        check_at_least("shift", shift, 1)
        depth, dim = len(self.base.blocks), self.channels
        check_at_least("depth", depth, 2)
        block = type(self.base.blocks[-1])
        form = {"num_heads": self.base.blocks[-1].attn.num_heads, "qkv_bias": True}
        self.b1, self.b2 = (
            nn.Sequential(block(dim, norm_layer=NORM, **form), NORM(dim)) for _ in range(2)
        )
        for i in range(1, LOCAL_PARTS + 1):
            norm = nn.Identity() if self.neck_name == "none" else bottleneck(dim)
            setattr(self, f"bottleneck_{i}", norm)
            if num_classes:
                setattr(self, f"classifier_{i}", identity_classifier(dim, num_classes))
        self.channels = self.embedding_dim = (1 + LOCAL_PARTS) * dim
        self.map_layer = f"base.blocks.{depth - 2}"
        self.part_places = jigsaw(self.base.pos_embed.shape[1] - 1, shift)

    def features(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the tokens F, (B, 1 + h w, D), of images (B, 3, H, W)."""
        out: Tensor = self.base.blocks[:-1](self.tokens(x, cameras))
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Return the class tokens of the five parts, (B, 5 D)."""
        parts = range(len(self.part_names))
        return torch.cat([self._pooled(features, i) for i in parts], dim=1)

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, 5 D) of pooled tokens (B, 5 D)."""
        tokens = enumerate(self._parts(pooled).unbind(dim=1))
        return torch.cat([self._vector(token, i) for i, token in tokens], dim=1)

    def part(self, x: Tensor, cameras: Tensor | int | None = None, *, index: int) -> Tensor:
        """Return the vector of one part, (B, D), as it is in the embedding.

        No other part is computed: attention explains part 0. Another index raises ``InputError``.
        """
        check_choice("index", index, range(len(self.part_names)))
        return self._vector(self._pooled(self.features(x, cameras), index), index)

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the mean logits of the parts, (B, num_classes), of embeddings (B, 5 D)."""
        self._check_classes()
        logits = []
        for i, vector in enumerate(self._parts(embedding).unbind(dim=1)):
            read = vector * LOCAL_PARTS if i else vector
            if self.neck_name == "before":
                read = self._of_part("bottleneck", i)(read)
            logits.append(self._of_part("classifier", i)(read))
        return torch.stack(logits).mean(dim=0)

    def _pooled(self, features: Tensor, index: int) -> Tensor:
        """Return the class token (B, D) of one part."""
        if index:
            places = 1 + self.part_places[index - 1].to(features.device)
            read = torch.cat([features[:, :1], features[:, places]], dim=1)
        else:
            read = features
        out: Tensor = (self.b2 if index else self.b1)(read)[:, 0]
        return out

    def _vector(self, token: Tensor, index: int) -> Tensor:
        """Return the vector (B, D) of a part whose class token it is."""
        if self.neck_name == "after":
            token = self._of_part("bottleneck", index)(token)
        return token / LOCAL_PARTS if index else token

    def _parts(self, joined: Tensor) -> Tensor:
        return joined.reshape(len(joined), len(self.part_names), -1)

    def _of_part(self, name: str, index: int) -> Any:
        return getattr(self, f"{name}_{index}" if index else name)


def jigsaw(count: int, shift: int) -> Tensor:
    """Return which of ``count`` patches each local part reads, (4, count // 4) (section 3.2).

    The patches are shifted by ``shift - 1`` (the class token counts), and dealt out in two groups
    in turn; an odd number is made even with the last but one.
    """
    order = torch.arange(count).roll(1 - shift)
    if count % GROUPS:
        order = torch.cat([order, order[-2:-1]])
    shuffled = order.view(GROUPS, -1).T.flatten()
    each = count // LOCAL_PARTS
    return shuffled[: LOCAL_PARTS * each].view(LOCAL_PARTS, each)


def _add_stem(embed: Any, embed_dim: int) -> None:
    """Put three convolutions before the patches, which are then of half as many pixels."""

    def convolution(inputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(inputs, STEM_CHANNELS, kernel, stride, kernel // 2, bias=False)

    embed.conv = nn.Sequential(
        *(convolution(3, 7, stride=2), IBN(STEM_CHANNELS), nn.ReLU()),
        *(convolution(STEM_CHANNELS, 3), IBN(STEM_CHANNELS), nn.ReLU()),
        *(convolution(STEM_CHANNELS, 3), nn.BatchNorm2d(STEM_CHANNELS), nn.ReLU()),
    )
    embed.proj = nn.Conv2d(STEM_CHANNELS, embed_dim, PATCH // 2, PATCH // 2)
    embed.img_size = tuple(side // 2 for side in embed.img_size)


def _architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of a TransReID with these weights."""
    _, tokens, dim = state["base.pos_embed"].shape
    table = state.get("base.sie_embed")
    return {
        "name": "transreid_jpm" if "b1.1.weight" in state else "transreid",
        "num_classes": class_count(state),
        **usual_grid(tokens - 1),
        "cameras": 0 if table is None else len(table),
        "neck": "before" if "bottleneck.weight" in state else "none",
        "stem": "convolutional" if "base.patch_embed.conv.0.weight" in state else "patch",
        "embed_dim": dim,
        "depth": count_of(state, "base.blocks."),
    }


MODELS.register(TransReID, name="transreid")
MODELS.register(TransReIDJPM, name="transreid_jpm")
LAYOUTS.register(
    # The authors' networks keep a classifier of ImageNet, unused.
    Layout(r"^base\.cls_token$", extras=(r"^base\.fc\.",), architecture=_architecture),
    name="transreid",
)
