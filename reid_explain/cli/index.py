"""The images of a folder and their embeddings, kept in a file beside it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.benchmark.target import BATCH_SIZE, Target
from reid_explain.datasets.folder import IMAGE_SUFFIXES
from reid_explain.errors import InputError
from reid_explain.files import atomic
from reid_explain.inputs import load_image
from reid_explain.tensor_files import read_tensors, write_tensors

KIND = "index"
EVERY = 8
"""Batches after which the file is written anew."""


class Index(NamedTuple):
    """Image files and their embeddings (N, D)."""

    paths: list[Path]
    embeddings: Tensor


def index_folder(folder: Path, target: Target) -> Index:
    """Embed the images of a folder and of those in it, those that a run before did not.

    ``FOLDER.index`` beside the folder keeps the embeddings; what it has of another model, or of
    a file that changed, is made anew. Files that are no images are named and left out.

    Raises:
        InputError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError("gallery", folder, "a folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    stamps = {path: _stamp(folder, path) for path in paths if path.is_file()}
    file = folder.resolve().with_name(f"{folder.resolve().name}.index")
    known = _known(file, target)
    new = [path for path, stamp in stamps.items() if stamp not in known]
    unreadable = []
    batches = [new[start : start + BATCH_SIZE] for start in range(0, len(new), BATCH_SIZE)]
    bar = tqdm(batches, desc=f"embed {folder.name}", unit="batch", disable=not batches)
    for number, batch in enumerate(bar, 1):
        images, read = [], []
        for path in batch:
            try:
                images.append(target.spec.to_tensor(load_image(path)))
                read.append(path)
            except InputError as error:
                unreadable.append(str(error))
        if images:
            embedded = target.embed(torch.stack(images))
            known.update(zip((stamps[path] for path in read), embedded, strict=True))
        if number % EVERY == 0 or number == len(batches):
            _keep(file, target, known)
    for fault in unreadable:
        print(f"left out: {fault}", file=sys.stderr)
    found = [path for path, stamp in stamps.items() if stamp in known]
    if not found:
        raise InputError("gallery", folder, f"a folder with {', '.join(IMAGE_SUFFIXES)} files")
    return Index(found, torch.stack([known[stamps[path]] for path in found]))


def _stamp(folder: Path, path: Path) -> tuple[str, int, int]:
    """Return what changes when a file does."""
    stat = path.stat()
    return path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns


def _known(file: Path, target: Target) -> dict[tuple[str, int, int], Tensor]:
    """Return the embeddings of this target that a file has, by stamp."""
    try:
        state, about = read_tensors(file, KIND, "an index")
        if about["target"] != target.settings():
            return {}
        stamps: Sequence[Sequence[str | int]] = about["files"]
        pairs = zip(stamps, state["embeddings"], strict=True)
        return {(str(n), int(s), int(t)): row for (n, s, t), row in pairs}
    except (InputError, LookupError, TypeError, ValueError):
        return {}


def _keep(file: Path, target: Target, known: dict[tuple[str, int, int], Tensor]) -> None:
    """Write the embeddings, where that is possible."""
    if not known:
        return
    about = {"target": target.settings(), "files": list(known)}
    try:
        with atomic(file) as part:
            write_tensors(part, {"embeddings": torch.stack(list(known.values()))}, KIND, about)
    except (InputError, OSError) as error:
        print(f"not kept for the next run: {error}", file=sys.stderr)
