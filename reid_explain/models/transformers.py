"""What the vision transformers of re-identification share: overlapping patches, cameras, heads."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.checks import check_at_least, check_choice, describe
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.timm_models import timm_module

PATCH = 16
HEAD_DIM = 64
HALVES = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Pixels between -1 and 1."""
SIZES = ((256, 128), (384, 128), (256, 256), (224, 224))
STRIDES = (16, 12)
NECKS = ("before", "after", "none")


class BottleneckNet(EmbeddingNet):
    """A network whose identity classifier reads its pooled vector through a batch norm.

    Its ``neck`` is ``"before"``: the embedding is the pooled vector, as in the authors'
    configurations (``TEST.NECK_FEAT``); ``"after"``: it is what the batch norm makes of that; or
    ``"none"``: there is no batch norm.
    """

    bottleneck: nn.Module
    neck_name: str

    def _build_head(self, dim: int, num_classes: int, neck: str) -> None:
        check_choice("neck", neck, NECKS)
        self.neck_name = neck
        self.channels = self.embedding_dim = dim
        self.bottleneck = nn.Identity() if neck == "none" else bottleneck(dim)
        if num_classes:
            self.classifier = identity_classifier(dim, num_classes)

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, D) of pooled vectors (B, D)."""
        out: Tensor = self.bottleneck(pooled) if self.neck_name == "after" else pooled
        return out

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of embeddings (B, D); ``InputError`` without any."""
        self._check_classes()
        read = self.bottleneck(embedding) if self.neck_name == "before" else embedding
        return self.classifier(read)


class CameraNet(EmbeddingNet):
    """A network of one image size that may have been trained to know the camera of its images.

    Every call takes ``cameras`` behind the images: a row of the table of embeddings for each image
    (B,), or one for all, counted from 0. Explainers take it as ``additional_forward_args``, and as
    ``reference_forward_args`` for the other image of a pair. A network with such a table and no
    cameras raises ``InputError``, and so does one with cameras and no table.
    """

    def features(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return F of images (B, 3, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the embedding (B, D) of images (B, 3, H, W)."""
        return self.embed(self.features(x, cameras))

    def logits(self, x: Tensor, cameras: Tensor | int | None = None) -> Tensor:
        """Return the logits (B, num_classes) of images (B, 3, H, W)."""
        return self.classify(self(x, cameras))


class PatchNet(CameraNet):
    """A vision transformer of patches of 16 x 16 pixels that may overlap.

    Attributes:
        side_weight: factor on the rows of the table of cameras.
    """

    card_settings: tuple[str, ...] = (
        *("num_classes", "img_size", "stride", "cameras", "neck"),
        *("embed_dim", "depth", "side_weight"),
    )
    unseen = ("img_size", "stride")
    trainable_stages = ()
    side_weight: float

    def _tower(
        self, size: tuple[int, int], stride: int, dim: int, depth: int, name: str, **form: Any
    ) -> Any:
        """Return the transformer, which is to be the attribute ``name``; set what depends on it."""
        self.input_spec = HALVES.replace(size=size)
        self.token_grid = patch_grid(self.input_spec.size, stride)
        self.map_layer = f"{name}.blocks.{depth - 1}.norm1"
        return vision_transformer(self.input_spec.size, stride, dim, depth, **form)


def camera_table(cameras: int, *shape: int) -> nn.Parameter | None:
    """Return a table of embeddings (cameras, *shape), None of no cameras."""
    check_at_least("cameras", cameras, 0)
    if not cameras:
        return None
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(cameras, *shape), std=0.02))


def check_size(x: Tensor, img_size: tuple[int, int]) -> None:
    """Raise unless images have the size that the positions of a network are for."""
    height, width = img_size
    if x.shape[2:] != (height, width):
        expected = f"(B, 3, {height}, {width}), or a network built with img_size="
        raise InputError("inputs", describe(x), expected)


def rows_of_cameras(table: Tensor | None, cameras: Tensor | int | None) -> Tensor | None:
    """Return the rows (B or 1, D) of a table of embeddings (N, ..., D) for these cameras.

    None where there is neither table nor cameras; ``InputError`` where there is one of them, and
    for cameras that are not in the table.
    """
    if table is None:
        if cameras is None:
            return None
        raise InputError("cameras", describe(cameras), "None: this network knows no cameras")
    asked = f"numbers from 0 to {len(table) - 1}, one for each image or for all"
    if cameras is None:
        raise InputError("cameras", "None", f"{asked}; functools.partial(model, cameras=0)")
    numbers = torch.as_tensor(cameras, device=table.device)
    if numbers.is_floating_point() or numbers.dim() > 1 or not numbers.numel():
        raise InputError("cameras", describe(numbers), asked)
    if numbers.min() < 0 or numbers.max() >= len(table):
        raise InputError("cameras", numbers.tolist(), asked)
    return table[numbers].reshape(-1, table.shape[-1])


def vision_transformer(
    img_size: tuple[int, int], stride: int, embed_dim: int, depth: int, **form: Any
) -> Any:
    """Return timm's transformer for patches of 16 x 16 pixels every ``stride`` pixels."""
    grid = patch_grid(img_size, stride)
    net = timm_module().models.VisionTransformer(
        img_size=tuple(PATCH * count for count in grid),
        patch_size=PATCH,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=embed_dim // HEAD_DIM,
        num_classes=0,
        **form,
    )
    net.patch_embed.proj.stride = (stride, stride)
    net.patch_embed.img_size = img_size
    return net


def patch_grid(img_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return rows and columns of patches of 16 x 16 pixels that start every ``stride`` pixels."""
    rows, columns = ((side - PATCH) // stride + 1 for side in img_size)
    if min(rows, columns) < 1 or not 1 <= stride <= PATCH:
        got = f"{img_size} with stride {stride}"
        raise InputError("img_size", got, f"at least {PATCH} pixels, and a stride of 1 to {PATCH}")
    return rows, columns


def usual_grid(places: int) -> dict[str, Any]:
    """Return the ``img_size`` and ``stride`` that have this many patches; {} if none usual has."""
    usual = ((size, stride) for size in SIZES for stride in STRIDES)
    for size, stride in usual:
        rows, columns = patch_grid(size, stride)
        if rows * columns == places:
            return {"img_size": size, "stride": stride}
    return {}


def count_of(names: Mapping[str, Tensor], start: str) -> int:
    """Return how many numbers follow ``start`` in the names."""
    return len(
        {key.removeprefix(start).partition(".")[0] for key in names if key.startswith(start)}
    )


def bottleneck(dim: int) -> nn.BatchNorm1d:
    """Return the batch norm before a classifier, whose bias stays 0."""
    norm = nn.BatchNorm1d(dim)
    norm.bias.requires_grad_(False)
    return norm


def identity_classifier(dim: int, num_classes: int) -> nn.Linear:
    """Return a classifier of training identities without bias."""
    classifier = nn.Linear(dim, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier
