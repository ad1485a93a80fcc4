"""How an interpreter reads its model: the seam and the last stages."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from reid_explain.capture import find_layer, unwrapped
from reid_explain.checks import describe
from reid_explain.errors import InputError


def check_model(model: Any) -> nn.Module:
    """Return ``model``, unwrapped, if it has the seam, ``features`` and ``embed``."""
    model = unwrapped(model)
    seam = (getattr(model, name, None) for name in ("features", "embed"))
    if not (isinstance(model, nn.Module) and all(map(callable, seam))):
        raise InputError("model", describe(model), "a module with features(x) and embed(features)")
    return model


def check_stages(model: Any, stages: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the stages to train, those that ``model`` names by default."""
    names = tuple(getattr(model, "trainable_stages", ()) if stages is None else stages)
    if not names:
        whose = f" for a {type(model).__name__}" if stages is None else ""
        raise InputError("stages", f"none{whose}", "dotted names of its last stages")
    return names


def stage_of(model: nn.Module, name: str) -> nn.Module:
    """Return the stage of ``model`` that has this dotted name."""
    try:
        return find_layer(model, name)
    except InputError as error:
        raise InputError("stages", *error.args[1:]) from error


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Yield a list that fills with a copy of the first argument of this thread's calls."""
    inputs: list[Any] = []
    thread = threading.get_ident()

    def enter(_module: nn.Module, args: tuple[Any, ...]) -> None:
        first = args[0] if args else None
        if threading.get_ident() == thread:  # Copied, as the module may work in place.
            inputs.append(first.clone() if isinstance(first, Tensor) else first)

    handle = module.register_forward_pre_hook(enter)
    try:
        yield inputs
    finally:
        handle.remove()


def check_chain(
    names: Sequence[str], copies: Sequence[nn.Module], shared: Tensor, features: Tensor
) -> None:
    """Raise unless the copied stages, one after the other, make F of the first one's input."""
    try:
        result = nn.Sequential(*copies)(shared.clone())
    except (RuntimeError, TypeError):  # A stage was given another one's input.
        result = None
    same = isinstance(result, Tensor) and result.shape == features.shape
    if not (same and (result - features).norm() <= 1e-3 * features.norm()):
        expected = "stages in a row, nothing between them, that give model.features(x)"
        raise InputError("stages", ", ".join(names), expected)
