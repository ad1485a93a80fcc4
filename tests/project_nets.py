"""The module trees of other projects, written anew at any width: their names, their forward.

Independent of ``reid_explain.models`` on purpose: files in these projects' layouts are written
from here, and embeddings are compared with what these modules compute.
"""

import copy

import torch
from torch import Tensor, nn

DEPTHS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
IMAGENET_PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class HalfInstanceNorm(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.IN = nn.InstanceNorm2d(planes // 2, affine=True)
        self.BN = nn.BatchNorm2d(planes - planes // 2)

    def forward(self, x: Tensor) -> Tensor:
        half = self.IN.num_features
        return torch.cat((self.IN(x[:, :half]), self.BN(x[:, half:])), dim=1)


class Pairwise(nn.Module):
    """A non-local block by its N x N matrix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        self.theta = nn.Conv2d(channels, 1, 1)
        self.phi = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = self.theta(x).flatten(1), self.phi(x).flatten(1), self.g(x).flatten(1)
        pairs = theta[:, :, None] * phi[:, None, :] / theta.shape[1]
        y = torch.einsum("bij,bj->bi", pairs, g)
        return self.W(y.reshape(x.shape[0], 1, x.shape[2], x.shape[3])) + x


class Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, deep: bool, half: bool) -> None:
        super().__init__()
        self.deep = deep
        outputs = 4 * planes if deep else planes
        first = (1, 1, 0) if deep else (3, stride, 1)
        second = (3, stride, 1) if deep else (3, 1, 1)
        self.conv1 = nn.Conv2d(inputs, planes, *first, bias=False)
        self.bn1 = HalfInstanceNorm(planes) if half else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, *second, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        if deep:
            self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.deep:
            y = self.bn3(self.conv3(y.relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Trunk(nn.Module):
    """A ResNet without head; the non-local blocks lie beside the stages, as fast-reid's do."""

    def __init__(
        self,
        name: str = "resnet18",
        planes: int = 4,
        last_stride: int = 1,
        half: bool = False,
        pairwise: tuple[int, int] = (0, 0),
        ceil: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        deep, depths = DEPTHS[name]
        self.relu = relu
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 0 if ceil else 1, ceil_mode=ceil)
        inputs = 64
        for i, depth in enumerate(depths):
            width, stride = planes * 2**i, (1, 2, 2, last_stride)[i]
            outputs = 4 * width if deep else width
            blocks = [
                Block(outputs if k else inputs, width, 1 if k else stride, deep, half and i < 3)
                for k in range(depth)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.channels = inputs
        if any(pairwise):
            self.NL_1 = nn.ModuleList()
            self.NL_2 = nn.ModuleList(Pairwise(inputs // 4) for _ in range(pairwise[0]))
            self.NL_3 = nn.ModuleList(Pairwise(inputs // 2) for _ in range(pairwise[1]))
            self.NL_4 = nn.ModuleList()

    def trunk(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.maxpool(x.relu() if self.relu else x)
        for i in range(1, 5):
            blocks, extra = getattr(self, f"layer{i}"), getattr(self, f"NL_{i}", ())
            for k, block in enumerate(blocks):
                x = block(x)
                if (j := k - (len(blocks) - len(extra))) >= 0:
                    x = extra[j](x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x)


class PowerMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.3))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.clamp(min=1e-6) ** self.p).mean((2, 3), keepdim=True)) ** (1 / self.p)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class CosineWeight(nn.Module):
    """Of fast-reid's softmaxes with a margin: the weight alone."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class FastReIDHeads(nn.Module):
    """``generation``: "weight" (version 1.3), "classifier" (1.0), "bnneck", "sequence" (0.x)."""

    def __init__(
        self, channels: int, classes: int, generation: str, gem: bool, neck: bool = True
    ) -> None:
        super().__init__()
        pool = PowerMean() if gem else Mean()
        self.pool_layer = nn.Sequential(pool) if generation == "sequence" else pool
        if generation in ("bnneck", "sequence"):
            self.bnneck = nn.BatchNorm2d(channels)
        else:
            self.bottleneck = nn.Sequential(*[nn.BatchNorm2d(channels)] * neck)
        if generation == "weight":
            self.weight = nn.Parameter(torch.randn(classes, channels))
        elif generation == "classifier":
            self.classifier = CosineWeight(channels, classes)
        else:
            self.classifier = nn.Linear(channels, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        neck = self.bnneck if hasattr(self, "bnneck") else self.bottleneck
        return neck(self.pool_layer(x))[..., 0, 0]

    def logits(self, embedding: Tensor) -> Tensor:
        if hasattr(self, "weight"):
            return embedding @ self.weight.T
        return self.classifier(embedding)


class FastReID(nn.Module):
    def __init__(
        self,
        classes: int = 5,
        generation: str = "weight",
        gem: bool = False,
        neck: bool = True,
        pixels: tuple[tuple[float, ...], ...] = IMAGENET_PIXELS,
        **trunk,
    ) -> None:
        super().__init__()
        # A buffer of the state in old files only.
        kept = generation != "weight"
        for name, values in zip(("pixel_mean", "pixel_std"), pixels, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=kept)
        old = generation in ("bnneck", "sequence")
        self.backbone = Trunk(**{"ceil": not old, **trunk})
        self.heads = FastReIDHeads(self.backbone.channels, classes, generation, gem, neck)

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(self.backbone(x))

    def logits(self, embedding: Tensor) -> Tensor:
        return self.heads.logits(embedding)


class StrongBaseline(nn.Module):
    def __init__(self, classes: int = 5, neck: bool = True, half: bool = False, **trunk) -> None:
        super().__init__()
        self.base = Trunk(half=half, relu=half, **trunk)
        if half:
            self.base.fc = nn.Linear(self.base.channels, 7)
        if neck:
            self.bottleneck = nn.BatchNorm1d(self.base.channels)
        self.classifier = nn.Linear(self.base.channels, classes, bias=not neck)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.base(x).mean((2, 3))
        return self.bottleneck(pooled) if hasattr(self, "bottleneck") else pooled

    def logits(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


class TorchreidResNet(Trunk):
    """With ``reduced``, the form of resnet50_fc512."""

    def __init__(self, classes: int = 5, reduced: bool = False, **trunk) -> None:
        super().__init__(**{"last_stride": 1 if reduced else 2, **trunk})
        if reduced:
            self.fc = nn.Sequential(nn.Linear(self.channels, 512), nn.BatchNorm1d(512), nn.ReLU())
        self.classifier = nn.Linear(512 if reduced else self.channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.trunk(x).mean((2, 3))
        return self.fc(pooled) if hasattr(self, "fc") else pooled

    def logits(self, embedding: Tensor) -> Tensor:
        return self.classifier(embedding)


class TorchreidPCB(Trunk):
    class Reduction(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()
            )

    def __init__(self, classes: int = 5, parts: int = 6, **trunk) -> None:
        super().__init__(**trunk)
        self.conv5 = self.Reduction(self.channels)
        self.classifier = nn.ModuleList(nn.Linear(256, classes) for _ in range(parts))

    def stripes(self, x: Tensor) -> Tensor:
        return nn.AdaptiveAvgPool2d((len(self.classifier), 1))(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        stripes = self.stripes(x)
        return (stripes / stripes.square().sum(1, keepdim=True).sqrt()).reshape(len(x), -1)

    def mean_logits(self, x: Tensor) -> Tensor:
        reduced = self.conv5.layers(self.stripes(x))
        rows = [layer(reduced[:, :, i, 0]) for i, layer in enumerate(self.classifier)]
        return sum(rows) / len(rows)


class MGNHead(nn.Module):
    def __init__(self, channels: int, classes: int, generation: str) -> None:
        super().__init__()
        self.pool_layer = PowerMean()
        layers = [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256)]
        if generation == "bnneck":
            layers.append(nn.ReLU())
            self.bnneck = nn.BatchNorm2d(256)
        self.bottleneck = nn.Sequential(*layers)
        if generation == "weight":
            self.weight = nn.Parameter(torch.randn(classes, 256))
        else:
            self.classifier = CosineWeight(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bottleneck(self.pool_layer(x))
        return (self.bnneck(out) if hasattr(self, "bnneck") else out).flatten(1)

    def logits(self, vector: Tensor) -> Tensor:
        return vector @ (self.weight if hasattr(self, "weight") else self.classifier.weight).T


class FastReIDMGN(nn.Module):
    names = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")

    def __init__(self, classes: int = 5, generation: str = "weight", **trunk) -> None:
        super().__init__()
        body = Trunk(**{"ceil": generation != "bnneck", **trunk})
        self.backbone = nn.Sequential(
            body.conv1,
            body.bn1,
            nn.ReLU(),
            body.maxpool,
            body.layer1,
            body.layer2,
            body.layer3[0],
        )
        for name in ("b1", "b2", "b3"):
            branch = nn.Sequential(nn.Sequential(*body.layer3[1:]), body.layer4)
            self.add_module(name, copy.deepcopy(branch))
        for name in self.names:
            self.add_module(f"{name}_head", MGNHead(body.channels, classes, generation))

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)
        maps = {name: getattr(self, name)(x) for name in ("b1", "b2", "b3")}
        maps["b21"], maps["b22"] = torch.chunk(maps["b2"], 2, dim=2)
        maps["b31"], maps["b32"], maps["b33"] = torch.chunk(maps["b3"], 3, dim=2)
        heads = (getattr(self, f"{name}_head")(maps[name]) for name in self.names)
        return torch.cat([*heads], dim=1)

    def logits(self, embedding: Tensor) -> Tensor:
        vectors = zip(self.names, embedding.chunk(8, dim=1), strict=True)
        return sum(getattr(self, f"{name}_head").logits(vector) for name, vector in vectors) / 8


def trained(net: nn.Module) -> nn.Module:
    """Draw every weight and statistic: nothing stays where a new network has it."""
    generator = torch.Generator().manual_seed(3)
    for name, value in net.state_dict(keep_vars=True).items():
        if "pixel" in name or name.endswith("num_batches_tracked"):
            continue
        with torch.no_grad():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif name.endswith(".p"):
                value.uniform_(2, 4, generator=generator)
            elif any(part in name for part in (".g.", ".theta.", ".phi.", ".W.0.")):
                # Pairs of places are products of three activations: drawn larger, they grow.
                value.normal_(0, 0.1 * value[0].numel() ** -0.5, generator=generator)
            elif value.dim() > 1:
                scale = value[0].numel() ** -0.5
                value.normal_(0, 1.4 * scale, generator=generator)
            elif "weight" in name:
                value.uniform_(0.6, 1.4, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
    return net.eval()
