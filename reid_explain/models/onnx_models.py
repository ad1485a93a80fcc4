"""Graphs of ONNX as networks without gradients (extra: onnxruntime, and onnx to add outputs)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.functions import Array, FunctionNet, chosen, require, sized

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
RANKS = {"activations": (3, 4), "embedding": (2,)}


class OnnxNet(FunctionNet):
    """A graph of ONNX that gives an embedding and the activation of a layer.

    A graph of a fixed batch size gets full batches: the last one is filled up.

    Args:
        session: the file of a graph, which runs on the CPU, or an ``onnxruntime.InferenceSession``.
        activations: name of the output (B, C, h, w) or (B, T, C), or of one of ``onnx_layers`` of
            a file, which becomes an output. By default the only output of three or four
            dimensions; if a file has none, its last map.
        embedding: name of the output (B, D); by default the only one of two dimensions.
        input_spec: the images that the graph takes, which it does not tell, but for their size;
            ``reid_explain.inputs.BGR_255`` for graphs of OpenVINO.

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
            session, activations = _open(session, activations)
        given = _only_input(session)
        super().__init__(self.run, sized(input_spec, given.shape[2:]))
        self.session, self.input = session, given
        names = {"activations": activations, "embedding": embedding}
        self.outputs = [
            chosen(argument, name, _shapes(session), _usual(session, argument), "an output")
            for argument, name in names.items()
        ]

    def run(self, images: NDArray[np.float32]) -> tuple[Array, Array]:
        """Return what the graph makes of images (B, 3, H, W): activations and embeddings.

        Images of another size than the graph takes raise ``InputError``.
        """
        activations, embeddings = _rows(self.session, self.outputs, images)
        return activations, embeddings


class CutOnnxNet(nn.Module):
    """A graph of ONNX cut in two at a layer, for explainers that pass other outputs of the layer.

    That is ``PlaceToPlace``, which needs no gradients::

        net = CutOnnxNet("reid.onnx")
        PlaceToPlace(net, net.map_layer).explain(query, gallery)

    Args:
        path: the file of a graph.
        activations: as of :class:`OnnxNet`; all that reaches the embedding has to pass here.
        embedding: as of :class:`OnnxNet`.
        input_spec: as of :class:`OnnxNet`.

    Raises:
        InputError: as of :class:`OnnxNet`, or the embedding is reached by another way.
    """

    map_layer = "activations"
    trainable_stages = ()

    def __init__(
        self,
        path: str | Path,
        activations: str | None = None,
        embedding: str | None = None,
        input_spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        self.whole = OnnxNet(path, activations, embedding, input_spec)
        self.input_spec = self.whole.input_spec
        self.activations = nn.Identity()
        layer, result = self.whole.outputs
        self.head = _head(path, layer, result)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, H, W), on their device."""
        arrays = images.detach().to("cpu", torch.float32).contiguous().numpy()
        maps = self.activations(torch.from_numpy(self.whole.run(arrays)[0]).to(images.device))
        (embeddings,) = _rows(self.head, [self.whole.outputs[1]], maps.detach().cpu().numpy())
        return torch.from_numpy(embeddings).to(images.device)


def _rows(session: Any, outputs: Sequence[str], array: Array) -> list[Array]:
    """Return the outputs of a graph for any number of rows; one of a fixed number gets so many.

    Rows of another size than the graph takes raise ``InputError``.
    """
    (given,) = session.get_inputs()
    size = given.shape[1:]
    pairs = zip(size, array.shape[1:], strict=True)
    if any(isinstance(fixed, int) and fixed != came for fixed, came in pairs):
        raise InputError("inputs", array.shape, f"(B, {', '.join(map(str, size))})")
    array = array.astype(DTYPES[given.type], copy=False)
    step = given.shape[0] if isinstance(given.shape[0], int) else len(array)
    parts = []
    for start in range(0, len(array), step):
        part = array[start : start + step]
        filled = np.concatenate([part, part[-1:].repeat(step - len(part), axis=0)])
        parts.append([made[: len(part)] for made in session.run(outputs, {given.name: filled})])
    return [np.concatenate(made) for made in zip(*parts, strict=True)]


def _head(path: str | Path, layer: str, result: str) -> Any:
    """Return a session of the part of a graph between two of its tensors."""
    onnx = require("onnx", "session", path)
    whole = onnx.shape_inference.infer_shapes(onnx.load(path))
    extractor = onnx.utils.Extractor(whole)
    try:
        return _opened(lambda: extractor.extract_model([layer], [result]).SerializeToString(), path)
    except InputError as error:
        expected = f"a tensor through which all passes that reaches {result!r}"
        raise InputError("activations", repr(layer), expected) from error


def onnx_layers(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the tensors (B, C, h, w) inside the graph of a file, and their shapes for one batch.

    They come in the graph's order; those of a single place are left out. A package that is not
    installed, no such file and a damaged one raise ``InputError``.
    """
    nodes = require("onnx", "session", path).load(path).graph.node
    names = [name for node in nodes for name in node.output if name]
    session = _session(path, names)
    given = _only_input(session)
    batch = given.shape[0] if isinstance(given.shape[0], int) else 1
    shape = (batch, 3, *sized(None, given.shape[2:]).size)
    made = session.run(names, {given.name: np.full(shape, 0.5, DTYPES[given.type])})
    maps = {n: a.shape for n, a in zip(names, made, strict=True) if a.dtype.kind == "f"}
    return {n: s for n, s in maps.items() if len(s) == 4 and s[2] * s[3] > 1}


