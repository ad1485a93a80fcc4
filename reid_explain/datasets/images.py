"""Names of before InputSpec. TODO(house): drop, use reid_explain.inputs."""

from PIL import Image
from torch import Tensor

from reid_explain.datasets.records import RecordDataset
from reid_explain.inputs import IMAGENET_MEAN, IMAGENET_STD, InputSpec, load_image

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "RecordDataset", "load_image"]

IMAGE_SIZE = InputSpec().size
normalize = InputSpec().from_rgb
denormalize = InputSpec().to_rgb


def resize(image: Image.Image, size: tuple[int, int] = IMAGE_SIZE) -> Image.Image:
    """Return ``InputSpec(size).fit(image)``."""
    return InputSpec(size).fit(image)


def to_tensor(image: Image.Image, size: tuple[int, int] = IMAGE_SIZE) -> Tensor:
    """Return ``InputSpec(size).to_tensor(image)``."""
    return InputSpec(size).to_tensor(image)
