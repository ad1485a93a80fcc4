"""What the trainings of a network share: options, processes, the training split, the network."""

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import KwargsHandler
from command_line import MODEL_HELP, add_dataset, model_name

from reid_explain.datasets.catalogue import SYNTHETIC, open_dataset
from reid_explain.datasets.records import ReIDDataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.build import BASELINES
from reid_explain.models.pooling import POOLINGS
from reid_explain.models.resnet import PADDINGS, RESNETS
from reid_explain.models.timm_models import PREFIX, has_fixed_size
from reid_explain.training.images import cached_pixels

FREE_SETTINGS = ("command", "output", "resume", "root", "cache", "workers")
"""What may differ between a run and its continuation."""


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of data, folder and network."""
    add_dataset(parser)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of this run")
    add("--resume", action="store_true", help="continue the run in the output folder")
    add("--cache", type=Path, help="file of the resized training images, default in --output")
    add("--workers", type=int, default=1, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--image-size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--stored-dtype", choices=("float32", "float16"), default="float32")
    add("--backbone", type=model_name, default="resnet18", metavar="NAME", help=MODEL_HELP)
    add("--width", type=float, default=1.0, help="factor on the planes of a ResNet's stages")
    add("--pooling", choices=tuple(POOLINGS), default="avg", help="of a ResNet")
    add("--padding", choices=PADDINGS, default="zeros", help="of a ResNet's convolutions")
    add("--local", action="store_true", help="a ResNet whose cells see little beyond themselves")


def open_accelerator(settings: argparse.Namespace, *handlers: KwargsHandler) -> Accelerator:
    """Return the processes and the precision of a run."""
    torch.backends.cudnn.deterministic = True
    return Accelerator(
        mixed_precision="bf16" if settings.precision == "bfloat16" else "no",
        # Without this, processes started by torchrun on a CPU would not know of each other.
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=list(handlers),
    )


def fixed_settings(settings: argparse.Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Return what a run and its continuation have in common."""
    fixed = {key: value for key, value in vars(settings).items() if key not in FREE_SETTINGS}
    return fixed | {"processes": accelerator.num_processes}


def training_dataset(settings: argparse.Namespace) -> ReIDDataset:
    """Return the data set that was asked for, which has to have images to train on."""
    if settings.root is None and settings.dataset != SYNTHETIC:
        raise InputError("--root", "nothing", f"the folder of {settings.dataset}")
    dataset = open_dataset(settings.dataset, settings.root)
    if not dataset.train:
        raise InputError("--root", f"no training image in {settings.root}", "a training split")
    return dataset


def training_pixels(
    settings: argparse.Namespace, accelerator: Accelerator, dataset: ReIDDataset
) -> Any:
    """Return the resized training images, made by one process and read by all."""
    with accelerator.local_main_process_first():
        return cached_pixels(
            dataset,
            dataset.train,
            InputSpec(tuple(settings.image_size)),
            settings.cache or settings.output / "train_images.npy",
            workers=settings.workers,
            show_progress=accelerator.is_main_process,
        )


def architecture_of(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``build_model`` for this run, without the number of classes."""
    architecture: dict[str, Any] = {"name": settings.backbone}
    if settings.backbone in (*RESNETS, *BASELINES):
        architecture["width"] = settings.width
    if settings.backbone in RESNETS:
        architecture["pooling"] = settings.pooling
        architecture["padding"] = settings.padding
        architecture["local"] = settings.local
    timm_name = settings.backbone.removeprefix(PREFIX)
    if timm_name != settings.backbone and has_fixed_size(timm_name):
        architecture["img_size"] = list(settings.image_size)
    return architecture
