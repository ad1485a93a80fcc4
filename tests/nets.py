"""Models small enough to work out by hand."""

from pathlib import Path

import torch
from torch import Tensor, nn

from reid_explain.inputs import InputSpec
from reid_explain.models import ReIDNet, build_model, save_trained


def images(batch: int = 2, size: tuple[int, int] = (12, 8), seed: int = 0, **kwargs) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64).to(**kwargs)


class PooledNet(nn.Module):
    """Convolution, ReLU, mean: the embedding is the pooled map, as RAM wants it."""

    def __init__(self, channels: int = 5, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=2, padding=1, dtype=torch.float64)
        self.relu = nn.ReLU()
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean(dim=(2, 3))


class HeadNet(PooledNet):
    """The same with a nonlinear head behind the layer, batch norm and dropout included."""

    def __init__(self, channels: int = 5, width: int = 4, seed: int = 0) -> None:
        super().__init__(channels, seed)
        self.second = nn.Conv2d(channels, 6, 3, padding=1, dtype=torch.float64)
        self.norm = nn.BatchNorm2d(6, dtype=torch.float64)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, width, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in [*self.second.parameters(), *self.head.parameters()]:
            nn.init.normal_(parameter, std=0.4, generator=generator)
        self.norm.running_mean.normal_(generator=generator)
        self.norm.running_var.uniform_(0.5, 2, generator=generator)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(self.norm(self.second(self.relu(self.conv(x)))))
        embedding = self.head(self.dropout(hidden.amax(dim=(2, 3))))
        return embedding if shift is None else embedding + shift[:, None]


class DictNet(HeadNet):
    """Returns more than an embedding."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = super().forward(x)
        return {"embedding": embedding, "logits": embedding * 2}


SMALL = {"name": "resnet18", "num_classes": 4, "width": 0.125}
"""The architecture of ``small_reid_net``, as ``build_model`` takes it."""


def small_reid_net() -> ReIDNet:
    """A network with norms far from a new one's, as training leaves them."""
    torch.manual_seed(2)
    model = build_model(**SMALL).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values)
    nn.init.normal_(model.classifier.weight)
    return model


def small_card(folder: Path) -> Path:
    """Save the network for small images in ``folder``; return its card."""
    model = small_reid_net()
    model.input_spec = InputSpec((64, 32))
    save_trained(model, folder / "model.json", SMALL)
    return folder / "model.json"


class Twin(nn.Module):
    """Convolution, ReLU, mean, linear, tanh: a network that tests write as a file."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(5, 4)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=generator)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3))).tanh()


TWIN = Twin().eval()
