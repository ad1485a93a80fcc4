"""Training of an interpreter (AMD, section 3.4)."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd.calibration import CALIBRATION, calibrate, drawn_identities
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


class PairStep(nn.Module):
    """Images and their labels to the loss terms of all pairs, by name."""

    def __init__(self, network: AMDNetwork, loss: AMDLoss) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compare images (B, 3, H, W), with labels (B, M): 1 or 2, and 0 where unknown."""
        return pair_terms(self.network(images), labels, self.loss)


def pair_terms(decomposed: Decomposed, labels: Tensor, loss: AMDLoss) -> dict[str, Tensor]:
    """Return the loss terms over all pairs i < j of B images; same-identity pairs included."""
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
    """Train ``interpreter`` and leave it in eval mode; its model is frozen meanwhile.

    ``folder`` gets what ``TrainingLoop`` writes and the resized images; a call on the folder of
    an interrupted training continues it. The interpreter ends with the weights of the best epoch
    (the last one without held-out identities) and with its prototypes; composites of
    the held-out identities set its scale, of which calibration.json tells.

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
    model, network, spec = interpreter.model, interpreter.network, interpreter.spec
    processes = (accelerator.process_index, accelerator.num_processes)
    train, test = training_parts(interpreter, dataset, recipe, *processes)
    folder.mkdir(parents=True, exist_ok=True)

    def loader(part: Part, name: str, augment: Any) -> DataLoader[tuple[Tensor, Tensor]]:
        wanted = dataset, part.records, spec, folder / name
        loading: Any = {"workers": workers, "show_progress": accelerator.is_main_process}
        with accelerator.local_main_process_first():
            pixels = cached_pixels(*wanted, **loading)
        images = TrainingImages(pixels, part.labels.unbind(), recipe.seed, augment)
        keep: Any = {"num_workers": workers, "persistent_workers": workers > 0}
        return DataLoader(images, batch_sampler=part.batches, **keep)

    images = loader(train, "train_images.npy", augmentation(spec, erasing=0))
    step = PairStep(network, AMDLoss(recipe.distillation, recipe.alpha, recipe.beta, recipe.nu))
    validate = None
    if test:
        held_out = loader(test, "held_out_images.npy", to_input(spec))
        validate = partial(validation_loss, step, held_out)
    interpreter.to(accelerator.device)
    network.scale.fill_(1)
    with ExitStack() as stack:
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        loop = TrainingLoop(
            accelerator,
            step,
            [torch.optim.Adam(network.parameters(), weight_decay=recipe.weight_decay)],
            images,
            folder=folder,
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate_at,
            seed=recipe.seed,
            saved=network,
            validate=validate,
            patience=recipe.patience,
        )
        loop.fit()
    if test:
        network.load_state_dict(load_file(folder / BEST))
    network.eval()
    people = {record.identity: row for record, row in zip(train.records, train.labels, strict=True)}
    network.frequencies.copy_(frequencies(torch.stack([*people.values()])))
    fit_prototypes(interpreter, images.dataset)
    if test:
        found = calibrate(interpreter, dataset, test.records, composite=True, workers=workers)
        if accelerator.is_main_process:
            (folder / CALIBRATION).write_text(json.dumps(found._asdict()), encoding="utf-8")
    return loop.log


class Part(NamedTuple):
    """Images of a training: N records, their attributes (N, M), and P x S batches of them."""

    records: list[Record]
    labels: Tensor
    batches: IdentityBatches


def training_parts(
    interpreter: AMDInterpreter,
    dataset: ReIDDataset,
    recipe: Recipe,
    process: int = 0,
    processes: int = 1,
) -> tuple[Part, Part | None]:
    """Return one process's share of the training images, and the held-out ones if there are any."""
    recipe.check()
    identities = {record.identity for record in dataset.train}
    count, most = recipe.validation_identities, len(identities) - recipe.identities
    if count and not recipe.identities <= count <= most:
        expected = f"0, or from {recipe.identities} to {most}"
        raise InputError("validation_identities", count, expected)
    chosen = drawn_identities(dataset.train, count, recipe.seed)

    def part(held_out: bool, images: int | None, *share: int) -> Part:
        records = [record for record in dataset.train if (record.identity in chosen) == held_out]
        size = (recipe.identities, recipe.instances, images or len(records), recipe.seed)
        batches = IdentityBatches([record.identity for record in records], *size, *share)
        return Part(records, record_labels(dataset, records, interpreter.attributes), batches)

    train = part(False, recipe.images_per_epoch, process, processes)
    return train, part(True, None) if count else None


def validation_loss(step: PairStep, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    """Return the mean loss over the batches of ``loader``."""
    device = next(step.parameters()).device
    with torch.no_grad():
        terms = [step(images.to(device), labels.to(device)) for images, labels in loader]
    return sum(float(value) for batch in terms for value in batch.values()) / len(terms)


def fit_prototypes(interpreter: AMDInterpreter, images: Any) -> None:
    """Set the mean f^k of ``TrainingImages`` without and with each attribute, not augmented."""
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
