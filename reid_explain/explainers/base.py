"""The frame of every explainer: argument forms, evaluation mode, capture, resizing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, capture, evaluation, find_layer
from reid_explain.checks import (
    check_choice,
    check_finite,
    check_images,
    check_rows,
    described,
)
from reid_explain.errors import InputError
from reid_explain.explainers.layout import as_map, upsample
from reid_explain.memory_format import images_per_forward, in_fast_format

Images = TypeVar("Images", Tensor, tuple[Tensor, ...])
Method = TypeVar("Method", bound=Callable[..., Any])
RESULT = "the result of forward_func"
INTERPOLATE_MODES = (None, "bilinear", "bicubic", "nearest")


def logged(attribute: Method) -> Method:
    """Wrap ``attribute`` as Captum does its own: ``NoiseTunnel`` calls what is wrapped."""
    return cast(Method, log_usage(part_of_slo=True)(attribute))


def at_least_float32(values: Tensor) -> Tensor:
    """Return ``values`` in float32 if their own precision is lower."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Explainer(LayerAttribution):
    """Explains what a model makes of an image with a map over one of its layers.

    Subclasses give ``_map``, the formula at the layer's resolution, and ``attribute``, which
    names its data (``given`` to the formula: a target, references) and calls ``_explain``.

    Every ``attribute`` returns (B, 1, H, W) in the dtype of ``inputs``; where a function wants
    the shape of ``inputs``, as ``captum.metrics.infidelity`` does, give it
    ``maps.expand_as(inputs)``.

    Args:
        forward_func: The model, or any function of a batch of images (B, C, H, W) that returns
            a tensor (B, D); with a model that returns more, ``lambda x: model(x)["embedding"]``.
            A module (or a method of one) runs in eval mode and gets its modes back; a function
            runs as it is.
        layer: The layer to explain, as a module or as its dotted name in ``forward_func``.
            Its output is a map (B, C, h, w) or the tokens of a vision transformer (B, T, C).
        reshape_transform: Turns the layer's output into (B, C, h, w) where it is neither, as for
            a Swin block: ``lambda y: y.permute(0, 3, 1, 2)``.

    Raises:
        InputError: If the layer is not in the model.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        LayerAttribution.__init__(self, forward_func, find_layer(forward_func, layer))
        self.reshape_transform = reshape_transform

    def _map(self, images: Tensor, args: tuple[Any, ...], given: Any) -> Tensor:
        """Return the maps (B, 1, h, w) of ``images`` at the layer's resolution."""
        raise NotImplementedError

    def _explain(
        self,
        inputs: Images,
        additional_forward_args: Any,
        interpolate_mode: str | None,
        given: Any = None,
    ) -> Images:
        """Evaluate ``_map`` between ``_begin`` and ``_finish``."""
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        with self._evaluation():
            maps = self._map(images, args, given)
        return self._finish(maps, inputs, interpolate_mode)

    def _begin(
        self, inputs: Images, additional_forward_args: Any, interpolate_mode: str | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Check what came and return the images (B, C, H, W) and the model's further arguments."""
        check_choice("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        return check_images("inputs", only_tensor("inputs", inputs)), as_args(
            additional_forward_args
        )

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Evaluate without gradients, whatever modes the caller and the model are in."""
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            evaluation(self.forward_func, self.layer),
        ):
            yield

    def _finish(self, maps: Tensor, inputs: Images, interpolate_mode: str | None) -> Images:
        """Return the maps at the size asked for, in the dtype and the container of ``inputs``.

        Captum passes both a tensor and a tuple of one tensor, and wants its container back.
        """
        images = only_tensor("inputs", inputs)
        if interpolate_mode is not None:
            maps = upsample(maps, (images.shape[2], images.shape[3]), interpolate_mode)
        maps = maps.to(images.dtype).contiguous()
        return (maps,) if isinstance(inputs, tuple) else maps

    def _forward(self, images: Tensor, args: tuple[Any, ...]) -> Tensor:
        """Return what ``forward_func`` makes of ``images``, (B, D), in at least float32."""
        return check_finite(RESULT, self._result(self.forward_func(images, *args), len(images)))

    def _capture(self, images: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Return the layer's raw output and the result (B, D) of one forward pass."""
        activation, output = capture(self.forward_func, self.layer, images, args)
        result = self._result(output, len(images))
        check_finite(RESULT, result)
        return activation, result

    def _result(self, output: Any, rows: int) -> Tensor:
        """Return what ``forward_func`` gave, if it is (B, D), in at least float32."""
        if not isinstance(output, Tensor):
            raise InputError(
                "forward_func",
                f"a result of type {described(output)}",
                "a tensor (B, D); pick it: lambda x: model(x)[...]",
            )
        return at_least_float32(check_rows(RESULT, output, rows=rows))

    def _as_map(self, activation: Tensor, images: Tensor) -> Tensor:
        """Return a layer's raw output (or its gradient) as (B, C, h, w), in at least float32."""
        if self.reshape_transform is not None:
            maps = self.reshape_transform(activation)
        else:
            maps = as_map(activation, (images.shape[2], images.shape[3]))
        if maps.dim() != 4 or len(maps) != len(images):
            raise InputError(
                "layer", f"output {described(maps)}", f"a map (B = {len(images)}, C, h, w)"
            )
        return at_least_float32(check_finite("the output or the gradient of layer", maps))


class GradientExplainer(Explainer, GradientAttribution):
    r"""Weights each channel with the mean gradient of a score s: one formula, ``_score``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij}
        \frac{\partial s}{\partial A^k_{ij}} \cdot A^k\right)
    """

    def _score(self, output: Tensor, given: Any) -> Tensor:
        """Return the score (B,) of each row of the model's output (B, D)."""
        raise NotImplementedError

    def _slopes(self, score: Tensor, activations: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradients of the scores (B,) with respect to the layer's raw outputs."""
        return gradients(score, activations)

    def _map(self, images: Tensor, args: tuple[Any, ...], given: Any) -> Tensor:
        with torch.enable_grad():
            parts = list(self._captures(images, args))
            score = self._score(torch.cat([part.output for part in parts]), given)
            slopes = self._slopes(score, [part.activation for part in parts])
        maps = []
        for part, slope in zip(parts, slopes, strict=True):
            activation = self._as_map(part.activation, part.images)
            weights = self._as_map(slope, part.images).mean(dim=(2, 3), keepdim=True)
            maps.append((weights * activation).sum(dim=1, keepdim=True).relu())
        return torch.cat(maps)

    def _captures(self, images: Tensor, args: tuple[Any, ...]) -> Iterator["Captured"]:
        """Yield the batch as many images at a time as fill the device: more are slower."""
        memory_format: torch.memory_format | None = None
        everyone = torch.arange(len(images), device=images.device)
        for rows in torch.split(everyone, images_per_forward(images)):
            capture_ = partial(self._capture, args=rows_of(args, rows, len(images)))
            part = images[rows]
            if memory_format is None:
                captured, memory_format = in_fast_format(capture_, part)
            else:
                captured = capture_(part.contiguous(memory_format=memory_format))
            yield Captured(part, *captured)


class Captured(NamedTuple):
    """Images (n, C, H, W), the layer's raw output for them, and the result (n, D)."""

    images: Tensor
    activation: Tensor
    output: Tensor


def gradients(score: Tensor, activations: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradients of the scores (B,) with respect to the activations of their rows.

    Raises:
        InputError: If the score does not depend on the activation, or not differentiably.
    """
    if score.requires_grad:
        slopes = torch.autograd.grad(score.sum(), activations, allow_unused=True)
        if all(slope is not None for slope in slopes):
            return slopes
    raise InputError(
        "layer",
        "an output without influence on the result of forward_func, or none that gradients follow",
        "a layer that the result is computed from in torch, with gradients enabled; ScoreFAM and "
        "ScoreCAM need no gradients",
    )


def only_tensor(argument: str, inputs: Any) -> Any:
    """Return ``inputs``, or the one tensor of the tuple that Captum makes of it."""
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise InputError(
                argument,
                f"a tuple of {len(inputs)}",
                "one tensor; other model inputs go into additional_forward_args",
            )
        return inputs[0]
    return inputs


def as_args(additional_forward_args: Any) -> tuple[Any, ...]:
    """Return the model's further arguments as a tuple, as Captum reads them."""
    if additional_forward_args is None:
        return ()
    if isinstance(additional_forward_args, tuple):
        return additional_forward_args
    return (additional_forward_args,)


def per_image(arg: Any, batch: int) -> bool:
    """Tell whether a further argument of the model has one row for each image of the batch."""
    return isinstance(arg, Tensor) and arg.dim() > 0 and len(arg) == batch


def rows_of(args: tuple[Any, ...], rows: Tensor, batch: int) -> tuple[Any, ...]:
    """Return the model's further arguments for these ``rows`` of a batch."""
    return tuple(arg[rows] if per_image(arg, batch) else arg for arg in args)
