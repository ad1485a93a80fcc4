"""The training loop: epochs, log, checkpoints and resume, in one or several processes."""

import csv
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.checks import check_at_least
from reid_explain.errors import InputError

LOG = "log.csv"
CHECKPOINT = "checkpoint"
BEST = "best.safetensors"
VALIDATION = "validation_loss"


@dataclass
class TrainingLoop:
    """Train a module that maps a batch to loss terms; can be interrupted at any time.

    ``folder`` gets log.csv (a row per epoch), checkpoint/ (accelerate's state after the last
    completed epoch: weights, optimizers, gradient scaler, random generators) and, with
    ``validate``, best.safetensors (weights of the epoch with the lowest validation loss). A loop
    on a folder with a checkpoint continues it and ends with the same weights as one that was
    never interrupted (bit for bit on a CPU with the same number of threads), as every epoch
    starts from a seed of its own.

    Args:
        accelerator: devices, precision and processes; what it prepared before is released.
        step: maps images and labels of a batch to loss terms by name; the loss is their sum.
        optimizers: of the parameters of ``step``; the first follows ``learning_rate``.
        loader: its ``batch_sampler`` has an ``epoch`` that the loop sets.
        folder: of log and checkpoints.
        epochs: number of epochs, at least 1.
        learning_rate: maps a (fractional) epoch to a learning rate.
        seed: of the random choices in ``step``.
        saved: part of ``step`` that best.safetensors holds, all of it by default.
        validate: called in every process after each epoch, in eval mode; returns the loss.
        patience: stop after so many epochs without a lower validation loss; None never stops.
        after_epoch: called in the main process with the number of completed epochs, before
            their checkpoint is written.

    Raises:
        InputError: no epochs, or a checkpoint that some processes see and others do not.
    """

    accelerator: Accelerator
    step: nn.Module
    optimizers: Sequence[Optimizer]
    loader: DataLoader[tuple[Tensor, Tensor]]
    folder: Path
    epochs: int
    learning_rate: Callable[[float], float]
    seed: int = 0
    saved: nn.Module | None = None
    validate: Callable[[], float] | None = None
    patience: int | None = None
    after_epoch: Callable[[int], None] | None = None
    log: list[dict[str, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        check_at_least("epochs", self.epochs, 1)
        self._best_of = self.step if self.saved is None else self.saved
        self.accelerator.free_memory()  # Its checkpoints hold everything that it prepared.
        self.step, *self.optimizers = self.accelerator.prepare(self.step, *self.optimizers)
        self._restore()

    @property
    def completed_epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.log)

    @property
    def best_epoch(self) -> int:
        """Index of the epoch with the lowest validation loss; without validation the last one."""
        losses = [row.get(VALIDATION, -index) for index, row in enumerate(self.log)]
        return min(range(len(losses)), key=losses.__getitem__)

    def fit(self) -> None:
        """Train the remaining epochs."""
        while self.completed_epochs < self.epochs and not self._should_stop():
            epoch, started = self.completed_epochs, time.perf_counter()
            set_seed(self.seed + epoch)
            row = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            if self.validate is not None:
                self.step.eval()
                row[VALIDATION] = self.validate()
            self.log.append({**row, "seconds": round(time.perf_counter() - started, 3)})
            if self.after_epoch is not None and self.accelerator.is_main_process:
                self.after_epoch(self.completed_epochs)
            self._save()

    def _should_stop(self) -> bool:
        patience = float("inf") if self.patience is None else self.patience
        return bool(self.log) and self.completed_epochs - 1 - self.best_epoch >= patience

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.step.train()
        self.loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        count = len(self.loader)
        sums: dict[str, Tensor] = {}
        name, hidden = f"epoch {epoch + 1}/{self.epochs}", not self.accelerator.is_main_process
        bar = tqdm(self.loader, desc=name, unit="batch", disable=hidden)
        for number, (images, labels) in enumerate(bar):
            rate = self.learning_rate(epoch + number / count)
            for group in self.optimizers[0].param_groups:
                group["lr"] = rate
            terms = self._train_batch(images, labels)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
            if number % 10 == 0:
                bar.set_postfix({name: f"{float(value):.3f}" for name, value in terms.items()})
        totals = torch.stack(list(sums.values())) / count
        means = self.accelerator.reduce(totals, "mean").tolist()
        return {"loss": sum(means), **dict(zip(sums, means, strict=True)), "learning_rate": rate}

    def _train_batch(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        device = self.accelerator.device
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        terms: dict[str, Tensor] = self.step(images, labels.to(device))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.accelerator.backward(torch.stack(list(terms.values())).sum())
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    def _save(self) -> None:
        """Write the state after the last epoch; the log that counts it makes it valid."""
        new = self._checkpoint()
        self.accelerator.save_state(str(new))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if self.validate is not None and self.best_epoch == self.completed_epochs - 1:
                weights = {k: v.contiguous() for k, v in self._best_of.state_dict().items()}
                _replace(self.folder / BEST, lambda path: save_file(weights, path))
            _replace(self.folder / LOG, self._write_log)
            for old in new.parent.iterdir():
                if old != new:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        """Load the state after the last completed epoch, if there is one."""
        if (path := self.folder / LOG).is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            self.log = [row | {"epoch": int(row["epoch"])} for row in rows]
        epochs = torch.tensor(float(self.completed_epochs), device=self.accelerator.device)
        if float(self.accelerator.reduce(epochs, "mean")) != self.completed_epochs:
            raise InputError("folder", self.folder, "a folder that all machines share")
        if self.log:
            self.accelerator.load_state(str(self._checkpoint()))

    def _write_log(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.log[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.log)

    def _checkpoint(self) -> Path:
        return self.folder / CHECKPOINT / f"{self.completed_epochs:04d}"


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    partial.replace(path)
