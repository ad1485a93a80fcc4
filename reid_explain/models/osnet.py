"""OSNet: omni-scale feature learning for person re-identification (Zhou et al., ICCV 2019).

The module names give the state-dict keys of torchreid's files.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reid_explain.checks import check_at_least, check_choice
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import GlobalAveragePool

CHANNELS = (64, 256, 384, 512)
WIDTHS = (1.0, 0.75, 0.5, 0.25)


class ConvLayer(nn.Module):
    """Convolution, batch norm and, unless ``linear``, ReLU; the size halves with ``stride`` 2."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        out: Tensor = self.bn(self.conv(x))
        return out if self.linear else relu(out)


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
    """The omni-scale residual block (figure 4): four streams of 1 to 4 lite layers, one gate."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = ConvLayer(inputs, middle)
        self.conv2a = LightConv3x3(middle)
        self.conv2b, self.conv2c, self.conv2d = (
            nn.Sequential(*(LightConv3x3(middle) for _ in range(depth))) for depth in (2, 3, 4)
        )
        self.gate = ChannelGate(middle)
        self.conv3 = ConvLayer(middle, outputs, linear=True)
        if inputs != outputs:
            self.downsample = ConvLayer(inputs, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h, w)."""
        identity = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.conv1(x)
        scales = self.gate(self.conv2a(x))
        for stream in (self.conv2b, self.conv2c, self.conv2d):
            scales = scales + self.gate(stream(x))
        return relu(self.conv3(scales) + identity)


class OSNet(EmbeddingNet):
    """OSNet, whose embedding is torchreid's evaluation output in both modes.

    Args:
        width: factor on the channels: 1.0, 0.75, 0.5 or 0.25; ``InputError`` for another.
        num_classes: training identities; 0 builds no classifier.
    """

    embedding_dim = 512
    map_layer = "conv5"
    trainable_stages = ("conv3", "conv4", "conv5")

    def __init__(self, width: float = 1.0, num_classes: int = 0) -> None:
        super().__init__()
        check_choice("width", width, WIDTHS)
        check_at_least("num_classes", num_classes, 0)
        stem, first, second, third = (int(channels * width) for channels in CHANNELS)
        self.conv1 = ConvLayer(3, stem, 7, stride=2)
        self.conv2 = nn.Sequential(OSBlock(stem, first), OSBlock(first, first), _halve(first))
        self.conv3 = nn.Sequential(OSBlock(first, second), OSBlock(second, second), _halve(second))
        self.conv4 = nn.Sequential(OSBlock(second, third), OSBlock(third, third))
        self.conv5 = ConvLayer(third, third)
        self.pool = GlobalAveragePool()
        self.channels = third
        dim = self.embedding_dim
        self.fc = nn.Sequential(nn.Linear(third, dim), nn.BatchNorm1d(dim), nn.ReLU())
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

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, 512) of pooled maps (B, C): linear, batch norm, ReLU."""
        out: Tensor = self.fc(pooled)
        return out


def _halve(channels: int) -> nn.Sequential:
    return nn.Sequential(ConvLayer(channels, channels), nn.AvgPool2d(2, stride=2))


osnet_x1_0 = partial(OSNet, 1.0)
osnet_x0_75 = partial(OSNet, 0.75)
osnet_x0_5 = partial(OSNet, 0.5)
osnet_x0_25 = partial(OSNet, 0.25)
for _width in WIDTHS:
    MODELS.register(partial(OSNet, _width), name=f"osnet_x{_width}".replace(".", "_"))
