"""Does a map depend on what the model has learnt: randomised models and the likeness of maps.

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018. An average over randomised
models leaves the unrandomised one out: nothing here yields it.
"""

import math
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from reid_explain.capture import evaluation
from reid_explain.checks import check_maps, described
from reid_explain.errors import InputError
from reid_explain.fills import unit_range

Map = NDArray[np.float64]

SSIM_WINDOW = 7
HOG_CELL = 16
HOG_BLOCK = 3
UNTRAINED_SCALE = 0.02

UNIFORM = (_ConvNd, nn.Linear)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PROJECTIONS = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (B,) of maps a and b, in [-1, 1], 1 for equal maps.

    Each map is stretched to [0, 1] first, a constant map to 0: two constant maps score 1. The
    window is 7 pixels wide, or the largest odd number that a smaller map allows.

    Args:
        a: (B, 1, H, W), H and W of at least 3.
        b: As a.

    Raises:
        InputError: If the maps do not fit.

    Source: Wang et al., Image quality assessment, IEEE TIP 2004, equation 13.

    Example:
        >>> maps = torch.eye(8)[None, None]
        >>> ssim(maps, 5 * maps), ssim(maps, maps.flip(-1)) < 0.1
        (tensor([1.], dtype=torch.float64), tensor([True]))
    """

    def of_pair(a: Map, b: Map) -> float:
        window = min(SSIM_WINDOW, (min(a.shape) - 1) // 2 * 2 + 1)
        value = structural_similarity(a, b, win_size=window, data_range=1.0)  # type: ignore[no-untyped-call]
        return float(value)

    return _per_pair(of_pair, a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation (B,) of the pixels of maps a and b, in [-1, 1].

    Equal pixels share their mean rank. A constant map orders nothing: it scores 1 with another
    constant map and 0 with any other.

    Args:
        a: (B, 1, H, W), H and W of at least 3.
        b: As a.

    Raises:
        InputError: If the maps do not fit.

    Example:
        >>> maps = torch.arange(9.0).view(1, 1, 3, 3)
        >>> spearman(maps, maps**2), spearman(maps, -maps)  # only the order counts
        (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """
    return _per_pair(lambda a, b: _correlation(rankdata(a), rankdata(b)), a, b)


