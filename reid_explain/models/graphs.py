"""Graphs of operators, read from files, as networks with gradients and layers by name."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.functions import chosen, sized
from reid_explain.models.network import EmbeddingNet

Operator = Callable[..., Any]
WEIGHTED = (
    *("Convolution", "GroupConvolution", "MatMul"),  # OpenVINO
    *("Conv", "Gemm"),  # ONNX
    *("aten::_convolution", "aten::conv2d", "aten::linear"),  # TorchScript
)
"""Operators whose constants are parameters; those of others are buffers."""
TOLERANCE = 1e-3
"""Largest difference that other images of its batch may make to an embedding, of its largest."""


class Node(NamedTuple):
    """One operator of a graph.

    Attributes:
        name: of the node, as the file has it.
        operator: the file's name of it.
        function: the values of ``inputs`` to one result or a tuple of them.
        inputs: names of values; an empty one is an optional input that is left out.
        outputs: names of the values that it makes.
    """

    name: str
    operator: str
    function: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph(NamedTuple):
    """What the file of a graph says.

    Attributes:
        source: the file.
        image: name of the value that images go in as.
        shape: of the images, (B, 3, H, W); None is a side that the file leaves open.
        nodes: in an order in which they can run.
        constants: values of the file by name; tensors of floating point numbers are float32.
        results: names of the values that the graph gives, by those of their nodes.
        input_spec: the images that graphs of this format take, if nobody says otherwise.
    """

    source: str
    image: str
    shape: tuple[int | None, ...]
    nodes: Sequence[Node]
    constants: Mapping[str, Any]
    results: Mapping[str, str]
    input_spec: InputSpec


class Operation(nn.Module):
    """A node as a module: constants are its own, the other inputs are passed."""

    def __init__(self, node: Node, constants: Mapping[str, Any]) -> None:
        super().__init__()
        self.operator, self.function = node.operator, node.function
        self.passed = [_is_passed(name, constants) for name in node.inputs]
        for place, name in enumerate(node.inputs):
            value, own = constants.get(name), f"input_{place}"
            if isinstance(value, nn.Parameter):
                if node.operator in WEIGHTED:
                    self.register_parameter(own, value)
                else:
                    self.register_buffer(own, value.detach())
            elif not self.passed[place]:  # Numbers that set an operator stay on the CPU.
                setattr(self, own, value)

    def forward(self, *values: Any) -> Any:
        """Return what the operator makes of the inputs that are no constants."""
        given = iter(values)
        inputs = (
            next(given) if passed else getattr(self, f"input_{place}")
            for place, passed in enumerate(self.passed)
        )
        return self.function(*inputs)

    def extra_repr(self) -> str:
        """Return the name of the operator."""
        return self.operator


class Step(NamedTuple):
    """A module of a ``GraphNet``, what it reads and makes, and what nothing reads after it."""

    layer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...]


class GraphNet(EmbeddingNet):
    """A graph as a network of torch: every node is a module under its name in the file.

    Dots in names become slashes, and a name that a module has already gets a ``_``. What no image
    changes is computed once. ``features`` ends at ``map_layer``, ``pool`` is all that is behind
    it, and there is no neck. A graph that was written for batches of one size takes any.

    Args:
        graph: what ``read_openvino``, ``read_onnx`` or ``read_torchscript`` returns.
        layer: the node to explain; by default the last map that all of the embedding passes
            through, or else the last map.
        embedding: the node that gives the embedding, (B, D) or (B, D, 1, 1); by default the only
            result of the graph of that form.
        input_spec: the images that the graph takes, which it does not tell, but for their size.

    Attributes:
        maps: shapes (C, h, w) by the names of the layers that make maps of more than one place.

    Raises:
        InputError: a name that the graph does not have, or none where it is not clear; a graph
            that takes anything but images (B, 3, H, W), or not several at a time; or an
            ``input_spec`` of another size.
    """

    trainable_stages = ()
    card_settings = ()

    def __init__(
        self,
        graph: Graph,
        layer: str | None = None,
        embedding: str | None = None,
        input_spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        if len(graph.shape) != 4 or graph.shape[1] not in (3, None):
            got = f"{graph.source}, which takes {graph.shape}"
            raise InputError("path", got, "a graph of images (B, 3, H, W)")
        self.image, self.neck = graph.image, nn.Identity()
        self.input_spec = sized(input_spec, graph.shape[2:], graph.input_spec)
        nodes, constants = _folded(graph)
        images = _noise(self.input_spec)
        shapes = _shapes(graph, nodes, {**constants, self.image: images})
        self.result = _embedding(graph, shapes, embedding)
        self.steps = [*self._build(nodes, constants)]
        self._check_rows(graph, images)
        made = {step.layer: shapes.get(step.outputs[0], ()) for step in self.steps}
        self.maps = {n: s[1:] for n, s in made.items() if len(s) == 4 and s[2] * s[3] > 1}
        seams = [*self._seams()]
        usual = [name for name in self.maps if name in seams] or [*self.maps]
        self.map_layer = next(reversed(usual), "") if layer is None else layer
        if self.map_layer not in made:
            known = ", ".join(f"{name!r} {self.maps[name]}" for name in usual[-5:]) or "none"
            raise InputError("layer", repr(layer), f"a node of {graph.source}; its maps: {known}")
        self.has_seam = self.map_layer in seams
        self.embedding_dim = self.channels = shapes[self.result][1]

    def features(self, x: Tensor) -> Tensor:
        """Return the output of ``map_layer``; ``InputError`` if the embedding goes around it."""
        before, _, seam = self._halves()
        return self._run({self.image: x}, before, seam)

    def pool(self, features: Tensor) -> Tensor:
        """Return the embedding (B, D) of ``features``."""
        _, behind, seam = self._halves()
        return self._run({seam: features}, behind, self.result).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (B, D) of images (B, 3, H, W)."""
        return self._run({self.image: x}, self.steps, self.result).flatten(1)

    def _run(self, values: dict[str, Any], steps: Iterable[Step], wanted: str) -> Tensor:
        for step in steps:
            layer = self._modules[step.layer]
            assert layer is not None
            made = layer(*(values[name] for name in step.inputs))
            values |= _named(step.outputs, made)
            for name in step.done:
                values.pop(name, None)
        found: Tensor = values[wanted]
        return found

    def _halves(self) -> tuple[list[Step], list[Step], str]:
        """Return the steps before and behind the seam, and the value there."""
        if not self.has_seam:
            got = f"{self.map_layer!r}, which the embedding goes around"
            raise InputError("layer", got, "one that all of the embedding passes through")
        place = next(i for i, step in enumerate(self.steps) if step.layer == self.map_layer)
        return self.steps[: place + 1], self.steps[place + 1 :], self.steps[place].outputs[0]

    def _seams(self) -> Iterator[str]:
        """Yield the layers after which only their result is read."""
        live = {self.image}
        for step in self.steps:
            live = (live | {*step.outputs}) - {*step.done}
            if live == {step.outputs[0]}:
                yield step.layer

    def _build(self, nodes: Sequence[Node], constants: Mapping[str, Any]) -> Iterator[Step]:
        """Make a module of each node that the embedding needs, and yield the steps."""
        for node, done in _needed(nodes, [self.result]):
            name = node.name.replace(".", "/") or node.operator
            while hasattr(self, name):
                name += "_"
            self.add_module(name, Operation(node, constants))
            passed = tuple(n for n in node.inputs if _is_passed(n, constants))
            yield Step(name, passed, node.outputs, done)

    @torch.no_grad()
    def _check_rows(self, graph: Graph, images: Tensor) -> None:
        together, alone = self(images), self(images[:1])
        if len(together) != len(images) or not torch.allclose(
            together[:1], alone, rtol=0, atol=TOLERANCE * float(alone.abs().max())
        ):
            raise InputError("path", f"{graph.source}, which mixes images", "one row per image")


