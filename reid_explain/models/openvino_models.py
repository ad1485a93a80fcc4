"""Networks in OpenVINO's runtime, without gradients (extra: openvino)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_explain.errors import InputError
from reid_explain.inputs import BGR_255, InputSpec
from reid_explain.models.functions import Array, FunctionNet, chosen, require, sized

PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}
"""Where a processor has matrix units for bfloat16, the runtime would use them."""


class OpenVinoNet(FunctionNet):
    """A network in OpenVINO's runtime that gives an embedding and the activation of a layer.

    ``open_checkpoint`` reads the same files into torch, with gradients.

    Args:
        path: a file that the runtime reads: ``.xml`` with its ``.bin``, or ``.onnx``.
        activations: name of the node that gives a map (B, C, h, w); by default the last one.
        embedding: name of the node that gives the embedding (B, D), or (B, D, 1, 1); by default
            the network's only result.
        input_spec: the images that the network takes; by default, of its size, those that
            ``open_checkpoint`` takes for such a file: ``BGR_255``, of ``.onnx`` ``InputSpec()``.

    Raises:
        InputError: openvino is not installed; it does not read the file, or not for batches of
            any size; a name that the network does not have, or none where it is not clear; or an
            ``input_spec`` of another size.
    """

    def __init__(
        self,
        path: str | Path,
        activations: str | None = None,
        embedding: str | None = None,
        input_spec: InputSpec | None = None,
    ) -> None:
        usual = InputSpec() if Path(path).suffix == ".onnx" else BGR_255
        openvino = require("openvino", "path", path)
        try:
            core = openvino.Core()
            network = core.read_model(path)
            _, *size = network.input().partial_shape[1:]
            size = [side.get_length() if side.is_static else None for side in size]
            super().__init__(self.run, sized(input_spec, size, usual))
            network.reshape([-1, 3, *self.input_spec.size])
            maps, results = _maps(network), _results(network)
            outputs = [
                _output("activations", activations, maps, [*maps][-1:]),
                _output("embedding", embedding, results, [*results]),
            ]
            network = openvino.Model(outputs, network.get_parameters())
            self.network = core.compile_model(network, "CPU", PRECISE)
        except RuntimeError as error:
            got = f"{path} ({str(error).strip().splitlines()[-1]})"
            raise InputError("path", got, "a network of images that openvino runs") from error

    def run(self, images: NDArray[np.float32]) -> tuple[Array, Array]:
        """Return what the network makes of images (B, 3, H, W): activations and embeddings.

        Images of another size than the network takes raise ``InputError``.
        """
        if images.shape[2:] != self.input_spec.size:
            size = ", ".join(map(str, self.input_spec.size))
            raise InputError("inputs", images.shape, f"(B, 3, {size})")
        activations, embeddings = self.network(images).values()
        return activations, embeddings.reshape(len(images), -1)


def _maps(network: Any) -> dict[str, Any]:
    """Return the outputs that are maps of more than one place of each image, by node."""
    outputs = {node.get_friendly_name(): node.output(0) for node in _before_results(network)}
    shapes = {name: output.partial_shape for name, output in outputs.items()}
    return {
        name: outputs[name]
        for name, shape in shapes.items()
        if len(shape) == 4 and shape[0].is_dynamic and not (shape[2] == 1 and shape[3] == 1)
    }


def _before_results(network: Any) -> list[Any]:
    kinds = ("Parameter", "Result")
    return [node for node in network.get_ordered_ops() if node.get_type_name() not in kinds]


def _results(network: Any) -> dict[str, Any]:
    given = [result.input_value(0) for result in network.get_results()]
    return {output.get_node().get_friendly_name(): output for output in given}


def _output(argument: str, name: str | None, known: Mapping[str, Any], usual: Sequence[str]) -> Any:
    shapes = {key: output.partial_shape for key, output in known.items()}
    return known[chosen(argument, name, shapes, usual, "a node of the network")]
