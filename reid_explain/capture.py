"""One forward pass that keeps the activation of one layer and leaves nothing behind."""

import difflib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from reid_explain.checks import describe
from reid_explain.errors import InputError

ForwardFunc = Callable[..., Any]


def unwrapped(forward_func: ForwardFunc) -> ForwardFunc:
    """Return what ``torch.compile`` or a data-parallel wrapper was given: hooks run only there."""
    if isinstance(forward_func, nn.DataParallel | DistributedDataParallel):
        return unwrapped(forward_func.module)
    for name in ("_orig_mod", "_torchdynamo_orig_callable"):
        if (inner := getattr(forward_func, name, None)) is not None:
            return unwrapped(inner)
    return forward_func


def model_of(forward_func: ForwardFunc) -> nn.Module | None:
    """Return the module that ``forward_func`` is, is a method of or is a partial of, if any.

    It may also be a method of an object that has the module as its ``model``.
    """
    forward_func = unwrapped(forward_func)
    if isinstance(forward_func, functools.partial):
        return model_of(forward_func.func)
    owner = getattr(forward_func, "__self__", forward_func)
    owner = owner if isinstance(owner, nn.Module) else getattr(owner, "model", None)
    return owner if isinstance(owner, nn.Module) else None


def token_grid_of(forward_func: ForwardFunc) -> tuple[int, int] | None:
    """Return rows and columns of a vision transformer's patches if its model tells them."""
    grid: tuple[int, int] | None = getattr(model_of(forward_func), "token_grid", None)
    return grid


def find_layer(forward_func: ForwardFunc, layer: nn.Module | str) -> nn.Module:
    """Return the module that ``layer`` is or names.

    Raises:
        InputError: If the model has no such layer, or a name comes with a ``forward_func``
            that is neither a module nor a method of one.
    """
    model = model_of(forward_func)
    if isinstance(layer, str):
        if model is None:
            raise InputError(
                "layer",
                f"the name {layer!r} beside a forward_func that is no module",
                "the module itself",
            )
        modules: dict[str, nn.Module] = dict(model.named_modules())
        if layer in modules:
            return modules[layer]
        own = [name for name in (getattr(model, "map_layer", None),) if name in modules]
        close = difflib.get_close_matches(layer, modules, n=5, cutoff=0.3)
        hints = list(dict.fromkeys([*own, *close]))
        named = f"such as {', '.join(map(repr, hints))}" if hints else "by its dotted name"
        raise InputError("layer", repr(layer), f"a layer of {type(model).__name__}, {named}")
    if not isinstance(layer, nn.Module):
        raise InputError("layer", describe(layer), "a torch.nn.Module or its dotted name")
    if model is not None and all(layer is not module for module in model.modules()):
        raise InputError(
            "layer", f"a {type(layer).__name__} of another model", f"one of {type(model).__name__}"
        )
    return layer


@contextmanager
def evaluation(forward_func: ForwardFunc, layer: nn.Module) -> Iterator[None]:
    """Put the model of ``forward_func`` in eval mode; each module gets its own mode back.

    A plain function hides its model, so it runs in the mode that its caller chose, with a
    warning if ``layer`` shows that this is training.
    """
    model = model_of(forward_func)
    if model is None and any(
        module.training and isinstance(module, _BatchNorm | _DropoutNd)
        for module in layer.modules()
    ):
        warnings.warn(
            "layer is in training mode, and so is the explanation: call model.eval() first",
            stacklevel=4,
        )
    modules = [] if model is None else model.modules()
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def capture(
    forward_func: ForwardFunc, layer: nn.Module, images: Tensor, args: tuple[Any, ...]
) -> tuple[Tensor, Any]:
    """Run ``forward_func(images, *args)`` and return ``layer``'s output and the result.

    The layer's output is cut out of the graph: it is a leaf that requires gradients when they
    are enabled, the rest of the model runs on a copy of it (so that a later in-place operation
    cannot change it), and ``torch.autograd.grad`` of the result reaches it and nothing before.
    What runs before the layer records no graph, whatever parameters require gradients.

    Only the calling thread is listened to, so that other threads can use the model meanwhile; a
    function that hands the model to another thread runs twice.

    Raises:
        InputError: If the layer did not run or ran more than once, or gave no tensor.
    """
    outputs, result = _run_once(forward_func, layer, images, args)
    if not isinstance(outputs[0], Tensor):
        name = type(layer).__name__
        raise InputError(
            "layer", f"a {name} that gives {describe(outputs[0])}", "a layer that gives one tensor"
        )
    return outputs[0], result


def replace(
    forward_func: ForwardFunc,
    layer: nn.Module,
    images: Tensor,
    args: tuple[Any, ...],
    output: Tensor,
) -> Any:
    """Run ``forward_func(images, *args)`` with ``output`` in the place of ``layer``'s output.

    What runs behind the layer sees as many rows as ``output`` has, which may be more than there
    are images: models that only add to the layer's output take that.

    Raises:
        InputError: If the layer did not run or ran more than once.
    """
    return _run_once(forward_func, layer, images, args, output)[1]


def _run_once(
    forward_func: ForwardFunc,
    layer: nn.Module,
    images: Tensor,
    args: tuple[Any, ...],
    replacement: Tensor | None = None,
) -> tuple[list[Any], Any]:
    """Return the one output of the layer, in a list, and the result."""
    run = functools.partial(
        _captured, unwrapped(forward_func), layer, images, args, replacement=replacement
    )
    outputs, elsewhere, result = run(thread=threading.get_ident())
    if elsewhere and not outputs:
        outputs, _, result = run(thread=None)
    if len(outputs) != 1:
        name = type(layer).__name__
        came = f"a {name} that ran {len(outputs)} times" if outputs else f"a {name} that never ran"
        raise InputError("layer", came, "a layer that runs once in forward_func")
    return outputs, result


def _captured(
    forward_func: ForwardFunc,
    layer: nn.Module,
    images: Tensor,
    args: tuple[Any, ...],
    thread: int | None,
    replacement: Tensor | None,
) -> tuple[list[Any], int, Any]:
    """Return the layer's outputs in a thread (None: any), its runs elsewhere, and the result."""
    outputs: list[Any] = []
    elsewhere = 0
    with_gradients = torch.is_grad_enabled()

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal elsewhere
        if thread not in (None, threading.get_ident()):
            elsewhere += 1
            return None
        alone = isinstance(output, tuple) and len(output) == 1
        tensor = output[0] if alone else output
        outputs.append(tensor)
        if not isinstance(tensor, Tensor) or len(outputs) > 1:
            return None
        torch.set_grad_enabled(with_gradients)
        outputs[0] = leaf = tensor.detach().requires_grad_(torch.is_grad_enabled())
        behind = leaf.clone() if replacement is None else replacement
        return (behind,) if alone else behind

    handle = layer.register_forward_hook(cut)
    try:
        with torch.no_grad():
            result = forward_func(images, *args)
    finally:
        handle.remove()
    return outputs, elsewhere, result


def transformer_hint(forward_func: ForwardFunc) -> str:
    """Return which layer of a vision transformer still has patches that are read, if known."""
    model = model_of(forward_func)
    names = [] if model is None else [name for name, _ in model.named_modules()]
    norms = [name for name in names if name.rpartition(".")[2] in FIRST_NORMS]
    return f", such as {norms[-1]!r}" if norms else ""


FIRST_NORMS = ("norm1", "ln_1", "layernorm_before", "layer_norm1")
"""What timm, torchvision and transformers call the norm before a block's attention."""
