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
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from run_folder import claim, csv_line, write_json, write_text
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.datasets.catalogue import DATASET_NAMES, SYNTHETIC, open_dataset
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.errors import InputError
from reid_explain.metrics.embedding import embed_records
from reid_explain.metrics.retrieval import match_ranks, summarize
from reid_explain.models.build import MODEL_NAMES, build_model
from reid_explain.models.osnet import OSNet
from reid_explain.models.pretrained import load_trained, save_trained
from reid_explain.models.reid import POOLINGS, RESNETS, ReIDNet
from reid_explain.training.images import TrainingImages, cached_pixels
from reid_explain.training.losses import METRIC_LOSSES, CenterLoss, ReIDLoss
from reid_explain.training.sampling import IdentityBatches
from reid_explain.training.schedule import SCHEDULES, learning_rate_factor

# What may differ between a run and its continuation.
FREE_SETTINGS = ("output", "resume", "root", "cache", "workers")
CENTER_LEARNING_RATE = 0.5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", choices=DATASET_NAMES, default=SYNTHETIC)
    add("--root", type=Path, help="the data set's folder; synthetic has none")
    add("--output", type=Path, required=True, help="folder of this run")
    add("--resume", action="store_true", help="continue the run in the output folder")
    add("--cache", type=Path, help="file of the resized training images, default in --output")
    add("--workers", type=int, default=1, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--image-size", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))

    add("--backbone", choices=MODEL_NAMES, default="resnet18")
    add("--width", type=float, default=1.0, help="factor on the planes of a ResNet's stages")
    add("--pooling", choices=tuple(POOLINGS), default="avg", help="of a ResNet")

    add("--identities", type=int, default=16, help="P, identities per batch of all processes")
    add("--instances", type=int, default=4, help="S, images per identity")
    add("--images-per-epoch", type=int, help="default: the size of the training split")
    add("--epochs", type=int, default=120)
    add("--warmup-epochs", type=float, default=10)
    add("--schedule", choices=SCHEDULES, default="step")
    add("--learning-rate", type=float, default=3.5e-4)
    add("--weight-decay", type=float, default=5e-4)
    add("--precision", choices=("float32", "bfloat16"), default="float32")

    add("--metric-loss", choices=METRIC_LOSSES, default="triplet")
    add("--label-smoothing", type=float, default=0.1)
    add("--centre-loss", action="store_true", help="add the centre loss, weight 0.0005")
    add("--stored-dtype", choices=("float32", "float16"), default="float32")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, save and evaluate; a wrong input ends with one line that says what was wrong."""
    settings = parse_arguments(arguments)
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    # Without this, processes started by torchrun on a CPU would not know of each other.
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available())
    torch.backends.cudnn.deterministic = True
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
    architecture = architecture_of(settings, classes=len(class_numbers(dataset.train)))
    training = Training(settings, accelerator, dataset, architecture)
    training.fit()
    if accelerator.is_main_process:
        finish(settings, recipe, dataset, architecture, training)


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


def architecture_of(settings: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Return the arguments of ``build_model`` for this run."""
    architecture = {"name": settings.backbone, "num_classes": classes}
    if settings.backbone in RESNETS:
        architecture |= {"pooling": settings.pooling, "width": settings.width}
    return architecture


def class_numbers(records: Sequence[Record]) -> dict[int, int]:
    """Return the class of each training identity: its place in the sorted order."""
    return {identity: k for k, identity in enumerate(sorted({r.identity for r in records}))}


class Step(nn.Module):
    """One module from images to loss terms, so that several processes average all gradients."""

    def __init__(self, model: ReIDNet | OSNet, loss: ReIDLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms of images (B, 3, H, W) with classes (B,)."""
        pooled = self.model.pool(self.model.features(images))
        logits = self.model.classify(self.model.neck(pooled))
        terms: dict[str, Tensor] = self.loss(pooled, logits, labels)
        return terms


class Training:
    """The state of a run between two epochs, and the way from one to the next."""

    def __init__(
        self,
        settings: argparse.Namespace,
        accelerator: Accelerator,
        dataset: ReIDDataset,
        architecture: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.log: list[dict[str, float]] = []
        set_seed(settings.seed)
        self.model = build_model(**architecture).to(memory_format=torch.channels_last)
        classes, channels = architecture["num_classes"], self.model.channels
        centers = CenterLoss(classes, channels) if settings.centre_loss else None
        loss = ReIDLoss(settings.metric_loss, settings.label_smoothing, centers)
        self.optimizers = optimizers(self.model, loss, settings)
        self.step = Step(self.model, loss).to(accelerator.device)
        self.loader, self.batches = self._data(dataset)
        self.epoch = self._restore()
        self.prepared, *self.optimizers = accelerator.prepare(self.step, *self.optimizers)

    def fit(self) -> None:
        """Train the epochs that are left."""
        for epoch in range(self.epoch, self.settings.epochs):
            started = time.perf_counter()
            set_seed(self.settings.seed + epoch)
            means = self._train_epoch(epoch)
            seconds = round(time.perf_counter() - started, 3)
            row = {"epoch": epoch + 1, **means, "seconds": seconds}
            self.log.append(row)
            if self.accelerator.is_main_process:
                self._save(epoch + 1)
                write_log(self.settings.output / "log.csv", self.log)

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.prepared.train()
        self.batches.epoch = epoch
        sums: dict[str, Tensor] = {}
        bar = tqdm(
            self.loader,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            unit="batch",
            disable=not self.accelerator.is_main_process,
        )
        for number, (images, labels) in enumerate(bar):
            rate = self._set_learning_rate(epoch + number / len(self.batches))
            terms = self._train_batch(images, labels)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
            if number % 10 == 0:
                bar.set_postfix({name: f"{float(value):.3f}" for name, value in terms.items()})
        totals = torch.stack(list(sums.values())) / len(self.batches)
        means = self.accelerator.reduce(totals, "mean").tolist()
        named = dict(zip(sums, means, strict=True))
        return {"loss": sum(means), **named, "learning_rate": rate}

    def _train_batch(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        device = self.accelerator.device
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        terms: dict[str, Tensor] = self.prepared(images, labels.to(device))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.accelerator.backward(torch.stack(list(terms.values())).sum())
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    def _set_learning_rate(self, epoch: float) -> float:
        s = self.settings
        factor = learning_rate_factor(epoch, s.epochs, s.warmup_epochs, s.schedule)
        for group in self.optimizers[0].param_groups:
            group["lr"] = s.learning_rate * factor
        return float(s.learning_rate * factor)

    def _data(self, dataset: ReIDDataset) -> tuple[DataLoader[tuple[Tensor, int]], IdentityBatches]:
        s, accelerator = self.settings, self.accelerator
        with accelerator.main_process_first():
            pixels = cached_pixels(
                dataset,
                dataset.train,
                tuple(s.image_size),
                s.cache or s.output / "train_images.npy",
                workers=s.workers,
                show_progress=accelerator.is_main_process,
            )
        numbers = class_numbers(dataset.train)
        labels = [numbers[record.identity] for record in dataset.train]
        batches = IdentityBatches(
            labels,
            s.identities,
            s.instances,
            s.images_per_epoch or len(labels),
            s.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        loader = DataLoader(
            TrainingImages(pixels, labels, s.seed),
            batch_sampler=batches,
            num_workers=s.workers,
            persistent_workers=s.workers > 0,
        )
        return loader, batches

    def _save(self, epochs: int) -> None:
        """Put the state after ``epochs`` epochs in place of the last one, whole or not at all."""
        new = self.settings.output / "checkpoint.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        weights = {key: value.contiguous() for key, value in self.step.state_dict().items()}
        save_file(weights, new / "model.safetensors")
        state = {
            "epochs": epochs,
            "log": self.log,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, new / "training.pt")
        replace_folder(new, self.settings.output / "checkpoint")

    def _restore(self) -> int:
        """Take up the last finished epoch, if there is one; return how many are finished."""
        folder = self.settings.output / "checkpoint"
        old = folder.with_suffix(".old")
        if not folder.is_dir() and old.is_dir():
            folder = old
        if not folder.is_dir():
            return 0
        self.step.load_state_dict(load_file(folder / "model.safetensors"))
        state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.log = state["log"]
        return int(state["epochs"])


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
    training: Training,
) -> None:
    """Write the network as it will be used, evaluate that, and print the figures."""
    device = training.accelerator.device
    card = settings.output / "model.json"
    dtype = getattr(torch, settings.stored_dtype)
    facts = {
        "recipe": recipe,
        "training": {
            "seconds": round(sum(row["seconds"] for row in training.log)),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "torch": torch.__version__,
        },
    }
    save_trained(training.model, card, architecture, dtype=dtype, **facts)
    results = evaluate(load_trained(card).to(device), dataset, settings, device)
    save_trained(training.model, card, architecture, dtype=dtype, **facts, results=results)
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


def replace_folder(new: Path, folder: Path) -> None:
    """Move ``new`` to ``folder``; at every moment one of the two or ``.old`` is whole."""
    old = folder.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Write one CSV row per epoch, whole or not at all."""
    lines = [csv_line(list(rows[0]))]
    lines += [csv_line([str(value) for value in row.values()]) for row in rows]
    write_text(path, "".join(lines))


if __name__ == "__main__":
    main()
