"""Batches as a function of seed and epoch: P identities with S images each, or all shuffled."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions
from torch.utils.data import Sampler

from reid_explain.errors import InputError


class Draw(NamedTuple):
    """One image of an epoch: which image, and the epoch and place in it that it was drawn for."""

    image: int
    epoch: int
    position: int


class SharedBatches(Sampler[list[Draw]]):
    """Whole batches of an epoch's draws, an equal share of each for one of several processes.

    A subclass gives ``_draw_epoch``, the images of the epoch in order, as a function of seed and
    ``epoch`` (set it before each pass) and nothing else.

    Args:
        images: images per epoch, rounded down to whole batches.
        batch: images per batch of all processes.
        seed: of the draws.
        process: which of the processes.
        processes: how many there are.

    Raises:
        InputError: fewer images than one batch takes.
    """

    def __init__(self, images: int, batch: int, seed: int, process: int, processes: int) -> None:
        if images < batch:
            raise InputError("images", images, f"at least one batch of {batch}")
        self.images = images
        self.batch = batch
        self.seed = seed
        self.process = process
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.images // self.batch

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's part of each batch."""
        drawn = [Draw(int(i), self.epoch, at) for at, i in enumerate(self._draw_epoch())]
        share = self.batch // self.processes
        for number in range(len(self)):
            first = number * self.batch + self.process * share
            yield drawn[first : first + share]

    def _draw_epoch(self) -> Sequence[int]:
        """Return the images of the epoch, at least as many as its batches take."""
        raise NotImplementedError


class IdentityBatches(SharedBatches):
    """Batches of P identities with S images each, for one of several processes.

    The order depends on seed and ``epoch`` (set it before each pass) and nothing else. With n
    processes each takes P/n identities of every batch.

    Args:
        labels: the identity of each image.
        identities: P.
        instances: S; identities with fewer images repeat them.
        images: images per epoch, rounded down to whole batches.
        seed: of the draws.
        process: which of the processes.
        processes: how many there are.

    Raises:
        InputError: fewer identities or images than one batch takes, or P that does not divide.
    """

    def __init__(
        self,
        labels: Sequence[int],
        identities: int,
        instances: int,
        images: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        found, batch = len(set(labels)), identities * instances
        if found < identities:
            raise InputError("labels", f"{found} identities", f"at least {identities} per batch")
        super().__init__(images, batch, seed, process, processes)
        if identities % processes:
            raise InputError("identities", identities, f"a multiple of {processes} processes")
        self.labels = np.asarray(labels)
        self.instances = instances

    def _draw_epoch(self) -> Sequence[int]:
        # The library's sampler draws from a generator in its own module.
        before = common_functions.NUMPY_RANDOM
        common_functions.NUMPY_RANDOM = np.random.RandomState((self.seed, self.epoch))
        try:
            return list(MPerClassSampler(self.labels, self.instances, self.batch, self.images))
        finally:
            common_functions.NUMPY_RANDOM = before


class ShuffledBatches(SharedBatches):
    """Every image once in an epoch, in random order, for one of several processes.

    The order depends on seed and ``epoch`` (set it before each pass) and nothing else; images
    that do not fill a last batch are left out. With n processes each takes 1/n of every batch.

    Args:
        images: how many there are.
        batch: images per batch of all processes.
        seed: of the order.
        process: which of the processes.
        processes: how many there are.

    Raises:
        InputError: fewer images than one batch takes, or a batch that does not divide.
    """

    def __init__(
        self, images: int, batch: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        super().__init__(images, batch, seed, process, processes)
        if batch % processes:
            raise InputError("batch", batch, f"a multiple of {processes} processes")

    def _draw_epoch(self) -> Sequence[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order: list[int] = generator.permutation(self.images).tolist()
        return order
