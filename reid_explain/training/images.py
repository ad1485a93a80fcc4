"""Training images: loaded once, kept as bytes, augmented anew at every draw."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.files import atomic
from reid_explain.inputs import InputSpec
from reid_explain.training.sampling import Draw

Pixels = NDArray[np.uint8]
Label = TypeVar("Label")


@dataclass
class TrainingImages(Dataset[tuple[Tensor, Label]]):
    """Augmented images with their labels by ``Draw``: (3, H, W) and an item of ``labels``.

    The augmentation is a function of ``seed`` and the draw's epoch and position. A training set
    that changes with the epoch overrides ``load``.

    Args:
        pixels: all images, (N, 3, H, W) uint8 RGB.
        labels: label of each image, of any type.
        seed: of the augmentation.
        augment: maps a uint8 image (3, H, W) to the model's input.
    """

    pixels: Pixels
    labels: Sequence[Label]
    seed: int
    augment: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Label]:
        """Return the augmented image and the label of one draw."""
        image, label = self.load(draw)
        key = np.random.SeedSequence((self.seed, draw.epoch, draw.position))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(key.generate_state(1, np.uint64)[0]))
            return self.augment(image), label

    def load(self, draw: Draw) -> tuple[Tensor, Label]:
        """Return the image (3, H, W) uint8 and the label of one draw."""
        return torch.from_numpy(np.array(self.pixels[draw.image])), self.labels[draw.image]


def to_input(spec: InputSpec) -> v2.Compose:
    """Return the function from uint8 RGB images (..., 3, H, W) to what a model takes."""
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), spec.from_rgb])


def augmentation(spec: InputSpec, erasing: float = 0.5) -> v2.Transform:
    """Return the augmentation of Luo et al. 2019, from uint8 images to the model's input.

    Flip, padding by 10 and crop, normalization, random ``erasing``, of this probability, with the
    mean color (Zhong et al., AAAI 2020).
    """
    crop = v2.RandomCrop(list(spec.size), padding=10)
    erase = v2.RandomErasing(erasing, scale=(0.02, 0.4), ratio=(0.3, 3.33), value=0.0)
    steps = [v2.RandomHorizontalFlip(0.5), crop, to_input(spec)]
    return v2.Compose([*steps, erase] if erasing else steps)


def cached_pixels(
    dataset: ReIDDataset,
    records: Sequence[Record],
    spec: InputSpec,
    path: Path,
    *,
    workers: int = 0,
    show_progress: bool = True,
) -> Pixels:
    """Return the resized images of ``records`` as (N, 3, H, W) uint8, memory-mapped from ``path``.

    The file is written if it is absent or damaged, or if its first, middle or last image is not
    what ``dataset`` loads today. Several processes may write the same file at once.

    Raises:
        InputError: an image cannot be read.
        OSError: the file cannot be written, as on a full disk; it names the file.
    """
    images = _Resized(dataset, records, spec)
    if not _is_current(path, images):
        _write(path, images, workers, show_progress)
    pixels: Pixels = np.load(path, mmap_mode="r")
    return pixels


@dataclass
class _Resized(Dataset[Pixels]):
    dataset: ReIDDataset
    records: Sequence[Record]
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Pixels:
        image = self.spec.fit(self.dataset.load(self.records[index]))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _is_current(path: Path, images: _Resized) -> bool:
    try:
        pixels = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # Absent or damaged.
        return False
    last = len(images) - 1
    same = (np.array_equal(pixels[index], images[index]) for index in (0, last // 2, last))
    return pixels.shape == (len(images), 3, *images.spec.size) and all(same)


def _write(path: Path, images: _Resized, workers: int, show_progress: bool) -> None:
    """Write the images, whole or not at all.

    Written and not mapped: on a full disk a write to a map kills the process.
    """
    shape = (len(images), 3, *images.spec.size)
    loader = DataLoader(images, batch_size=None, num_workers=workers)
    with atomic(path) as partial, partial.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        if hasattr(os, "posix_fallocate"):  # Fail before the work, not after it.
            os.posix_fallocate(file.fileno(), file.tell(), math.prod(shape))
        for image in tqdm(loader, "load images", unit="image", disable=not show_progress):
            file.write(image.numpy().tobytes())
