"""RISE: the mean of random masks, weighted by the score of what each keeps of the image.

Source: Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models,
BMVC 2018.
"""

from typing import Any

from reid_explain.explainers.base import Images, logged
from reid_explain.explainers.masks import GridExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.explainers.score import Call
from reid_explain.objectives import Cosine, Logit, Objective


class MaskWeighting(GridExplainer):
    r"""Weights random masks with the scores s of what they keep of the image.

    .. math:: L = \frac{1}{N p} \sum_n s(X \circ M_n + B \circ (1 - M_n)) \, M_n

    The masks are RISE's: grids of cells that are kept with probability p, upsampled and shifted
    (:func:`.random_grids`). One forward pass for each mask, of all images together. The model is a
    black box: no layer is needed.

    Args:
        forward_func: As for every :class:`.Explainer`.
        layer: Not read; taken where all explainers are built alike.
        masks: N, how many masks. The noise of the map falls with its root.
        cells: Cells along the shorter side of the image.
        probability: p, of a cell to be kept.
        seed: Another seed, other masks. They are the same for all images of a size.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` for the passes of masked images
            under ``torch.autocast``. None leaves the precision to ``forward_func``.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.

    Source: RISE, equation 6, for any score.
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        baselines: Any = 0.0,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain the objective of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            objective: What is explained, from :mod:`reid_explain.objectives`; None for
                ``Cosine()``, the similarity of a masked image to the image itself.
            baselines: What shows where the mask is 0: images (B or 1, C, H, W), a number (0 is
                the mean color of normalized images), or None for the blurred image.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. A
                tensor with B rows follows its images; :class:`.Shared` passes it whole.
            perturbations_per_eval: The most images in one forward pass; it bounds the memory and
                does not change the result beyond rounding. None fills the device.
            show_progress: Whether to show a bar on standard error.
            interpolate_mode: As for every explainer; maps have the size of the images anyway.

        Returns:
            Maps (B, 1, H, W) on the scale of the scores.

        Raises:
            InputError: If an argument does not fit, or an embedding is zero, NaN or infinite.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_masks(inputs, objective or Cosine(), baselines, call)


@EXPLAINERS.register
class RISE(GridExplainer):
    r"""RISE: mask weighting of the probability of a class, ``Logit(target, "probability")``.

    .. math:: L = \frac{1}{N p} \sum_n Y^c(X \circ M_n) \, M_n

    ``forward_func`` returns logits (B, classes), Y is their softmax. For an embedding take
    :class:`MaskWeighting` with an objective. Source: RISE, equation 6.

    Example:
        >>> import torch
        >>> from reid_explain import RISE
        >>> logits = lambda images: 8 * images.mean(dim=(2, 3))  # classes: red, green, blue
        >>> image = torch.zeros(1, 3, 14, 14)
        >>> image[0, 0, :7] = image[0, 1, 7:] = 1  # red above, green below
        >>> maps = RISE(logits).attribute(image, target=1)
        >>> bool(maps[..., 9:, :].min() > maps[..., :5, :].max())
        True
    """

    explains = "logits"
    needs = ("target",)

    @logged
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        baselines: Any = 0.0,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain one class of each image; as :meth:`MaskWeighting.attribute`.

        ``target`` is the class, or one for each image; None for the class of the largest logit.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_masks(inputs, Logit(target, "probability"), baselines, call)