def bound(function: Operator, node: str, operator: str, attributes: Mapping[str, Any]) -> Operator:
    """Return an operator's function with attributes set; others than it has raise."""
    if not attributes:
        return function
    try:
        known = [*inspect.signature(function).parameters]
    except ValueError:  # Functions of torch that are not written in Python.
        known = []
    if unknown := [name for name in attributes if name not in known]:
        got = f"{', '.join(unknown)} of {operator} {node!r}"
        raise InputError("path", got, f"attributes that are read here: {', '.join(known)}")
    return partial(function, **attributes)


def find_operator(table: Mapping[str, Operator], operator: str, node: str, source: str) -> Operator:
    """Return an operator's function; one that the table does not have raises ``InputError``."""
    if operator not in table:
        got = f"{source} with the operator {operator} (node {node!r})"
        raise InputError("path", got, f"operators of {', '.join(sorted(table))}")
    return table[operator]


def _is_passed(name: str, constants: Mapping[str, Any]) -> bool:
    return bool(name) and name not in constants


def _named(outputs: Sequence[str], made: Any) -> dict[str, Any]:
    return dict(zip(outputs, made if isinstance(made, tuple) else (made,), strict=False))


@torch.no_grad()
def _folded(graph: Graph) -> tuple[list[Node], dict[str, Any]]:
    """Return the nodes that results need and images change, and the values of all others.

    Where a graph of a fixed batch size reshapes to as many rows, the rows are those that come.
    """
    constants, nodes = dict(graph.constants), []
    for node, _ in _needed(graph.nodes, graph.results.values()):
        if any(_is_passed(name, constants) for name in node.inputs):
            if node.operator == "Reshape" and node.inputs[1] in constants:
                target = constants[node.inputs[1]].tolist()
                if target[:1] == [graph.shape[0]]:
                    node = node._replace(function=partial(_reshape_rows, node.function))
            nodes.append(node)
        else:
            constants |= _named(node.outputs, _applied(graph, node, constants))
    tensors = {key: value for key, value in constants.items() if isinstance(value, Tensor)}
    return nodes, constants | {
        key: nn.Parameter(value) for key, value in tensors.items() if value.is_floating_point()
    }


