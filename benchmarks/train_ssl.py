"""Train a network without labels (BYOL), and measure what its maps show epoch by epoch.

    python benchmarks/train_ssl.py train --backbone resnet18 --output runs/ssl
    python benchmarks/train_ssl.py evaluate --run runs/ssl
    torchrun --nproc_per_node 2 benchmarks/train_ssl.py train ...

``train`` writes settings.json, log.csv (one row per epoch), checkpoint/ (the last finished
epoch), and for each epoch of --keep the online network as epoch_NNNN.json with
epoch_NNNN.safetensors (load_trained reads them). A run that was interrupted continues with
--resume after its last finished epoch and ends with the same weights (bit for bit on the CPU with
the same number of threads): the order of the images and their two views depend on the seed, the
epoch and the place in it, and on nothing else.

``evaluate`` explains test images of the synthetic world with every network that was kept. It
writes per_image.csv and results.json into --output: the energy of the maps inside the person, and
retrieval, by epoch.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from command_line import one_line_errors
from lightly.models.utils import get_weight_decay_parameters
from run_folder import claim
from ssl_byol import BYOL
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from reid_explain.datasets.catalogue import DATASET_NAMES, SYNTHETIC, open_dataset
from reid_explain.datasets.records import ReIDDataset
from reid_explain.errors import InputError
from reid_explain.models.build import build_model
from reid_explain.models.pooling import POOLINGS
from reid_explain.models.pretrained import save_trained
from reid_explain.models.resnet import RESNETS
from reid_explain.training.images import TrainingImages, cached_pixels
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor
from reid_explain.training.views import SMALLEST_CROP, TwoViews

FREE_SETTINGS = ("command", "output", "resume", "root", "cache", "workers")
"""What may differ between a run and its continuation."""
SGD_MOMENTUM = 0.9


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = argparse.ArgumentDefaultsHelpFormatter
    add_training(commands.add_parser("train", help="train a network", formatter_class=defaults))
    return parser.parse_args(arguments)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    add = parser.add_argument
    add("--dataset", choices=DATASET_NAMES, default=SYNTHETIC)
    add("--root", type=Path, help="the data set's folder; synthetic has none")
    add("--output", type=Path, required=True, help="folder of this run")
    add("--resume", action="store_true", help="continue the run in the output folder")
    add("--cache", type=Path, help="file of the resized training images, default in --output")
    add("--workers", type=int, default=1, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--image-size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    add("--smallest-crop", type=float, default=SMALLEST_CROP, help="share of the image's area")

    add("--backbone", default="resnet18", help="a name of build_model")
    add("--width", type=float, default=1.0, help="factor on the planes of a ResNet's stages")
    add("--pooling", choices=tuple(POOLINGS), default="avg", help="of a ResNet")
    add("--hidden", type=int, default=4096, help="width of projector and predictor")

    add("--batch", type=int, default=128, help="images per batch of all processes")
    add("--epochs", type=int, default=200)
    add("--keep", type=int, nargs="+", metavar="EPOCH", help="default: six, evenly spaced")
    add("--warmup-epochs", type=float, default=10)
    add("--learning-rate", type=float, default=0.06)
    add("--weight-decay", type=float, default=5e-4)
    add("--momentum", type=float, default=0.99, help="of the target network at the start")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--stored-dtype", choices=("float32", "float16"), default="float32")


def main(arguments: list[str] | None = None) -> None:
    """Train or evaluate; a wrong input ends with one line that says what was wrong."""
    settings = parse_arguments(arguments)
    with one_line_errors("train_ssl.py"):
        train(settings)


def train(settings: argparse.Namespace) -> None:
    """Do the whole run in this process, one of the accelerator's."""
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    # Without this, processes started by torchrun on a CPU would not know of each other.
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available())
    torch.backends.cudnn.deterministic = True
    try:
        run(settings, accelerator)
    finally:
        accelerator.end_training()
