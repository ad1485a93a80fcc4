"""SOLIDER (Chen et al., CVPR 2023): Swin with a semantic weight, as SOLIDER-REID saves it.

Its Swin is that of mmcv: it pads before it shifts, merges patches channel by channel, and shifts
stages that one window covers, too.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Permute

from reid_explain.checks import check_at_least
from reid_explain.errors import InputError
from reid_explain.models.architecture import class_count
from reid_explain.models.build import MODELS
from reid_explain.models.layouts import LAYOUTS, Layout
from reid_explain.models.pooling import GlobalAveragePool
from reid_explain.models.timm_models import timm_module
from reid_explain.models.transformers import HALVES, BottleneckNet, count_of

PATCH, HEAD_DIM = 4, 32
SIZES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "tiny": (96, (2, 2, 6, 2)),
    "small": (96, (2, 2, 18, 2)),
    "base": (128, (2, 2, 18, 2)),
}
OTHER_REGION = -100.0
"""Added to the products of places that were not neighbors before the shift."""


class Solider(BottleneckNet):
    """Swin whose stages are modulated by how much semantics is asked for, against appearance.

    F is the map (B, C, H/32, W/32) behind the last norm, rounded up; ``pool`` is its mean.

    Args:
        embed_dim: channels of the first stage, a multiple of 32, the channels of a head.
        depths: blocks of the stages.
        num_classes: training identities; 0 builds no classifier.
        semantic_weight: λ in [0, 1] of section 3.3; 0.2 in the authors' re-identification. None for
            a network without.
        neck: ``"before"``, ``"after"`` or ``"none"``, see ``BottleneckNet``.
        window: side of a window in places.

    Raises:
        InputError: an argument outside these, or timm is not installed.
    """

    card_settings = ("embed_dim", "depths", "num_classes", "semantic_weight", "neck", "window")
    unseen = ("semantic_weight",)
    input_spec = HALVES.replace(size=(384, 128))
    map_layer = "last_map"

    def __init__(
        self,
        embed_dim: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        num_classes: int = 0,
        semantic_weight: float | None = 0.2,
        neck: str = "before",
        window: int = 7,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        if semantic_weight is not None and not 0 <= semantic_weight <= 1:
            raise InputError("semantic_weight", semantic_weight, "a number in [0, 1], or None")
        self.base = Swin(embed_dim, tuple(depths), window, semantic_weight)
        self.last_map = Permute([0, 3, 1, 2])
        self.pool = GlobalAveragePool()
        last = len(depths) - 1
        self.trainable_stages = (f"base.stages.{last}", f"base.norm{last}", "last_map")
        self._build_head(embed_dim * 2**last, num_classes, neck)

    def features(self, x: Tensor) -> Tensor:
        """Return F, (B, C, h, w), of images (B, 3, H, W)."""
        out: Tensor = self.last_map(self.base(x))
        return out


class Swin(nn.Module):
    """The four stages, modulated: maps (B, h, w, C) behind the last norm."""

    def __init__(
        self, dim: int, depths: tuple[int, ...], window: int, semantic_weight: float | None
    ) -> None:
        super().__init__()
        self.semantic_weight, self.last = semantic_weight, len(depths) - 1
        self.patch_embed = nn.ModuleDict(
            {"projection": nn.Conv2d(3, dim, PATCH, PATCH), "norm": nn.LayerNorm(dim)}
        )
        dims = [dim * 2**i for i in range(len(depths))]
        self.stages = nn.ModuleList(
            _stage(width, depth, window, merges=i < self.last)
            for i, (width, depth) in enumerate(zip(dims, depths, strict=True))
        )
        setattr(self, f"norm{self.last}", nn.LayerNorm(dims[-1]))
        if semantic_weight is not None:
            self.semantic_embed_w, self.semantic_embed_b = (
                nn.ModuleList(nn.Linear(2, width).requires_grad_(False) for width in dims[1:])
                for _ in range(2)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of images (B, 3, H, W)."""
        x = functional.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH))
        x = self.patch_embed["projection"](x).permute(0, 2, 3, 1)
        x = self.patch_embed["norm"](x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.semantic_weight is not None and i < self.last:
                weight = x.new_tensor([self.semantic_weight, 1 - self.semantic_weight])
                scale = functional.softplus(self.semantic_embed_w[i](weight))
                x = x * scale + self.semantic_embed_b[i](weight)
        out: Tensor = getattr(self, f"norm{self.last}")(x)
        return out


class SwinBlock(nn.Module):
    """Attention in windows, shifted in every second block, and a perceptron."""

    def __init__(self, dim: int, window: int, shift: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = ShiftedWindows(dim, window, shift)
        first = nn.Sequential(nn.Linear(dim, hidden), nn.GELU())
        layers = nn.Sequential(first, nn.Linear(hidden, dim))
        self.ffn = nn.Sequential(OrderedDict(layers=layers))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, h, w, C)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class ShiftedWindows(nn.Module):
    """timm's attention in windows; the map is padded to whole windows, then shifted."""

    def __init__(self, dim: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        attention = timm_module().models.swin_transformer.WindowAttention
        self.w_msa = attention(dim, num_heads=dim // HEAD_DIM, window_size=window)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, h, w, C)."""
        height, width = x.shape[1:3]
        x = functional.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded, shift = x.shape, (self.shift, self.shift)
        windows = self._windows(x.roll((-self.shift, -self.shift), (1, 2)))
        mask = self._mask(padded[1], padded[2], x) if self.shift else None
        x = self._map(self.w_msa(windows, mask), padded).roll(shift, (1, 2))
        return x[:, :height, :width]

    def _mask(self, height: int, width: int, like: Tensor) -> Tensor:
        """Return what is added to the products of places, (windows, places, places)."""

        def regions(count: int) -> Tensor:
            place = torch.arange(count, device=like.device)
            return (place >= count - self.window).long() + (place >= count - self.shift)

        region = 3 * regions(height)[:, None] + regions(width)
        each = self._windows(region[None, :, :, None])[..., 0]
        return OTHER_REGION * (each[:, None] != each[:, :, None]).to(like)

    def _windows(self, x: Tensor) -> Tensor:
        """Return the places of each window, (B windows, places, C)."""
        batch, height, width, channels = x.shape
        side = self.window
        x = x.reshape(batch, height // side, side, width // side, side, channels)
        return x.transpose(2, 3).reshape(-1, side * side, channels)

    def _map(self, windows: Tensor, shape: torch.Size) -> Tensor:
        """Return the map (B, h, w, C) of its windows."""
        batch, height, width, channels = shape
        side = self.window
        x = windows.reshape(batch, height // side, width // side, side, side, channels)
        return x.transpose(2, 3).reshape(shape)


class PatchMerging(nn.Module):
    """Four neighbors side by side, channel by channel, to twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to (B, h / 2, w / 2, 2 C), rounded up."""
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        out: Tensor = self.reduction(self.norm(x.permute(0, 1, 3, 5, 2, 4).flatten(3)))
        return out


def _stage(dim: int, depth: int, window: int, *, merges: bool) -> nn.Sequential:
    blocks = (SwinBlock(dim, window, window // 2 if i % 2 else 0) for i in range(depth))
    parts: OrderedDict[str, nn.Module] = OrderedDict(blocks=nn.Sequential(*blocks))
    if merges:
        parts["downsample"] = PatchMerging(dim)
    return nn.Sequential(parts)


def _architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of a SOLIDER with these weights."""
    stages = range(count_of(state, "base.stages."))
    table = state["base.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"]
    dim = len(state["base.patch_embed.projection.weight"])
    depths = tuple(count_of(state, f"base.stages.{i}.blocks.") for i in stages)
    size = next((name for name, form in SIZES.items() if form == (dim, depths)), None)
    semantic = "base.semantic_embed_w.0.weight" in state
    return {
        **({"name": f"solider_{size}"} if size else {}),
        **({} if size else {"name": "solider", "embed_dim": dim, "depths": depths}),
        "num_classes": class_count(state),
        "neck": "before" if "bottleneck.weight" in state else "none",
        "window": (round(len(table) ** 0.5) + 1) // 2,
        **({} if semantic else {"semantic_weight": None}),
    }


MODELS.register(Solider, name="solider")
for _size, _form in SIZES.items():
    MODELS.register(partial(Solider, *_form), name=f"solider_{_size}")
UNUSED = (r"relative_position_index$", r"^base\.norm[012]\.", r"^base\.semantic_embed_[wb]\.3\.")
"""What the files have and the embedding does not read."""
LAYOUTS.register(
    Layout(
        r"^base\.stages\.0\.blocks\.0\.attn\.w_msa\.",
        extras=UNUSED,
        settings=((r"", {"semantic_weight": 0.2}),),
        architecture=_architecture,
    ),
    name="solider",
)
