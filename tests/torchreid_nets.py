"""torchreid's OSNets with instance norms and its MobileNetV2, written anew under its names.

Independent of ``reid_explain.models`` on purpose, see ``project_nets``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Unit(nn.Module):
    def __init__(self, i, o, k=1, stride=1, groups=1, norm=nn.BatchNorm2d, act=torch.relu) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, stride, (k - 1) // 2, groups=groups, bias=False)
        self.bn = norm(o)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


def linear(x: Tensor) -> Tensor:
    return x


def affine_instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


class Lite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(x))).clamp(min=0)


class Stream(nn.Module):
    """A stream of OSNet-AIN has its layers one level deeper."""

    def __init__(self, c: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Lite(c) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Gate(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c, c // 16, 1), nn.Conv2d(c // 16, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 1)
        return torch.sigmoid(self.fc2(self.fc1(mean).relu())) * x


class IBNBlock(nn.Module):
    """The block of ``osnet_ibn``: the instance norm, if any, after the sum."""

    def __init__(self, i: int, o: int, normed: bool) -> None:
        super().__init__()
        c = o // 4
        self.conv1 = Unit(i, c)
        self.conv2a = Lite(c)
        self.conv2b = nn.Sequential(*[Lite(c) for _ in range(2)])
        self.conv2c = nn.Sequential(*[Lite(c) for _ in range(3)])
        self.conv2d = nn.Sequential(*[Lite(c) for _ in range(4)])
        self.gate = Gate(c)
        self.conv3 = Unit(c, o, act=linear)
        self.downsample = Unit(i, o, act=linear) if i != o else None
        self.IN = affine_instance_norm(o) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        streams = (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        y = self.conv3(sum(self.gate(stream(y)) for stream in streams))
        y = y + (self.downsample(x) if self.downsample else x)
        return (self.IN(y) if self.IN else y).relu()


class AINBlock(nn.Module):
    """The block of ``osnet_ain``: the instance norm, if any, before the sum, for a batch norm."""

    def __init__(self, i: int, o: int, normed: bool) -> None:
        super().__init__()
        c = o // 4
        self.conv1 = Unit(i, c)
        self.conv2 = nn.ModuleList(Stream(c, depth) for depth in (1, 2, 3, 4))
        self.gate = Gate(c)
        self.conv3 = Unit(c, o, norm=linear_module if normed else nn.BatchNorm2d, act=linear)
        self.downsample = Unit(i, o, act=linear) if i != o else None
        if normed:
            self.IN = affine_instance_norm(o)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = self.conv3(sum(self.gate(stream(y)) for stream in self.conv2))
        y = self.IN(y) if hasattr(self, "IN") else y
        return (y + (self.downsample(x) if self.downsample else x)).relu()


def linear_module(_: int) -> nn.Module:
    return nn.Identity()


class TorchreidOSNet(nn.Module):
    def __init__(self, kind: str, width: float = 0.25, classes: int = 5) -> None:
        super().__init__()
        a, b, c, d = (int(width * channels) for channels in (64, 256, 384, 512))
        self.conv1 = Unit(3, a, 7, stride=2, norm=affine_instance_norm)
        sides = [(a, b), (b, b), (b, c), (c, c), (c, d), (d, d)]
        normed = (1, 1, 0, 0, 0, 0) if kind == "ibn" else (1, 1, 0, 1, 1, 0)
        block = IBNBlock if kind == "ibn" else AINBlock
        blocks = [block(*side, bool(n)) for side, n in zip(sides, normed, strict=True)]
        halves = [nn.Sequential(Unit(e, e), nn.AvgPool2d(2)) for e in (b, c)]
        if kind == "ibn":  # The halving is the third module of the stage.
            self.conv2 = nn.Sequential(*blocks[:2], halves[0])
            self.conv3 = nn.Sequential(*blocks[2:4], halves[1])
        else:
            self.conv2, self.pool2 = nn.Sequential(*blocks[:2]), halves[0]
            self.conv3, self.pool3 = nn.Sequential(*blocks[2:4]), halves[1]
        self.conv4 = nn.Sequential(*blocks[4:])
        self.conv5 = Unit(d, d)
        self.fc = nn.Sequential(nn.Linear(d, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x), 3, 2, 1)
        for name in ("conv2", "pool2", "conv3", "pool3", "conv4", "conv5"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return self.fc(x.mean((2, 3)))

    def logits(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


class Inverted(nn.Module):
    def __init__(self, i: int, o: int, factor: int, stride: int) -> None:
        super().__init__()
        c, relu6 = factor * i, functional.relu6
        self.conv1 = Unit(i, c, act=relu6)
        self.dwconv2 = Unit(c, c, 3, stride, groups=c, act=relu6)
        self.conv3 = nn.Sequential(nn.Conv2d(c, o, 1, bias=False), nn.BatchNorm2d(o))
        self.skips = i == o and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.dwconv2(self.conv1(x)))
        return y + x if self.skips else y


class TorchreidMobileNetV2(nn.Module):
    # Of stages 2 to 8, block by block: channels before rounding, and the first stride.
    stages = ((16,), (24,) * 2, (32,) * 3, (64,) * 4, (96,) * 3, (160,) * 3, (320,))
    strides = (1, 2, 2, 2, 1, 2, 1)

    def __init__(self, width: float = 1, classes: int = 5) -> None:
        super().__init__()
        c = int(32 * width)
        self.conv1 = Unit(3, c, 3, stride=2, act=functional.relu6)
        for k, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True)):
            blocks = []
            for j, channels in enumerate(stage):
                o = int(channels * width)
                blocks.append(Inverted(c, o, 6 if k else 1, 1 if j else stride))
                c = o
            self.add_module(f"conv{k + 2}", nn.Sequential(*blocks))
        self.conv9 = Unit(c, int(1280 * width), act=functional.relu6)
        self.classifier = nn.Linear(int(1280 * width), classes)

    def forward(self, x: Tensor) -> Tensor:
        for k in range(1, 10):
            x = self.get_submodule(f"conv{k}")(x)
        return x.mean((2, 3))

    def logits(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)
