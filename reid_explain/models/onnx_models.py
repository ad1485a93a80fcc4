"""Graphs of ONNX as networks without gradients (extra: onnxruntime, and onnx to add outputs)."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.functions import Array, FunctionNet

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
EMBEDDING_RANKS = (2,)
ACTIVATION_RANKS = (3, 4)


class OnnxNet(FunctionNet):
    """A graph of ONNX that gives an embedding and the activation of a layer.

    A graph of a fixed batch size gets batches of that size, the last one filled up with its last
    image.

    Args:
        session: the file of a graph, which runs on the CPU, or an ``onnxruntime.InferenceSession``.
        activations: name of the output (B, C, h, w) or (B, T, C), or of a tensor inside the file's
            graph (see ``onnx_layers``), which is made an output. By default the only output of
            three or four dimensions; if a file's graph has none, its last map.
        embedding: name of the output (B, D); by default the only one of two dimensions.
        input_spec: the images that the graph takes, which it does not tell: as most projects'
            networks by default, at the graph's own size. ``reid_explain.inputs.BGR_255`` is what
            graphs from OpenVINO's and Caffe's world take.

    Raises:
        InputError: a package is not installed; no such file or a damaged one; a name that the
            graph does not have, or none where it is not clear; a graph that takes anything but
            one batch of floating point images; or an ``input_spec`` of another size.
    """

    def __init__(
        self,
        session: Any,
        activations: str | None = None,
        embedding: str | None = None,
        input_spec: InputSpec | None = None,
    ) -> None:
        if isinstance(session, str | Path):
            session, activations = _open_with(session, activations)
        given = _only_input(session.get_inputs())
        super().__init__(self.run, _sized(input_spec, given.shape[2:]))
        self.session, self.input = session, given
        outputs = session.get_outputs()
        self.outputs = [
            _output("activations", activations, ACTIVATION_RANKS, outputs),
            _output("embedding", embedding, EMBEDDING_RANKS, outputs),
        ]

    def run(self, images: NDArray[np.float32]) -> tuple[Array, Array]:
        """Return what the graph makes of images (B, 3, H, W): activations and embeddings.

        Raises:
            InputError: images of another size than the graph takes.
        """
        batch, *size = self.input.shape
        fits = all(
            not isinstance(fixed, int) or fixed == came
            for fixed, came in zip(size, images.shape[1:], strict=True)
        )
        if not fits:
            raise InputError("inputs", images.shape, f"(B, {', '.join(map(str, size))})")
        images = images.astype(DTYPES[self.input.type], copy=False)
        step = batch if isinstance(batch, int) else len(images)
        parts = [self._run(images[i : i + step], step) for i in range(0, len(images), step)]
        activations, embeddings = (np.concatenate(made) for made in zip(*parts, strict=True))
        return activations, embeddings

    def _run(self, images: Array, batch: int) -> list[Array]:
        """Return the outputs of the graph, which takes ``batch`` images, for at most so many."""
        filled = np.concatenate([images, images[-1:].repeat(batch - len(images), axis=0)])
        made = self.session.run(self.outputs, {self.input.name: filled})
        return [array[: len(images)] for array in made]


def onnx_layers(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the tensors (B, C, h, w) inside the graph of a file, and their shapes for one batch.

    They come in the graph's order and leave out those of a single place.

    Raises:
        InputError: a package is not installed, no such file or a damaged one.
    """
    graph = _read(path)
    names = [name for node in graph.graph.node for name in node.output if name]
    session = _session(path, _with_outputs(graph, names))
    given = _only_input(session.get_inputs())
    shape = [size if isinstance(size, int) else 1 for size in given.shape[:2]]
    shape += _sized(None, given.shape[2:]).size
    made = session.run(names, {given.name: np.full(shape, 0.5, DTYPES[given.type])})
    maps = {n: a.shape for n, a in zip(names, made, strict=True) if a.dtype.kind == "f"}
    return {n: s for n, s in maps.items() if len(s) == 4 and s[2] * s[3] > 1}


def _open_with(path: str | Path, activations: str | None) -> tuple[Any, str | None]:
    """Return a session of a file's graph that has the activations among its outputs."""
    session = _session(path, str(path))
    outputs = session.get_outputs()
    if any(_is_output(output, activations, ACTIVATION_RANKS) for output in outputs):
        return session, activations
    layers = onnx_layers(path)
    name = activations or next(reversed(layers), None)
    if name not in layers:
        known = ", ".join(f"{known!r} {shape}" for known, shape in [*layers.items()][-5:])
        raise InputError("activations", repr(name), f"a tensor of the graph, such as {known}")
    return _session(path, _with_outputs(_read(path), [name])), name


def _session(path: str | Path, graph: str | bytes) -> Any:
    """Return a session on the CPU that runs a graph of this file."""
    runtime = _import("onnxruntime", path)
    if not Path(path).is_file():
        raise InputError("session", f"no file {path}", "a graph of ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # Errors alone; PyTorch's graphs give a warning per batch norm.
    try:
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own.
        got = f"{path} ({str(error).splitlines()[0]})"
        raise InputError("session", got, "a graph of ONNX that onnxruntime runs") from error


def _read(path: str | Path) -> Any:
    return _import("onnx", path).load(path)


def _with_outputs(graph: Any, names: Sequence[str]) -> bytes:
    """Return a graph with tensors of it among its outputs."""
    known = {output.name for output in graph.graph.output}
    for name in names:
        if name not in known:
            graph.graph.output.add().name = name
    content: bytes = graph.SerializeToString()
    return content


def _import(package: str, path: str | Path) -> ModuleType:
    try:
        return __import__(package)
    except ImportError as error:
        raise InputError(
            "session", f"{path} without {package}", f"pip install {package}"
        ) from error


def _sized(spec: InputSpec | None, size: Sequence[Any]) -> InputSpec:
    """Return the spec of a graph that takes images of this size, as far as it is fixed."""
    wanted = spec or InputSpec()
    height, width = (n if isinstance(n, int) else m for n, m in zip(size, wanted.size, strict=True))
    if spec is not None and spec.size != (height, width):
        raise InputError("input_spec", f"size {spec.size}", f"the graph's, {(height, width)}")
    return wanted.replace(size=(height, width))


def _is_output(output: Any, name: str | None, ranks: Sequence[int]) -> bool:
    return output.name == name if name is not None else len(output.shape) in ranks


def _output(argument: str, name: str | None, ranks: Sequence[int], outputs: Sequence[Any]) -> str:
    """Return ``name`` if an output has it; without a name that of the only one of such a rank."""
    fitting = [output.name for output in outputs if _is_output(output, name, ranks)]
    if len(fitting) != 1:
        known = ", ".join(f"{output.name!r} {output.shape}" for output in outputs)
        got = "none that is clear without a name" if name is None else repr(name)
        raise InputError(argument, got, f"the name of an output of the graph: {known}")
    only: str = fitting[0]
    return only


def _only_input(inputs: Sequence[Any]) -> Any:
    """Return the one input of a graph, if that is a batch of floating point images."""
    fits = len(inputs) == 1 and inputs[0].type in DTYPES and len(inputs[0].shape) == 4
    if not fits:
        got = ", ".join(f"{given.name!r} {given.type} {given.shape}" for given in inputs)
        raise InputError("session", f"a graph of {got}", "one input, floating point (B, 3, H, W)")
    return inputs[0]
