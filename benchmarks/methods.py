"""Every explainer on one target, behind one signature: what the benchmarks compare.

A new explainer joins all benchmarks with one line in ``METHODS``.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    Centre,
    GradCAM,
    GradFAM,
    GradRAM,
    Random,
    ScoreCAM,
    ScoreFAM,
)


class Target(NamedTuple):
    """A model with the ``features`` / ``embed`` / ``classify`` seam, and the layer to explain."""

    model: nn.Module
    layer: nn.Module

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of the training identities."""
        return self.model.classify(self.model(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Return the mean of the last map (B, C), the embedding that RAM explains."""
        return self.model.features(images).mean(dim=(2, 3))


class Subject(NamedTuple):
    """Images (B, 3, H, W) with what each family of explainers needs beside them."""

    images: Tensor
    references: Tensor
    classes: Tensor


Method = Callable[..., Tensor]
"""Of a subject, and of options such as ``interpolate_mode``, to maps (B, 1, H, W)."""


def by_itself(explainer: Callable[..., Tensor]) -> Method:
    """Explain the images alone."""
    return lambda subject, **options: explainer(subject.images, **options)


def by_reference(explainer: Callable[..., Tensor]) -> Method:
    """Explain the images' similarity to their references."""
    return lambda subject, **options: explainer(
        subject.images, references=subject.references, **options
    )


def by_class(explainer: Callable[..., Tensor]) -> Method:
    """Explain the images' classes."""
    return lambda subject, **options: explainer(subject.images, target=subject.classes, **options)


METHODS: dict[str, Callable[[Target], Method]] = {
    "GradCAM": lambda t: by_class(GradCAM(t.logits, t.layer).attribute),
    "ScoreCAM": lambda t: by_class(ScoreCAM(t.logits, t.layer).attribute),
    "RAM": lambda t: by_reference(RAM(t.pooled, t.layer).attribute),
    "CGRAM": lambda t: by_reference(CGRAM(t.model, t.layer).attribute),
    "GradRAM": lambda t: by_reference(GradRAM(t.model, t.layer).attribute),
    "GradFAM": lambda t: by_itself(GradFAM(t.model, t.layer).attribute),
    "ScoreFAM": lambda t: by_itself(ScoreFAM(t.model, t.layer).attribute),
    "ActivationMean": lambda t: by_itself(ActivationMean(t.model, t.layer).attribute),
    "Random": lambda t: by_itself(Random(t.model, t.layer).attribute),
    "Centre": lambda t: by_itself(Centre(t.model, t.layer).attribute),
}
FULL_IMAGE = "FullImage"
"""The control that keeps everything; it has no map."""
CONTROLS = ("ActivationMean", "Random", "Centre", FULL_IMAGE)
REFERENCE_BASED = ("RAM", "CGRAM", "GradRAM")
