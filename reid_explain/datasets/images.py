"""Images from disk to tensors and back."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.errors import InputError

IMAGE_SIZE = (256, 128)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_image(path: str | Path) -> Image.Image:
    """Return the RGB image of a file, fully decoded.

    Raises:
        InputError: the file is absent, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            rgb: Image.Image = image.convert("RGB")
            return rgb
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("path", f"{path} ({error})", "a readable image file") from error


def resize(image: Image.Image, size: tuple[int, int] = IMAGE_SIZE) -> Image.Image:
    """Return the image at ``size`` (height, width), bilinear as Pillow resamples."""
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def normalize(image: Tensor) -> Tensor:
    """Return RGB values in [0, 1], (..., 3, H, W), with ImageNet's mean and deviation taken out."""
    out: Tensor = v2.functional.normalize(image, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return out


def denormalize(image: Tensor) -> Tensor:
    """Return a normalised image, (..., 3, H, W), as RGB values clipped to [0, 1]."""
    shape = (3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN, dtype=image.dtype, device=image.device).view(shape)
    std = torch.tensor(IMAGENET_STD, dtype=image.dtype, device=image.device).view(shape)
    return (image * std + mean).clamp(0, 1)


def to_tensor(image: Image.Image, size: tuple[int, int] = IMAGE_SIZE) -> Tensor:
    """Return a network's input, (3, H, W) float32: resized, scaled to [0, 1], normalised.

    Args:
        image: an RGB image of any size.
        size: height and width of the result.
    """
    pixels: Tensor = v2.functional.pil_to_tensor(resize(image, size))
    return normalize(pixels.float() / 255)


class RecordDataset(Dataset[tuple[Tensor, int, int]]):
    """Records as (image tensor (3, H, W), identity, camera).

    Args:
        dataset: what loads the images.
        records: which images, in this order.
        size: height and width of the tensors.
    """

    def __init__(
        self,
        dataset: ReIDDataset,
        records: Sequence[Record],
        size: tuple[int, int] = IMAGE_SIZE,
    ) -> None:
        self.dataset = dataset
        self.records = records
        self.size = size

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Load and transform one record."""
        record = self.records[index]
        return to_tensor(self.dataset.load(record), self.size), record.identity, record.camera