def hog_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation (B,) of the oriented gradients of maps a and b, in [-1, 1].

    Each map is stretched to [0, 1] first. Nine orientations in cells of 16 pixels (fewer where
    a map has no 3 such cells across), normalised over 3 x 3 cells. A constant map has no
    gradient: it scores 1 with another constant map and 0 with any other.

    Args:
        a: (B, 1, H, W), H and W of at least 3.
        b: As a.

    Raises:
        InputError: If the maps do not fit.

    Source: Adebayo et al.

    Example:
        >>> maps = torch.eye(8)[None, None]
        >>> hog_similarity(maps, 5 * maps)
        tensor([1.], dtype=torch.float64)
    """

    def of_pair(a: Map, b: Map) -> float:
        cell = min(HOG_CELL, min(a.shape) // HOG_BLOCK)
        block = (HOG_BLOCK, HOG_BLOCK)
        one, other = (
            hog(map_, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=block)
            for map_ in (a, b)
        )
        return _correlation(one, other)

    return _per_pair(of_pair, a, b)


def _per_pair(similarity: Callable[[Map, Map], float], a: Tensor, b: Tensor) -> Tensor:
    """Return the similarity (B,) of stretched maps, pair by pair."""
    a, b = check_maps("a", a), check_maps("b", b)
    if a.shape != b.shape:
        raise InputError("b", described(b), f"the shape of a, {tuple(a.shape)}")
    if min(a.shape[2:]) < 3:
        raise InputError("a", described(a), "maps of at least 3 x 3 pixels")
    rows = (unit_range(maps.double())[:, 0].cpu().numpy() for maps in (a, b))
    values = [similarity(one, other) for one, other in zip(*rows, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def _correlation(a: Map, b: Map) -> float:
    """Return Pearson's correlation; of constants 1 with each other and 0 with anything else."""
    constant = [bool(np.ptp(values) == 0) for values in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def weight_entropy(weights: Tensor) -> Tensor:
    """Return the entropy (B,) of each image's channel weights (B, K) over log K, in [0, 1].

    1 is the uniform mean of the channels, 0 one channel alone; a single channel scores 1.

    Raises:
        InputError: If the weights are negative or do not sum to 1.

    Example:
        >>> weight_entropy(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    shares = weights.double()
    distribution = (
        shares.dim() == 2
        and bool((shares >= 0).all())
        and bool(((shares.sum(dim=1) - 1).abs() < 1e-3).all())
    )
    if not distribution:
        raise InputError("weights", described(weights), "(B, K), at least 0 with sums of 1")
    if shares.shape[1] == 1:
        return torch.ones_like(shares[:, 0])
    return -torch.xlogy(shares, shares).sum(dim=1) / math.log(shares.shape[1])


def cascading_randomisation(
    model: nn.Module,
    images: Tensor,
    *,
    forward_func: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
) -> Generator[str, None, None]:
    """Randomise the layers of ``model`` one after another, from the last that runs to the first.

    Each step yields the name of the layer that joined the randomised ones, while ``model``
    itself (so that explainers of it need not be built anew) has all of these at random and the
    rest as learnt. At the end, and when the iterator is closed or dropped, every parameter and
    buffer is what it was: ``for name in cascading_randomisation(...)`` drops it when the loop is
    left in any way; an iterator that is kept in a variable belongs in ``contextlib.closing``.

    ``executed_layers`` says what a layer is and in which order they come, ``reinitialise`` what
    becomes of it. The global random state is not touched.

    Args:
        model: What is randomised, in place.
        images: (B, C, H, W), any that the model takes: they run once, in eval mode.
        forward_func: What runs on them, if not ``model`` itself: its logits where a class is
            explained.
        seed: Another seed, other weights.

    Yields:
        The layer's dotted name, from ``executed_layers``.

    Raises:
        InputError: If no layer of ``model`` takes part.

    Source: Adebayo et al., the model parameter randomisation test.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> trained = model[0].weight.clone()
        >>> for name in cascading_randomisation(model, torch.rand(1, 3, 4, 4)):
        ...     print(name, bool((model[0].weight == trained).all()))
        2 True
        0 False
        >>> torch.equal(model[0].weight, trained)  # as it was
        True
    """
    saved = _snapshot(model)
    try:
        for layer in reversed(executed_layers(model, images, forward_func)):
            reinitialise(layer, seed)
            yield layer.name
    finally:
        _restore(saved)


def independent_randomisation(
    model: nn.Module,
    images: Tensor,
    *,
    forward_func: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
) -> Generator[str, None, None]:
    """Randomise one layer of ``model`` at a time, from the last that runs to the first.

    As ``cascading_randomisation`` in everything, except that all other layers are as learnt at
    each step. A layer gets the same random weights in both.

    Source: Adebayo et al., the model parameter randomisation test.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> list(independent_randomisation(model, torch.rand(1, 3, 4, 4)))
        ['2', '0']
    """
    saved = _snapshot(model)
    try:
        for layer in reversed(executed_layers(model, images, forward_func)):
            reinitialise(layer, seed)
            yield layer.name
            _restore(saved)
    finally:
        _restore(saved)


class Layer(NamedTuple):
    """What is randomised together: these parameters of one module, and its running statistics."""

    name: str
    module: nn.Module
    parameters: tuple[str, ...]


def executed_layers(
    model: nn.Module, images: Tensor, forward_func: Callable[[Tensor], Any] | None = None
) -> list[Layer]:
    """Return the layers of ``model`` in the order in which a forward pass first uses them.

    The weight and bias of a convolution, linear or normalisation module are one layer, and so
    are the input projections of ``nn.MultiheadAttention`` (``NAME.in_proj``); any other parameter
    is a layer of its own, a class token or the exponent of a pooling. What counts is the first
    operation on the parameter, not the call of a module: that places bare parameters, and finds
    the modules whose weights are used without a call (``out_proj`` of the same attention).
    Parameters that the pass does not use are left out.

    Args:
        model: Its modes are left as they were.
        images: (B, C, H, W), run once, in eval mode.
        forward_func: What runs on them, if not ``model`` itself.

    Raises:
        InputError: If the pass uses no parameter of ``model``.
    """
    layers = [layer for name, module in model.named_modules() for layer in _own(name, module)]
    owners: dict[int, Layer] = {}
    for layer in layers:
        for tensor in _tensors_of(layer):
            owners.setdefault(id(tensor), layer)
    with evaluation(model, model), torch.no_grad(), _FirstUse(set(owners)) as first_use:
        (forward_func or model)(images)
    if not first_use.order:
        name = type(model).__name__
        raise InputError("model", f"a {name} without a layer in use", "one that the images pass")
    return list({layer.name: layer for layer in map(owners.__getitem__, first_use.order)}.values())


def _own(name: str, module: nn.Module) -> Iterator[Layer]:
    """Yield the layers that ``module``'s own parameters (and not its children's) make."""
    grouped: tuple[str, ...] = ()
    if isinstance(module, UNIFORM + NORMS):
        grouped = tuple(own for own in ("weight", "bias") if _has(module, own))
        yield Layer(name, module, grouped)
    elif isinstance(module, nn.MultiheadAttention):
        grouped = tuple(own for own in PROJECTIONS if _has(module, own))
        yield Layer(f"{name}.in_proj".lstrip("."), module, grouped)
    for own, _ in module.named_parameters(recurse=False, remove_duplicate=False):
        if own not in grouped:
            yield Layer(f"{name}.{own}".lstrip("."), module, (own,))


def _has(module: nn.Module, parameter: str) -> bool:
    return module._parameters.get(parameter) is not None


def _tensors_of(layer: Layer) -> Iterator[Tensor]:
    yield from (layer.module.get_parameter(own) for own in layer.parameters)
    if isinstance(layer.module, NORMS):
        yield from (t for own, t in layer.module.named_buffers(recurse=False) if own in RUNNING)


class _FirstUse(TorchFunctionMode):
    """Records which of some tensors, by ``id``, this thread's operations use first."""

    def __init__(self, wanted: set[int]) -> None:
        super().__init__()
        self.wanted = wanted
        self.order: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors_in(result)):  # else it only asked for a shape or a dtype
            used = (id(tensor) for tensor in _tensors_in((args, kwargs)))
            self.order += [i for i in used if i in self.wanted]
        return result


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, dict):
        yield from _tensors_in(tuple(value.values()))


@torch.no_grad()
def reinitialise(layer: Layer, seed: int) -> None:
    """Give a layer the values that a new one has, drawn by a generator of its own.

    Convolution and linear: weight and bias uniform within ±1/√fan-in, PyTorch's default.
    Normalisation: weight 1, bias 0, running mean 0 and variance 1. Attention projections: Xavier
    uniform, bias 0. A bare parameter has no default that could be known: one number (a scale, an
    exponent) is multiplied by a factor between 1/2 and 2, which keeps its sign; more of them
    (a class token, a position embedding) become normal with mean 0 and their own root mean
    square, or 0.02 if they are all 0.

    Args:
        layer: From ``executed_layers``.
        seed: Beside it, the layer's name decides the values; its device and precision do not.
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
    return values.normal_(0, scale or UNTRAINED_SCALE, generator=generator)


@torch.no_grad()
def _snapshot(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return every parameter and buffer with a copy of it."""
    return [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers())]


@torch.no_grad()
def _restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, copy in saved:
        tensor.copy_(copy)
