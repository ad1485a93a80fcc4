"""The model that a benchmark explains, from the command line."""

import argparse
from pathlib import Path

import torch
from command_line import SHIPPED
from methods import Target
from torch import nn

from reid_explain import InputError
from reid_explain.capture import find_layer
from reid_explain.models.build import MODEL_NAMES, build_model
from reid_explain.models.checkpoints import load_checkpoint, read_state_dict
from reid_explain.models.osnet import OSNet
from reid_explain.models.pretrained import load_pretrained, load_trained


def open_target(settings: argparse.Namespace) -> Target:
    """Return the model of --model and --weights, in eval mode, with the layer of --layer.

    Raises:
        InputError: If a network other than the shipped one has no weights, or they do not fit.
    """
    model = open_model(settings.model, settings.weights).to(memory_format=torch.channels_last)
    default = "conv5" if isinstance(model, OSNet) else "backbone.layer4"
    return Target(model.eval(), find_layer(model, settings.layer or default))


def open_model(name: str, weights: Path | None) -> nn.Module:
    """Return a network with its weights."""
    if weights is None:
        if name != SHIPPED:
            raise InputError("--weights", "nothing", f"a checkpoint of {name}")
        return load_pretrained(name)
    if weights.suffix == ".json":
        return load_trained(weights)
    if name == SHIPPED:
        raise InputError("--model", name, f"the network of {weights}: {', '.join(MODEL_NAMES)}")
    classes = len(read_state_dict(weights).get("classifier.weight", ()))
    model = build_model(name, classes)
    load_checkpoint(model, weights)
    return model
