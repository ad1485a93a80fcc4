"""Class activation mapping: the class-based originals, for models that give logits.

Sources: Selvaraju et al., Grad-CAM, ICCV 2017; Wang et al., Score-CAM, CVPR workshops 2020.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_choice, described
from reid_explain.errors import InputError
from reid_explain.explainers.base import GradientExplainer, Images, logged
from reid_explain.explainers.masking import MaskingExplainer, Scorer


def classes_of(logits: Tensor, target: Any) -> Tensor:
    """Return the class (B,) to explain in each row of the logits (B, D).

    Args:
        logits: (B, D).
        target: A class, or one for each row as a list or tensor; None for the largest logit.

    Raises:
        InputError: If a class is not among the D, or their number is neither 1 nor B.
    """
    if target is None:
        return logits.argmax(dim=1)
    rows, classes = logits.shape
    expected = f"a class from 0 to {classes - 1}, or one for each of {rows} images"
    try:
        chosen = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("target", described(target), expected) from error
    integral = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if not integral or chosen.dim() > 1 or chosen.numel() not in (1, rows):
        raise InputError("target", described(chosen), expected)
    if ((chosen < 0) | (chosen >= classes)).any():
        raise InputError("target", chosen.tolist(), expected)
    return chosen.long().expand(rows)


class GradCAM(GradientExplainer):
    r"""Grad-CAM: channels weighted by the mean gradient of a class logit.

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

    @logged
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain one class of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            target: The class, or one for each image; None for the class of the largest logit.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.

        Returns:
            Maps (B, 1, H, W), at least 0, without a fixed scale.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or a logit is NaN or
                infinite.
        """
        return self._explain(inputs, additional_forward_args, interpolate_mode, given=target)

    def _score(self, output: Tensor, given: Any) -> Tensor:
        return output.gather(1, classes_of(output, given)[:, None])[:, 0]


class ScoreCAM(MaskingExplainer):
    r"""Score-CAM: channels weighted by how much of a class logit their mask keeps.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad a = \mathrm{softmax}_k(S_k), \quad
        S_k = Y^c(X \circ M_k + B \circ (1 - M_k)) - Y^c(B)

    ``forward_func`` returns logits (B, classes). Source: Score-CAM, definitions 3 and 4.
    One forward pass for each channel that is not constant.

    The settings are those of :class:`.MaskingExplainer`, and:

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

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        score: Literal["logit", "probability"] = "logit",
        clusters: int | None = None,
        tolerance: float | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            forward_func, layer, reshape_transform, clusters, tolerance, autocast_dtype
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
        """Explain one class of each image.

        ``target`` is the class, or one for each image; None for the class of the largest logit.
        All else is as in :meth:`.ScoreFAM.attribute`; the scores are differences of logits, or
        of probabilities.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or a logit is NaN or
                infinite.
        """
        return self._explain_by_scores(
            inputs,
            baselines=baselines,
            target=target,
            additional_forward_args=additional_forward_args,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            interpolate_mode=interpolate_mode,
            return_scores=return_scores,
        )

    def _scorer(self, output: Tensor, target: Any) -> Scorer:
        classes = classes_of(output, target)

        def score(result: Tensor, rows: Tensor) -> Tensor:
            if self.score == "probability":
                result = result.softmax(dim=1)
            return result.gather(1, classes[rows, None])[:, 0]

        return score
