"""Graphs of ONNX, read into torch (extra: onnx).

Specification: https://onnx.ai/onnx/operators. ``OnnxNet`` runs the same files as black boxes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models import operators as op
from reid_explain.models.functions import require
from reid_explain.models.graphs import Graph, Node, Operator, bound, find_operator
from reid_explain.models.operators import Window, as_list

Sizes = Sequence[int]
DOMAINS = ("", "ai.onnx")
FIRST_PLAIN_SOFTMAX = 13
"""Before this version of the operators, a softmax went over all axes from ``axis`` on."""


CASTS = {
    **dict.fromkeys((1, 10, 11, 16), torch.float32),
    **{6: torch.int32, 7: torch.int64, 9: torch.bool},
}
"""By the number of a type in ``onnx.TensorProto.DataType``."""


def read_onnx(path: str | Path) -> Graph:
    """Return the graph of a file; a node has the name of the first value that it makes.

    Nothing in the file is executed. Floating point numbers of any precision become float32.

    Raises:
        InputError: onnx is not installed; the file is absent or damaged; the graph has more than
            one input; or it has an operator or an attribute that is not read here.
    """
    onnx = require("onnx", "path", path)
    try:
        model = onnx.load(path)
        constants = {value.name: _tensor(onnx, value) for value in model.graph.initializer}
    except Exception as error:  # What garbage raises in a parser is anybody's guess.
        got = f"{path} ({str(error).strip().splitlines()[0]})"
        raise InputError("path", got, "a graph of ONNX") from error
    version = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
    nodes = [_node(onnx, node, version, str(path)) for node in model.graph.node]
    images = [value for value in model.graph.input if value.name not in constants]
    if len(images) != 1:
        raise InputError("path", f"{path} with {len(images)} inputs", "a graph of one input")
    sides = images[0].type.tensor_type.shape.dim
    made = {name: node.name for node in nodes for name in node.outputs}
    results = {made.get(value.name, value.name): value.name for value in model.graph.output}
    shape = tuple(side.dim_value or None for side in sides)
    return Graph(str(path), images[0].name, shape, nodes, constants, results, InputSpec())


def _node(onnx: Any, node: Any, version: int, source: str) -> Node:
    name = node.output[0]
    kind = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
    given = {each.name: _attribute(onnx, each) for each in node.attribute}
    if kind == "Split":
        given.setdefault("num_outputs", len(node.output))
    function = find_operator(OPERATORS, kind, name, source)
    if kind == "Softmax" and version < FIRST_PLAIN_SOFTMAX:
        function = _folded_softmax
    function = bound(function, name, kind, given)
    return Node(name, kind, function, tuple(node.input), tuple(node.output))


def _attribute(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _tensor(onnx, value)
    return value.decode() if isinstance(value, bytes) else value


def _tensor(onnx: Any, value: Any) -> Tensor:
    """Return a tensor; floating point ones in float32."""
    tensor = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    return tensor.float() if tensor.is_floating_point() else tensor


# Operators: inputs by place, attributes by name. What newer versions pass as an input was an
# attribute before.


def _window(
    kernel: Sizes, strides: Any, dilations: Any, pads: Sizes | None, auto_pad: str
) -> Window:
    half = len(kernel)
    begins, ends = (None, None) if pads is None else (pads[:half], pads[half:])
    auto_pad = "explicit" if auto_pad == "NOTSET" else auto_pad
    return Window(kernel, strides, dilations, begins, ends, auto_pad)


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    auto_pad: str = "NOTSET",
    kernel_shape: Sizes = (),
    group: int = 1,
) -> Tensor:
    window = _window(weight.shape[2:], strides, dilations, pads, auto_pad)
    return op.convolve(x, weight, window, bias)


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes | None = None,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    window = _window(kernel_shape, strides, dilations, pads, auto_pad)
    return op.max_pool(x, window, ceil=bool(ceil_mode))


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    strides: Sizes | None = None,
    pads: Sizes | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    window, count = _window(kernel_shape, strides, None, pads, auto_pad), bool(count_include_pad)
    return op.average_pool(x, window, ceil=bool(ceil_mode), count_padding=count)


def _pad(
    x: Tensor,
    sizes: Tensor | None = None,
    filling: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    pads: Sizes | None = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    """Sizes are all beginnings, then all ends."""
    along = [axis % x.dim() for axis in as_list(axes) or range(x.dim())]
    given = as_list(sizes) or pads or []
    sides = dict(
        zip(along, zip(given[: len(along)], given[len(along) :], strict=True), strict=True)
    )
    flat = [side for axis in reversed(range(x.dim())) for side in sides.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=value if filling is None else float(filling))
    return F.pad(x, flat[: 2 * (x.dim() - 2)], {"edge": "replicate"}.get(mode, mode))


def _batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    if training_mode:
        raise InputError("path", "a BatchNormalization of training", "a graph for inference")
    return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)


def _instance_norm(x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    shape = (-1, *[1] * (x.dim() - 2))
    scaled = op.normalized(x, range(2, x.dim()), epsilon) * weight.reshape(shape)
    return scaled + bias.reshape(shape)


def _layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    scaled = op.normalized(x, range(axis % x.dim(), x.dim()), epsilon) * weight
    return scaled if bias is None else scaled + bias


def _mean_variance(x: Tensor, *, axes: Sizes = (0, 2, 3)) -> Tensor:
    return op.normalized(x, axes, 1e-9, inside=False)


def _lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    return F.normalize(x, p, axis)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
    return product if c is None else product + beta * c


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Tensor:
    bounds = [a if b is None else float(b) for a, b in ((min, low), (max, high))]
    return x if bounds == [None, None] else x.clamp(*bounds)


def _reduction(function: Callable[..., Tensor]) -> Operator:
    def reduce(
        x: Tensor,
        given: Tensor | None = None,
        *,
        axes: Sizes | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        along = as_list(given) or axes
        if not along and noop_with_empty_axes:
            return x
        return function(x, dim=[*(along or range(x.dim()))], keepdim=bool(keepdims))

    return reduce


def _squeeze(x: Tensor, given: Tensor | None = None, *, axes: Sizes | None = None) -> Tensor:
    return op.squeezed(x, axes if given is None else as_list(given))


def _unsqueeze(x: Tensor, given: Tensor | None = None, *, axes: Sizes = ()) -> Tensor:
    return op.unsqueezed(x, axes if given is None else as_list(given))


def _reshape(x: Tensor, target: Tensor, *, allowzero: int = 0) -> Tensor:
    return op.reshape(x, target, zero_copies=not allowzero)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    rows = x.shape[:axis].numel()
    return x.reshape(rows, -1)


def _split(
    x: Tensor,
    given: Tensor | None = None,
    *,
    split: Sizes | None = None,
    axis: int = 0,
    num_outputs: int = 0,
) -> tuple[Tensor, ...]:
    sizes = as_list(given) or split
    return (
        x.chunk(num_outputs, axis) if sizes is None else torch.functional.split(x, [*sizes], axis)
    )


def _slice(
    x: Tensor,
    first: Any = None,
    last: Any = None,
    along: Tensor | None = None,
    every: Tensor | None = None,
    *,
    starts: Sizes = (),
    ends: Sizes = (),
    axes: Sizes | None = None,
) -> Tensor:
    begin, end = as_list(first) or starts, as_list(last) or ends
    steps = as_list(every) or [1] * len(begin)
    for axis, *cut in zip(
        as_list(along) or axes or range(len(begin)), begin, end, steps, strict=True
    ):
        places = range(x.shape[axis])[slice(*cut)]
        x = x.index_select(axis, torch.tensor(places, dtype=torch.long, device=x.device))
    return x


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return op.shape_of(x)[start:end]


def _expand(x: Tensor, target: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(as_list(target))))  # type: ignore[no-untyped-call]


def _constant(
    *,
    value: Tensor | None = None,
    value_int: int | None = None,
    value_ints: Sizes | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
) -> Tensor:
    if value is not None:
        return value
    given = (value_int, value_ints, value_float, value_floats)
    return torch.tensor(next(each for each in given if each is not None))


def _filled(sizes: Tensor, *, value: Tensor | None = None) -> Tensor:
    return (torch.zeros(1) if value is None else value).expand(as_list(sizes)).clone()


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    """Floating point numbers keep their precision."""
    dtype = CASTS.get(to)
    if dtype is None:
        got = f"a Cast to type {to} of onnx.TensorProto"
        raise InputError("path", got, f"one of {', '.join(map(str, CASTS))}")
    return x if dtype.is_floating_point and x.is_floating_point() else x.to(dtype)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition.to(a.device), a, b)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def _folded_softmax(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def together(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return together


OPERATORS: Mapping[str, Operator] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda *parts, axis: op.concatenated(parts, axis),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Div": _divide,
    "Dropout": lambda x, *settings, ratio=0, seed=0: x,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": lambda x, index, *, axis=0: op.gathered(x, index, axis),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(dim=[*range(2, x.dim())], keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(dim=[*range(2, x.dim())], keepdim=True),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "LpNormalization": _lp_normalization,
    "MatMul": torch.matmul,
    "Max": _all(torch.maximum),
    "MaxPool": _max_pool,
    "MeanVarianceNormalization": _mean_variance,
    "Min": _all(torch.minimum),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "Pad": _pad,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceL2": _reduction(torch.linalg.vector_norm),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": F.softplus,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Sum": _all(torch.add),
    "Tanh": torch.tanh,
    "Transpose": lambda x, *, perm=None: op.permuted(x, perm),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""By name of the operator, its inputs and attributes to its result."""
