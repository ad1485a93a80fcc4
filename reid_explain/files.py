"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def partial_of(path: Path) -> Path:
    """Return a path beside ``path`` that no other process writes to."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes ``path`` at the end, whole or not at all."""
    partial = partial_of(path)
    try:
        with named_errors(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name the file in errors of the operating system, such as a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        raise OSError(number, os.strerror(number) if number else str(error), str(path)) from error
