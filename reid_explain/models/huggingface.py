"""Image towers of Hugging Face's transformers: DINOv2, CLIP, SigLIP and their like."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reid_explain.capture import FIRST_NORMS
from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec

IMAGENET = InputSpec((224, 224), interpolation="bicubic")
SPECS: Mapping[str, InputSpec] = {
    "clip_vision_model": IMAGENET.replace(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    ),
    "siglip_vision_model": IMAGENET.replace(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
}
"""The images of a type of model; of another they have ImageNet's mean and deviation."""
AT_224 = ("dinov2", "dinov2_with_registers")
"""Types of model that are used on smaller images than their positions are for."""


class HuggingFaceNet(nn.Module):
    """A vision tower of transformers, whose embedding is its projected or else its pooled output.

    Explain its layer ``map_layer``, the first norm of the last block::

        net = HuggingFaceNet(CLIPVisionModelWithProjection.from_pretrained(...))
        GradFAM(net, net.map_layer).attribute(images)

    Images of another size than the tower's, and rectangles, have their positions interpolated.

    Args:
        tower: a ``Dinov2Model``, ``CLIPVisionModel``, ``CLIPVisionModelWithProjection``,
            ``SiglipVisionModel``, or another model of images with a ``config``.
        input_spec: the images that it takes; None for those of its type, whole and squeezed to a
            square: people are taller than wide, ``InputSpec((224, 112), ...)`` keeps them so.
            The published towers were trained on ``resize="crop"``, which cuts off head and feet.

    Raises:
        InputError: the tower has no ``config``, or no blocks with a first norm.
    """

    trainable_stages = ()

    def __init__(self, tower: nn.Module, input_spec: InputSpec | None = None) -> None:
        super().__init__()
        config: Any = getattr(tower, "config", None)
        norms = [n for n, _ in tower.named_modules() if n.rpartition(".")[2] in FIRST_NORMS]
        if config is None or not norms:
            expected = "a vision transformer of transformers, as Dinov2Model"
            raise InputError("tower", describe(tower), expected)
        self.tower = tower
        self.map_layer = f"tower.{norms[-1]}"
        self.input_spec = input_spec or _spec(config)
        self.interpolates = (
            "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, H, W).

        A tower that neither projects nor pools raises ``InputError``.
        """
        options = {"interpolate_pos_encoding": True} if self.interpolates else {}
        output = self.tower(pixel_values=images, **options)
        for name in ("image_embeds", "pooler_output"):
            if isinstance(vector := getattr(output, name, None), Tensor):
                return vector
        got = f"a {type(self.tower).__name__} without pooled output"
        raise InputError("tower", got, "one that pools or projects")


def _spec(config: Any) -> InputSpec:
    """Return the images of a type of model, at the size of its positions."""
    spec = SPECS.get(config.model_type, IMAGENET)
    size = getattr(config, "image_size", None)
    if not isinstance(size, int) or config.model_type in AT_224:
        return spec
    return spec.replace(size=(size, size))
