"""Plug-ins by name: those of this package, of installed packages, and ``module:Attribute``.

A plug-in is one file: a module of the package that a registry scans, or of a user's package that
declares an entry point of the registry's group::

    [project.entry-points."reid_explain.explainers"]
    LayerFAM = "my_package.layer_fam:LayerFAM"
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from reid_explain.errors import InputError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Objects by name, loaded on the first look-up.

    Args:
        group: The entry-point group of plug-ins from other packages.
        package: A package of this project whose modules (not its subpackages) are imported on the
            first look-up, so that a new file in it needs no other edit; None to import nothing.

    Example:
        >>> shapes = Registry("my_package.shapes")
        >>> @shapes.register
        ... class Square:
        ...     pass
        >>> list(shapes), shapes.resolve("collections:OrderedDict").__name__
        (['Square'], 'OrderedDict')
    """

    def __init__(self, group: str, package: str | None = None) -> None:
        self.group = group
        self.package = package
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, item: Any = None, *, name: str | None = None) -> Any:
        """Add ``item``, under ``name`` or its own; without an item, return a decorator.

        Raises:
            InputError: Another object has the name.
        """
        if item is None:
            return lambda item: self.register(item, name=name)
        key = name or getattr(item, "name", None) or item.__name__
        if self._items.setdefault(key, item) is not item:
            raise InputError("name", f"{key!r} twice in {self.group}", "names that differ")
        return item

    def resolve(self, name: str) -> T:
        """Return the object of a registered name or of ``"module:Attribute"``.

        Raises:
            InputError: No such name, module or attribute.
        """
        if name in self:
            return self[name]
        module, colon, attribute = name.partition(":")
        if not colon:
            known = ", ".join(self)
            raise InputError("name", repr(name), f"one of {known}, or module:Attribute")
        try:
            found: T = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError("name", f"{name!r} ({error})", "an importable module:Attribute") from (
                error
            )
        return found

    def __getitem__(self, name: str) -> T:
        return self._load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())

    def _load(self) -> dict[str, T]:
        """Import the modules of ``package`` and the entry points of ``group``, once."""
        if not self._loaded:
            self._loaded = True
            if self.package is not None:
                path = importlib.import_module(self.package).__path__
                for module in pkgutil.iter_modules(path, f"{self.package}."):
                    if not module.ispkg:
                        importlib.import_module(module.name)
            for point in entry_points(group=self.group):
                self.register(point.load(), name=point.name)
        return self._items
