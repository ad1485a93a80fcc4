"""The frame of every explainer: argument forms, evaluation mode, capture, resizing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, capture, evaluation, find_layer, token_grid_of
from reid_explain.checks import (
    at_least_float32,
    check_choice,
    check_finite,
    check_images,
    check_rows,
    describe,
)
from reid_explain.errors import InputError
from reid_explain.explainers.layout import as_map, upsample
from reid_explain.memory_format import autocast, images_per_forward, in_fast_format
from reid_explain.objectives import RESULT, Batch, Objective

Images = TypeVar("Images", Tensor, tuple[Tensor, ...])
Method = TypeVar("Method", bound=Callable[..., Any])
INTERPOLATE_MODES = (None, "bilinear", "bicubic", "nearest")


def logged(attribute: Method) -> Method:
    """Wrap ``attribute`` as Captum does its own: ``NoiseTunnel`` calls what is wrapped."""
    return cast(Method, log_usage(part_of_slo=True)(attribute))


class Shared(NamedTuple):
    """A further argument of the model that all images share, whatever its length.

    Other tensors with one row for each image of the batch follow their image.
    """

    value: Any


class Captured(NamedTuple):
    """One part of a batch: its rows (n,), images, the layer's raw output, the result (n, D)."""

    rows: Tensor
    images: Tensor
    activation: Tensor
    result: Tensor


