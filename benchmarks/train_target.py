"""Train a re-identification network with the bag of tricks (Luo et al., CVPR workshops 2019).

    python benchmarks/train_target.py --dataset synthetic --backbone resnet18 --output runs/target
    torchrun --nproc_per_node 2 benchmarks/train_target.py ...
    accelerate launch benchmarks/train_target.py ...

The output folder gets settings.json, log.csv (one row per epoch), checkpoint/ (the last finished
epoch), model.json with model.safetensors (load_trained reads them) and results.json. A run that
was interrupted continues with --resume after its last finished epoch and ends with the same
weights (bit for bit on the CPU with the same number of threads): the order of the images and
their augmentation depend on the seed, the epoch and the place in it, and on nothing else.

A batch of P x S images is shared among the processes, whole identities to each; batch norm and
the search for the hardest triplets see one process's part.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from run_folder import claim, write_json
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from training_run import (
    add_run,
    architecture_of,
    fixed_settings,
    open_accelerator,
    training_dataset,
    training_pixels,
)

from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.metrics.embedding import embed_records
from reid_explain.metrics.retrieval import match_ranks, summarize
from reid_explain.models.build import PART_NETS, build_model
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pretrained import load_trained, save_trained
from reid_explain.training.images import TrainingImages, augmentation
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.losses import METRIC_LOSSES, CenterLoss, ReIDLoss
from reid_explain.training.sampling import IdentityBatches
from reid_explain.training.schedule import SCHEDULES, learning_rate_factor

CENTER_LEARNING_RATE = 0.5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_run(parser)
    add = parser.add_argument
    add("--identities", type=int, default=16, help="P, identities per batch of all processes")
    add("--instances", type=int, default=4, help="S, images per identity")
    add("--images-per-epoch", type=int, help="default: the size of the training split")
    add("--epochs", type=int, default=120)
    add("--half-size-epochs", type=int, default=0, help="first epochs on images of half the size")
    add("--warmup-epochs", type=float, default=10)
    add("--schedule", choices=SCHEDULES, default="step")
    add("--learning-rate", type=float, default=3.5e-4)
    add("--weight-decay", type=float, default=5e-4)
    add("--metric-loss", choices=METRIC_LOSSES, default="triplet")
    add("--label-smoothing", type=float, default=0.1)
    add("--centre-loss", action="store_true", help="add the centre loss, weight 0.0005")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, save and evaluate; a wrong input ends with one line that says what was wrong."""
    settings = parse_arguments(arguments)
    accelerator = open_accelerator(settings)
    try:
        run(settings, accelerator)
    except InputError as error:
        sys.exit(f"train_target.py: {error}")
    finally:
        accelerator.end_training()


def run(settings: argparse.Namespace, accelerator: Accelerator) -> None:
    """Do the whole run in this process, one of ``accelerator``'s."""
    recipe = fixed_settings(settings, accelerator)
    if accelerator.is_main_process:
        claim(settings.output, recipe, resume=settings.resume)
    accelerator.wait_for_everyone()
    dataset = training_dataset(settings)
    if settings.backbone in PART_NETS:
        raise InputError("--backbone", settings.backbone, "a network with one classifier")
    classes = len(class_numbers(dataset.train))
    architecture = {**architecture_of(settings), "num_classes": classes}
    loop = build_loop(
        settings, accelerator, dataset, untrained(settings, architecture, accelerator)
    )
    loop.fit()
    if accelerator.is_main_process:
        finish(settings, recipe, dataset, architecture, loop)


def class_numbers(records: Sequence[Record]) -> dict[int, int]:
    """Return the class of each training identity: its place in the sorted order."""
    return {identity: k for k, identity in enumerate(sorted({r.identity for r in records}))}


