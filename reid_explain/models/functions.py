"""Networks that are not torch's: any function of a numpy array, and graphs of ONNX.

They have no gradients. ScoreFAM, ScoreCAM, RAM and the controls explain them by forward passes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_explain.checks import described
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec

Array = NDArray[Any]
ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
EMBEDDING_RANKS = (2,)
ACTIVATION_RANKS = (3, 4)


class FunctionNet(nn.Module):
    """A module around a function of images that runs outside torch.

    Explain its layer ``activations``, through which they pass::

        net = FunctionNet(function)
        ScoreFAM(net, net.map_layer).attribute(images)

    Args:
        function: images (B, 3, H, W), a contiguous array of float32, to the pair of activations
            (B, C, h, w), or tokens (B, T, C), and embeddings (B, D), or logits for ScoreCAM.
        input_spec: the images that the function takes.
    """

    map_layer = "activations"
    trainable_stages = ()

    def __init__(
        self,
        function: Callable[[NDArray[np.float32]], tuple[Array, Array]],
        input_spec: InputSpec = InputSpec(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.function = function
        self.activations = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of images (B, 3, H, W), on their device.

        Raises:
            InputError: the function gives anything but two arrays of one row per image.
        """
        array = images.detach().to("cpu", torch.float32).contiguous().numpy()
        made = self.function(array)
        if not (isinstance(made, tuple | list) and len(made) == 2):
            raise InputError("function", f"a result of type {described(made)}", "a pair of arrays")
        activations, embeddings = (as_rows(part, len(images)).to(images.device) for part in made)
        self.activations(activations)
        return embeddings


def as_rows(array: Any, rows: int) -> Tensor:
    """Return an array of one row per image as a tensor of its own."""
    if not (isinstance(array, np.ndarray) and array.ndim and len(array) == rows):
        came = array.shape if isinstance(array, np.ndarray) else described(array)
        raise InputError("function", f"a result {came}", f"arrays of {rows} rows, one per image")
    return torch.from_numpy(array.copy())


class OnnxNet(FunctionNet):
    """A graph of ONNX with two outputs, activations and embeddings (extra: onnxruntime).

    A graph that gives the embeddings alone has to be exported again with the map beside them. One
    of a fixed batch size gets batches of that size, the last one filled up with its last image.

    Args:
        session: an ``onnxruntime.InferenceSession``, or the file of a graph, which then runs on
            the CPU.
        activations: name of the output (B, C, h, w) or (B, T, C); by default the only one of
            three or four dimensions.
        embedding: name of the output (B, D); by default the only one of two dimensions.

    Raises:
        InputError: onnxruntime is not installed, no such file or a damaged one, an output that
            the graph does not have or that is not clear without its name, or a graph that takes
            anything but one batch of floating point images.
    """

    def __init__(
        self, session: Any, activations: str | None = None, embedding: str | None = None
    ) -> None:
        super().__init__(self.run)
        self.session = open_session(session) if isinstance(session, str | Path) else session
        outputs = self.session.get_outputs()
        self.outputs = [
            output_name("activations", activations, ACTIVATION_RANKS, outputs),
            output_name("embedding", embedding, EMBEDDING_RANKS, outputs),
        ]
        self.input = only_input(self.session.get_inputs())

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
        images = images.astype(ONNX_DTYPES[self.input.type], copy=False)
        step = batch if isinstance(batch, int) else len(images)
        parts = [self._run(images[i : i + step], step) for i in range(0, len(images), step)]
        activations, embeddings = (np.concatenate(made) for made in zip(*parts, strict=True))
        return activations, embeddings

    def _run(self, images: Array, batch: int) -> list[Array]:
        """Return the outputs of the graph, which takes ``batch`` images, for at most so many."""
        filled = np.concatenate([images, images[-1:].repeat(batch - len(images), axis=0)])
        made = self.session.run(self.outputs, {self.input.name: filled})
        return [array[: len(images)] for array in made]


def open_session(path: str | Path) -> Any:
    """Return a session on the CPU that runs the graph of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        came = f"{path} without onnxruntime"
        raise InputError("session", came, "pip install onnxruntime") from error
    if not Path(path).is_file():
        raise InputError("session", f"no file {path}", "a graph of ONNX")
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own.
        came = f"{path} ({str(error).splitlines()[0]})"
        raise InputError("session", came, "a graph of ONNX that onnxruntime runs") from error


def output_name(
    argument: str, name: str | None, ranks: Sequence[int], outputs: Sequence[Any]
) -> str:
    """Return ``name`` if an output has it; without a name that of the only one of such a rank."""
    fitting = [
        output.name
        for output in outputs
        if (output.name == name if name is not None else len(output.shape) in ranks)
    ]
    if len(fitting) != 1:
        known = ", ".join(f"{output.name!r} {output.shape}" for output in outputs)
        came = "none that is clear without a name" if name is None else repr(name)
        raise InputError(argument, came, f"the name of an output of the graph: {known}")
    only: str = fitting[0]
    return only


def only_input(inputs: Sequence[Any]) -> Any:
    """Return the one input of a graph, if that is a batch of floating point images."""
    fits = len(inputs) == 1 and inputs[0].type in ONNX_DTYPES and len(inputs[0].shape) == 4
    if not fits:
        came = ", ".join(f"{given.name!r} {given.type} {given.shape}" for given in inputs)
        raise InputError("session", f"a graph of {came}", "one input, floating point (B, 3, H, W)")
    return inputs[0]
