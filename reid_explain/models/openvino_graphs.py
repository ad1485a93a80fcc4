"""Files of OpenVINO's intermediate representation (IR), read into torch.

A network is two files: NAME.xml, its operators, and NAME.bin, its constants. Specification:
https://docs.openvino.ai, "Available operation sets".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.inputs import BGR_255
from reid_explain.models import operators as op
from reid_explain.models.graphs import Graph, Node, Operator, bound, find_operator
from reid_explain.models.operators import Window, as_list

DTYPES = {
    **{"f16": np.float16, "f32": np.float32, "f64": np.float64, "boolean": np.bool_},
    **{"i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8},
}
WITHOUT_EFFECT = ("auto_broadcast", "index_element_type", "output_type", "mode")
"""Attributes that change nothing for the operators that are read here, or not what we take."""
WORDS = {"true": True, "false": False}
LISTS = ("kernel", "strides", "dilations", "pads_begin", "pads_end")
Sizes = Sequence[int]


def read_openvino(path: str | Path) -> Graph:
    """Return the graph of ``NAME.xml`` with the constants of ``NAME.bin``.

    Nothing in the files is executed. Numbers of 16 bits become float32.

    Raises:
        InputError: a file is absent, damaged or truncated; the graph has more than one input; or
            it has an operator, an attribute or a type of numbers that is not read here.
    """
    path = Path(path)
    root = _parsed(path)
    layers = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
    sources = {
        (edge.get("to-layer", ""), edge.get("to-port", "")): _value(edge, "from-layer", "from-port")
        for edge in root.iterfind("edges/edge")
    }
    content = _content(path)
    nodes, constants, parameters, results = [], {}, [], {}
    for key, layer in layers.items():
        kind, name = layer.get("type", ""), layer.get("name", "")
        ports = [port.get("id", "") for port in layer.iterfind("input/port")]
        if absent := [port for port in ports if (key, port) not in sources]:
            raise InputError("path", f"{path} with {name!r} without input {absent}", "whole edges")
        inputs = tuple(sources[key, port] for port in ports)
        outputs = tuple(f"{key}:{port.get('id')}" for port in layer.iterfind("output/port"))
        if kind == "Parameter":
            parameters.append((outputs[0], layer))
        elif kind == "Const":
            constants[outputs[0]] = _constant(layer, content, path)
        elif kind == "Result":
            results[layers[inputs[0].split(":")[0]].get("name", "")] = inputs[0]
        else:
            function = find_operator(OPERATORS, kind, name, str(path))
            if kind == "GroupConvolution":  # Its weights are (G, C' / G, C / G, ...).
                image, weights = inputs
                inputs = image, f"{weights} flat"
                nodes.append(Node(f"{name}/flat", "Flatten", _flat, (weights,), inputs[1:]))
            nodes.append(
                Node(name, kind, bound(function, name, kind, _given(layer)), inputs, outputs)
            )
    if len(parameters) != 1:
        raise InputError("path", f"{path} with {len(parameters)} inputs", "a graph of one input")
    image, layer = parameters[0]
    shape = tuple(None if n < 0 else n for n in _sizes(_data(layer), path))
    return Graph(str(path), image, shape, nodes, constants, results, BGR_255)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise InputError("path", f"{path} ({error})", "a network of OpenVINO") from error


def _content(path: Path) -> bytes:
    try:
        return path.with_suffix(".bin").read_bytes()
    except OSError as error:
        raise InputError("path", f"{path} ({error})", "its .bin file beside it") from error


def _constant(layer: ElementTree.Element, content: bytes, path: Path) -> Tensor:
    """Return a constant; floating point ones in float32."""
    data, name = _data(layer), layer.get("name")
    kind, shape = data.get("element_type", ""), _sizes(data, path)
    if kind not in DTYPES:
        got = f"{path} with numbers of type {kind} ({name!r})"
        raise InputError("path", got, f"one of {', '.join(DTYPES)}")
    offset, size = int(data.get("offset", 0)), int(data.get("size", 0))
    dtype = np.dtype(DTYPES[kind])
    if (
        not 0 <= offset <= offset + size <= len(content)
        or size != math.prod(shape) * dtype.itemsize
    ):
        got = f"{path.with_suffix('.bin')} of {len(content)} bytes"
        expected = f"{math.prod(shape)} numbers of {name!r} in {size} bytes from {offset}"
        raise InputError("path", got, expected)
    values = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
    tensor = torch.from_numpy(values.copy())
    return tensor.float() if tensor.is_floating_point() else tensor


def _data(layer: ElementTree.Element) -> Mapping[str, str]:
    data = layer.find("data")
    return {} if data is None else data.attrib


def _sizes(data: Mapping[str, str], path: Path) -> tuple[int, ...]:
    """Return a shape; -1 is an open side."""
    words = [word.strip() for word in data.get("shape", "").split(",") if word.strip()]
    try:
        return tuple(-1 if "?" in word or ".." in word else int(word) for word in words)
    except ValueError as error:
        raise InputError("path", f"{path} ({error})", "shapes of whole numbers") from error


def _given(layer: ElementTree.Element) -> dict[str, Any]:
    """Return the attributes of a layer."""
    given = {k: v for k, v in _data(layer).items() if k not in WITHOUT_EFFECT}
    return {
        k.replace("-", "_"): _number(v) if k not in LISTS else _numbers(v) for k, v in given.items()
    }


def _numbers(text: str) -> list[Any]:
    return [_number(word.strip()) for word in text.split(",")]


def _number(text: str) -> Any:
    """Return a word as a truth value or a number if it is one."""
    for kind in (WORDS.__getitem__, int, float):
        with suppress(KeyError, ValueError):
            return kind(text)
    return text


def _value(edge: ElementTree.Element, layer: str, port: str) -> str:
    return f"{edge.get(layer)}:{edge.get(port)}"


# Operators: inputs by place, attributes by name.


def _convolution(
    x: Tensor,
    weight: Tensor,
    *,
    strides: Sizes,
    pads_begin: Sizes,
    pads_end: Sizes,
    dilations: Sizes,
    auto_pad: str = "explicit",
) -> Tensor:
    window = Window(weight.shape[2:], strides, dilations, pads_begin, pads_end, auto_pad)
    return op.convolve(x, weight, window)


def _flat(weight: Tensor) -> Tensor:
    return weight.flatten(0, 1)


def _max_pool(
    x: Tensor,
    *,
    kernel: Sizes,
    strides: Sizes,
    pads_begin: Sizes,
    pads_end: Sizes,
    dilations: Sizes | None = None,
    rounding_type: str = "floor",
    auto_pad: str = "explicit",
    axis: int = 0,
) -> Tensor:
    window = Window(kernel, strides, dilations, pads_begin, pads_end, auto_pad)
    return op.max_pool(x, window, ceil=rounding_type != "floor")


def _average_pool(
    x: Tensor,
    *,
    kernel: Sizes,
    strides: Sizes,
    pads_begin: Sizes,
    pads_end: Sizes,
    exclude_pad: bool,
    rounding_type: str = "floor",
    auto_pad: str = "explicit",
) -> Tensor:
    window = Window(kernel, strides, None, pads_begin, pads_end, auto_pad)
    ceil = rounding_type != "floor"
    return op.average_pool(x, window, ceil=ceil, count_padding=not exclude_pad)


def _matmul(
    a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False
) -> Tensor:
    return (a.mT if transpose_a else a) @ (b.mT if transpose_b else b)


def _mvn(x: Tensor, axes: Tensor, *, eps: float, normalize_variance: bool, eps_mode: str) -> Tensor:
    if not normalize_variance:
        return x - x.mean(dim=as_list(axes), keepdim=True)
    return op.normalized(x, as_list(axes), eps, inside=eps_mode.lower() == "inside_sqrt")


def _normalize_l2(x: Tensor, axes: Tensor, *, eps: float, eps_mode: str) -> Tensor:
    squares = x.square().sum(dim=as_list(axes), keepdim=True)
    return x / (squares + eps if eps_mode == "add" else squares.clamp(min=eps)).sqrt()


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)


def _fake_quantize(
    x: Tensor, low: Tensor, high: Tensor, out_low: Tensor, out_high: Tensor, *, levels: int
) -> Tensor:
    """Gradients are those without rounding."""
    share = (x.clamp(low, high) - low) / (high - low)
    steps = (share * (levels - 1)).round() / (levels - 1)
    return (share + (steps - share).detach()) * (out_high - out_low) + out_low


def _divide(a: Tensor, b: Tensor, *, m_pythondiv: bool = True) -> Tensor:
    whole = "floor" if m_pythondiv else "trunc"
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else whole)


def _convert(x: Tensor, *, destination_type: str) -> Tensor:
    """Floating point numbers keep their precision."""
    if destination_type.startswith("f"):
        return x if x.is_floating_point() else x.float()
    return x.to(torch.from_numpy(np.empty(0, DTYPES[destination_type])).dtype)


def _gather(x: Tensor, index: Tensor, axis: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise InputError("path", f"a Gather of batch_dims {batch_dims}", "one of 0")
    return op.gathered(x, index, int(axis))


def _reshape(x: Tensor, target: Tensor, *, special_zero: bool) -> Tensor:
    return op.reshape(x, target, zero_copies=special_zero)


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return op.concatenated(parts, axis)


def _split(x: Tensor, axis: Tensor, *, num_splits: int) -> tuple[Tensor, ...]:
    return x.chunk(num_splits, int(axis))


def _variadic_split(x: Tensor, axis: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """One length may be -1: the rest."""
    sizes = as_list(lengths)
    rest = x.shape[int(axis)] - sum(size for size in sizes if size >= 0)
    whole = [rest if size < 0 else size for size in sizes]
    return torch.functional.split(x, whole, int(axis))


def _swish(x: Tensor, beta: Tensor | None = None) -> Tensor:
    return x * torch.sigmoid(x if beta is None else x * beta)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    """One slope for each channel, or one for all."""
    return F.prelu(x, slope.reshape(-1))


def _reduction(function: Callable[..., Tensor]) -> Operator:
    def reduce(x: Tensor, axes: Tensor, *, keep_dims: bool = False) -> Tensor:
        return function(x, dim=as_list(axes), keepdim=keep_dims)

    return reduce


OPERATORS: Mapping[str, Operator] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "AvgPool": _average_pool,
    "BatchNormInference": _batch_norm,
    "Broadcast": lambda x, target: x * x.new_ones(as_list(target)),
    "Clamp": lambda x, *, min, max: x.clamp(min, max),
    "Concat": _concat,
    "Convert": _convert,
    "Convolution": _convolution,
    "Divide": _divide,
    "Elu": lambda x, *, alpha: F.elu(x, alpha),
    "Exp": torch.exp,
    "FakeQuantize": _fake_quantize,
    "Gather": _gather,
    "GroupConvolution": _convolution,
    "HSigmoid": F.hardsigmoid,
    "HSwish": F.hardswish,
    "MVN": _mvn,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
    "Multiply": torch.mul,
    "Negative": torch.neg,
    "NormalizeL2": _normalize_l2,
    "PReLU": _prelu,
    "Power": torch.pow,
    "ReLU": torch.relu,
    "ReduceL2": _reduction(torch.linalg.vector_norm),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Reshape": _reshape,
    "ShapeOf": op.shape_of,
    "Sigmoid": torch.sigmoid,
    "SoftMax": lambda x, *, axis: x.softmax(axis),
    "SoftPlus": F.softplus,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes=None: op.squeezed(x, as_list(axes)),
    "Subtract": torch.sub,
    "Swish": _swish,
    "Tanh": torch.tanh,
    "Transpose": lambda x, order: op.permuted(x, as_list(order)),
    "Unsqueeze": lambda x, axes: op.unsqueezed(x, as_list(axes)),
    "VariadicSplit": _variadic_split,
}
"""By name of the operator, its inputs and attributes to its result."""
