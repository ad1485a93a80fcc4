"""What networks have in common whose embedding is made of parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reid_explain.checks import check_choice
from reid_explain.models.network import EmbeddingNet

REDUCED_DIM = 256


class PartNet(EmbeddingNet):
    """A network whose embedding is made of P part vectors, each with a classifier of its own.

    A subclass has ``vectors``, and ``reduced`` if its classifiers read something else.

    ``functools.partial(model.part, index=i)`` in the place of the model explains one part.
    Grad-FAM, Grad-RAM and CG-RAM weight whole channels, so that the map also shows places outside
    the part's rows, ``pool.rows(h)[i]``, which took no part in its vector: cut the map to them.

    Attributes:
        part_names: of the P parts, in their order.
    """

    input_spec = EmbeddingNet.input_spec.replace(size=(384, 128))
    part_names: tuple[str, ...]
    classifier: nn.ModuleDict

    def vectors(self, pooled: Tensor) -> Tensor:
        """Return the part vectors of the embedding at their own length, (B, P, d)."""
        raise NotImplementedError

    def reduced(self, pooled: Tensor) -> Tensor:
        """Return what the classifiers read of pooled maps (B, C'), (B, P, d)."""
        return self.vectors(pooled)

    def part(self, x: Tensor, index: int) -> Tensor:
        """Return the vector of one part at its own length, (B, d), of images (B, 3, H, W).

        Another index raises ``InputError``.
        """
        check_choice("index", index, range(len(self.part_names)))
        return self.vectors(self.pool(self.features(x)))[:, index]

    def part_logits(self, pooled: Tensor) -> Tensor:
        """Return the logits of each part, (B, P, num_classes), of pooled maps (B, C').

        The identity loss is the sum of the parts' cross-entropies, not that of the mean logits.
        """
        return self._classified(self.reduced(pooled))

    def logits(self, x: Tensor) -> Tensor:
        """Return the mean logits of the parts, (B, num_classes), of images (B, 3, H, W)."""
        return self.part_logits(self.pool(self.features(x))).mean(dim=1)

    def _classified(self, vectors: Tensor) -> Tensor:
        """Return the logits of each part, (B, P, num_classes), of what its classifier reads."""
        self._check_classes()
        layers = enumerate(self.classifier.values())
        return torch.stack([layer(vectors[:, i]) for i, layer in layers], dim=1)


def part_classifiers(names: Sequence[str], num_classes: int, *, bias: bool) -> nn.ModuleDict:
    """Return a linear classifier of ``REDUCED_DIM`` values for each part."""
    layers = {name: nn.Linear(REDUCED_DIM, num_classes, bias=bias) for name in names}
    for layer in layers.values():
        nn.init.normal_(layer.weight, std=0.01)
        if bias:
            nn.init.zeros_(layer.bias)
    return nn.ModuleDict(layers)


def reducing_layers(channels: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a 1x1 convolution to ``REDUCED_DIM`` channels and its norm."""
    convolution = nn.Conv2d(channels, REDUCED_DIM, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution, nn.BatchNorm2d(REDUCED_DIM)
