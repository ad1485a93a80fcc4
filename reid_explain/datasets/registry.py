"""The data sets by name, for command lines and plug-ins."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reid_explain.datasets.records import ReIDDataset
from reid_explain.errors import InputError
from reid_explain.registry import Registry

SYNTHETIC = "synthetic"
DATASETS: Registry[Callable[..., ReIDDataset]] = Registry(
    "reid_explain.datasets", package="reid_explain.datasets"
)
"""By name, a function of ``root``, if the data set lies in a folder, and of settings."""


def open_dataset(name: str, root: str | Path | None = None, **settings: Any) -> ReIDDataset:
    """Return the data set of a name.

    Args:
        name: one of ``DATASETS``, or ``"module:Class"``.
        root: the data set's folder; none for ``"synthetic"``, which is drawn.
        settings: the data set's own keywords.

    Raises:
        InputError: another name, a root missing or not wanted, or what the data set raises.
    """
    make = DATASETS.resolve(name)
    parameter = inspect.signature(make).parameters.get("root")
    if root is None:
        if parameter is not None and parameter.default is parameter.empty:
            raise InputError("root", "nothing", f"the folder of {name}")
        return make(**settings)
    if parameter is None:
        raise InputError("root", root, f"none, {name} has no folder")
    return make(root=root, **settings)


def _drawn(**settings: Any) -> ReIDDataset:
    from reid_explain.datasets.synthetic import SyntheticReID

    return SyntheticReID(**settings)


DATASETS.register(_drawn, name=SYNTHETIC)
