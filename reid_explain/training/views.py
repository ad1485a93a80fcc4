"""Two views of an image for self-supervised learning, at the aspect ratio of the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from reid_explain.training.images import NORMALIZED

SMALLEST_CROP = 0.08
"""Share of the image's area."""
STANDARD_HEIGHT = 224
"""The image height at which BYOL blurs with a deviation of up to ``LARGEST_SIGMA`` pixels."""
LARGEST_SIGMA = 2.0


class TwoViews(nn.Module):
    """BYOL's two asymmetric views: uint8 images (3, H, W) to normalised pairs (2, 3, H, W).

    Both: random resized crop, flip, colour jitter, grey. The first is always blurred and never
    solarised, the second is blurred with probability 0.1 and solarised with 0.2. Crops have the
    aspect ratio of the image times 3/4 to 4/3, and the blur shrinks with the image.

    Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, appendix B.

    Args:
        size: height and width of the views.
        smallest_crop: least share of the image's area in a crop.
    """

    def __init__(self, size: Sequence[int], smallest_crop: float = SMALLEST_CROP) -> None:
        super().__init__()
        self.first = view(size, smallest_crop, blur=1.0, solarize=0.0)
        self.second = view(size, smallest_crop, blur=0.1, solarize=0.2)

    def forward(self, image: Tensor) -> Tensor:
        """Return the two views, the first one drawn first."""
        return torch.stack([self.first(image), self.second(image)])


def view(size: Sequence[int], smallest_crop: float, *, blur: float, solarize: float) -> v2.Compose:
    """Return one view's augmentation, from uint8 images (3, H, W) to normalised ones.

    Args:
        size: height and width of the view.
        smallest_crop: least share of the image's area in a crop.
        blur: probability of the blur.
        solarize: probability that values above 128 are inverted.
    """
    height, width = size
    ratio = width / height
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                [height, width], scale=(smallest_crop, 1.0), ratio=(ratio * 3 / 4, ratio * 4 / 3)
            ),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([SeparableBlur(LARGEST_SIGMA * height / STANDARD_HEIGHT)], p=blur),
            v2.RandomSolarize(128, p=solarize),
            *NORMALIZED,
        ]
    )


class SeparableBlur(nn.Module):
    """Gaussian blur of a random deviation from 0.1 to ``largest_sigma`` pixels.

    Torchvision's own convolves with the square kernel, which took most of a view's time.
    """

    def __init__(self, largest_sigma: float) -> None:
        super().__init__()
        self.largest_sigma = max(largest_sigma, 0.1)
        self.kernel = 2 * int(3 * self.largest_sigma) + 1

    def forward(self, image: Tensor) -> Tensor:
        """Return the blurred image (3, H, W)."""
        sigma = [float(torch.empty(1).uniform_(0.1, self.largest_sigma))] * 2
        rows: Tensor = functional.gaussian_blur(image, [self.kernel, 1], sigma)
        both: Tensor = functional.gaussian_blur(rows, [1, self.kernel], sigma)
        return both
