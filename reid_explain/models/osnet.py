"""OSNet: omni-scale feature learning for person re-identification (Zhou et al., ICCV 2019).

With instance norms, which generalize to other cameras, it is OSNet-IBN or OSNet-AIN (Zhou et al.,
"Learning generalisable omni-scale representations for person re-identification", TPAMI 2021).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reid_explain.checks import check_at_least, check_choice
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import GlobalAveragePool

CHANNELS = (64, 256, 384, 512)
WIDTHS = (1.0, 0.75, 0.5, 0.25)
NORMS: Mapping[str, tuple[str, ...]] = {
    "batch": ("",) * 6,
    "ibn": ("outside", "outside", "", "", "", ""),
    "ain": ("inside", "inside", "", "inside", "inside", ""),
}
"""Where each of the six blocks has an instance norm; the paper searched the places of AIN."""


class ConvLayer(nn.Module):
    """Convolution, norm and, unless ``linear``, ReLU; the size halves with ``stride`` 2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        linear: bool = False,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = norm(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        out: Tensor = self.bn(self.conv(x))
        return out if self.linear else relu(out)


instance_norm = partial(nn.InstanceNorm2d, affine=True)


class LightConv3x3(nn.Module):
    """The lite 3x3 layer (figure 3b): 1x1 convolution, depthwise 3x3, batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, h, w)."""
        return relu(self.bn(self.conv2(self.conv1(x))))


class ChannelGate(nn.Module):
    """The unified aggregation gate (equation 3): x times a weight per image and channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, h, w)."""
        gate: Tensor = self.fc2(relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class OSBlock(nn.Module):
    """The omni-scale residual block (figure 4): four streams of 1 to 4 lite layers, one gate.

    An instance norm lies ``"inside"`` the residual, in place of its last batch norm, ``"outside"``,
    after the sum, or, with ``""``, nowhere.
    """

    def __init__(self, inputs: int, outputs: int, norm: str = "") -> None:
        super().__init__()
        middle = outputs // 4
        self.norm = norm
        self.conv1 = ConvLayer(inputs, middle)
        self.conv2a = LightConv3x3(middle)
        self.conv2b, self.conv2c, self.conv2d = (
            nn.Sequential(*(LightConv3x3(middle) for _ in range(depth))) for depth in (2, 3, 4)
        )
        self.gate = ChannelGate(middle)
        last_norm = nn.Identity if norm == "inside" else nn.BatchNorm2d
        self.conv3 = ConvLayer(middle, outputs, linear=True, norm=last_norm)
        if norm:
            self.IN = instance_norm(outputs)
        if inputs != outputs:
            self.downsample = ConvLayer(inputs, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        identity = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv1(x)
        scales = self.gate(self.conv2a(x))
        for stream in (self.conv2b, self.conv2c, self.conv2d):
            scales = scales + self.gate(stream(x))
        residual = self.conv3(scales)
        if self.norm == "inside":
            residual = self.IN(residual)
        total = residual + identity
        return relu(self.IN(total) if self.norm == "outside" else total)


class OSNet(EmbeddingNet):
    """OSNet, whose embedding is torchreid's evaluation output in both modes.

    Args:
        width: factor on the channels: 1.0, 0.75, 0.5 or 0.25; ``InputError`` for another.
        num_classes: training identities; 0 builds no classifier.
        norm: ``"batch"``; ``"ibn"``, instance norms in the first layer and stage; or ``"ain"``,
            where the search of the paper put them.
    """

    embedding_dim = 512
    map_layer = "conv5"
    trainable_stages = ("conv3", "conv4", "conv5")

    def __init__(self, width: float = 1.0, num_classes: int = 0, norm: str = "batch") -> None:
        super().__init__()
        check_choice("width", width, WIDTHS)
        check_choice("norm", norm, tuple(NORMS))
        check_at_least("num_classes", num_classes, 0)
        stem, first, second, third = (int(channels * width) for channels in CHANNELS)
        first_norm = nn.BatchNorm2d if norm == "batch" else instance_norm
        self.conv1 = ConvLayer(3, stem, 7, stride=2, norm=first_norm)
        norms = NORMS[norm]
        self.conv2 = nn.Sequential(*_blocks(stem, first, norms[:2]), _halve(first))
        self.conv3 = nn.Sequential(*_blocks(first, second, norms[2:4]), _halve(second))
        self.conv4 = nn.Sequential(*_blocks(second, third, norms[4:]))
        self.conv5 = ConvLayer(third, third)
        self.pool = GlobalAveragePool()
        self.channels = third
        dim = self.embedding_dim
        self.neck = nn.Sequential(nn.Linear(third, dim), nn.BatchNorm1d(dim), nn.ReLU())
        if num_classes:
            self.classifier = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the last map F, (B, C, H/16, W/16), of images (B, 3, H, W)."""
        x = max_pool2d(self.conv1(x), 3, stride=2, padding=1)
        out: Tensor = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        return out


def _blocks(inputs: int, outputs: int, norms: Iterable[str]) -> Iterator[OSBlock]:
    for norm in norms:
        yield OSBlock(inputs, outputs, norm)
        inputs = outputs


def _halve(channels: int) -> nn.Sequential:
    return nn.Sequential(ConvLayer(channels, channels), nn.AvgPool2d(2, stride=2))


osnet_x1_0 = partial(OSNet, 1.0)
osnet_x0_75 = partial(OSNet, 0.75)
osnet_x0_5 = partial(OSNet, 0.5)
osnet_x0_25 = partial(OSNet, 0.25)
for _norm in NORMS:
    for _width in WIDTHS:
        _name = f"osnet_x{_width}" if _norm == "batch" else f"osnet_{_norm}_x{_width}"
        MODELS.register(partial(OSNet, _width, norm=_norm), name=_name.replace(".", "_"))
