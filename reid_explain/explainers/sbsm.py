"""SBSM: similarity-based saliency maps, by a window that slides over the image.

Source: Dong et al., Explainability for Content-Based Image Retrieval, CVPR workshops 2019.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_share
from reid_explain.explainers.masks import MaskReferenceExplainer, Masks, Scored, without_rectangles
from reid_explain.explainers.registry import EXPLAINERS


@EXPLAINERS.register
class SBSM(MaskReferenceExplainer):
    r"""SBSM: how much of the similarity goes with the windows that cover a pixel.

    .. math:: L = \frac{\sum_n \max(0, s(X) - s(X \circ M_n)) (1 - M_n)}{\sum_n (1 - M_n)}, \quad
        s(I) = \cos(f(I), f(X_g))

    with a mask for each place of a square window that slides over the image and hides what is in
    it; 0 where no window comes. The paper's distance is Euclidean; here it is the cosine's.

    Args:
        forward_func: As for every :class:`.Explainer`.
        layer: Not read; taken where all explainers are built alike.
        window: Side of the window as a share of the shorter side of the image.
        stride: Step of the window as a share of its side.
        autocast_dtype: As for :class:`.MaskWeighting`.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.

    Example:
        >>> import torch
        >>> from reid_explain import SBSM
        >>> mean_color = lambda images: images.mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> red = torch.tensor([[1.0, 0.0, 0.0]])
        >>> SBSM(mean_color).attribute(image, references=red)[0, 0, :, 0]
        tensor([0.0486, 0.0486, 0.0000, 0.0000])
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        window: float = 0.25,
        stride: float = 0.4,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, autocast_dtype)
        check_share("window", window)
        check_share("stride", stride)
        self.window = window
        self.stride = stride

    def _masks(self, images: Tensor) -> Masks:
        side = max(1, round(self.window * min(images.shape[2:])))
        step = max(1, round(self.stride * side))
        places = torch.cartesian_prod(*(starts(length, side, step) for length in images.shape[2:]))
        return without_rectangles(images, places[:, None], (side, side))

    def _reduce(self, scored: Scored) -> Tensor:
        masks, scores, whole = scored
        hidden = replace(masks, make=lambda numbers: 1 - masks.make(numbers))
        lost = hidden.total((whole - scores).clamp_min(0))
        return lost / hidden.total(torch.ones_like(scores)).clamp_min(1)


def starts(length: int, side: int, step: int) -> Tensor:
    """Return where windows start along an axis, so that as much of them overhangs at both ends."""
    places = torch.arange(0, length, step)
    overhang = side - (length - int(places[-1]))
    return places - overhang // 2
