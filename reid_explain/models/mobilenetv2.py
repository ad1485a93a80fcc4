"""MobileNetV2 (Sandler et al., CVPR 2018) as torchreid builds it.

Its first block expands, too (by 1), and channels are rounded down: these are not torchvision's
shapes.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu6

from reid_explain.checks import check_at_least, check_choice
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import GlobalAveragePool

STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, blocks and stride of ``conv2`` to ``conv8`` (the paper, table 2)."""
STEM, LAST = 32, 1280
WIDTHS = (1.0, 1.4)


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        return relu6(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """The inverted residual with a linear bottleneck (figure 4d): expand, filter, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv1 = ConvBlock(inputs, middle)
        self.dwconv2 = ConvBlock(middle, middle, 3, stride, groups=middle)
        self.conv3 = nn.Sequential(
            nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        projected: Tensor = self.conv3(self.dwconv2(self.conv1(x)))
        return x + projected if self.is_residual else projected


class MobileNetV2(EmbeddingNet):
    """MobileNetV2, whose embedding is the mean of its last map.

    Args:
        width: factor on the channels: 1.0 or 1.4; ``InputError`` for another.
        num_classes: training identities; 0 builds no classifier.
    """

    map_layer = "conv9"
    trainable_stages = ("conv7", "conv8", "conv9")

    def __init__(self, width: float = 1.0, num_classes: int = 0) -> None:
        super().__init__()
        check_choice("width", width, WIDTHS)
        check_at_least("num_classes", num_classes, 0)
        channels = int(STEM * width)
        self.conv1 = ConvBlock(3, channels, 3, stride=2)
        for number, (expansion, outputs, count, stride) in enumerate(STAGES, start=2):
            outputs = int(outputs * width)
            sides = [(channels, stride), *[(outputs, 1)] * (count - 1)]
            blocks = (Bottleneck(inputs, outputs, expansion, step) for inputs, step in sides)
            setattr(self, f"conv{number}", nn.Sequential(*blocks))
            channels = outputs
        self.channels = self.embedding_dim = int(LAST * width)
        self.conv9 = ConvBlock(channels, self.channels)
        self.pool = GlobalAveragePool()
        self.neck = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.embedding_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the last map F, (B, C, H/32, W/32), of images (B, 3, H, W)."""
        for number in range(1, 10):
            x = getattr(self, f"conv{number}")(x)
        return x


for _width in WIDTHS:
    MODELS.register(partial(MobileNetV2, _width), name=f"mobilenetv2_x{_width}".replace(".", "_"))
