"""Training images: loaded once, kept as bytes, augmented anew at every draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from reid_explain.datasets.images import IMAGENET_MEAN, IMAGENET_STD, resize
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.training.sampling import Draw

Pixels = NDArray[np.uint8]
NORMALIZED = (
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD)),
)


Label = TypeVar("Label")


class TrainingImages(Dataset[tuple[Tensor, Label]]):
    """Augmented images with their labels, (3, H, W) and what stands in ``labels``, by ``Draw``.

    The augmentation depends on the seed and the draw's epoch and position and nothing else.

    Args:
        pixels: all images, (N, 3, H, W) uint8.
        labels: of each image; its class, or an array.
        seed: of the augmentation.
        augment: uint8 images (3, H, W) to the network's input.
    """

    def __init__(
        self, pixels: Pixels, labels: Sequence[Label], seed: int, augment: v2.Transform
    ) -> None:
        self.pixels = pixels
        self.labels = labels
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Label]:
        """Return the image of one draw."""
        image = torch.from_numpy(np.array(self.pixels[draw.image]))
        key = np.random.SeedSequence((self.seed, draw.epoch, draw.position))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
            return self.augment(image), self.labels[draw.image]


def augmentation(size: Sequence[int], erasing: float = 0.5) -> v2.Transform:
    """Return the augmentation of Luo et al. 2019, from uint8 images to normalised ones.

    Flip, padding by 10 and crop, normalisation, random erasing with the mean colour (Zhong et
    al., AAAI 2020).

    Args:
        size: height and width of the images.
        erasing: probability of the erasing.
    """
    erase = v2.RandomErasing(erasing, scale=(0.02, 0.4), ratio=(0.3, 3.33), value=0.0)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(list(size), padding=10),
            *NORMALIZED,
            *([erase] if erasing else []),
        ]
    )


def cached_pixels(
    dataset: ReIDDataset,
    records: Sequence[Record],
    size: tuple[int, int],
    path: Path,
    *,
    workers: int = 0,
    show_progress: bool = True,
) -> Pixels:
    """Return the resized images of ``records`` as (N, 3, H, W) uint8, mapped from ``path``.

    The file is written when it is absent or damaged, or when its first, middle or last image is
    not what ``dataset`` loads today.

    Raises:
        InputError: an image cannot be read.
    """
    images = _Resized(dataset, records, size)
    if not _is_current(path, images):
        partial = path.with_suffix(".partial")
        _write(partial, images, workers, show_progress)
        partial.replace(path)
    pixels: Pixels = np.load(path, mmap_mode="r")
    return pixels


class _Resized(Dataset[Pixels]):
    def __init__(
        self, dataset: ReIDDataset, records: Sequence[Record], size: tuple[int, int]
    ) -> None:
        self.dataset = dataset
        self.records = records
        self.size = size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        image = resize(self.dataset.load(self.records[index]), self.size)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _is_current(path: Path, images: _Resized) -> bool:
    try:
        pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # Absent or damaged.
        return False
    last = len(images) - 1
    return pixels.shape == (len(images), 3, *images.size) and all(
        np.array_equal(pixels[index], images[index]) for index in (0, last // 2, last)
    )


def _write(path: Path, images: _Resized, workers: int, show_progress: bool) -> None:
    shape = (len(images), 3, *images.size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    loader = DataLoader(images, batch_size=None, num_workers=workers)
    bar = tqdm(loader, desc="load images", unit="image", disable=not show_progress)
    for index, image in enumerate(bar):
        pixels[index] = image
    pixels.flush()
