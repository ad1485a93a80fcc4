"""Training of an interpreter (AMD, section 3.4)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.decomposition import all_distances
from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.amd.loss import AMDLoss, pair_labels
from reid_explain.amd.network import AMDNetwork, Decomposed
from reid_explain.amd.recipe import Recipe
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.metrics.attributes import frequencies
from reid_explain.training.images import TrainingImages, augmentation, cached_pixels, to_input
from reid_explain.training.loop import BEST, TrainingLoop
from reid_explain.training.sampling import IdentityBatches

BATCH = 64
Batches = DataLoader[tuple[Tensor, Tensor]]


class PairStep(nn.Module):
    """Map images (B, 3, H, W) and their labels (B, M) to the loss terms of all pairs."""

    def __init__(self, network: AMDNetwork, loss: AMDLoss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms by name."""
        return pair_terms(self.network(images), labels, self.loss)


def pair_terms(decomposed: Decomposed, labels: Tensor, loss: AMDLoss) -> dict[str, Tensor]:
    """Return the loss terms over all pairs i < j of B images; same-identity pairs included.

    Args:
        decomposed: the images, decomposed.
        labels: attributes, (B, M): 1 or 2, and 0 where unknown.
        loss: of the pairs.
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

    The model is frozen meanwhile. ``folder`` gets what ``TrainingLoop`` writes and the resized
    images; a call on the folder of an interrupted training continues it. The interpreter ends
    with the weights of the best epoch (the last one without held-out identities) and with its
    prototypes.

    Args:
        interpreter: the one to train.
        dataset: training images, and attributes of their identities.
        folder: of log and checkpoints.
        recipe: the defaults of ``Recipe`` if there is none.
        accelerator: devices, precision and processes; the default is accelerate's. Each of n
            processes compares the images of its P / n identities.
        workers: processes that load images.

    Returns:
        The log, a row per epoch: loss, its terms, learning rate, seconds.

    Raises:
        InputError: a data set without training images, or without labels of their identities; a
            number of the recipe that does not fit.
    """
    recipe, accelerator, folder = recipe or Recipe(), accelerator or Accelerator(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec, network = interpreter.spec, interpreter.network

    def images_of(records: Sequence[Record], name: str) -> TrainingImages[Tensor]:
        labels = record_labels(dataset, records, interpreter.attributes)
        options = {"workers": workers, "show_progress": accelerator.is_main_process}
        with accelerator.local_main_process_first():
            pixels = cached_pixels(dataset, records, spec, folder / name, **options)
        return TrainingImages(pixels, labels.unbind(), recipe.seed, augmentation(spec, erasing=0))

    records, held_out = split_records(dataset, recipe)
    images = images_of(records, "train_images.npy")
    processes = (accelerator.process_index, accelerator.num_processes)
    loss = AMDLoss(recipe.distillation, recipe.alpha, recipe.beta, recipe.nu)
    step, validate = PairStep(network, loss), None
    if held_out:
        test = images_of(held_out, "held_out_images.npy")
        test.augment = to_input(spec)
        validate = partial(validation_loss, step, batches(test, held_out, recipe, None, workers))
    interpreter.to(accelerator.device)
    with frozen(interpreter.model):
        loop = TrainingLoop(
            accelerator,
            step,
            [torch.optim.Adam(network.parameters(), weight_decay=recipe.weight_decay)],
            batches(images, records, recipe, recipe.images_per_epoch, workers, *processes),
            folder=folder,
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate_at,
            seed=recipe.seed,
            saved=network,
            validate=validate,
            patience=recipe.patience,
        )
        loop.fit()
    if held_out:
        network.load_state_dict(load_file(folder / BEST))
    network.eval()
    people = {record.identity: record for record in records}
    labels = record_labels(dataset, [*people.values()], interpreter.attributes)
    network.frequencies.copy_(frequencies(labels))
    fit_prototypes(interpreter, images)
    return loop.log


def split_records(
    dataset: ReIDDataset, recipe: Recipe
) -> tuple[Sequence[Record], Sequence[Record]]:
    """Return the training images, and those of the identities that are held out."""
    identities = sorted({record.identity for record in dataset.train})
    count, batch = recipe.validation_identities, recipe.identities
    most = len(identities) - batch
    if count and not batch <= count <= most:
        raise InputError("validation_identities", count, f"0, or from {batch} to {most}")
    chosen = set(np.random.default_rng(recipe.seed).choice(identities, count, replace=False))
    train = [record for record in dataset.train if record.identity not in chosen]
    return train, [record for record in dataset.train if record.identity in chosen]


def batches(
    images: TrainingImages[Tensor],
    records: Sequence[Record],
    recipe: Recipe,
    per_epoch: int | None,
    workers: int,
    process: int = 0,
    processes: int = 1,
) -> Batches:
    """Return P x S batches of images (B, 3, H, W) and labels (B, M), one process's share of them.

    An epoch has ``per_epoch`` images, all of them by default.
    """
    identities = [record.identity for record in records]
    size = (recipe.identities, recipe.instances, per_epoch or len(records))
    return DataLoader(
        images,
        batch_sampler=IdentityBatches(identities, *size, recipe.seed, process, processes),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def validation_loss(step: PairStep, loader: Batches) -> float:
    """Return the mean loss over the batches of ``loader``."""
    device = next(step.parameters()).device
    with torch.no_grad():
        terms = [step(images.to(device), labels.to(device)) for images, labels in loader]
    return sum(float(value) for batch in terms for value in batch.values()) / len(terms)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Temporarily freeze ``module``."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def fit_prototypes(interpreter: AMDInterpreter, images: TrainingImages[Tensor]) -> None:
    """Set the mean f^k of the images without and with each attribute, without augmentation."""
    prototypes = interpreter.network.prototypes
    sums = torch.zeros_like(prototypes, dtype=torch.float64)
    counts = sums.new_zeros(*sums.shape[:2], 1)
    normalize = to_input(interpreter.spec)
    for start in tqdm(range(0, len(images), BATCH), desc="prototypes", unit="batch"):
        pixels = torch.from_numpy(np.array(images.pixels[start : start + BATCH]))
        labels = torch.stack(tuple(images.labels[start : start + BATCH])).to(sums.device)
        parts = interpreter.decompose(normalize(pixels)).parts.double()
        for value in (1, 2):
            mask = (labels == value).double()
            sums[value - 1] += torch.einsum("bm,bmd->md", mask, parts)
            counts[value - 1] += mask.sum(0)[:, None]
    # A label that no image has is never the nearer one.
    prototypes.copy_((sums / counts).masked_fill(counts == 0, torch.inf))
