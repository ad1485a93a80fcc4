"""Every explainer behind one signature: what the benchmarks compare.

A new explainer joins all benchmarks with one entry in ``METHODS``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from subjects import Subject
from targets import Target
from torch import Tensor

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    Centre,
    ExtremalFAM,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    Random,
    ScoreCAM,
    ScoreFAM,
)

KEYWORDS = {"references": "references", "classes": "target"}
"""Under what name ``attribute`` takes what a method needs."""

Explain = Callable[..., Any]
"""Of a subject, and of options such as ``interpolate_mode``, to maps (B, 1, H, W)."""


class Method(NamedTuple):
    """An explainer, and what a benchmark has to know of it.

    Args:
        explainer: Of a function of images and a layer, to what has ``attribute``.
        explains: The function of the target that is explained.
        needs: What of a subject it takes beside the images.
        scores_channels: Whether ``attribute`` has ``return_scores``: one forward per channel.
        is_control: Whether it knows nothing of the embedding.
        explains_differences: Whether ``attribute`` has ``explains="difference"``.
        descends: Whether each map is a descent: some hundred passes forward and backward.
    """

    explainer: Callable[..., Any]
    explains: Callable[[Target, Tensor], Tensor] = Target.embedding
    needs: Literal["references", "classes"] | None = None
    scores_channels: bool = False
    is_control: bool = False
    explains_differences: bool = False
    descends: bool = False

    def suits(self, target: Target) -> bool:
        """Tell whether a target has the classes that are explained, if they are."""
        return self.needs != "classes" or target.has_classes

    def function(self, target: Target) -> Callable[[Tensor], Tensor]:
        """Return what is explained of a target, a function of images."""
        return partial(self.explains, target)

    def on(self, target: Target) -> Explain:
        """Return the function that explains subjects to a target."""
        attribute = self.explainer(self.function(target), target.layer).attribute

        def explain(subject: Subject, **options: Any) -> Any:
            given = {KEYWORDS[self.needs]: getattr(subject, self.needs)} if self.needs else {}
            return attribute(subject.images.to(target.device), **given, **options)

        return explain


METHODS = {
    "GradCAM": Method(GradCAM, Target.logits, "classes"),
    "ScoreCAM": Method(ScoreCAM, Target.logits, "classes", scores_channels=True),
    "RAM": Method(RAM, Target.pooled, "references"),
    "CGRAM": Method(CGRAM, needs="references"),
    "GradRAM": Method(GradRAM, needs="references"),
    "GradFAM": Method(GradFAM),
    "ScoreFAM": Method(ScoreFAM, scores_channels=True),
    "ExtremalFAM": Method(ExtremalFAM, explains_differences=True, descends=True),
    "ExtremalFAMFast": Method(
        partial(ExtremalFAM, rounds=1, descents=4), explains_differences=True, descends=True
    ),
    "ActivationMean": Method(ActivationMean, is_control=True),
    "Random": Method(Random, is_control=True),
    "Centre": Method(Centre, is_control=True),
}
QUICK = tuple(name for name, method in METHODS.items() if not method.descends)
"""What the benchmarks compare unless told otherwise: a run then takes minutes."""
FULL_IMAGE = "FullImage"
"""The control that keeps everything; it has no map."""
CONTROLS = (*(name for name, method in METHODS.items() if method.is_control), FULL_IMAGE)


def explainers(target: Target, names: Sequence[str]) -> dict[str, Explain]:
    """Return the methods of these names, of ``METHODS``, on a target.

    Raises:
        InputError: If one explains a class and the model has none.
    """
    unsuited = [name for name in names if not METHODS[name].suits(target)]
    if unsuited:
        came = f"{', '.join(unsuited)} of a model without a classifier"
        raise InputError("--methods", came, "methods that explain no class")
    return {name: METHODS[name].on(target) for name in names}
