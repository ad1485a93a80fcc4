"""The training step of Amortized FAM: what the highest pixels of a head's map keep.

Source: the masks of :class:`reid_explain.ExtremalFAM`, Fong et al., ICCV 2019; learned without a
teacher as by Jethani et al., FastSHAP, ICLR 2022.
"""

import torch
from torch import Tensor, nn

from reid_explain.capture import capture
from reid_explain.explainers.amortized import AmortizedFAM
from reid_explain.explainers.descent import AREA_JITTER, random_fill, soft_masks
from reid_explain.explainers.gradient import gradient, own_slope
from reid_explain.fills import AREAS
from reid_explain.vectors import cosine, unit

BETWEEN = 0.6
"""The share of other goals that lie between an image and another one."""


class KeepStep(nn.Module):
    r"""Maps a batch to the mean of :math:`1 - \cos(f(X \circ M_a + R \circ (1 - M_a)), g)`.

    Areas a and fills R are drawn for each mask as :class:`.ExtremalFAM` draws them. The goal g is
    the image's own embedding or, for a share of the images, lies between this and that of the one
    before in the batch, or is the latter: from what a match would be to another person.

    Args:
        explainer: Its head is trained; its model, in eval mode, is left as it is.
        masks: Of each image.
        references: The share of images with the goal of another one.
        others: The share of fills that are another image of the batch.
    """

    def __init__(
        self, explainer: AmortizedFAM, masks: int, references: float, others: float = 0.0
    ) -> None:
        super().__init__()
        self.head = explainer.head
        self.masks, self.references, self.others = masks, references, others
        self._explainer = (explainer,)  # No part of what is trained and saved.

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss, in [0, 2], of images (B, 3, H, W) as the model takes them."""
        (explainer,) = self._explainer
        with torch.enable_grad():
            activation, output = capture(explainer.forward_func, explainer.layer, images, ())
            own = unit(output.detach().float())
            goals = unit(
                own.lerp(own.roll(1, dims=0), distances(len(own), self.references).to(own))
            )
            of_own = own_slope(output.float(), activation)
            slope = gradient((goals * output.float()).sum(dim=1), activation)
        seen = (explainer._as_map(each.detach(), images) for each in (activation, slope, of_own))
        areas, fills = drawn(images, self.masks, self.others)
        highest = soft_masks(self.head(images, *seen), areas, images.shape[2:]).to(fills)
        kept = torch.lerp(fills, images[:, None], highest).flatten(0, 1)
        shown = explainer.forward_func(kept.contiguous(memory_format=torch.channels_last))
        similar = cosine(shown.float(), goals.repeat_interleave(self.masks, dim=0))
        return {"lost": 1 - similar.mean()}


def distances(images: int, references: float) -> Tensor:
    """Draw how far the goal of each image is on the way to another one, (images, 1) in [0, 1].

    0, the image itself, but for a share of ``references``; of these ``BETWEEN`` lie anywhere
    between, the others at 1.
    """
    way = (torch.rand(images, 1) / BETWEEN).clamp(max=1)
    return way.where(torch.rand(images, 1) < references, 0)


def drawn(images: Tensor, masks: int, others: float) -> tuple[Tensor, Tensor]:
    """Draw areas (B, k) near ``AREAS`` and a fill (B, k, C, H, W) for each of k masks an image."""
    first = torch.stack([torch.randperm(len(AREAS))[:masks] for _ in images])
    areas = torch.tensor(AREAS)[first] * (1 + AREA_JITTER * (2 * torch.rand(first.shape) - 1))
    chance = torch.default_generator
    fills = [torch.stack([random_fill(image, chance) for _ in range(masks)]) for image in images]
    strangers = torch.stack([images.roll(1 + n, dims=0) for n in range(masks)], dim=1)
    strange = torch.rand(len(images), masks, 1, 1, 1) < others
    return areas.to(images.device), strangers.where(strange.to(images.device), torch.stack(fills))
