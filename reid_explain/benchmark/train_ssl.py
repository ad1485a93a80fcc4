"""Training without labels: BYOL on any backbone.

    python benchmarks/train_ssl.py train --backbone resnet18 --output runs/ssl
    python benchmarks/train_ssl.py evaluate --run runs/ssl --output outputs/ssl

``train`` writes settings.json, log.csv, checkpoint/ (the last completed epoch) and, for each epoch
of --keep, the online network as epoch_NNNN.json with epoch_NNNN.safetensors (load_trained reads
them); --resume continues it exactly. ``evaluate`` is ``reid_explain.benchmark.epochs``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, KwargsHandler, set_seed
from lightly.models.utils import get_weight_decay_parameters

from reid_explain.benchmark.command_line import one_line_errors, read
from reid_explain.benchmark.epochs import EpochMaps
from reid_explain.benchmark.training_run import TrainingSettings
from reid_explain.training.byol import BYOL, view_by_view
from reid_explain.training.images import TrainingImages
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor
from reid_explain.training.views import SMALLEST_CROP, TwoViews

SGD_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class BYOLTraining(TrainingSettings):
    """Train a network without labels (BYOL), and keep it after some of the epochs.

    Args:
        keep: epochs after which the network is kept; by default six, evenly spaced
        smallest_crop: smallest crop, a share of the image's area
        hidden: width of projector and predictor
        batch: images per batch of all processes
        warmup_epochs: epochs of linear warm-up; a cosine follows
        learning_rate: of SGD, after the warm-up
        weight_decay: of SGD
        momentum: of the target network at the start
    """

    epochs: int = 200
    keep: tuple[int, ...] = ()
    smallest_crop: float = SMALLEST_CROP
    hidden: int = 4096
    batch: int = 128
    warmup_epochs: float = 10.0
    learning_rate: float = 0.06
    weight_decay: float = 5e-4
    momentum: float = 0.99

    # The neck is not used.
    handlers: ClassVar[tuple[KwargsHandler, ...]] = (
        DistributedDataParallelKwargs(find_unused_parameters=True),
    )

    def train(self, accelerator: Accelerator) -> None:
        """Train and keep networks in one of the processes of ``accelerator``."""
        dataset = self.open_dataset()
        processes = (accelerator.process_index, accelerator.num_processes)
        batches = ShuffledBatches(len(dataset.train), self.batch, self.seed, *processes)
        set_seed(self.seed)
        architecture = self.architecture()
        model = self.network(architecture)
        steps = self.epochs * len(batches)
        byol = BYOL(model, steps, self.momentum, self.hidden).to(accelerator.device)
        kept = sorted(self.keep) or [self.epochs * sixth // 5 for sixth in range(6)]
        recipe, pixels = self.start(accelerator, dataset, model.input_spec, keep=kept)
        views = TwoViews(model.input_spec, self.smallest_crop)
        images = TrainingImages(pixels, range(len(pixels)), self.seed, views)

        def keep(epoch: int) -> None:
            if epoch in kept:
                name = f"epoch_{epoch:04d}"
                self.save(model, name, architecture, epoch=epoch, recipe=recipe)

        optimizers = [self.optimizer(byol)]
        loop = self.loop(accelerator, byol, optimizers, images, batches, view_by_view, keep)
        if accelerator.is_main_process and loop.completed_epochs == 0:
            keep(0)
        loop.fit()

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        warmup = self.warmup_epochs
        return self.learning_rate * learning_rate_factor(epoch, self.epochs, warmup, "cosine")

    def optimizer(self, byol: BYOL) -> torch.optim.Optimizer:
        """Return SGD with momentum for the online network; biases and norms do not decay."""
        decayed, free = get_weight_decay_parameters([byol.online, byol.predictor])
        return torch.optim.SGD(
            [{"params": decayed}, {"params": free, "weight_decay": 0.0}],
            self.learning_rate,
            momentum=SGD_MOMENTUM,
            weight_decay=self.weight_decay,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or evaluate as a command line says."""
    train = Annotated[BYOLTraining, tyro.conf.subcommand("train")]
    evaluate = Annotated[EpochMaps, tyro.conf.subcommand("evaluate")]
    either: Any = train | evaluate
    with one_line_errors("train_ssl.py"):
        settings = read(either, arguments, "train_ssl.py")
        settings.evaluate() if isinstance(settings, EpochMaps) else settings.run()
