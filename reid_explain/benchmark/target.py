"""The model that a benchmark explains."""

import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reid_explain.capture import evaluation, find_layer, token_grid_of
from reid_explain.checks import check_finite
from reid_explain.errors import InputError
from reid_explain.explainers.layout import as_map
from reid_explain.inputs import InputSpec
from reid_explain.memory_format import autocast, folded, images_per_forward, in_fast_format

BATCH_SIZE = 64
"""Images that are loaded at a time."""
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Target:
    """A model, the layer to explain, what images it takes, and where and how precisely it runs.

    ``embedding``, ``logits`` and ``pooled`` are what explainers explain: functions of images
    (B, 3, H, W) on the device, in the modes that the model is in. ``embed`` and ``predicted``
    work from the CPU to the CPU, in eval mode.

    Args:
        model: Any module from images to embeddings (B, D). For class-based methods it has
            ``classifier``, and a method ``logits`` from images to (B, training identities).
        layer: The module or its dotted name; by default ``model.map_layer``.
        spec: Size and normalization of its images; by default ``model.input_spec``.
        device: Where the model runs; by default where its first parameter is.
        precision: ``"bfloat16"`` runs the model under ``torch.autocast``.
        label: Name of the model in tables; by default that of its class.

    Raises:
        InputError: If the model has no such layer, or does not say what is left out.
    """

    model: nn.Module
    layer: Any = None
    spec: InputSpec = None  # type: ignore[assignment]
    device: torch.device = None  # type: ignore[assignment]
    precision: Precision = "float32"
    label: str = ""

    def __post_init__(self) -> None:
        model, first = self.model, next(self.model.parameters(), torch.empty(0))
        given = {"layer": (self.layer, "map_layer"), "spec": (self.spec, "input_spec")}
        found: dict[str, Any] = {
            name: getattr(model, attribute, None) if value is None else value
            for name, (value, attribute) in given.items()
        }
        if missing := [name for name, value in found.items() if value is None]:
            came = f"nothing for a {type(model).__name__}"
            raise InputError(missing[0], came, f"one, or a model with {given[missing[0]][1]}")
        found["layer"] = find_layer(model, found["layer"])
        found["device"] = torch.device(self.device or first.device)
        found["label"] = self.label or type(model).__name__
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def has_classes(self) -> bool:
        """Whether the model has a classifier of its training identities."""
        return hasattr(self.model, "classifier") and hasattr(self.model, "logits")

    def embedding(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D)."""
        with self._autocast():
            out: Tensor = self.model(images)
            return out

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of the training identities."""
        with self._autocast():
            model: Any = self.model
            out: Tensor = model.logits(images)
            return out

    def pooled(self, images: Tensor) -> Tensor:
        """Return the mean (B, C) of the layer's map, which RAM explains; the pass ends there."""

        def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            raise _LayerReached(output)

        handle = self.layer.register_forward_hook(stop)
        try:
            self.embedding(images)
        except _LayerReached as reached:
            size, grid = (images.shape[2], images.shape[3]), token_grid_of(self.model)
            return as_map(reached.args[0], size, grid).mean(dim=(2, 3))
        finally:
            handle.remove()
        raise InputError("layer", f"a {type(self.layer).__name__} that never ran", "one that runs")

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) float32 of any number of images, batch by batch."""
        with torch.no_grad(), evaluation(self.model, self.layer):
            size = images_per_forward(images, self.device)
            parts = (part.to(self.device) for part in torch.split(images, size))
            return torch.cat([in_fast_format(self.embedding, p)[0].float().cpu() for p in parts])

    def folded(self, example: Tensor) -> "Target":
        """Return a target that embeds the same but for rounding, faster, and does nothing else.

        Its model is :func:`.folded`: a copy of this one as it is now; its layer is all of it. In
        bfloat16, which rounds folded weights otherwise, it is this target.
        """
        if self.precision != "float32":
            return self
        with evaluation(self.model, self.layer):
            copy = folded(self.model, example.to(self.device))
        return replace(self, model=copy, layer=copy)

    def predicted(self, images: Tensor) -> Tensor | None:
        """Return the predicted training identity (B,) of each image; None without classes."""
        if not self.has_classes:
            return None
        with torch.no_grad(), evaluation(self.model, self.layer):
            return self.logits(images.to(self.device)).argmax(dim=1).cpu()

    def check(self, image: Tensor) -> Tensor | None:
        """Return the predicted class of an image (1, 3, H, W).

        Raises:
            InputError: If the model does not take the image, or does not embed it.
        """
        try:
            embedded, predicted = self.embed(image), self.predicted(image)
        except (RuntimeError, AssertionError, ValueError) as error:
            came = f"{self.spec.size} ({str(error).splitlines()[0]})"
            raise InputError("image size", came, f"one that {self.label} takes") from error
        if embedded.dim() != 2:
            raise InputError("model", f"a result {tuple(embedded.shape)}", "embeddings (B, D)")
        check_finite("embeddings of the model", embedded)
        return predicted

    def settings(self) -> dict[str, Any]:
        """Return what two runs on one target have in common, as JSON has it."""
        names = {module: name for name, module in self.model.named_modules()}
        return {
            "model": self.label,
            "weights": fingerprint(self.model),
            "layer": names[self.layer],
            "input": self.spec.to_json(),
            "precision": self.precision,
        }

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, torch.bfloat16 if self.precision == "bfloat16" else None)


class _LayerReached(Exception):  # noqa: N818
    """Ends a forward pass with the output of a layer."""


def fingerprint(model: nn.Module) -> str:
    """Return a checksum of the names and values of a model's parameters and buffers."""
    checksum = 0
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(values.numpy(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