def _reshape_rows(reshape: Operator, x: Tensor, target: Tensor) -> Any:
    return reshape(x, torch.cat([target.new_tensor([len(x)]), target[1:]]))


def _needed(nodes: Sequence[Node], results: Iterable[str]) -> list[tuple[Node, tuple[str, ...]]]:
    """Return the nodes that results need, each with the values that nothing reads after it."""
    reads, needed = Counter(results), []
    for node in reversed(nodes):
        if any(reads[name] for name in node.outputs):
            done = {name for name in (*node.inputs, *node.outputs) if not reads[name]}
            needed.append((node, tuple(done)))
            reads.update(node.inputs)
    return needed[::-1]


@torch.no_grad()
def _shapes(
    graph: Graph, nodes: Sequence[Node], values: dict[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all floating point values of a graph."""
    for node in nodes:
        values |= _named(node.outputs, _applied(graph, node, values))
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return {name: tuple(t.shape) for name, t in tensors.items() if t.is_floating_point()}


def _applied(graph: Graph, node: Node, values: Mapping[str, Any]) -> Any:
    try:
        return node.function(*(values[name] if name else None for name in node.inputs))
    except InputError:
        raise
    except Exception as error:  # What a file asks of an operator is anybody's guess.
        got = f"{graph.source} with {node.operator} {node.name!r} ({error})"
        raise InputError("path", got, "a graph that runs on two images at a time") from error


def _noise(spec: InputSpec) -> Tensor:
    """Return two images."""
    return spec.from_rgb(torch.rand(2, 3, *spec.size, generator=torch.Generator().manual_seed(0)))


def _embedding(graph: Graph, shapes: Mapping[str, tuple[int, ...]], name: str | None) -> str:
    """Return the value that is the embedding."""
    values = {**{node.name: node.outputs[0] for node in graph.nodes}, **graph.results}
    known = {key: shapes[value][1:] for key, value in values.items() if value in shapes}
    usual = [key for key in graph.results if known.get(key) and known[key][1:] in ((), (1, 1))]
    return values[chosen("embedding", name, known, usual, f"a node of {graph.source}")]
