"""Networks that are not torch's: any function of a numpy array.

They have no gradients. ScoreFAM, ScoreCAM, RAM and the controls explain them by forward passes.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec

Array = NDArray[Any]


class FunctionNet(nn.Module):
    """A module around a function of images that runs outside torch.

    Explain its layer ``activations``, through which they pass::

        net = FunctionNet(function)
        ScoreFAM(net, net.map_layer).attribute(images)

    Args:
        function: images (B, 3, H, W), a contiguous array of float32, to the pair of activations
            (B, C, h, w), or tokens (B, T, C), and embeddings (B, D), or logits for ScoreCAM.
        input_spec: the images that the function takes.
    """

    map_layer = "activations"
    trainable_stages = ()

    def __init__(
        self,
        function: Callable[[NDArray[np.float32]], tuple[Array, Array]],
        input_spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.input_spec = input_spec or InputSpec()
        self.activations = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, H, W), on their device.

        Anything but two arrays of one row per image raises ``InputError``.
        """
        made = self.function(images.detach().to("cpu", torch.float32).contiguous().numpy())
        if not (isinstance(made, tuple | list) and len(made) == 2):
            raise InputError("function", f"a result of type {describe(made)}", "a pair of arrays")
        activations, embeddings = (_as_rows(part, len(images)).to(images.device) for part in made)
        self.activations(activations)
        return embeddings


def chosen(
    argument: str, name: str | None, known: Mapping[str, Any], usual: Sequence[str], source: str
) -> str:
    """Return the name that an argument gives; without one, the usual name if there is one alone.

    Args:
        argument: what the name is for.
        name: of one of ``known``, or None.
        known: shapes by name.
        usual: names that the argument is likely to be.
        source: what the names are of, for the message.

    Raises:
        InputError: no such name, or none and it is not clear.
    """
    names = usual if name is None else [name]
    if len(names) != 1 or names[0] not in known:
        got = "none that is clear without a name" if name is None else repr(name)
        listed = ", ".join(f"{one!r} {shape}" for one, shape in [*known.items()][-5:])
        raise InputError(argument, got, f"{source}, such as {listed}")
    return names[0]


def require(package: str, argument: str, path: str | Path) -> ModuleType:
    """Return a package that an argument's file needs; ``InputError`` if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        got = f"{path} without {package}"
        raise InputError(argument, got, f"pip install {package}") from error


def sized(spec: InputSpec | None, size: Sequence[Any], usual: InputSpec | None = None) -> InputSpec:
    """Return the spec of a graph that takes images of this size, as far as it is fixed.

    Without a ``spec`` it is the ``usual`` one. A spec of another size raises ``InputError``.
    """
    wanted = spec or usual or InputSpec()
    height, width = (n if isinstance(n, int) else m for n, m in zip(size, wanted.size, strict=True))
    if spec is not None and spec.size != (height, width):
        raise InputError("input_spec", f"size {spec.size}", f"the graph's, {(height, width)}")
    return wanted.replace(size=(height, width))


def _as_rows(array: Any, rows: int) -> Tensor:
    if not (isinstance(array, np.ndarray) and array.ndim and len(array) == rows):
        got = array.shape if isinstance(array, np.ndarray) else describe(array)
        raise InputError("function", f"a result {got}", f"arrays of {rows} rows, one per image")
    return torch.from_numpy(array.copy())
