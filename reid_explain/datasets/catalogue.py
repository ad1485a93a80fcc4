"""Names of before the registry. TODO(house): drop, use reid_explain.datasets.registry."""

from typing import Any

from reid_explain.datasets.registry import DATASETS, SYNTHETIC, open_dataset

__all__ = ["SYNTHETIC", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name == "DATASET_NAMES":
        return tuple(DATASETS)
    raise AttributeError(name)
