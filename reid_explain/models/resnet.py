"""Torchvision's ResNet up to its last map, with what re-identification adds to it."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.models.state_dicts import load_state_dict, read_state_dict

Block = type[BasicBlock] | type[Bottleneck]
RESNETS: Mapping[str, tuple[Block, list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
NON_LOCAL_BLOCKS = {"resnet50": (0, 2, 3, 0), "resnet101": (0, 2, 9, 0)}
"""Non-local blocks after the last blocks of each stage, as in fast-reid; others have none."""
THIRD_PLANES, LAST_PLANES = 256, 512
SETTINGS = (
    *("num_classes", "backbone", "last_stride", "width", "ibn", "non_local"),
    *("ceil_mode", "stem_relu", "padding", "local"),
)
"""What the card of a network with a ResNet may set of it."""


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest (IBN-a).

    Pan et al., "Two at once: enhancing learning and generalization capacities via IBN-Net",
    ECCV 2018, figure 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.instance_channels = half = channels // 2
        self.IN = nn.InstanceNorm2d(half, affine=True)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, h, w)."""
        first, second = x[:, : self.instance_channels], x[:, self.instance_channels :]
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


class NonLocal(nn.Module):
    """A non-local block: x + W(y), y_i = 1/N Σ_j (θ_i · φ_j) g_j over all places j.

    Wang et al., "Non-local neural networks", CVPR 2018, equations 1, 4 (dot product) and 6.
    θ, φ and g have one channel, as fast-reid's have. A new block changes nothing: the norm of W
    starts at 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, 1, 1)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), norm)
        self.theta = nn.Conv2d(channels, 1, 1)
        self.phi = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, h, w)."""
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        # (θ φᵀ) g = θ (φᵀ g): the N x N matrix of all pairs of places is never made.
        y = theta * (phi * g).mean(dim=2, keepdim=True)
        out: Tensor = x + self.W(y.view(len(x), 1, *x.shape[2:]))
        return out


class PartialConv2d(nn.Conv2d):
    """A convolution whose zero padding does not count: sums over what lies inside the image.

    Each result is scaled by kernel area / area of the kernel inside the image, so that the border
    of the image is no landmark. Weights are those of ``Conv2d``.

    Source: Liu et al., "Partial convolution based padding", 2018 (arXiv:1811.11718), equation 2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', h', w') for x (B, C, h, w)."""
        out: Tensor = self._conv_forward(x, self.weight, None)
        rows, columns = (
            _kernel_share(x.shape[2 + i], self.kernel_size[i], self.stride[i], int(self.padding[i]))
            for i in (0, 1)
        )
        out = out * (rows[:, None] * columns).to(out)
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]


