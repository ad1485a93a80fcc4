"""Class activation mapping: the class-based originals, for models that give logits.

Sources: Selvaraju et al., Grad-CAM, ICCV 2017; Wang et al., Score-CAM, CVPR workshops 2020.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_choice
from reid_explain.explainers.base import Images, logged
from reid_explain.explainers.gradient import GradientExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.explainers.score import Call, ScoreExplainer
from reid_explain.objectives import Logit


@EXPLAINERS.register
class GradCAM(GradientExplainer):
    r"""Grad-CAM: gradient weighting of a class logit, ``Logit(target)``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij}
        \frac{\partial Y^c}{\partial A^k_{ij}} \cdot A^k\right)

    ``forward_func`` returns logits (B, classes). Source: Grad-CAM, equations 1 and 2; FAM,
    equation 3.

    Example:
        >>> import torch
        >>> from reid_explain import GradCAM
        >>> layer = torch.nn.Identity()
        >>> logits = lambda images: layer(images).mean(dim=(2, 3))  # classes: red, green, blue
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> GradCAM(logits, layer).attribute(image, target=1)[0, 0, :, 0]
        tensor([0.0000, 0.0000, 0.0625, 0.0625])
    """

    explains = "logits"
    needs = ("target",)

    @logged
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain one class of each image; as :meth:`.GradientWeighting.attribute`.

        ``target`` is the class, or one for each image; None for the class of the largest logit.
        """
        return self._explain(inputs, Logit(target), additional_forward_args, interpolate_mode)


@EXPLAINERS.register
class ScoreCAM(ScoreExplainer):
    r"""Score-CAM: score weighting of a class logit, ``Logit(target)``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad a = \mathrm{softmax}_k(S_k), \quad
        S_k = Y^c(X \circ M_k + B \circ (1 - M_k)) - Y^c(B)

    ``forward_func`` returns logits (B, classes). One forward pass for each channel that is not
    constant. Source: Score-CAM, definitions 3 and 4.

    The settings are those of :class:`.ScoreWeighting`, and:

    Args:
        score: What S is made of: the class's ``"logit"``, or its ``"probability"``, which
            flattens the weights.

    Example:
        >>> import torch
        >>> from reid_explain import ScoreCAM
        >>> layer = torch.nn.Identity()
        >>> logits = lambda images: 8 * layer(images).mean(dim=(2, 3))  # classes: red, green, blue
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> explainer = ScoreCAM(logits, layer)
        >>> maps, scores = explainer.attribute(image, 1, baselines=0.0, return_scores=True)
        >>> scores, maps[0, 0, :, 0]
        (tensor([[0., 4., 0.]]), tensor([0.0177, 0.0177, 0.9647, 0.9647]))
    """

    explains = "logits"
    needs = ("target",)

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        score: Literal["logit", "probability"] = "logit",
        max_scored_channels: int | None = None,
        tolerance: float | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            forward_func, layer, reshape_transform, max_scored_channels, tolerance, autocast_dtype
        )
        check_choice("score", score, ("logit", "probability"))
        self.score = score

    @logged
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        baselines: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
        return_scores: bool = False,
    ) -> Any:
        """Explain one class of each image; as :meth:`.ScoreWeighting.attribute`.

        ``target`` is the class, or one for each image; None for the class of the largest logit.
        Scores are differences of logits, or of probabilities.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_scores(
            inputs, Logit(target, self.score), baselines, call, return_scores
        )
