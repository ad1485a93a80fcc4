"""The seam that every network of this package has: ``features``, then ``embed``."""

from collections.abc import Callable

from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec


class EmbeddingNet(nn.Module):
    """A network in two plain parts: ``forward(x) = embed(features(x))``, in both modes.

    A subclass has a ``backbone``, or ``features`` of its own, and the parts ``pool``, (B, C, h, w)
    to (B, C'), and ``neck``, (B, C') to (B, D). In training ``pool(F)`` feeds the metric loss and
    ``classify(embed(F))`` the identity loss.

    Attributes:
        input_spec: the images that the network takes; assign the one that it was trained on.
        map_layer: dotted name of the layer that gives F, the default of the explainers.
        trainable_stages: dotted names of the stages that an ``AMDInterpreter`` copies and trains.
        channels: C' of the pooled map.
        embedding_dim: D.
        classifier: of embeddings (B, D) to logits; absent without training identities.
        card_settings: arguments of the constructor that a card may set; none that names a file,
            an address or code.
        unseen: arguments of the constructor that weights never show, or not always.
        token_grid: rows and columns of the patches of a vision transformer whose patches overlap.
    """

    input_spec: InputSpec = InputSpec()
    map_layer: str
    trainable_stages: tuple[str, ...]
    card_settings: tuple[str, ...] = ("num_classes",)
    unseen: tuple[str, ...] = ()
    token_grid: tuple[int, int] | None = None
    channels: int
    embedding_dim: int
    backbone: Callable[[Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]
    neck: Callable[[Tensor], Tensor]
    classifier: Callable[[Tensor], Tensor]

    def features(self, x: Tensor) -> Tensor:
        """Return the last map F, (B, C, h, w), of images (B, 3, H, W)."""
        return self.backbone(x)

    def embed(self, features: Tensor) -> Tensor:
        """Return the embedding f, (B, D), of maps (B, C, h, w)."""
        return self.neck(self.pool(features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (B, D) of images (B, 3, H, W)."""
        return self.embed(self.features(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W), see ``classify``."""
        return self.classify(self(x))

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of embeddings (B, D); ``InputError`` without any."""
        self._check_classes()
        return self.classifier(embedding)

    def _check_classes(self) -> None:
        if not hasattr(self, "classifier"):
            got = f"{type(self).__name__} with num_classes=0"
            raise InputError("model", got, "one with a classifier")


class PooledMap(nn.Module):
    """The pooled map (B, C') of a network: what BYOL trains, and what is then explained.

    A neck after it belongs to other trainings: it gets no gradient and stays as it was.
    """

    def __init__(self, model: EmbeddingNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled maps of images (B, 3, H, W)."""
        return self.model.pool(self.model.features(images))
