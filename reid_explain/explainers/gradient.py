"""Gradient weighting: channels weighted by the gradient of an objective at the layer."""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, transformer_hint
from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.explainers.base import Captured, Explainer, Images, logged
from reid_explain.objectives import Norm, Objective, Score
from reid_explain.vectors import unit


def mean_at_activation(slope: Tensor, activation: Tensor) -> Tensor:
    """Return the mean of the gradient weighted by the activation; 0 where that sums to 0."""
    total = activation.sum(dim=(2, 3), keepdim=True)
    weighted = (slope * activation).sum(dim=(2, 3), keepdim=True)
    return torch.where(total == 0, 0, weighted / total)


WEIGHTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "mean": lambda slope, activation: slope.mean(dim=(2, 3), keepdim=True),
        "elementwise": lambda slope, activation: slope,
        "positive": lambda slope, activation: slope.relu(),
        "activation": mean_at_activation,
    }
)
"""Name -> function of the gradient and the activation (B, C, h, w) to weights (B, C, 1, 1) or
(B, C, h, w).

Mean: Grad-CAM, Selvaraju et al., ICCV 2017, equation 1. Elementwise: HiResCAM, Draelos and Carin,
2020. Positive elementwise: LayerCAM, Jiang et al., IEEE TIP 2021, equation 5. Mean weighted by the
activation: XGrad-CAM, Fu et al., BMVC 2020, equation 8.
"""


class GradientExplainer(Explainer, GradientAttribution):
    """The algorithm of :class:`GradientWeighting`; subclasses give ``attribute``.

    A subclass that sets ``weights`` has these by default: ``class LayerFAM(GradFAM)`` with
    ``weights = "positive"`` is LayerCAM for embeddings.
    """

    weights = "mean"

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        self.weights = weights or type(self).weights
        check_choice("weights", self.weights, tuple(WEIGHTS))

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        score = objective.prepare(self._batch(images, args))
        maps = []
        with torch.enable_grad():
            for part in self._captures(images, args):
                activation, slope = self._activation_and_slope(part, objective, score)
                weights = WEIGHTS[self.weights](slope, activation)
                maps.append((weights * activation).sum(dim=1, keepdim=True).relu())
                del part
        found = torch.cat(maps)
        if not found.any():
            warnings.warn(
                f"{type(self).__name__}: every map is zero; the objective falls with everything "
                "that this layer shows",
                stacklevel=4,
            )
        return found

    def _activation_and_slope(
        self, part: Captured, objective: Objective, score: Score
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's map (n, C, h, w) and the gradient of the score there."""
        own = objective.check(part.result.detach())
        values = score(part.result, own, part.rows)
        slope = gradient(values, part.activation)
        activation = part.activation.detach()
        reaction = float((slope * activation).abs().sum())
        objective.check_reaction(reaction, float(values.detach().sum()))
        maps = self._as_map(activation, part.images), self._as_map(slope, part.images)
        if slope.any() and not maps[1].any():
            raise InputError(
                "layer",
                "tokens of which the result reads only those that are no patches",
                f"an earlier layer{transformer_hint(self.forward_func)}",
            )
        return maps


class GradientWeighting(GradientExplainer):
    r"""Weights the layer's channels with the gradient of a score s.

    .. math:: L = \mathrm{ReLU}\left(\sum_k w^k \circ A^k\right), \quad
        w^k = \frac{1}{Z}\sum_{ij} \frac{\partial s}{\partial A^k_{ij}}

    or, elementwise, :math:`w^k = \partial s / \partial A^k`, or only its positive part, or a mean
    weighted by the activation. One forward and one backward pass for each image.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        weights: ``"mean"`` (Grad-CAM), ``"elementwise"`` (HiResCAM), ``"positive"`` (LayerCAM) or
            ``"activation"`` (XGrad-CAM).

    Raises:
        InputError: If ``weights`` has another value or the layer is not in the model.
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain the objective of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            objective: What is explained, from :mod:`reid_explain.objectives`; None for ``Norm()``.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. A
                tensor with B rows follows its images; :class:`.Shared` passes it whole.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.

        Returns:
            Maps (B, 1, H, W), at least 0, without a fixed scale.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, the result has no
                gradient there, or an embedding is zero, NaN or infinite.
        """
        return self._explain(inputs, objective or Norm(), additional_forward_args, interpolate_mode)


def own_slope(result: Tensor, activation: Tensor) -> Tensor:
    """Return the gradient at ``activation`` of each result's projection on itself, held fixed.

    The graph stays for another gradient; errors as of :func:`gradient`.
    """
    return gradient((unit(result.detach()) * result).sum(dim=1), activation, keep=True)


def gradient(score: Tensor, values: Tensor, *, keep: bool = False) -> Tensor:
    """Return the gradient of the scores (n,) with respect to the values of their rows.

    Args:
        score: (n,).
        values: What the scores are computed from, (n, ...).
        keep: Whether the graph stays for another gradient.

    Raises:
        InputError: If the score does not depend on the values, or not differentiably.
    """
    if score.requires_grad:
        total, graph = score.sum(), keep or None  # None: as long as it is needed.
        (slope,) = torch.autograd.grad(total, [values], retain_graph=graph, allow_unused=True)
        if slope is not None:
            return slope
    raise InputError(
        "layer",
        "an output without influence on the result of forward_func, or none that gradients follow",
        "a layer that the result is computed from in torch, with gradients enabled; ScoreFAM and "
        "ScoreCAM need no gradients",
    )
