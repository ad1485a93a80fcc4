"""Train a network without labels (BYOL), and measure what its maps show epoch by epoch.

    python benchmarks/train_ssl.py train --backbone resnet18 --output runs/ssl
    python benchmarks/train_ssl.py evaluate --run runs/ssl --output outputs/ssl
    torchrun --nproc_per_node 2 benchmarks/train_ssl.py train ...

``train`` writes settings.json, log.csv (one row per epoch), checkpoint/ (the last finished
epoch), and for each epoch of --keep the online network as epoch_NNNN.json with
epoch_NNNN.safetensors (load_trained reads them). A run that was interrupted continues with
--resume after its last finished epoch and ends with the same weights (bit for bit on the CPU with
the same number of threads): the order of the images and their two views depend on the seed, the
epoch and the place in it, and on nothing else.

``evaluate`` explains test images of the synthetic world with every network that was kept. It
writes per_image.csv and results.json into --output, and prints a table by epoch: the energy of
the maps inside the person, and retrieval.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from command_line import one_line_errors
from lightly.models.utils import get_weight_decay_parameters
from run_folder import claim
from ssl_byol import BYOL
from ssl_evaluate import EVALUATED, evaluate
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from training_run import (
    add_run,
    architecture_of,
    fixed_settings,
    open_accelerator,
    training_dataset,
    training_pixels,
)

from reid_explain.datasets.records import ReIDDataset
from reid_explain.inputs import InputSpec
from reid_explain.models.build import build_model
from reid_explain.models.pretrained import save_trained
from reid_explain.training.images import TrainingImages
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor
from reid_explain.training.views import SMALLEST_CROP, TwoViews

SGD_MOMENTUM = 0.9


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = argparse.ArgumentDefaultsHelpFormatter
    add_training(commands.add_parser("train", help="train a network", formatter_class=defaults))
    add_evaluation(commands.add_parser("evaluate", help="explain it", formatter_class=defaults))
    return parser.parse_args(arguments)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    add_run(parser)
    add = parser.add_argument
    add("--smallest-crop", type=float, default=SMALLEST_CROP, help="share of the image's area")

    add("--hidden", type=int, default=4096, help="width of projector and predictor")

    add("--batch", type=int, default=128, help="images per batch of all processes")
    add("--epochs", type=int, default=200)
    add("--keep", type=int, nargs="+", metavar="EPOCH", help="default: six, evenly spaced")
    add("--warmup-epochs", type=float, default=10)
    add("--learning-rate", type=float, default=0.06)
    add("--weight-decay", type=float, default=5e-4)
    add("--momentum", type=float, default=0.99, help="of the target network at the start")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    add = parser.add_argument
    add("--run", type=Path, required=True, help="an --output of train")
    add("--output", type=Path, required=True, help="folder of this evaluation")
    add("--resume", action="store_true", help="go on with the evaluation in --output")
    add("--cache", type=Path, help="file of the resized test images, default in --output")
    add("--layer", help="dotted name, default: the last map of the network")
    add(
        "--methods",
        type=lambda names: names.split(","),
        default=",".join(EVALUATED),
        help="names, separated by commas",
    )
    add("--images", type=int, default=492, help="of the 492 queries, drawn with --seed")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def main(arguments: list[str] | None = None) -> None:
    """Train or evaluate; a wrong input ends with one line that says what was wrong."""
    settings = parse_arguments(arguments)
    with one_line_errors("train_ssl.py"):
        {"train": train, "evaluate": evaluate}[settings.command](settings)


def train(settings: argparse.Namespace) -> None:
    """Do the whole run in this process, one of the accelerator's."""
    # The neck is not used.
    accelerator = open_accelerator(
        settings, DistributedDataParallelKwargs(find_unused_parameters=True)
    )
    try:
        run(settings, accelerator)
    finally:
        accelerator.end_training()


def run(settings: argparse.Namespace, accelerator: Accelerator) -> None:
    """Train the epochs that are left, and keep the networks that were asked for."""
    keep_epochs = settings.keep or [settings.epochs * sixth // 5 for sixth in range(6)]
    recipe = fixed_settings(settings, accelerator) | {"keep": sorted(keep_epochs)}
    dataset = training_dataset(settings)
    if accelerator.is_main_process:
        claim(settings.output, recipe, resume=settings.resume)
    accelerator.wait_for_everyone()
    loader = training_batches(settings, accelerator, dataset)
    set_seed(settings.seed)
    architecture = architecture_of(settings)
    model = build_model(**architecture).to(memory_format=torch.channels_last)
    model.input_spec = InputSpec(tuple(settings.image_size))
    steps = settings.epochs * len(loader)
    byol = BYOL(model, steps, settings.momentum, settings.hidden).to(accelerator.device)

    def keep(epoch: int) -> None:
        if epoch in recipe["keep"]:
            card = settings.output / f"epoch_{epoch:04d}.json"
            dtype = getattr(torch, settings.stored_dtype)
            save_trained(byol.model, card, architecture, dtype=dtype, epoch=epoch, recipe=recipe)

    loop = build_loop(settings, accelerator, byol, loader, keep)
    if accelerator.is_main_process and loop.completed_epochs == 0:
        keep(0)
    loop.fit()


def training_batches(
    settings: argparse.Namespace, accelerator: Accelerator, dataset: ReIDDataset
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return this process's part of the batches, two views of each image."""
    pixels = training_pixels(settings, accelerator, dataset)
    views = TwoViews(InputSpec(tuple(settings.image_size)), settings.smallest_crop)
    batches = ShuffledBatches(
        len(pixels),
        settings.batch,
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return DataLoader(
        TrainingImages(pixels, range(len(pixels)), settings.seed, views),
        batch_sampler=batches,
        collate_fn=view_by_view,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )


def view_by_view(drawn: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return B pairs of views (2, 3, H, W) as one batch (2B, 3, H, W), all first views first."""
    pairs, images = zip(*drawn, strict=True)
    return torch.stack(pairs, dim=1).flatten(0, 1), torch.tensor(images)


def build_loop(
    settings: argparse.Namespace,
    accelerator: Accelerator,
    byol: BYOL,
    loader: DataLoader[tuple[Tensor, Tensor]],
    keep: Callable[[int], None],
) -> TrainingLoop:
    """Return the loop over the two views of all training images."""

    def learning_rate(epoch: float) -> float:
        factor = learning_rate_factor(epoch, settings.epochs, settings.warmup_epochs, "cosine")
        return float(settings.learning_rate * factor)

    return TrainingLoop(
        accelerator,
        byol,
        [optimizer(byol, settings.learning_rate, settings.weight_decay)],
        loader,
        folder=settings.output,
        epochs=settings.epochs,
        learning_rate=learning_rate,
        seed=settings.seed,
        after_epoch=keep,
    )


def optimizer(byol: BYOL, learning_rate: float, weight_decay: float) -> Optimizer:
    """Return SGD with momentum for the online network; biases and norms do not decay."""
    decayed, free = get_weight_decay_parameters([byol.online, byol.predictor])
    return torch.optim.SGD(
        [{"params": decayed}, {"params": free, "weight_decay": 0.0}],
        learning_rate,
        momentum=SGD_MOMENTUM,
        weight_decay=weight_decay,
    )


if __name__ == "__main__":
    main()
