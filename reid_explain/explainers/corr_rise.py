"""CorrRISE: which pixels are shown when the similarity is high.

Source: Lu et al., Towards Visual Saliency Explanations of Face Verification, WACV 2024.
"""

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least, check_share
from reid_explain.explainers.masks import MaskReferenceExplainer, Masks, Scored, without_rectangles
from reid_explain.explainers.registry import EXPLAINERS


@EXPLAINERS.register
class CorrRISE(MaskReferenceExplainer):
    r"""CorrRISE: the correlation of a pixel's mask with the similarity under it.

    .. math:: L_{ij} = \operatorname{corr}_n(M_{n,ij}, s_n), \quad
        s_n = \cos(f(X \circ M_n), f(X_g))

    over random masks that hide a few square patches. Where L is positive the pixel adds to the
    similarity (the paper's similarity map), where it is negative it takes from it (the
    dissimilarity map); 0 where a pixel is always or never hidden. ``attribute_pair`` explains both
    images, each beside the other as it is.

    Args:
        forward_func: As for every :class:`.Explainer`.
        layer: Not read; taken where all explainers are built alike.
        masks: How many masks. The noise of the map is one by their root.
        patches: How many patches a mask hides; they may overlap.
        patch: Side of a patch as a share of the shorter side of the image.
        seed: Another seed, other masks. They are the same for all images of a size.
        autocast_dtype: As for :class:`.MaskWeighting`.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.

    Example:
        >>> import torch
        >>> from reid_explain import CorrRISE
        >>> mean_color = lambda images: images.mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 16, 16)
        >>> image[0, 0, :8] = image[0, 1, 8:] = 1  # red above, green below
        >>> red = torch.tensor([[1.0, 0.0, 0.0]])
        >>> maps = CorrRISE(mean_color).attribute(image, references=red)
        >>> bool(maps[..., 3:6, :].mean() > 0.2), bool(maps[..., 10:13, :].mean() < -0.2)
        (True, True)
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        masks: int = 500,
        patches: int = 10,
        patch: float = 30 / 112,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, autocast_dtype)
        check_at_least("masks", masks, 2)
        check_at_least("patches", patches, 1)
        check_share("patch", patch)
        check_at_least("seed", seed, 0)
        self.masks = masks
        self.patches = patches
        self.patch = patch
        self.seed = seed

    def _masks(self, images: Tensor) -> Masks:
        height, width = images.shape[2:]
        side = max(1, round(self.patch * min(height, width)))
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(self.masks, self.patches, 2, generator=generator, dtype=torch.float64)
        corners = (drawn * torch.tensor([height - side + 1, width - side + 1])).long()
        return without_rectangles(images, corners, (side, side))

    def _reduce(self, scored: Scored) -> Tensor:
        masks, scores, _ = scored
        centered = scores - scores.mean(dim=1, keepdim=True)
        shown = masks.total(torch.ones_like(scores)) / masks.count
        covariance = masks.total(centered) / masks.count
        variance = shown * (1 - shown) * centered.square().mean(dim=1)[:, None, None, None]
        return (covariance / variance.sqrt()).where(variance > 0, 0)
