"""Training of an interpreter (AMD, section 3.4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.decomposition import all_distances
from reid_explain.amd.interpreter import AMDInterpreter, Decomposed
from reid_explain.amd.loss import AMDLoss, pair_labels
from reid_explain.checks import check_at_least
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.metrics.attributes import frequencies
from reid_explain.training.images import (
    TrainingImages,
    augmentation,
    cached_pixels,
    to_input,
)
from reid_explain.training.loop import BEST, TrainingLoop
from reid_explain.training.sampling import IdentityBatches
from reid_explain.training.schedule import learning_rate_factor

WARMUP_START = 0.01
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How an interpreter is trained; the defaults are the paper's where it gives them.

    Args:
        epochs: Passes over the training images.
        images_per_epoch: Images that count as one pass, all of them by default.
        identities: P, identities per batch of all processes.
        instances: S, images per identity.
        learning_rate: Of Adam, after the warm-up; a cosine then takes it to 0.
        warmup_epochs: Linear from 1/100 of the learning rate.
        weight_decay: Of Adam.
        distillation: Weight of L_d / mean d. The paper's L_d is not divided; at its distances
            of about 50 its weight 1 is 50 here.
        alpha: Weight of L_p1.
        beta: Weight of L_p2.
        nu: ν of the prior share.
        validation_identities: Training identities that are held out to choose the best epoch.
        patience: Stop after so many epochs without a better validation loss.
        seed: Of everything random.
    """

    epochs: int = 30
    images_per_epoch: int | None = None
    identities: int = 6
    instances: int = 4
    learning_rate: float = 1e-4
    warmup_epochs: float = 10.0
    weight_decay: float = 5e-4
    distillation: float = 50.0
    alpha: float = 10.0
    beta: float = 50.0
    nu: float = 0.5
    validation_identities: int = 0
    patience: int | None = None
    seed: int = 0


class PairStep(nn.Module):
    """From images and their labels to the loss terms of all pairs of the batch.

    Args:
        interpreter: What is trained.
        loss: Of the pairs.
    """

    def __init__(self, interpreter: AMDInterpreter, loss: AMDLoss) -> None:
        super().__init__()
        self.interpreter = interpreter
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms of images (B, 3, H, W) with labels (B, M)."""
        return pair_terms(self.interpreter(images), labels, self.loss)


def pair_terms(decomposed: Decomposed, labels: Tensor, loss: AMDLoss) -> dict[str, Tensor]:
    """Return the loss terms over all pairs i < j of B images; same-identity pairs included.

    Args:
        decomposed: What an interpreter made of the images.
        labels: Attributes, (B, M): 1 or 2, and 0 where unknown.
        loss: Of the pairs.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    with torch.autocast(labels.device.type, enabled=False):
        parts = decomposed.parts.transpose(0, 1).contiguous()
        distances = all_distances(parts, parts)[:, first, second].T
        target = all_distances(decomposed.embeddings, decomposed.embeddings)[first, second]
        return loss(distances, target, pair_labels(labels[first], labels[second]))


def train_interpreter(
    interpreter: AMDInterpreter,
    dataset: ReIDDataset,
    folder: str | Path,
    recipe: Recipe | None = None,
    *,
    accelerator: Accelerator | None = None,
    workers: int = 0,
) -> list[dict[str, float]]:
    """Train ``interpreter`` on the training images of ``dataset`` and leave it in eval mode.

    The target is frozen while it lasts. ``folder`` gets what ``TrainingLoop`` writes, and the
    resized images; a call on the folder of an interrupted training goes on with it. The
    interpreter ends with the weights of the best epoch (the last one without held-out
    identities) and with its prototypes.

    Args:
        interpreter: What is trained.
        dataset: Training images, and attributes of their identities.
        folder: Of log and checkpoints.
        recipe: How; the defaults of ``Recipe`` if there is none.
        accelerator: Devices, precision and processes; the default is accelerate's. With n
            processes each compares the images of its P / n identities.
        workers: Processes that load images.

    Returns:
        The log, a row per epoch: loss, its terms, learning rate, seconds.

    Raises:
        InputError: A data set without training images, or without labels of their identities; a
            number of the recipe that does not fit.
    """
    recipe = recipe or Recipe()
    accelerator = accelerator or Accelerator()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records, held_out = split_records(dataset, recipe)
    sources = Sources(interpreter, dataset, recipe, accelerator, workers)
    train = sources.loader(records, folder / "train_images.npy", augmented=True)
    test = (
        sources.loader(held_out, folder / "held_out_images.npy", augmented=False)
        if held_out
        else None
    )
    interpreter.to(accelerator.device)
    step = PairStep(interpreter, AMDLoss(recipe.distillation, recipe.alpha, recipe.beta, recipe.nu))
    with frozen(interpreter.target):
        loop = TrainingLoop(
            accelerator,
            step,
            [optimizer(interpreter, recipe)],
            train,
            folder=folder,
            epochs=recipe.epochs,
            learning_rate=partial(learning_rate, recipe),
            seed=recipe.seed,
            saved=interpreter.network,
            validate=partial(validation_loss, step, test) if test else None,
            patience=recipe.patience,
        )
        loop.fit()
    if test:
        interpreter.network.load_state_dict(load_file(folder / BEST))
    interpreter.eval()
    people = {record.identity: record for record in records}.values()
    labels = record_labels(dataset, list(people), interpreter.attributes)
    interpreter.network.frequencies.copy_(frequencies(labels))
    fit_prototypes(interpreter, cast(TrainingImages[Tensor], train.dataset))
    return loop.log


