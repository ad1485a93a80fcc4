"""TODO(house): drop. Moved to ``reid_explain.retrieval``."""

from typing import Any

from reid_explain.inputs import InputSpec
from reid_explain.retrieval import Embedded as Embedded
from reid_explain.retrieval import embedded


def embed_records(*args: Any, size: tuple[int, int] = (256, 128), **kwargs: Any) -> Embedded:
    """Call ``reid_explain.retrieval.embed_records`` with images of ``size``."""
    return embedded.embed_records(*args, **{"spec": InputSpec(size=size)} | kwargs)
