"""Batches as a function of seed and epoch: P identities with S images each, or all shuffled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from reid_explain.errors import InputError


class Draw(NamedTuple):
    """One image of an epoch: its index, and the epoch and position it was drawn for."""

    image: int
    epoch: int
    position: int


@dataclass
class SharedBatches(Sampler[list[Draw]]):
    """Batches of an epoch, of which each of several processes takes an equal part.

    ``_draw_epoch`` of a subclass depends on ``seed`` and ``epoch`` (set before each pass) alone.

    Args:
        images: images per epoch, rounded down to whole batches.
        batch: images per batch, over all processes.
        seed: of the draws.
        process: index of this process.
        processes: number of processes.

    Raises:
        InputError: fewer images than one batch, or a batch not a multiple of ``processes``.
    """

    images: int
    batch: int
    seed: int
    process: int = 0
    processes: int = 1
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.images < self.batch:
            raise InputError("images", self.images, f"at least one batch of {self.batch}")
        if self.batch % self.processes:
            raise InputError("batch", self.batch, f"a multiple of {self.processes} processes")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.images // self.batch

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's part of each batch."""
        draws = [Draw(int(i), self.epoch, at) for at, i in enumerate(self._draw_epoch())]
        part = self.batch // self.processes
        for number in range(len(self)):
            first = number * self.batch + self.process * part
            yield draws[first : first + part]

    def _draw_epoch(self) -> Sequence[int]:
        """Return the indices of the epoch's images, at least as many as its batches take."""
        raise NotImplementedError


class IdentityBatches(SharedBatches):
    """Batches of P identities with S images each, as pytorch-metric-learning draws them.

    With n processes each takes P / n identities of every batch.

    Args:
        labels: identity of each image.
        identities: P.
        instances: S; identities with fewer images repeat them.
        images, seed, process, processes: as in ``SharedBatches``.

    Raises:
        InputError: fewer identities or images than one batch, or P not a multiple of
            ``processes``.
    """

    def __init__(
        self, labels: Sequence[int], identities: int, instances: int, images: int, seed: int,
        process: int = 0, processes: int = 1,
    ) -> None:  # fmt: skip
        self.indices: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            self.indices.setdefault(int(label), []).append(index)
        if (count := len(self.indices)) < identities:
            raise InputError("labels", f"{count} identities", f"at least {identities} per batch")
        if identities % processes:
            raise InputError("identities", identities, f"a multiple of {processes} processes")
        super().__init__(images, identities * instances, seed, process, processes)
        self.identities, self.instances = identities, instances

    def _draw_epoch(self) -> Sequence[int]:
        # The legacy generator: the numbers of pytorch-metric-learning's MPerClassSampler.
        random = np.random.RandomState((self.seed, self.epoch))
        labels = list(self.indices)
        drawn: list[int] = []
        for _ in range(len(self)):
            random.shuffle(labels)
            for label in labels[: self.identities]:
                own = self.indices[label]
                drawn.extend(random.choice(own, self.instances, len(own) < self.instances))
        return drawn


class ShuffledBatches(SharedBatches):
    """Every image once per epoch, in random order; the last, incomplete batch is left out."""

    def _draw_epoch(self) -> Sequence[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order: list[int] = generator.permutation(self.images).tolist()
        return order
