"""What a model takes as input, and images from files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from reid_explain.checks import check_choice
from reid_explain.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
RESIZES = ("squash", "letterbox", "crop")
LARGEST_16_BIT = 65535
NUMBERS = (
    ("size", 2, int, 0),
    ("mean", 3, float, -math.inf),
    ("std", 3, float, 0),
    ("scale", None, float, 0),
)
"""Name, count (None: no sequence), kind and bound of the numbers of an ``InputSpec``."""
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class InputSpec:
    """The images that a model takes: their size, and how pixels become numbers.

    An RGB image with values v in [0, 1] becomes (scale * v - mean) / std, in the order of
    ``channels``.

    Args:
        size: height and width in pixels.
        mean: of the channels, in the order of ``channels``, between 0 and ``scale``.
        std: standard deviation of the channels, likewise.
        scale: value of a white pixel before mean and deviation: 1, or 255.
        channels: ``"RGB"`` or ``"BGR"``.
        resize: ``"squash"`` ignores the image's aspect ratio; ``"letterbox"`` keeps it and fills
            the rest with the mean color, which is 0 to the model; ``"crop"`` keeps it and cuts off
            what is too long on both sides, as CLIP's and ImageNet's towers were trained.
        interpolation: ``"bilinear"`` or ``"bicubic"``, as Pillow resamples.

    Raises:
        InputError: an argument outside these.

    Example:
        >>> spec = InputSpec(size=(384, 128))
        >>> images = spec.to_tensor(Image.new("RGB", (50, 70), "white"))
        >>> images.shape, spec.to_rgb(images).mean()
        (torch.Size([3, 384, 128]), tensor(1.))
    """

    size: tuple[int, int] = (256, 128)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: float = 1.0
    channels: str = "RGB"
    resize: str = "squash"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name, count, kind, above in NUMBERS:
            value = _numbers(name, getattr(self, name), count, kind, above)
            object.__setattr__(self, name, value)
        check_choice("channels", self.channels, ("RGB", "BGR"))
        check_choice("resize", self.resize, RESIZES)
        check_choice("interpolation", self.interpolation, tuple(INTERPOLATIONS))

    def replace(self, **changes: Any) -> "InputSpec":
        """Return the same spec with some arguments changed."""
        return dataclasses.replace(self, **changes)

    def fit(self, image: Image.Image) -> Image.Image:
        """Return an RGB image at ``size``, resized as ``resize`` and ``interpolation`` say."""
        height, width = self.size
        resample = INTERPOLATIONS[self.interpolation]
        if self.resize == "squash":
            return image.resize((width, height), resample)
        if self.resize == "crop":
            return ImageOps.fit(image, (width, height), resample)
        return ImageOps.pad(image, (width, height), resample, color=self._mean_color())

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Return the model's input, (3, H, W) float32, of an RGB image of any size."""
        pixels = torch.from_numpy(np.array(self.fit(image))).permute(2, 0, 1)
        return self.from_rgb(pixels.float() / 255)

    def from_rgb(self, images: Tensor) -> Tensor:
        """Return the model's input of RGB values in [0, 1], (..., 3, H, W), of the same shape."""
        values = images if self.channels == "RGB" else images.flip(-3)
        mean, std = self._constants(values)
        return (values * self.scale - mean) / std

    def to_rgb(self, images: Tensor) -> Tensor:
        """Return the RGB values of inputs of the model, (..., 3, H, W), clipped to [0, 1]."""
        mean, std = self._constants(images)
        values = ((images * std + mean) / self.scale).clamp(0, 1)
        return values if self.channels == "RGB" else values.flip(-3)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON has them."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> "InputSpec":
        """Return the spec that ``to_json`` wrote; what is absent has its default.

        Raises:
            InputError: no mapping, an unknown key, or a value outside the arguments.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(mapping, Mapping) or {*mapping} - {*names}:
            raise InputError("input", repr(mapping), f"a mapping with {', '.join(names)}")
        return cls(**mapping)

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation, (3, 1, 1), of the type and on the device of images."""
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return mean, std

    def _mean_color(self) -> tuple[int, int, int]:
        red, green, blue = (round(255 * min(max(value / self.scale, 0), 1)) for value in self.mean)
        return (red, green, blue) if self.channels == "RGB" else (blue, green, red)


def load_image(path: str | Path) -> Image.Image:
    """Return the RGB image of a file, fully decoded.

    The orientation of its EXIF data is applied, values of 16 bits are scaled to 8, floating point
    values in [0, 1] to 255, transparent images are laid on white, and CMYK, gray and palette
    images converted.

    Raises:
        InputError: the file is absent, truncated or no image, or its values have no known range.
    """
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # What garbage raises in a decoder is anybody's guess.
        raise InputError("path", f"{path} ({error})", "a readable image file") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    largest = 1 if values.dtype.kind == "f" else LARGEST_16_BIT
    if not (values.min() >= 0 and values.max() <= largest):
        raise ValueError(f"values from {values.min()} to {values.max()}, not 0 to {largest}")
    return np.round(values.astype(np.float64) * (255 / largest)).astype(np.uint8)


def _numbers(name: str, given: Any, count: int | None, kind: type, above: float) -> Any:
    """Return finite numbers larger than ``above`` as ``kind``, a tuple if there is a count."""
    values = (given,) if count is None else given
    fits = (
        isinstance(values, tuple | list)
        and len(values) == (count or 1)
        and all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
        and all(above < v < math.inf and kind(v) == v for v in values)
    )
    if not fits:
        what = "whole numbers" if kind is int else "finite numbers"
        bound = f" above {above}" if math.isfinite(above) else ""
        raise InputError(name, repr(given), f"{count or 1} {what}{bound}")
    return kind(given) if count is None else tuple(kind(v) for v in values)


BGR_255 = InputSpec(mean=(0, 0, 0), std=(1, 1, 1), scale=255, channels="BGR")
"""Pixels of 0 to 255 with blue first, as OpenCV reads them and graphs from OpenVINO take them."""
PIXELS = {
    "imagenet": InputSpec(),
    "rgb": InputSpec(mean=(0, 0, 0), std=(1, 1, 1)),
    "rgb255": BGR_255.replace(channels="RGB"),
    "bgr255": BGR_255,
}
"""How pixels become numbers, by name."""
