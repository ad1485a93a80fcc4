"""Masking an image: a map as a mask, and what shows where the mask is 0."""

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def blurred(images: Tensor, kernel_size: int = 51, sigma: float = 50.0) -> Tensor:
    """Return images (B, C, H, W) under a Gaussian blur: the papers' baseline.

    The kernel shrinks to the largest odd size that reflect padding allows, ``2 min(H, W) - 1``.
    Source: FAM, section 4.1.

    Example:
        >>> import torch
        >>> from reid_explain import blurred
        >>> image = torch.zeros(1, 3, 64, 64)
        >>> image[..., 32:] = 1  # a sharp edge in the middle
        >>> blurred(image)[0, 0, 0, [0, 16, 32, 48, 63]]
        tensor([0.0000, 0.1879, 0.5102, 0.8316, 1.0000])
    """
    from torchvision.transforms.v2.functional import gaussian_blur  # here: slow to import

    kernel_size = min(kernel_size, 2 * min(images.shape[-2:]) - 1)
    precise = images.to(torch.promote_types(images.dtype, torch.float32))
    blurry: Tensor = gaussian_blur(precise, [kernel_size] * 2, [sigma] * 2)
    return blurry.to(images.dtype)


def mean_color(images: Tensor) -> Tensor:
    """Return each image (B, C, H, W) as one plane of its own mean color."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def shuffled_patches(images: Tensor, patch_size: int = 16, seed: int = 0) -> Tensor:
    """Return images (B, C, H, W) whose square patches have changed places; none stays.

    The order depends on the seed and the image's own values alone, neither on the batch nor on
    the global random state. Patches shrink to half the shorter side; where they do not tile the
    image, its last row and column are repeated until they do, and the surplus is cut off again.
    """
    patch = max(1, min(patch_size, min(images.shape[-2:]) // 2))
    return torch.stack([_shuffled(image, patch, seed) for image in images])


def content_generator(image: Tensor, seed: int) -> torch.Generator:
    """Return a generator on the CPU that depends on the seed and the image's values alone."""
    values = image.detach().double().cpu().contiguous().numpy().tobytes()
    return torch.Generator().manual_seed(zlib.crc32(values, seed))


def _shuffled(image: Tensor, patch: int, seed: int) -> Tensor:
    channels, height, width = image.shape
    rows, columns = -(-height // patch), -(-width // patch)
    down = torch.arange(rows * patch, device=image.device).clamp(max=height - 1)
    across = torch.arange(columns * patch, device=image.device).clamp(max=width - 1)
    tiles = image[:, down][:, :, across].unfold(1, patch, patch).unfold(2, patch, patch)
    tiles = tiles.reshape(channels, rows * columns, patch, patch)
    generator = content_generator(image, seed)
    order = torch.randperm(rows * columns, generator=generator).to(image.device)
    shuffled = torch.empty_like(tiles)
    shuffled[:, order] = tiles[:, order.roll(1)]
    grid = shuffled.view(channels, rows, columns, patch, patch).transpose(2, 3)
    return grid.reshape(channels, rows * patch, columns * patch)[:, :height, :width]


FILLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "blur": lambda images, others: blurred(images),
        "mean": lambda images, others: mean_color(images),
        "other": lambda images, others: others,
        "shuffle": lambda images, others: shuffled_patches(images),
    }
)
"""Name -> function of the images and of other images, both (B, C, H, W), to the fill.

One fill is not enough: a mask can be fitted to it. Only ``"other"`` looks at the other images,
one for each image and of another person.
"""

AREAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""The shares of the image that masks keep where maps are found or compared at equal areas."""


def unit_range(maps: Tensor) -> Tensor:
    """Return maps (..., H, W) stretched to [0, 1], each by itself; a constant map becomes 0.

    Example:
        >>> import torch
        >>> unit_range(torch.tensor([[-1.0, 0.0, 3.0]]))
        tensor([[0.0000, 0.2500, 1.0000]])
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return (maps - low) / span.where(span > 0, torch.ones_like(span))
