"""What is explained: a score of the model's result, one small class for each question.

An explainer asks an objective twice: ``prepare`` looks at its data (reference images become
embeddings), and the function that it returns scores results, of the images themselves or of
masked ones. Any explainer takes any objective.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reid_explain.checks import (
    at_least_float32,
    check_choice,
    check_embeddings,
    check_finite,
    check_images,
    check_nonzero,
    describe,
)
from reid_explain.errors import InputError
from reid_explain.vectors import cosine, unit

RESULT = "the result of forward_func"
ROUNDING = 1e-4
"""A layer that moves the score by less than this share of it moves it by rounding."""

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Results (n, D), the results (n, D) of the unmasked images, their rows (n,) -> scores (n,)."""
Goals = Callable[[Tensor, Tensor], Tensor]
"""Results (n, D) of the unmasked images and their rows (n,) -> reference embeddings (n, D)."""


@dataclass(frozen=True)
class Batch:
    """The images that are explained, as far as an objective needs them.

    Args:
        images: (B, C, H, W).
        embed: Reference images (N, C, H, W) and the model's further arguments for them (None for
            those of the images that they serve) -> embeddings (N or B, D).
    """

    images: Tensor
    embed: Callable[[Tensor, Any], Tensor]

    def goals(self, argument: str, references: Any, forward_args: Any = None) -> Goals:
        """Return a function to the reference of each row.

        Args:
            argument: What error messages call the references.
            references: None for the image's own embedding; images (N, C, H, W) or embeddings
                (N, D), with N = B, 1 or a divisor of B: each serves B / N images in a row, as
                Captum repeats its inputs.
            forward_args: The model's further arguments for reference images.

        Raises:
            InputError: References of another form or number, zero, NaN or infinite.
        """
        if references is None:
            return lambda own, rows: own
        embeddings = check_nonzero(argument, self._embedded(argument, references, forward_args))
        embeddings = at_least_float32(embeddings).to(self.images.device)
        each = len(self.images) // len(embeddings)

        def goals(own: Tensor, rows: Tensor) -> Tensor:
            check_embeddings(argument, embeddings, width=own.shape[1])
            chosen: Tensor = embeddings.to(own)[rows // each]
            return chosen

        return goals

    def _embedded(self, argument: str, given: Any, forward_args: Any) -> Tensor:
        references = given[0] if isinstance(given, tuple) and len(given) == 1 else given
        if not isinstance(references, Tensor) or references.dim() not in (2, 4):
            expected = "images (N, C, H, W) or embeddings (N, D)"
            raise InputError(argument, describe(references), expected)
        tensor = check_finite(argument, references)
        count = len(self.images)
        if len(tensor) == 0 or count % len(tensor):
            expected = f"1 or {count} rows, or a number that divides {count}"
            raise InputError(argument, describe(tensor), expected)
        if tensor.dim() == 2:
            return tensor
        return self.embed(check_images(argument, tensor).to(self.images), forward_args)


class Objective(ABC):
    """A score (B,) of the model's results (B, D); subclasses give ``prepare``."""

    @abstractmethod
    def prepare(self, batch: Batch) -> Score:
        """Return the function that scores results.

        Raises:
            InputError: If the objective's data do not fit the batch.
        """

    @property
    def slope(self) -> "Objective":
        """The objective whose gradient at the image itself tells the same; as a rule this one."""
        return self

    def check(self, results: Tensor) -> Tensor:
        """Return the results (B, D) of the images if they can be scored: no zero embedding."""
        return check_nonzero(RESULT, results)

    def check_reaction(self, reaction: float, score: float) -> None:  # noqa: B027
        """Raise if the score cannot follow the layer, given the sums of both over a batch."""


@dataclass(frozen=True)
class Norm(Objective):
    r"""The length of the embedding, :math:`\|f(X)\|_2`. Source: FAM, equation 9."""

    def prepare(self, batch: Batch) -> Score:
        """Return the length."""
        return lambda results, own, rows: results.norm(dim=1)

    def check_reaction(self, reaction: float, score: float) -> None:
        """Raise if the length is fixed, as after a normalization."""
        if reaction < ROUNDING * score:
            raise InputError(
                RESULT,
                "embeddings whose length is fixed, as after a normalization",
                "embeddings before it: Norm (Grad-FAM) explains their length",
            )


@dataclass(frozen=True)
class Projection(Objective):
    r"""The projection on a reference, :math:`\langle f(X_g), f(X) \rangle / \|f(X_g)\|`.

    Args:
        references: As in :meth:`Batch.goals`; None for the image's own embedding, held fixed.
        forward_args: Further arguments of the model for reference images; None for those of the
            images that they serve.

    Source: FAM, equation 6.
    """

    references: Any = None
    forward_args: Any = None

    def prepare(self, batch: Batch) -> Score:
        """Return the projection."""
        goals = batch.goals("references", self.references, self.forward_args)
        return lambda results, own, rows: (unit(goals(own, rows)) * results).sum(dim=1)


@dataclass(frozen=True)
class Cosine(Objective):
    r"""The cosine similarity to a reference, :math:`\cos(f(X), f(X_g))`.

    With the image's own embedding as the reference it is what Score-FAM measures of masked
    images; its gradient at the image itself is zero.

    Args:
        references: As in :class:`Projection`.
        forward_args: As in :class:`Projection`.

    Source: FAM, equations 7 and 13.
    """

    references: Any = None
    forward_args: Any = None

    def prepare(self, batch: Batch) -> Score:
        """Return the cosine; 0 for a masked image whose embedding is zero."""
        goals = batch.goals("references", self.references, self.forward_args)
        return lambda results, own, rows: cosine(results, goals(own, rows))

    @property
    def slope(self) -> Objective:
        """The projection: its gradient does not vanish where the image equals its reference."""
        return Projection(self.references, self.forward_args)


@dataclass(frozen=True)
class Verification(Projection):
    r"""Whether a pair passes a threshold: what its similarity exceeds :math:`\tau` by.

    .. math:: s(X) = \frac{1}{\|f(\bar X)\|} \left\langle \frac{f(X_g)}{\|f(X_g)\|}
        - \tau \frac{f(\bar X)}{\|f(\bar X)\|}, f(X) \right\rangle

    with the image :math:`\bar X` that is explained held fixed, where s is
    :math:`\cos(f(\bar X), f(X_g)) - \tau`. It is linear in f(X), so what adds to the embedding adds
    to s: positive if it speaks for accepting the pair, negative if it has less in common with the
    reference than the threshold asks of it.

    Args:
        references: As in :class:`Projection`.
        forward_args: As in :class:`Projection`.
        threshold: :math:`\tau`, in [-1, 1].
    """

    threshold: float = 0.0

    def prepare(self, batch: Batch) -> Score:
        """Return the excess."""
        if not isinstance(self.threshold, int | float) or not -1 <= self.threshold <= 1:
            raise InputError("threshold", repr(self.threshold), "a cosine in [-1, 1]")
        goals = batch.goals("references", self.references, self.forward_args)

        def score(results: Tensor, own: Tensor, rows: Tensor) -> Tensor:
            wanted = unit(goals(own, rows)) - self.threshold * unit(own)
            excess: Tensor = (wanted * results).sum(dim=1) / own.norm(dim=1)
            return excess

        return score


@dataclass(frozen=True)
class Margin(Objective):
    r"""Why a is nearer than b: :math:`\cos(f(X), f(a)) - \cos(f(X), f(b))`.

    Args:
        a: References, images (N, C, H, W) or embeddings (N, D), as in :class:`Projection`.
        b: As a.
    """

    a: Any
    b: Any

    def prepare(self, batch: Batch) -> Score:
        """Return the difference of the two similarities."""
        nearer, farther = batch.goals("a", self.a), batch.goals("b", self.b)

        def score(results: Tensor, own: Tensor, rows: Tensor) -> Tensor:
            return cosine(results, nearer(own, rows)) - cosine(results, farther(own, rows))

        return score


@dataclass(frozen=True)
class Concept(Objective):
    r"""The projection on a direction w of the embedding space, :math:`\langle w, f(X) \rangle / \|w\|`.

    Args:
        direction: (D,) for all images, or (N, D) with N = B, 1 or a divisor of B.

    Source: Kim et al., TCAV, ICML 2018, with the score in the place of its sign.
    """  # noqa: E501

    direction: Tensor

    def prepare(self, batch: Batch) -> Score:
        """Return the projection."""
        if not isinstance(self.direction, Tensor) or self.direction.dim() not in (1, 2):
            raise InputError("direction", describe(self.direction), "a vector (D,) or rows (N, D)")
        given = self.direction[None] if self.direction.dim() == 1 else self.direction
        goals = batch.goals("direction", given)
        return lambda results, own, rows: (unit(goals(own, rows)) * results).sum(dim=1)

    def check(self, results: Tensor) -> Tensor:
        """Return the results: a linear read-out has a value at zero, too."""
        return results


@dataclass(frozen=True)
class Logit(Objective):
    """The logit of a class, of a model that returns logits (B, classes).

    Args:
        target: A class, or one for each image as a list or tensor (N of them serve B / N images
            each, as references do); None for the largest logit.
        scale: ``"logit"``, or ``"probability"`` after a softmax.

    Sources: Grad-CAM, equation 1; Score-CAM, definition 3.
    """

    target: Any = None
    scale: Literal["logit", "probability"] = "logit"

    def prepare(self, batch: Batch) -> Score:
        """Return the logit (or probability) of the class."""
        check_choice("scale", self.scale, ("logit", "probability"))
        count = len(batch.images)

        def score(results: Tensor, own: Tensor, rows: Tensor) -> Tensor:
            classes = classes_of(own, self.target, rows, count)
            values = results.softmax(dim=1) if self.scale == "probability" else results
            return values.gather(1, classes[:, None])[:, 0]

        return score

    def check(self, results: Tensor) -> Tensor:
        """Return the results: logits may be zero."""
        return results


def classes_of(logits: Tensor, target: Any, rows: Tensor, batch: int) -> Tensor:
    """Return the class (n,) to explain in these rows (n,) of a batch, which have these logits.

    Raises:
        InputError: If a class is not among the logits', or their number does not divide ``batch``.
    """
    if target is None:
        return logits.argmax(dim=1)
    classes = logits.shape[1]
    expected = f"a class from 0 to {classes - 1}, or one for each of {batch} images"
    try:
        chosen = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("target", describe(target), expected) from error
    integral = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if not integral or chosen.dim() > 1 or chosen.numel() == 0 or batch % chosen.numel():
        raise InputError("target", describe(chosen), expected)
    if ((chosen < 0) | (chosen >= classes)).any():
        raise InputError("target", chosen.tolist(), expected)
    chosen = chosen.long().reshape(-1)
    return chosen[rows // (batch // len(chosen))]
