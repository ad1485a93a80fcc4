"""Programs of TorchScript, read as graphs of operators: hooks do not run in the programs."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.graphs import Graph, Node, Operator, find_operator

ATEN = "aten::"
WEIGHTS = "self."
IN_PLACE = re.compile(r"(?<!_)_$")
OPERATORS: Mapping[str, Operator] = {
    "prim::ListConstruct": lambda *items: [*items],
    "prim::TupleConstruct": lambda *items: [*items],
    "prim::ListUnpack": lambda items: tuple(items),
    "prim::TupleUnpack": lambda items: tuple(items),
    "prim::NumToTensor": torch.tensor,
    "prim::NumToTensor.Scalar": torch.tensor,
}
"""Beside those of ATen, PyTorch's operators."""


def is_torchscript(path: str | Path) -> bool:
    """Return whether a file is what ``torch.jit.save`` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: str | Path) -> Graph:
    """Return the graph of a program in eval mode: traced, or scripted without a choice.

    A node with weights has the name of their module, such as ``layer4/2/bn3``, one behind it also
    that of its operator: ``layer4/2/bn3/relu``. The program does not tell the size of its images.

    Raises:
        InputError: the file is no such program; it takes more than images; it chooses or loops
            by what it computes; or it uses files.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
            graph: Any = torch.jit.freeze(program, optimize_numerics=False).graph
    except Exception as error:  # What garbage raises in a parser is anybody's guess.
        got = f"{path} ({str(error).strip().splitlines()[0]})"
        raise InputError("path", got, "a program of TorchScript") from error
    images = [*graph.inputs()][1:]
    if len(images) != 1:
        raise InputError("path", f"{path} with {len(images)} inputs", "a program of one input")
    constants: dict[str, Any] = {}
    nodes: list[Node] = []
    module = ""
    for node in graph.nodes():
        inputs, outputs = (
            tuple(value.debugName() for value in values)
            for values in (node.inputs(), node.outputs())
        )
        if node.kind() == "prim::Constant":
            constants[outputs[0]] = _constant(node)
        elif outputs:  # Others are checks.
            owners = [name.rpartition(".")[0] for name in inputs if name.startswith(WEIGHTS)]
            operator = IN_PLACE.sub("", node.kind().rpartition("::")[2])
            module = owners[0].removeprefix(WEIGHTS) if owners else module
            name = module if owners else f"{module}.{operator}"
            function = _function(node, name, str(path))
            nodes.append(Node(name.strip("."), node.kind(), function, inputs, outputs))
    made = {output: node for node in nodes for output in node.outputs}
    (result,) = (value.debugName() for value in graph.outputs())
    whole = result in made and made[result].operator == "prim::TupleConstruct"
    given = made[result].inputs if whole else (result,)
    results = {made[name].name: name for name in given if name in made}
    shape = (None, 3, None, None)
    return Graph(str(path), images[0].debugName(), shape, nodes, constants, results, InputSpec())


def _constant(node: Any) -> Any:
    """Return a constant; tensors of floating point numbers in float32."""
    value = node.output().toIValue()
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _function(node: Any, name: str, source: str) -> Operator:
    """Return what a node does, as a function of its inputs by place."""
    if not node.kind().startswith(ATEN):
        return find_operator(OPERATORS, node.kind(), name, source)
    kind, _, overload = node.schema().partition("(")[0].removeprefix(ATEN).partition(".")
    if IN_PLACE.search(kind) and len(next(node.inputs()).uses()) == 1:
        kind = kind.removesuffix("_")  # Nothing else sees the change.
    try:
        operator: Any = getattr(getattr(torch.ops.aten, kind), overload or "default")
    except AttributeError:
        return find_operator(OPERATORS, node.kind(), name, source)
    arguments = operator._schema.arguments
    if any(argument.name == "filename" for argument in arguments):
        got = f"{source}, which uses files ({node.kind()})"
        raise InputError("path", got, "a program of operators on tensors")
    places = sum(not argument.kwarg_only for argument in arguments)
    names = [argument.name for argument in arguments[places:]]

    def call(*values: Any) -> Any:
        return operator(*values[:places], **dict(zip(names, values[places:], strict=True)))

    return call
