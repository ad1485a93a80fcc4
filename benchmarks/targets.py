"""The model that a benchmark explains, from the command line."""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import torch
from command_line import SHIPPED
from torch import Tensor, nn

from reid_explain import InputError
from reid_explain.capture import find_layer
from reid_explain.models.checkpoints import open_checkpoint
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pretrained import load_pretrained, load_trained

BATCH_SIZE = 64


class Target(NamedTuple):
    """A model in eval mode, the layer to explain, and where and how precisely they run.

    ``embedding``, ``logits`` and ``pooled`` are what explainers explain: functions of images
    (B, 3, H, W) on the device. ``embed`` and ``predicted`` work from the CPU to the CPU.
    """

    model: EmbeddingNet
    layer: nn.Module
    device: torch.device = torch.device("cpu")
    precision: str = "float32"

    @property
    def has_classes(self) -> bool:
        """Whether the model has a classifier of the training identities."""
        return hasattr(self.model, "classifier")

    def embedding(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D)."""
        with self._autocast():
            out: Tensor = self.model(images)
            return out

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of the training identities."""
        with self._autocast():
            return self.model.logits(images)

    def pooled(self, images: Tensor) -> Tensor:
        """Return the mean of the last map (B, C), the embedding that RAM explains.

        Raises:
            InputError: If the model gives tokens.
        """
        with self._autocast():
            features = self.model.features(images)
        if features.dim() != 4:
            raise InputError("--methods", "RAM of a model of tokens", "methods that need no map")
        return features.mean(dim=(2, 3))

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) float32 of any number of images, batch by batch."""
        with torch.no_grad():
            batches = torch.split(images, BATCH_SIZE)
            parts = [self.embedding(batch.to(self.device)) for batch in batches]
        return torch.cat(parts).float().cpu()

    def predicted(self, images: Tensor) -> Tensor | None:
        """Return the predicted training identity (B,) of each image; None without classes."""
        if not self.has_classes:
            return None
        with torch.no_grad():
            return self.logits(images.to(self.device)).argmax(dim=1).cpu()

    def _autocast(self) -> torch.autocast:
        mixed = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)


def open_target(settings: argparse.Namespace) -> Target:
    """Return the model of --model and --weights with the layer of --layer, on --device.

    Raises:
        InputError: If a network other than the shipped one has no weights, they do not fit, or
            the device is not there.
    """
    device = open_device(settings.device)
    model = open_model(settings.model, settings.weights).eval().to(device)
    model.to(memory_format=torch.channels_last)
    layer = find_layer(model, settings.layer or model.map_layer)
    return Target(model, layer, device, settings.precision)


def open_device(name: str) -> torch.device:
    """Return a device; of ``cuda``, the GPU of this process where a launcher started several."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        came = f"{name} ({str(error).splitlines()[0]})"
        raise InputError("--device", came, "a device that is here") from error


def open_model(name: str, weights: Path | None) -> EmbeddingNet:
    """Return a network with its weights; which one, a checkpoint says where ``name`` does not.

    Raises:
        InputError: If a network other than the shipped one has no weights, they do not fit, or
            they are of no network that can be told from them.
    """
    if weights is None:
        if name != SHIPPED:
            raise InputError("--weights", "nothing", f"a checkpoint of {name}")
        return load_pretrained(name)
    if weights.suffix == ".json":
        return load_trained(weights)
    return open_checkpoint(weights, name=None if name == SHIPPED else name)
