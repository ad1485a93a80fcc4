"""Small trainings: a network of two layers, people of two colors, and interruptions."""

import csv

import numpy as np
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from reid_explain.benchmark import train_target
from reid_explain.models.build import MODELS
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import POOLINGS


class TinyNet(EmbeddingNet):
    """Two convolutions, batch norm and a neck: trained in a second."""

    map_layer = "maps"
    trainable_stages = ("maps",)
    card_settings = ("num_classes", "pooling")
    channels = embedding_dim = 8

    def __init__(self, num_classes=0, pooling="avg"):
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2)
        )
        self.pool = POOLINGS[pooling]()
        self.neck = nn.BatchNorm1d(8)
        self.neck.bias.requires_grad_(False)
        if num_classes:
            self.classifier = nn.Linear(8, num_classes, bias=False)

    def features(self, x):
        return self.maps(x).relu()


MODELS.register(TinyNet, name="tiny")


def make_market(root):
    """Eight people to train on and four to test on, each with clothes of two colors."""
    generator = np.random.default_rng(0)
    splits = {"bounding_box_train": range(1, 9), "query": range(9, 13)}
    for folder, people in {**splits, "bounding_box_test": range(9, 13)}.items():
        (root / folder).mkdir()
        for person in people:
            clothes = np.random.default_rng(person).integers(40, 215, (2, 1, 3)).repeat(24, 0)
            for camera in (1, 2):
                for frame in (1, 2):
                    noise = generator.normal(0, 15, (48, 24, 3))
                    image = Image.fromarray((clothes + noise).clip(0, 255).astype(np.uint8))
                    image.save(root / folder / f"{person:04d}_c{camera}s1_{frame:06d}_00.jpg")
    return root


def train(arguments):
    """Run train_target.py where the network of two layers is known."""
    train_target.main(arguments)


def run(settings):
    """Train as a script does, in a fresh state of accelerate."""
    AcceleratorState._reset_state(reset_partial_state=True)
    settings.run()
    return settings.output


def log(output):
    with (output / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


class Interrupted(BaseException):
    pass


def fail_at(monkeypatch, owner, name, call):
    """Raise in place of call number ``call`` (from 1)."""
    original, calls = getattr(owner, name), []

    def patched(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise Interrupted
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, patched)