def _kernel_share(size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Return kernel / part of it inside the image for each place along one axis, (h',)."""
    starts = torch.arange((size + 2 * padding - kernel) // stride + 1) * stride - padding
    return kernel / ((starts + kernel).clamp(max=size) - starts.clamp(min=0))


class ResNetBackbone(ResNet):  # type: ignore[misc]
    """Torchvision's ResNet up to its last map, with the stride of ``layer4`` and a width.

    Args:
        name: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        last_stride: stride of ``layer4``; 1 keeps a map of twice the height and width of 2.
        width: factor on the planes of the four stages (the stem keeps its 64), 1/64 to 16.
        ibn: IBN-a in place of the first norm of every block of ``layer1`` to ``layer3``.
        non_local: non-local blocks in the stages, see ``NON_LOCAL_BLOCKS``.
        ceil_mode: the first pooling as fast-reid has it from version 1.0 on: no padding, and
            the size rounded up. The size of the map is the same, its values are not.
        stem_relu: the ReLU after the first batch norm, which reid-strong-baseline left out.
        padding: of the convolutions, ``"zeros"`` or ``"partial"`` (``PartialConv2d``).
        local: the third stage has no stride and the fourth convolves single cells, so that the
            map is twice as fine and a cell sees little beyond itself (Brendel & Bethge,
            "Approximating CNNs with bag-of-local-features models", ICLR 2019).
        weights: torchvision weights, downloaded by torchvision when they are not cached, or a
            file of such weights; nothing is loaded by default.

    Raises:
        InputError: an argument outside these, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        last_stride: int = 1,
        width: float = 1.0,
        *,
        ibn: bool = False,
        non_local: bool = False,
        ceil_mode: bool = False,
        stem_relu: bool = True,
        padding: str = "zeros",
        local: bool = False,
        weights: WeightsEnum | str | Path | None = None,
    ) -> None:
        check_choice("backbone", name, tuple(RESNETS))
        check_choice("last_stride", last_stride, (1, 2))
        check_choice("padding", padding, ("zeros", "partial"))
        if not 1 / 64 <= width <= 16:
            raise InputError("width", width, "a factor from 1/64 to 16")
        # _make_layer runs inside ResNet.__init__ and reads these.
        self.strides = {LAST_PLANES: last_stride} | ({THIRD_PLANES: 1} if local else {})
        self.width = width
        block, layers = RESNETS[name]
        super().__init__(block, layers)
        self.out_channels: int = self.inplanes
        del self.avgpool, self.fc
        if not stem_relu:
            self.relu = nn.Identity()
        if ceil_mode:
            self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        if ibn:
            for resblock in (*self.layer1, *self.layer2, *self.layer3):
                resblock.bn1 = IBN(resblock.bn1.num_features)
        if non_local:
            for number, count in enumerate(NON_LOCAL_BLOCKS.get(name, ()), start=1):
                stage = getattr(self, f"layer{number}")
                setattr(self, f"layer{number}", _with_non_local(stage, count))
        if local:
            _replace_convolutions(self.layer4, _of_single_cells)
        if padding == "partial":
            _replace_convolutions(self, _with_partial_padding)
        if weights is not None:
            if isinstance(weights, WeightsEnum):
                state: Mapping[str, Tensor] = weights.get_state_dict(check_hash=True)
            else:
                state = read_state_dict(weights)
            body = {key: value for key, value in state.items() if not key.startswith("fc.")}
            load_state_dict(self, body, str(weights))

    def stem(self, x: Tensor) -> Tensor:
        """Return the input of ``layer1``, (B, 64, H/4, W/4), for images (B, 3, H, W)."""
        out: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of ``layer4``, (B, C, h, w), for images (B, 3, H, W)."""
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return out

    def _make_layer(
        self, block: Block, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        stride, planes = self.strides.get(planes, stride), round(planes * self.width)
        stage: nn.Sequential = super()._make_layer(block, planes, blocks, stride, dilate)
        return stage


def _with_non_local(stage: nn.Sequential, count: int) -> nn.Sequential:
    """Return the stage with a non-local block after each of its last ``count`` blocks."""
    last = list(stage[-1].children())
    channels = next(m.num_features for m in reversed(last) if isinstance(m, nn.BatchNorm2d))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (name, block) in enumerate(stage.named_children()):
        parts[name] = block
        if (number := index - len(stage) + count) >= 0:
            parts[f"non_local_{number}"] = NonLocal(channels)
    return nn.Sequential(parts)


def _replace_convolutions(module: nn.Module, replaced: Callable[[Any], nn.Conv2d]) -> None:
    """Replace each convolution of more than single cells in ``module``."""
    for name, child in module.named_children():
        _replace_convolutions(child, replaced)
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1):
            setattr(module, name, replaced(child))


def _with_partial_padding(conv: Any) -> nn.Conv2d:
    form = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    partial = PartialConv2d(*form, bias=conv.bias is not None)
    partial.load_state_dict(conv.state_dict())
    return partial


def _of_single_cells(conv: Any) -> nn.Conv2d:
    single = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride, bias=False)
    nn.init.kaiming_normal_(single.weight, mode="fan_out", nonlinearity="relu")
    return single
