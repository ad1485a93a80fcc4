"""Two views of an image for self-supervised learning, at the aspect ratio of the image."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from reid_explain.inputs import InputSpec
from reid_explain.training.images import to_input

SMALLEST_CROP = 0.08
"""BYOL's, a share of the image's area."""


class TwoViews(nn.Module):
    """BYOL's two asymmetric views: uint8 images (3, H, W) to pairs of inputs (2, 3, H, W).

    Both: random resized crop, flip, color jitter, grayscale. The first is always blurred and
    never solarized, the second is blurred with probability 0.1 and solarized with 0.2. Crops have
    the aspect ratio of the image times 3/4 to 4/3, and the blur scales with the image.

    Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, appendix B.

    Args:
        spec: what the model takes; its size is that of the views.
        smallest_crop: smallest crop, a share of the image's area.
    """

    def __init__(self, spec: InputSpec, smallest_crop: float = SMALLEST_CROP) -> None:
        super().__init__()
        self.first = view(spec, smallest_crop, blur=1.0, solarize=0.0)
        self.second = view(spec, smallest_crop, blur=0.1, solarize=0.2)

    def forward(self, image: Tensor) -> Tensor:
        """Return the two views; the first is drawn first."""
        return torch.stack([self.first(image), self.second(image)])


def view(spec: InputSpec, smallest_crop: float, *, blur: float, solarize: float) -> v2.Compose:
    """Return the augmentation of one view, from uint8 images (3, H, W) to the model's input.

    Args:
        spec: what the model takes; its size is that of the view.
        smallest_crop: smallest crop, a share of the image's area.
        blur: probability of the blur.
        solarize: probability that values above 128 are inverted.
    """
    height, width = spec.size
    ratio = (width / height * 3 / 4, width / height * 4 / 3)
    sigma = 2.0 * height / 224  # BYOL blurs with up to 2 pixels at a height of 224.
    return v2.Compose(
        [
            v2.RandomResizedCrop([height, width], scale=(smallest_crop, 1.0), ratio=ratio),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([SeparableBlur(sigma)], p=blur),
            v2.RandomSolarize(128, p=solarize),
            to_input(spec),
        ]
    )


class SeparableBlur(nn.Module):
    """Gaussian blur with a random standard deviation from 0.1 to ``largest_sigma`` pixels.

    Torchvision's own convolves with a square kernel, which took most of a view's time.
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
