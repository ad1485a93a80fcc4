"""RELAX: what keeps an embedding where it is, and how sure that is.

Source: Wickstrøm et al., RELAX: Representation Learning Explainability, IJCV 2023.
"""

from typing import Any

import torch
from torch import nn

from reid_explain.capture import ForwardFunc
from reid_explain.explainers.base import Images, logged
from reid_explain.explainers.masks import GridExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.explainers.score import Call
from reid_explain.objectives import Cosine


@EXPLAINERS.register
class RELAX(GridExplainer):
    r"""RELAX: the mean similarity of the masked images that show a pixel, and its variance.

    .. math:: R = \frac{\sum_n s_n M_n}{\sum_n M_n}, \quad
        U = \frac{\sum_n (s_n - R)^2 M_n}{\sum_n M_n}, \quad s_n = \cos(f(X \circ M_n), f(X))

    with RISE's masks; the settings are those of :class:`.MaskWeighting`.

    Example:
        >>> import torch
        >>> from reid_explain import RELAX
        >>> corner = lambda images: images[:, :, :7, :7].mean(dim=(2, 3)) + 0.1  # sees no more
        >>> image = torch.zeros(1, 3, 14, 14)
        >>> image[0, 0] = 1
        >>> maps, uncertainty = RELAX(corner).attribute(image, return_uncertainty=True)
        >>> bool(maps[..., :7, :7].mean() > maps.mean())
        True
        >>> bool(uncertainty[..., :7, :7].mean() < uncertainty.mean())  # a pixel that decides
        True
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        masks: int = 3000,
        cells: int = 7,
        probability: float = 0.5,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, masks, cells, probability, seed, autocast_dtype)

    @logged
    def attribute(
        self,
        inputs: Images,
        baselines: Any = 0.0,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
        return_uncertainty: bool = False,
    ) -> Any:
        """Explain each image by itself; as :meth:`.MaskWeighting.attribute`.

        Args:
            inputs: As there, and so are those not described here.
            baselines: As there.
            additional_forward_args: As there.
            perturbations_per_eval: As there.
            show_progress: As there.
            interpolate_mode: As there.
            return_uncertainty: Whether to return U as well.

        Returns:
            Maps R (B, 1, H, W), cosines in [-1, 1]; with ``return_uncertainty`` a pair of these and
            U (B, 1, H, W), the variance of the cosines. The paper's U-RELAX keeps R where U is at
            most its median.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        masks, scores, _ = self._scored(inputs, Cosine(), baselines, call)
        mean = scores.mean(dim=1, keepdim=True)
        weight = masks.total(torch.ones_like(scores)).clamp_min(torch.finfo(scores.dtype).tiny)
        offset = masks.total(scores - mean) / weight
        maps = self._finish(mean[:, :, None, None] + offset, inputs, interpolate_mode)
        if not return_uncertainty:
            return maps
        variance = masks.total((scores - mean).square()) / weight - offset.square()
        return maps, self._finish(variance.clamp_min(0), inputs, interpolate_mode)
