"""Embeddings of many records."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.memory_format import in_fast_format


class Embedded(NamedTuple):
    """Embeddings (N, D) with their identities (N,) and cameras (N,), both int64."""

    embeddings: Tensor
    identities: Tensor
    cameras: Tensor


def embed_records(
    forward_func: Callable[[Tensor], Tensor],
    dataset: ReIDDataset,
    records: Sequence[Record],
    *,
    size: tuple[int, int] = InputSpec().size,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    show_progress: bool = True,
) -> Embedded:
    """Embed ``records`` in batches, with a progress bar.

    Args:
        forward_func: images (B, 3, H, W) to embeddings (B, D); a model belongs in eval mode.
        dataset: what loads the images.
        records: which images, in this order.
        size: height and width that the images are resized to.
        batch_size: images per call.
        workers: processes that load images; 0 loads in this one.
        device: where ``forward_func`` takes its images.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` to embed under ``torch.autocast``.
        show_progress: show the bar.

    Returns:
        Float32 embeddings on the CPU with the records' identities and cameras.

    Raises:
        InputError: no record, or an image that cannot be read.
    """
    if not records:
        raise InputError("records", "none", "at least one record")
    device = torch.device(device)
    loader = DataLoader(
        RecordDataset(dataset, records, InputSpec(size)),
        batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    precision = torch.autocast(device.type, autocast_dtype) if autocast_dtype else nullcontext()
    memory_format = None
    rows = []
    with torch.no_grad(), precision:
        for images, _, _ in tqdm(loader, desc="embed", unit="batch", disable=not show_progress):
            images = images.to(device, non_blocking=True)
            if memory_format is None:
                made, memory_format = in_fast_format(forward_func, images)
            else:
                made = forward_func(images.contiguous(memory_format=memory_format))
            rows.append(made.float().cpu())
    return Embedded(
        torch.cat(rows),
        torch.tensor([record.identity for record in records]),
        torch.tensor([record.camera for record in records]),
    )
