"""Feature activation mapping: what an embedding looks at, without a class or a second image.

Source: Wu et al., FAM: Visual Explanations for the Feature Representations from Deep
Convolutional Networks, CVPR 2022.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from reid_explain.checks import check_nonzero
from reid_explain.errors import InputError
from reid_explain.explainers.base import RESULT, GradientExplainer, Images, logged
from reid_explain.explainers.masking import MaskingExplainer, Scorer
from reid_explain.explainers.similarity import unit

ROUNDING = 1e-4
"""Less than this share of a score that follows the layer is what rounding makes."""


class GradFAM(GradientExplainer):
    r"""Grad-FAM: channels weighted by the mean gradient of the embedding's length.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij}
        \frac{\partial \|f(X)\|_2}{\partial A^k_{ij}} \cdot A^k\right)

    Source: FAM, equation 9. One forward and one backward pass.

    Example:
        >>> import torch
        >>> from reid_explain import GradFAM
        >>> layer = torch.nn.Identity()
        >>> mean_colour = lambda images: layer(images).mean(dim=(2, 3))  # any function of images
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = 1  # a red upper half
        >>> GradFAM(mean_colour, layer).attribute(image)[0, 0, :, 0]
        tensor([0.0625, 0.0625, 0.0000, 0.0000])
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain each image by itself.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.

        Returns:
            Maps (B, 1, H, W), at least 0, without a fixed scale.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN, infinite or normalised, so that its length cannot change.
        """
        return self._explain(inputs, additional_forward_args, interpolate_mode)

    def _score(self, output: Tensor, given: Any) -> Tensor:
        length: Tensor = check_nonzero(RESULT, output).norm(dim=1)
        return length

    def _slopes(self, score: Tensor, activations: Sequence[Tensor]) -> Sequence[Tensor]:
        slopes = super()._slopes(score, activations)
        reaction = sum(
            float((slope * activation.detach()).abs().sum())
            for slope, activation in zip(slopes, activations, strict=True)
        )
        if reaction < ROUNDING * float(score.detach().sum()):
            raise InputError(
                RESULT,
                "embeddings whose length is fixed, as after a normalisation",
                "embeddings before it: Grad-FAM explains their length",
            )
        return slopes


class ScoreFAM(MaskingExplainer):
    r"""Score-FAM: channels weighted by how much of the embedding their mask keeps.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad a = \mathrm{softmax}_k(S_k), \quad
        S_k = \cos(f(X \circ M_k + B \circ (1 - M_k)), f(X)) - \cos(f(B), f(X))

    with :math:`M_k` the channel :math:`A^k`, upsampled and then stretched to [0, 1].
    Source: FAM, equations 10 to 13. One forward pass for each channel that is not constant.
    A masked image whose embedding is zero has cosine 0. The settings are those of
    :class:`.MaskingExplainer`; ``clusters=64`` is a good start where seconds count.

    Example:
        >>> import torch
        >>> from reid_explain import ScoreFAM
        >>> layer = torch.nn.Identity()
        >>> mean_colour = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 3:] = 1  # red above, a green line below
        >>> explainer = ScoreFAM(mean_colour, layer)
        >>> maps, scores = explainer.attribute(image, baselines=0.0, return_scores=True)
        >>> scores  # the red part alone keeps more of the embedding; there is no blue
        tensor([[0.8944, 0.4472, 0.0000]])
        >>> maps[0, 0, :, 0]
        tensor([0.4882, 0.4882, 0.0000, 0.3122])
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        baselines: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
        return_scores: bool = False,
    ) -> Any:
        """Explain each image by itself.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            baselines: What shows where the mask is 0: images (B or 1, C, H, W) or a number;
                None for the image under a Gaussian blur (:func:`~reid_explain.blurred`).
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple.
            perturbations_per_eval: Masked images in one forward pass, of all images together; it
                bounds the memory and does not change the result beyond rounding. None fills the
                device.
            show_progress: Whether to show a bar on standard error.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            return_scores: Whether to return the scores S as well.

        Returns:
            Maps (B, 1, H, W), at least 0, within the range of the activations; with
            ``return_scores`` a pair of these and the scores (B, K) of the K channels, in [-2, 2]
            where they are measured.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        return self._explain_by_scores(
            inputs,
            baselines=baselines,
            target=None,
            additional_forward_args=additional_forward_args,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            interpolate_mode=interpolate_mode,
            return_scores=return_scores,
        )

    def _scorer(self, output: Tensor, target: Any) -> Scorer:
        own = unit(check_nonzero("the result of forward_func", output))
        return lambda result, rows: (unit(result) * own[rows]).sum(dim=1)
