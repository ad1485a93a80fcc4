"""One factor on the distances d^k, so that they add up for people whom no one was trained on.

A model brings people whom it was not trained on closer together than its own, so that d̂ is too
large for them, also where the interpreter has seen neither. Composites of its own people, the
upper half of one above the lower half of another, are people whom it does not know.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.decomposition import all_distances
from reid_explain.amd.evaluation import product_distances
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset
from reid_explain.errors import InputError

CALIBRATION = "calibration.json"
"""What a calibration is kept as, in the folder of a run."""


class Calibration(NamedTuple):
    """The ``scale`` that was set, and the ADRE in percent ``before``, at scale 1, and ``after``.

    Measured on all ``pairs`` of images of different ``identities``.
    """

    scale: float
    before: float
    after: float
    pairs: int
    identities: int

    def __str__(self) -> str:
        """Return one line."""
        error = f"ADRE {self.before:.2f} -> {self.after:.2f} %"
        return f"scale {self.scale:.4f}: {error}, {self.pairs} pairs of {self.identities} people"


def calibrate(
    interpreter: Any,
    dataset: ReIDDataset,
    records: Sequence[Record],
    *,
    composite: bool = False,
    batch_size: int = 64,
    workers: int = 0,
) -> Calibration:
    """Set the interpreter's scale to the one that makes the ADRE over ``records`` least.

    The people are to be neither the test's nor, but for composites, those that model or
    interpreter were trained on. Memory: f^k of all N images and some N x N numbers.

    Args:
        interpreter: a trained ``AMDInterpreter``; its own scale does not count.
        dataset: loads the images; labels are not needed.
        records: images of at least two identities; pairs of one identity are left out.
        composite: use ``Composites`` of the images.
        batch_size: images decomposed at a time.
        workers: processes that load images; 0 loads in this one.

    Raises:
        InputError: fewer than two identities, or an image that cannot be read.
    """
    identities = len({record.identity for record in records})
    if identities < 2:
        raise InputError("records", f"{identities} identities", "at least 2")
    images = (Composites if composite else RecordDataset)(dataset, records, interpreter.spec)
    loader = DataLoader(images, batch_size, num_workers=workers)
    blocks = []
    for batch, _, _ in tqdm(loader, desc="calibrate", unit="batch"):
        embeddings, parts, _ = interpreter.decompose(batch)
        blocks.append((embeddings.cpu(), parts.cpu()))
    embeddings, parts = map(torch.cat, zip(*blocks, strict=True))
    people = torch.tensor([record.identity for record in records])
    ratio = distance_ratio(embeddings, parts)[(people[:, None] != people).triu()]
    ratio = ratio[ratio.isfinite()] / interpreter.network.scale.cpu()
    scale = least_error_scale(ratio)
    interpreter.network.scale.fill_(scale)
    before, after = (100 * float((1 - s * ratio).abs().mean()) for s in (1, scale))
    return Calibration(scale, before, after, len(ratio), identities)


class Composites(RecordDataset):
    """Records as in ``RecordDataset``, with the lower half of an image of the next identity.

    The n-th image of an identity gets that of the n-th one of the identity that comes next among
    the records; the last identity takes those of the first.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Load and transform one record and its lower half."""
        image, identity, camera = super().__getitem__(index)
        lower, _, _ = super().__getitem__(self.lower[index])
        half = image.shape[1] // 2
        return torch.cat([image[:, :half], lower[:, half:]], dim=1), identity, camera

    @cached_property
    def lower(self) -> list[int]:
        """Of each record, the index of the one that gives the lower half."""
        own: dict[int, list[int]] = {}
        for index, record in enumerate(self.records):
            own.setdefault(record.identity, []).append(index)
        lower = [0] * len(self.records)
        people = [*own.values()]
        for images, others in zip(people, [*people[1:], people[0]], strict=True):
            for index, other in zip(images, cycle(others), strict=False):
                lower[index] = other
        return lower


def drawn_identities(records: Sequence[Record], count: int, seed: int) -> set[int]:
    """Return ``count`` of the identities of ``records``, drawn at random."""
    identities = sorted({record.identity for record in records})
    return {*np.random.default_rng(seed).choice(identities, count, replace=False).tolist()}


def distance_ratio(embeddings: Tensor, parts: Tensor) -> Tensor:
    """Return d̂ / d of all pairs, (N, N), from embeddings (N, D) and f^k (N, M, D')."""
    centered = (parts - parts.mean(0)).unbind(1)  # So that little cancels.
    reconstructed = sum(product_distances(part, part) for part in centered)
    return reconstructed / all_distances(embeddings, embeddings)


def least_error_scale(ratio: Tensor) -> float:
    r"""Return the c that makes the mean of \|1 - c x\| least, of ratios x = d̂ / d, (P,).

    It is the median of 1 / x weighted by x, as \|1 - c x\| = x \|1 / x - c\|.

    Example:
        >>> least_error_scale(torch.tensor([1.25, 1.25, 0.5]))
        0.8
    """
    falling = ratio.double().sort(descending=True).values
    weight = falling.cumsum(0)
    return float(1 / falling[torch.searchsorted(weight, weight[-1] / 2)])
