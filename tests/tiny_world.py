"""A data set and a model of one's own, so small that a benchmark takes a second."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reid_explain.benchmark import Target
from reid_explain.datasets import Record
from reid_explain.inputs import InputSpec

SPEC = InputSpec((32, 16))


class TinyWorld:
    """Noise around a color and a shape for each identity; every camera sees every identity."""

    name = "tiny"
    train: tuple[Record, ...] = ()
    attribute_names: tuple[str, ...] = ()
    labels: ClassVar[dict[int, np.ndarray]] = {}

    def __init__(self, identities: int = 4, cameras: int = 3) -> None:
        self.query = tuple(Record(Path(f"{i}_c1.png"), i, 1) for i in range(1, identities + 1))
        self.gallery = tuple(
            Record(Path(f"{i}_c{c}.png"), i, c)
            for i in range(1, identities + 1)
            for c in range(2, cameras + 1)
        )

    def load(self, record: Record) -> Image.Image:
        rng = np.random.default_rng([record.identity, record.camera])
        image = rng.integers(0, 90, (40, 20, 3))
        own = np.random.default_rng(record.identity)
        top, left = own.integers(0, 20), own.integers(0, 10)
        image[top : top + 20, left : left + 10] += own.integers(0, 160, 3)
        return Image.fromarray(image.astype(np.uint8))


class TinyNet(nn.Module):
    """Two convolutions, their mean, a linear neck; with a classifier if asked for."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.neck = nn.Linear(8, 8)
        if classes:
            self.classifier = nn.Linear(8, classes)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.last(self.stem(x).relu()).relu().mean(dim=(2, 3)))

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(self(x))


def tiny_target(classes: int = 4) -> Target:
    return Target(TinyNet(classes), "last", SPEC)


class Brightness:
    """An explainer of a user's own: no base class, no option, a map of its own size."""

    def __init__(self, forward_func, layer) -> None:
        self.forward_func = forward_func

    def attribute(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
