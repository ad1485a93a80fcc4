"""PCB, the part-based convolutional baseline (Sun et al., "Beyond part models", ECCV 2018)."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from reid_explain.checks import check_at_least, check_choice
from reid_explain.errors import InputError
from reid_explain.models.build import MODELS
from reid_explain.models.parts import REDUCED_DIM, PartNet, part_classifiers, reducing_layers
from reid_explain.models.pooling import StripePool
from reid_explain.models.resnet import SETTINGS, ResNetBackbone


@MODELS.register(name="pcb")
class PCB(PartNet):
    """ResNet without last stride, a mean over each of some stripes, one classifier per stripe.

    The paper has two descriptors (section 3): G, the part vectors g_i as they are pooled, and
    H, the vectors h_i that a 1x1 convolution (here shared, as in torchreid), batch norm and ReLU
    make of them and that the classifiers read. The embedding is torchreid's evaluation output, G
    with each g_i at length 1; ``embedding[:, i::parts]`` is part i.

    Normalized, all embeddings have one length and Grad-FAM has nothing to explain; an
    ``AMDInterpreter`` needs lengths too, since d^k would not change with the scale of A^k. Build
    the network with ``normalize=False`` for them: no weight is different.

    Args:
        backbone: ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
        num_classes: training identities; 0 builds no classifiers.
        parts: number of stripes.
        descriptor: ``"G"`` or ``"H"``.
        normalize: whether each part vector of the embedding has length 1.
        resnet: keywords of ``ResNetBackbone``, as in ``ReIDNet``.

    Raises:
        InputError: an argument outside these, or weights that do not fit the backbone.
    """

    map_layer = "backbone.layer4"
    trainable_stages = ("backbone.layer3", "backbone.layer4")
    card_settings = (*SETTINGS, "parts", "descriptor", "normalize")
    unseen = ("parts", "ceil_mode", "padding")

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 0,
        parts: int = 6,
        descriptor: str = "G",
        normalize: bool = True,
        **resnet: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        check_at_least("parts", parts, 1)
        check_choice("descriptor", descriptor, ("G", "H"))
        self.descriptor, self.normalize = descriptor, normalize
        self.part_names = tuple(str(i) for i in range(parts))
        self.backbone = ResNetBackbone(backbone, **resnet)
        self.pool = StripePool(parts)
        part_channels = self.backbone.out_channels
        self.channels = parts * part_channels
        self.embedding_dim = parts * (part_channels if descriptor == "G" else REDUCED_DIM)
        self.dropout = nn.Dropout(0.5)
        self.conv5 = nn.Sequential(*reducing_layers(part_channels), nn.ReLU())
        if num_classes:
            self.classifier = part_classifiers(self.part_names, num_classes, bias=True)

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, D) of pooled maps (B, C * parts)."""
        vectors = self.vectors(pooled)
        if self.normalize:
            vectors = functional.normalize(vectors, dim=2)
        return vectors.transpose(1, 2).flatten(1)

    def vectors(self, pooled: Tensor) -> Tensor:
        """Return g_i, or h_i with the descriptor H, (B, parts, d), of pooled maps."""
        return self._split(pooled) if self.descriptor == "G" else self.reduced(pooled)

    def reduced(self, pooled: Tensor) -> Tensor:
        """Return h_i, (B, parts, 256), of pooled maps (B, C * parts)."""
        out: Tensor = self.conv5(self._split(pooled).transpose(1, 2)[..., None])
        return out[..., 0].transpose(1, 2)

    def part_logits(self, pooled: Tensor) -> Tensor:
        """As in ``PartNet``; in training mode half of the pooled values are dropped."""
        return super().part_logits(self.dropout(pooled))

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the mean logits of the parts, (B, num_classes), of embeddings that are G.

        Without classes, and for embeddings that are not what was pooled, it raises ``InputError``.
        """
        self._check_classes()
        if self.normalize or self.descriptor == "H":
            got = f"one of PCB with normalize={self.normalize}, descriptor={self.descriptor!r}"
            expected = "pooled vectors at their own length: use model.logits(images)"
            raise InputError("embedding", got, expected)
        return self.part_logits(embedding).mean(dim=1)

    def _split(self, pooled: Tensor) -> Tensor:
        return pooled.reshape(len(pooled), -1, len(self.part_names)).transpose(1, 2)
