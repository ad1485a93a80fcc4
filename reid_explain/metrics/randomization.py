"""Networks whose layers are made random again, one after another or one at a time.

An average over randomized models leaves the unrandomized one out: nothing here yields it.

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, the model parameter
randomization test.
"""

import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from reid_explain.capture import evaluation
from reid_explain.errors import InputError

Forward = Callable[[Tensor], Any]

UNIFORM = (_ConvNd, nn.Linear)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PROJECTIONS = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def cascading_randomization(
    model: nn.Module, images: Tensor, *, forward_func: Forward | None = None, seed: int = 0
) -> Generator[str, None, None]:
    """Randomize the layers of ``model`` one after another, from the last that runs to the first.

    When the iterator ends, is closed or is dropped, every parameter and buffer is what it was; an
    iterator that is kept in a variable belongs in ``contextlib.closing``. Explainers of ``model``
    need not be built anew, and the global random state is not touched.

    Args:
        model: randomized in place.
        images: (B, C, H, W), any that the model takes: they run once, in eval mode.
        forward_func: runs on them, if not ``model`` itself: its logits where a class is explained.
        seed: for the weights.

    Yields:
        The dotted name of each layer of ``executed_layers``; ``InputError`` as there.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> trained = model[0].weight.clone()
        >>> for name in cascading_randomization(model, torch.rand(1, 3, 4, 4)):
        ...     print(name, torch.equal(model[0].weight, trained))
        2 True
        0 False
    """
    for name, _ in _randomized(model, images, forward_func, seed):
        yield name


def independent_randomization(
    model: nn.Module, images: Tensor, *, forward_func: Forward | None = None, seed: int = 0
) -> Generator[str, None, None]:
    """Randomize one layer of ``model`` at a time, else as ``cascading_randomization``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> list(independent_randomization(model, torch.rand(1, 3, 4, 4)))
        ['2', '0']
    """
    for name, restore in _randomized(model, images, forward_func, seed):
        yield name
        restore()


def _randomized(
    model: nn.Module, images: Tensor, forward_func: Forward | None, seed: int
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield each layer's name, once it is random, and a function that undoes all steps so far."""
    tensors = (*model.parameters(), *model.buffers())
    with torch.no_grad():
        copies = [tensor.clone() for tensor in tensors]

    @torch.no_grad()
    def restore() -> None:
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)

    try:
        for layer in reversed(executed_layers(model, images, forward_func)):
            reinitialize(layer, seed)
            yield layer.name, restore
    finally:
        restore()


class Layer(NamedTuple):
    """Parameters of one module, and its running statistics, that are randomized together."""

    name: str
    module: nn.Module
    parameters: tuple[str, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Yield the parameters and the running statistics."""
        yield from map(self.module.get_parameter, self.parameters)
        if isinstance(self.module, NORMS):
            buffers = self.module.named_buffers(recurse=False)
            yield from (buffer for name, buffer in buffers if name in RUNNING)


def executed_layers(
    model: nn.Module, images: Tensor, forward_func: Forward | None = None
) -> list[Layer]:
    """Return the layers of ``model`` in the order in which a pass of images first uses them.

    The weight and bias of a convolution, linear or normalization module are one layer, and so
    are the input projections of ``nn.MultiheadAttention`` (``NAME.in_proj``); any other parameter
    is a layer of its own, such as a class token or the exponent of a pooling. What counts is the
    first operation on the parameter, not the call of a module: that places bare parameters, and
    finds modules whose weights are used without a call (``out_proj`` of the same attention).
    A pass that uses no parameter of ``model`` raises ``InputError``.
    """
    owners: dict[int, Layer] = {}
    for name, module in model.named_modules():
        for layer in _own_layers(name, module):
            for tensor in layer.tensors():
                owners.setdefault(id(tensor), layer)
    with evaluation(model, model), torch.no_grad(), _FirstUse(set(owners)) as first_use:
        (forward_func or model)(images)
    if not first_use.order:
        name = type(model).__name__
        raise InputError("model", f"a {name} without a layer in use", "one that the images pass")
    return list({owners[i].name: owners[i] for i in first_use.order}.values())


def _own_layers(name: str, module: nn.Module) -> Iterator[Layer]:
    """Yield the layers that ``module``'s own parameters (and not its children's) make."""
    own = [key for key, _ in module.named_parameters(recurse=False, remove_duplicate=False)]
    together: tuple[str, ...] = ()
    if isinstance(module, UNIFORM + NORMS):
        together = tuple(key for key in own if key in ("weight", "bias"))
        yield Layer(name, module, together)
    elif isinstance(module, nn.MultiheadAttention):
        together = tuple(key for key in own if key in PROJECTIONS)
        yield Layer(f"{name}.in_proj".lstrip("."), module, together)
    for key in own:
        if key not in together:
            yield Layer(f"{name}.{key}".lstrip("."), module, (key,))


class _FirstUse(TorchFunctionMode):
    """Records in which order this thread's operations use some tensors, given by ``id``."""

    def __init__(self, wanted: set[int]) -> None:
        super().__init__()
        self.wanted = wanted
        self.order: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not a mere shape
            self.order += [i for i in map(id, tree_leaves((args, kwargs))) if i in self.wanted]
        return result


@torch.no_grad()
def reinitialize(layer: Layer, seed: int) -> None:
    """Give a layer of ``executed_layers`` the values of a new one; its name and a seed decide them.

    Convolution and linear: weight and bias uniform within ±1/√fan-in, PyTorch's default.
    Normalization: weight 1, bias 0, running mean 0 and variance 1. Attention projections: Xavier
    uniform, bias 0. A bare parameter has no known default: a single number (a scale, an exponent)
    is multiplied by a factor between 1/2 and 2, which keeps its sign; more of them (a class
    token, a position embedding) become normal with mean 0 and their own root mean square, or
    0.02 if they are all 0.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(layer.name.encode(), seed))
    for own in layer.parameters:
        parameter = layer.module.get_parameter(own)
        parameter.copy_(_initial(layer.module, own, parameter, generator))
    if isinstance(layer.module, _NormBase):
        layer.module.reset_running_stats()


def _initial(module: nn.Module, own: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.empty(parameter.shape)
    if isinstance(module, UNIFORM) and own in ("weight", "bias"):
        bound = module.weight[0].numel() ** -0.5
        return values.uniform_(-bound, bound, generator=generator)
    if isinstance(module, NORMS) and own in ("weight", "bias"):
        return values.fill_(own == "weight")
    if isinstance(module, nn.MultiheadAttention) and own in PROJECTIONS:
        if own == "in_proj_bias":
            return values.zero_()
        return nn.init.xavier_uniform_(values, generator=generator)
    scale = float(parameter.double().square().mean().sqrt())
    if parameter.numel() == 1 and scale > 0:
        return parameter.cpu() * 2 ** values.uniform_(-1, 1, generator=generator)
    return values.normal_(0, scale or 0.02, generator=generator)