def _open(path: str | Path, activations: str | None) -> tuple[Any, str | None]:
    """Return a session of a file's graph that has the activations among its outputs."""
    session = _session(path)
    if _usual(session, "activations") if activations is None else activations in _shapes(session):
        return session, activations
    layers = onnx_layers(path)
    name = chosen("activations", activations, layers, [*layers][-1:], "a tensor of the graph")
    return _session(path, [name]), name


def _session(path: str | Path, added: Sequence[str] = ()) -> Any:
    """Return a session on the CPU for the graph of a file, with tensors added to its outputs."""
    require("onnxruntime", "session", path)
    if not Path(path).is_file():
        raise InputError("session", f"no file {path}", "a graph of ONNX")
    return _opened(lambda: _with_outputs(path, added) if added else str(path), path)


def _opened(content: Callable[[], str | bytes], path: str | Path) -> Any:
    """Return a session on the CPU for a graph that is, or is made of, that of a file."""
    runtime = require("onnxruntime", "session", path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # Errors alone; PyTorch's graphs give a warning per batch norm.
    try:
        return runtime.InferenceSession(content(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own.
        got = f"{path} ({str(error).splitlines()[0]})"
        raise InputError("session", got, "a graph of ONNX that onnxruntime runs") from error


def _with_outputs(path: str | Path, names: Sequence[str]) -> bytes:
    model = require("onnx", "session", path).load(path)
    for name in {*names} - {output.name for output in model.graph.output}:
        model.graph.output.add().name = name
    content: bytes = model.SerializeToString()
    return content


def _shapes(session: Any) -> dict[str, Any]:
    """Return the shapes of a graph's outputs by name."""
    return {output.name: output.shape for output in session.get_outputs()}


def _usual(session: Any, argument: str) -> list[str]:
    """Return the outputs that have a rank of the argument."""
    return [name for name, shape in _shapes(session).items() if len(shape) in RANKS[argument]]


def _only_input(session: Any) -> Any:
    """Return the one input of a graph, if that is a batch of floating point images."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in DTYPES or len(inputs[0].shape) != 4:
        got = ", ".join(f"{given.name!r} {given.type} {given.shape}" for given in inputs)
        raise InputError("session", f"a graph of {got}", "one input, floating point (B, 3, H, W)")
    return inputs[0]