class Step(nn.Module):
    """One module from images to loss terms, so that several processes average all gradients."""

    def __init__(self, model: EmbeddingNet, loss: ReIDLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.half_size = False

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms of images (B, 3, H, W) with classes (B,)."""
        if self.half_size:
            images = functional.avg_pool2d(images, 2)
        pooled = self.model.pool(self.model.features(images))
        logits = self.model.classify(self.model.neck(pooled))
        terms: dict[str, Tensor] = self.loss(pooled, logits, labels)
        return terms


def untrained(
    settings: argparse.Namespace, architecture: dict[str, Any], accelerator: Accelerator
) -> Step:
    """Return network and loss as they start, the same for the same seed."""
    set_seed(settings.seed)
    model = build_model(**architecture).to(memory_format=torch.channels_last)
    model.input_spec = InputSpec(tuple(settings.image_size))
    classes = architecture["num_classes"]
    centers = CenterLoss(classes, model.channels) if settings.centre_loss else None
    loss = ReIDLoss(settings.metric_loss, settings.label_smoothing, centers)
    return Step(model, loss).to(accelerator.device)


def build_loop(
    settings: argparse.Namespace, accelerator: Accelerator, dataset: ReIDDataset, step: Step
) -> TrainingLoop:
    """Return the loop over the training images of ``dataset``."""

    def learning_rate(epoch: float) -> float:
        step.half_size = epoch < settings.half_size_epochs
        factor = learning_rate_factor(
            epoch, settings.epochs, settings.warmup_epochs, settings.schedule
        )
        return float(settings.learning_rate * factor)

    return TrainingLoop(
        accelerator,
        step,
        optimizers(step.model, step.loss, settings),
        training_batches(settings, accelerator, dataset),
        settings.output,
        epochs=settings.epochs,
        learning_rate=learning_rate,
        seed=settings.seed,
        saved=step.model,
    )


def training_batches(
    settings: argparse.Namespace, accelerator: Accelerator, dataset: ReIDDataset
) -> DataLoader[tuple[Tensor, int]]:
    """Return this process's part of the batches, augmented."""
    pixels = training_pixels(settings, accelerator, dataset)
    numbers = class_numbers(dataset.train)
    labels = [numbers[record.identity] for record in dataset.train]
    batches = IdentityBatches(
        labels,
        settings.identities,
        settings.instances,
        settings.images_per_epoch or len(labels),
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return DataLoader(
        TrainingImages(
            pixels, labels, settings.seed, augmentation(InputSpec(tuple(settings.image_size)))
        ),
        batch_sampler=batches,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )


def optimizers(
    model: nn.Module, loss: ReIDLoss, settings: argparse.Namespace
) -> list[torch.optim.Optimizer]:
    """Return Adam for the network and, with the centre loss, SGD for its centres."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    if loss.centers is None:
        return [adam]
    # The weight of the loss is not to slow the centres down.
    rate = CENTER_LEARNING_RATE / loss.centers.weight
    return [adam, torch.optim.SGD(loss.parameters(), rate)]


def finish(
    settings: argparse.Namespace,
    recipe: dict[str, Any],
    dataset: ReIDDataset,
    architecture: dict[str, Any],
    loop: TrainingLoop,
) -> None:
    """Write the network as it will be used, evaluate that, and print the figures."""
    device = loop.accelerator.device
    model = loop.saved
    card = settings.output / "model.json"
    dtype = getattr(torch, settings.stored_dtype)
    facts = {
        "recipe": recipe,
        "training": {
            "seconds": round(sum(row["seconds"] for row in loop.log)),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
        },
    }
    save_trained(model, card, architecture, dtype=dtype, **facts)
    results = evaluate(load_trained(card).to(device), dataset, settings, device)
    save_trained(model, card, architecture, dtype=dtype, **facts, results=results)
    write_json(settings.output / "results.json", results)
    print(json.dumps(results))


def evaluate(
    model: nn.Module,
    dataset: ReIDDataset,
    settings: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Return Rank-1, Rank-5, Rank-10 and mAP in percent, and the number of queries."""
    query, gallery = (
        embed_records(
            model,
            dataset,
            records,
            size=tuple(settings.image_size),
            workers=settings.workers,
            device=device,
        )
        for records in (dataset.query, dataset.gallery)
    )
    summary = summarize(match_ranks(query, gallery))
    cmc = {f"rank{k}": round(value, 3) for k, value in summary.cmc.items()}
    return {
        "dataset": dataset.name,
        **cmc,
        "mAP": round(summary.mean_ap, 3),
        "queries": summary.queries,
        "queries_without_match": summary.excluded,
        "gallery": len(dataset.gallery),
    }


if __name__ == "__main__":
    main()