def split_records(
    dataset: ReIDDataset, recipe: Recipe
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Return the training images, and those of the identities that are held out."""
    identities = sorted({record.identity for record in dataset.train})
    count = recipe.validation_identities
    check_at_least("validation_identities", count, 0)
    batch, most = recipe.identities, len(identities) - recipe.identities
    if count and not batch <= count <= most:
        raise InputError("validation_identities", count, f"0, or from {batch} to {most}")
    chosen = set(np.random.default_rng(recipe.seed).choice(identities, count, replace=False))
    train = [record for record in dataset.train if record.identity not in chosen]
    return train, [record for record in dataset.train if record.identity in chosen]


@dataclass(frozen=True)
class Sources:
    """Where the batches come from.

    Args:
        interpreter: Says which attributes and which size of image.
        dataset: Images and labels.
        recipe: Says how many of which.
        accelerator: Says which part of them is for this process.
        workers: Processes that load images.
    """

    interpreter: AMDInterpreter
    dataset: ReIDDataset
    recipe: Recipe
    accelerator: Accelerator
    workers: int = 0

    def loader(
        self, records: Sequence[Record], cache: Path, *, augmented: bool
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return P x S batches of images (B, 3, H, W) and labels (B, M).

        Augmented ones are this process's part of them and other ones in each epoch; the others
        are the same for every process.
        """
        recipe, spec = self.recipe, InputSpec(self.interpreter.image_size)
        with self.accelerator.local_main_process_first():
            pixels = cached_pixels(
                self.dataset,
                records,
                spec,
                cache,
                workers=self.workers,
                show_progress=self.accelerator.is_main_process,
            )
        labels = record_labels(self.dataset, records, self.interpreter.attributes)
        process = (self.accelerator.process_index, self.accelerator.num_processes)
        batches = IdentityBatches(
            [record.identity for record in records],
            recipe.identities,
            recipe.instances,
            (augmented and recipe.images_per_epoch) or len(records),
            recipe.seed,
            *(process if augmented else (0, 1)),
        )
        augment = augmentation(spec, erasing=0) if augmented else to_input(spec)
        return DataLoader(
            TrainingImages(pixels, labels.unbind(), recipe.seed, augment),
            batch_sampler=batches,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


def optimizer(interpreter: AMDInterpreter, recipe: Recipe) -> torch.optim.Optimizer:
    """Return Adam for the stages and the head."""
    parameters = interpreter.network.parameters()
    return torch.optim.Adam(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate at a (fractional) epoch."""
    factor = learning_rate_factor(
        epoch, recipe.epochs, recipe.warmup_epochs, "cosine", WARMUP_START
    )
    return recipe.learning_rate * factor


def validation_loss(step: PairStep, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Return the mean loss over the batches of ``loader``."""
    losses = []
    with torch.no_grad():
        for images, labels in loader:
            device = next(step.parameters()).device
            terms = step(images.to(device), labels.to(device))
            losses.append(sum(float(value) for value in terms.values()))
    return sum(losses) / len(losses)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let no parameter of ``module`` require gradients for a while."""
    free = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in free:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def fit_prototypes(interpreter: AMDInterpreter, images: TrainingImages[Tensor]) -> None:
    """Set the mean f^k of the images without and with each attribute, as they are unaugmented.

    Args:
        interpreter: In eval mode.
        images: With labels (M,) of each.
    """
    network = interpreter.network
    sums = torch.zeros_like(network.prototypes, dtype=torch.float64)
    counts = torch.zeros(sums.shape[:2], dtype=torch.float64, device=sums.device)
    normalized = to_input(InputSpec(interpreter.image_size))
    starts = range(0, len(images), BATCH)
    for start in tqdm(starts, desc="prototypes", unit="batch"):
        pixels = torch.from_numpy(np.array(images.pixels[start : start + BATCH]))
        labels = torch.stack(tuple(images.labels[start : start + BATCH])).to(sums.device)
        with torch.no_grad():
            parts = interpreter(normalized(pixels).to(sums.device)).parts.double()
        for value in (1, 2):
            mask = (labels == value).double()
            sums[value - 1] += torch.einsum("bm,bmd->md", mask, parts)
            counts[value - 1] += mask.sum(0)
    # A label that no image has is never the nearer one.
    means = sums / counts[..., None]
    network.prototypes.copy_(means.masked_fill(counts[..., None] == 0, torch.inf))