class Explainer(LayerAttribution):
    """Explains what a model makes of an image with a map over one of its layers.

    Subclasses give ``_map``, the formula at the layer's resolution, and ``attribute``, which
    names its data and calls ``_explain`` with an objective.

    Every ``attribute`` returns (B, 1, H, W) in the dtype of ``inputs``, but at least float32:
    ties of a lower precision would decide which pixels are the highest. Where a function wants
    the shape of ``inputs``, as ``captum.metrics.infidelity`` does, give it
    ``maps.expand_as(inputs)``.

    The class says what a benchmark has to give it: ``explains``, the function of the target
    (``"embedding"``, ``"logits"`` or ``"pooled"``); ``needs``, the keywords of ``attribute``
    (``"references"``, ``"target"``); ``cost``, one ``"pass"``, a pass for each of the
    ``"channels"`` or of many ``"masks"``, or a ``"descent"``; ``is_control``, that it knows nothing
    of the embedding; ``of_distance``, that its maps mark what keeps two images apart;
    ``on_request``, that it is measured only where it is named; and ``looks_inside``, that a
    function may not hide the model, or run it in another thread.

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

    explains: ClassVar[str] = "embedding"
    needs: ClassVar[tuple[str, ...]] = ()
    cost: ClassVar[str] = "pass"
    is_control: ClassVar[bool] = False
    of_distance: ClassVar[bool] = False
    on_request: ClassVar[bool] = False
    looks_inside: ClassVar[bool] = False

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        LayerAttribution.__init__(self, forward_func, find_layer(forward_func, layer))
        self.reshape_transform = reshape_transform

    @classmethod
    def for_target(cls, target: Any, **settings: Any) -> "Explainer":
        """Return the explainer of a benchmark's target, which has functions and a ``layer``."""
        return cls(getattr(target, cls.explains), target.layer, **settings)

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        """Return the maps (B, 1, h, w) of ``images`` at the layer's resolution."""
        raise NotImplementedError

    def _explain(
        self,
        inputs: Images,
        objective: Objective,
        additional_forward_args: Any,
        interpolate_mode: str | None,
    ) -> Images:
        """Evaluate ``_map`` between ``_begin`` and ``_finish``."""
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        with self._evaluation():
            maps = self._map(images, args, objective)
        return self._finish(maps, inputs, interpolate_mode)

    def _begin(
        self, inputs: Images, additional_forward_args: Any, interpolate_mode: str | None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Check the inputs; return images (B, C, H, W) and the model's further arguments."""
        check_choice("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        images = check_images("inputs", only_tensor("inputs", inputs))
        return images, as_args(additional_forward_args)

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
        """Return the maps at the size asked for, in the container of ``inputs``.

        Captum passes both a tensor and a tuple of one tensor, and wants its container back.
        """
        images = only_tensor("inputs", inputs)
        if interpolate_mode is not None:
            maps = upsample(maps, (images.shape[2], images.shape[3]), interpolate_mode)
        maps = maps.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
        return (maps,) if isinstance(inputs, tuple) else maps

    def _batch(
        self, images: Tensor, args: tuple[Any, ...], per_forward: int | None = None
    ) -> Batch:
        """Return what objectives may look at."""

        def embed(references: Tensor, forward_args: Any) -> Tensor:
            own = as_args(forward_args) if forward_args is not None else args
            size = len(images) if forward_args is None else len(references)
            if forward_args is None and any(per_image(arg, size) for arg in args):
                references = references.repeat_interleave(size // len(references), dim=0)
            results = [
                self._result(self.forward_func(references[rows], *rows_of(own, rows, size)), rows)
                for rows in parts_of(references, per_forward)
            ]
            return check_finite(RESULT, torch.cat(results))

        return Batch(images, embed)

    def _captures(
        self, images: Tensor, args: tuple[Any, ...], per_forward: int | None = None
    ) -> Iterator[Captured]:
        """Yield the batch in parts that fill the device: the graph of one lives at a time."""
        memory_format: torch.memory_format | None = None
        for rows in parts_of(images, per_forward):
            run = partial(self._capture, args=rows_of(args, rows, len(images)))
            part = images[rows]
            if memory_format is None:
                captured, memory_format = in_fast_format(run, part)
            else:
                captured = run(part.contiguous(memory_format=memory_format))
            yield Captured(rows, part, *captured)
            del captured

    def _capture(self, images: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Return the layer's raw output and the result (n, D) of one forward pass."""
        activation, output = capture(self.forward_func, self.layer, images, args)
        result = self._result(output, images)
        check_finite(RESULT, result)
        return activation, result

    def _result(self, output: Any, rows: Tensor) -> Tensor:
        """Return the output of forward_func, one row for each of ``rows``, in float32 or more."""
        if not isinstance(output, Tensor):
            raise InputError(
                "forward_func",
                f"a result of type {describe(output)}",
                "a tensor (B, D); pick it: lambda x: model(x)[...]",
            )
        return at_least_float32(check_rows(RESULT, output, rows=len(rows)))

    def _results(
        self,
        shown: Tensor,
        rows: Tensor,
        args: tuple[Any, ...],
        batch: int,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return the results (n, D) of images (n, C, H, W) in the place of these rows (n,).

        ``dtype`` is the precision of the passes, as :func:`.autocast` has it.
        """
        own = rows_of(args, rows, batch)

        def run(images: Tensor) -> Tensor:
            with autocast(images.device, dtype):
                output = self.forward_func(images, *own)
            result = self._result(output, rows)
            check_finite(RESULT, result)  # it returns the values without their graph
            return result

        return in_fast_format(run, shown)[0]

    def _as_map(self, activation: Tensor, images: Tensor) -> Tensor:
        """Return a layer's raw output (or its gradient) as (n, C, h, w), in at least float32."""
        if self.reshape_transform is not None:
            maps = self.reshape_transform(activation)
        else:
            size, grid = (images.shape[2], images.shape[3]), token_grid_of(self.forward_func)
            maps = as_map(activation, size, grid)
        if maps.dim() != 4 or len(maps) != len(images):
            raise InputError(
                "layer", f"output {describe(maps)}", f"a map (B = {len(images)}, C, h, w)"
            )
        return at_least_float32(check_finite("the output or the gradient of layer", maps))


def parts_of(images: Tensor, per_forward: int | None = None) -> tuple[Tensor, ...]:
    """Return the rows of a batch, as many at a time as fill the device, or ``per_forward``."""
    rows = torch.arange(len(images), device=images.device)
    return torch.split(rows, per_forward or images_per_forward(images))


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
    if isinstance(additional_forward_args, tuple) and not isinstance(
        additional_forward_args, Shared
    ):
        return additional_forward_args
    return (additional_forward_args,)


def per_image(arg: Any, batch: int) -> bool:
    """Tell whether a further argument of the model has one row for each image of the batch."""
    return isinstance(arg, Tensor) and arg.dim() > 0 and len(arg) == batch


def rows_of(args: tuple[Any, ...], rows: Tensor, batch: int) -> tuple[Any, ...]:
    """Return the model's further arguments for these ``rows`` of a batch."""
    return tuple(
        arg.value if isinstance(arg, Shared) else arg[rows] if per_image(arg, batch) else arg
        for arg in args
    )
