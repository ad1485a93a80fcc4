"""The loop of every training here: epochs, log, checkpoints, resume, one or several processes."""

import csv
import io
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

CHECKPOINT = "checkpoint"
BEST = "best.safetensors"
VALIDATION = "validation_loss"


class TrainingLoop:
    """Trains a module that turns a batch into loss terms, and can be interrupted at any time.

    ``folder`` gets log.csv (a row per epoch), checkpoint/ (the state after the last finished
    epoch) and, with ``validate``, best.safetensors (the weights of the epoch with the lowest
    validation loss). A loop on a folder with a checkpoint goes on after it, and ends with the
    same weights as one that was never interrupted (bit for bit on the CPU with the same number
    of threads): what is random depends on seed and epoch alone.

    Args:
        accelerator: devices, precision and processes.
        step: images and labels of a batch to loss terms by name, which are added up.
        optimizers: of the parameters of ``step``; the first follows ``learning_rate``.
        loader: its ``batch_sampler`` has an ``epoch`` that the loop sets.
        folder: of log and checkpoints.
        epochs: how many to train.
        learning_rate: of a (fractional) epoch.
        seed: of what is random in ``step``.
        saved: what of ``step`` is stored, all of it by default.
        validate: called after each epoch, in eval mode, by every process; its figure goes into
            the log, the lower the better.
        patience: stop after so many epochs without a better validation loss; None never does.
        after_epoch: called by the main process with the number of finished epochs, before their
            state is stored: no state without what it wrote.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        step: nn.Module,
        optimizers: Sequence[Optimizer],
        loader: DataLoader[tuple[Tensor, Tensor]],
        *,
        folder: Path,
        epochs: int,
        learning_rate: Callable[[float], float],
        seed: int = 0,
        saved: nn.Module | None = None,
        validate: Callable[[], float] | None = None,
        patience: int | None = None,
        after_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.loader = loader
        self.folder = folder
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.seed = seed
        self.saved = step if saved is None else saved
        self.validate = validate
        self.patience = patience
        self.after_epoch = after_epoch
        self.log: list[dict[str, float]] = []
        self.optimizers = list(optimizers)
        self._restore()
        self.step, *self.optimizers = accelerator.prepare(step, *optimizers)

    @property
    def finished_epochs(self) -> int:
        """How many epochs are behind."""
        return len(self.log)

    def fit(self) -> None:
        """Train the epochs that are left."""
        while self.finished_epochs < self.epochs and not self._lost_patience():
            epoch = self.finished_epochs
            started = time.perf_counter()
            set_seed(self.seed + epoch)
            row = {"epoch": epoch + 1, **self._train_epoch(epoch)}
            if self.validate is not None:
                self.step.eval()
                row[VALIDATION] = self.validate()
            self.log.append({**row, "seconds": round(time.perf_counter() - started, 3)})
            if self.accelerator.is_main_process:
                if self.after_epoch is not None:
                    self.after_epoch(self.finished_epochs)
                self._save()
                write_log(self.folder / "log.csv", self.log)
            self.accelerator.wait_for_everyone()

    @property
    def best_epoch(self) -> int:
        """Index of the epoch with the lowest validation loss, the last one without validation."""
        losses = [row.get(VALIDATION, -index) for index, row in enumerate(self.log)]
        return min(range(len(losses)), key=losses.__getitem__)

    def _lost_patience(self) -> bool:
        if self.patience is None or not self.log:
            return False
        return self.finished_epochs - 1 - self.best_epoch >= self.patience

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        self.step.train()
        self.loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        count = len(self.loader)
        sums: dict[str, Tensor] = {}
        bar = tqdm(
            self.loader,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="batch",
            disable=not self.accelerator.is_main_process,
        )
        for number, (images, labels) in enumerate(bar):
            rate = self._set_learning_rate(epoch + number / count)
            terms = self._train_batch(images, labels)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
            if number % 10 == 0:
                bar.set_postfix({name: f"{float(value):.3f}" for name, value in terms.items()})
        totals = torch.stack(list(sums.values())) / count
        means = self.accelerator.reduce(totals, "mean").tolist()
        named = dict(zip(sums, means, strict=True))
        return {"loss": sum(means), **named, "learning_rate": rate}

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

    def _set_learning_rate(self, epoch: float) -> float:
        rate = self.learning_rate(epoch)
        for group in self.optimizers[0].param_groups:
            group["lr"] = rate
        return rate

    def _save(self) -> None:
        """Put the state in place of the last one, whole or not at all."""
        new = self.folder / f"{CHECKPOINT}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        weights = {key: value.contiguous() for key, value in self.saved.state_dict().items()}
        save_file(weights, new / "model.safetensors")
        state = {
            "log": self.log,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(state, new / "training.pt")
        if self.validate is not None and self.best_epoch == self.finished_epochs - 1:
            partial = self.folder / f"{BEST}.partial"
            save_file(weights, partial)
            partial.replace(self.folder / BEST)
        replace_folder(new, self.folder / CHECKPOINT)

    def _restore(self) -> None:
        """Take up the last finished epoch, if there is one."""
        folder = self.folder / CHECKPOINT
        old = folder.with_suffix(".old")
        if not folder.is_dir() and old.is_dir():
            folder = old
        if not folder.is_dir():
            return
        self.saved.load_state_dict(load_file(folder / "model.safetensors"))
        state = torch.load(folder / "training.pt", map_location="cpu", weights_only=True)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.log = state["log"]


def replace_folder(new: Path, folder: Path) -> None:
    """Move ``new`` to ``folder``; at every moment one of the two or ``.old`` is whole."""
    old = folder.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_log(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one CSV row per epoch, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    partial = path.with_suffix(".partial")
    partial.write_text(text.getvalue(), encoding="utf-8")
    partial.replace(path)
