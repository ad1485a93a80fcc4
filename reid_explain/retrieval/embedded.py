"""Embeddings of records, and which of them match."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset, Role
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.memory_format import autocast, in_fast_format

PERSON, JUNK = Role.PERSON.value, Role.JUNK.value


class _Columns(NamedTuple):
    embeddings: Tensor
    identities: Tensor
    cameras: Tensor
    roles: Tensor


class Embedded(_Columns):
    """Embeddings (N, D) with identities, cameras and roles (``Role.value``), each (N,) int64."""

    __slots__ = ()

    def __new__(
        cls, embeddings: Tensor, identities: Tensor, cameras: Tensor, roles: Tensor | None = None
    ) -> "Embedded":
        """Take the columns; without roles, all are persons."""
        if roles is None:
            roles = torch.full_like(identities, PERSON)
        return super().__new__(cls, embeddings, identities, cameras, roles)

    @classmethod
    def of(cls, embeddings: Tensor, records: Sequence[Record]) -> "Embedded":
        """Return embeddings (N, D) with the columns of their N records, on the same device."""
        columns = [(record.identity, record.camera, record.role.value) for record in records]
        table = torch.tensor(columns, device=embeddings.device)
        return cls(embeddings, *(column.clone() for column in table.unbind(1)))  # Files want own.

    @classmethod
    def concatenated(cls, parts: Sequence["Embedded"]) -> "Embedded":
        """Return the rows of all parts in one."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def rows(self, index: Tensor | slice) -> "Embedded":
        """Return the rows that ``index`` (indices, bool or a slice) picks."""
        return Embedded(*(column[index] for column in self))

    def to(self, device: torch.device | str) -> "Embedded":
        """Return the columns on ``device``."""
        return Embedded(*(column.to(device) for column in self))


def relevance(query: Embedded, gallery: Embedded) -> tuple[Tensor, Tensor]:
    """Return which of G gallery images match each of Q queries, and which are valid: not junk.

    Both are bool (Q, G); what matches is valid. The embeddings are not read.

    Example:
        >>> query = Embedded(torch.zeros(1, 2), torch.tensor([7]), torch.tensor([1]))
        >>> gallery = Embedded(torch.zeros(3, 2), torch.tensor([7, 7, 3]), torch.tensor([1, 2, 1]))
        >>> relevance(query, gallery)
        (tensor([[False,  True, False]]), tensor([[False,  True,  True]]))
    """
    persons = (query.roles == PERSON)[:, None] & (gallery.roles == PERSON)
    same = persons & (query.identities[:, None] == gallery.identities)
    other_camera = query.cameras[:, None] != gallery.cameras
    return same & other_camera, (~same | other_camera) & (gallery.roles != JUNK)


def embed_records(
    forward_func: Callable[[Tensor], Tensor],
    dataset: ReIDDataset,
    records: Sequence[Record],
    *,
    spec: InputSpec,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    show_progress: bool = True,
) -> Embedded:
    """Embed ``records`` in batches; embeddings are float32 on the CPU.

    Args:
        forward_func: images (B, 3, H, W) to embeddings (B, D); a model belongs in eval mode.
        dataset: loads the images.
        records: which images, in this order.
        spec: what the model takes.
        batch_size: images per call.
        workers: processes that load images; 0 loads in this one.
        device: where ``forward_func`` takes its images.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` to embed under ``torch.autocast``.
        show_progress: show a progress bar.

    Raises:
        InputError: no record, or an image that cannot be read.
    """
    if not records:
        raise InputError("records", "none", "at least one record")
    device = torch.device(device)
    pin = device.type == "cuda"
    images_of = RecordDataset(dataset, records, spec)
    loader = DataLoader(images_of, batch_size, num_workers=workers, pin_memory=pin)
    memory_format, rows = None, []
    with torch.no_grad(), autocast(device, autocast_dtype):
        for images, _, _ in tqdm(loader, desc="embed", unit="batch", disable=not show_progress):
            images = images.to(device, non_blocking=True)
            if memory_format is None:
                result, memory_format = in_fast_format(forward_func, images)
            else:
                result = forward_func(images.contiguous(memory_format=memory_format))
            rows.append(result.float().cpu())
    return Embedded.of(torch.cat(rows), records)
