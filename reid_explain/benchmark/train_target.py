"""Training of a re-identification network by the bag of tricks (Luo et al., CVPRW 2019).

    python benchmarks/train_target.py --dataset synthetic --backbone resnet18 --output runs/target

The output folder gets settings.json, log.csv (one row per epoch), checkpoint/ (the last completed
epoch), model.json with model.safetensors (load_trained reads them) and results.json. An
interrupted run continues with --resume and ends with the same weights (bit for bit on the CPU
with the same number of threads). Processes that torchrun or accelerate launch starts share each
batch, whole identities to each; batch norm and the search for the hardest triplets see one
process's part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional

from reid_explain.benchmark.command_line import one_line_errors, read
from reid_explain.benchmark.training_run import TrainingSettings
from reid_explain.datasets.records import Record
from reid_explain.errors import InputError
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.parts import PartNet
from reid_explain.training.images import TrainingImages, augmentation
from reid_explain.training.losses import CenterLoss, ReIDLoss
from reid_explain.training.sampling import Draw, IdentityBatches
from reid_explain.training.schedule import learning_rate_factor

CENTER_LEARNING_RATE = 0.5


@dataclass(frozen=True, kw_only=True)
class TargetTraining(TrainingSettings):
    """Train a re-identification network with the bag of tricks (Luo et al., CVPRW 2019).

    Args:
        identities: P, identities per batch of all processes
        instances: S, images per identity
        images_per_epoch: by default the size of the training split
        half_size_epochs: first epochs on images of half the size
        warmup_epochs: epochs of linear warm-up
        schedule: of the learning rate after it
        learning_rate: of Adam, after the warm-up
        weight_decay: of Adam
        metric_loss: beside the identity loss
        label_smoothing: of the identity loss
        center_loss: add the center loss, weight 0.0005
    """

    epochs: int = 120
    identities: int = 16
    instances: int = 4
    images_per_epoch: int | None = None
    half_size_epochs: int = 0
    warmup_epochs: float = 10.0
    schedule: Literal["step", "cosine"] = "step"
    learning_rate: float = 3.5e-4
    weight_decay: float = 5e-4
    metric_loss: Literal["triplet", "soft-triplet", "circle"] = "triplet"
    label_smoothing: float = 0.1
    center_loss: bool = False

    def train(self, accelerator: Accelerator) -> None:
        """Train, save and evaluate in one of the processes of ``accelerator``."""
        dataset = self.open_dataset()
        labels = class_labels(dataset.train)
        sizes = (self.identities, self.instances, self.images_per_epoch or len(labels))
        processes = (accelerator.process_index, accelerator.num_processes)
        batches = IdentityBatches(labels, *sizes, self.seed, *processes)
        set_seed(self.seed)
        architecture = self.architecture(num_classes=len({*labels}))
        model = self.network(architecture)
        if isinstance(model, PartNet):
            raise InputError("backbone", self.backbone, "a network with one classifier")
        centers = CenterLoss(len({*labels}), model.channels) if self.center_loss else None
        loss = ReIDLoss(self.metric_loss, self.label_smoothing, centers)
        step = Step(model, loss).to(accelerator.device)
        recipe, pixels = self.start(accelerator, dataset, model.input_spec)
        augment = augmentation(model.input_spec)
        images = SmallFirst(pixels, labels, self.seed, augment, self.half_size_epochs)
        loop = self.loop(accelerator, step, self.optimizers(model, loss), images, batches)
        loop.fit()
        if accelerator.is_main_process:
            self.finish(model, architecture, dataset, recipe, loop)

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        warmup = self.warmup_epochs
        return self.learning_rate * learning_rate_factor(epoch, self.epochs, warmup, self.schedule)

    def optimizers(self, model: nn.Module, loss: ReIDLoss) -> list[torch.optim.Optimizer]:
        """Return Adam for the network and, with the center loss, SGD for its centers."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adam = torch.optim.Adam(trained, self.learning_rate, weight_decay=self.weight_decay)
        if loss.centers is None:
            return [adam]
        # The weight of the loss must not slow the centers down.
        rate = CENTER_LEARNING_RATE / loss.centers.weight
        return [adam, torch.optim.SGD(loss.parameters(), rate)]


class Step(nn.Module):
    """From images to loss terms in one module, so that processes average all gradients."""

    def __init__(self, model: EmbeddingNet, loss: ReIDLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss terms of images (B, 3, H, W) with classes (B,)."""
        pooled = self.model.pool(self.model.features(images))
        logits = self.model.classify(self.model.neck(pooled))
        terms: dict[str, Tensor] = self.loss(pooled, logits, labels)
        return terms


@dataclass
class SmallFirst(TrainingImages[int]):
    """Training images, of half the size in the first ``half_size_epochs``."""

    half_size_epochs: int = 0

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return the augmented image and the label of one draw."""
        image, label = super().__getitem__(draw)
        is_small = draw.epoch < self.half_size_epochs
        return (functional.avg_pool2d(image, 2) if is_small else image), label


def class_labels(records: Sequence[Record]) -> list[int]:
    """Return the class of each image: the place of its identity in sorted order."""
    identities = sorted({record.identity for record in records})
    return [identities.index(record.identity) for record in records]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save and evaluate as a command line says."""
    with one_line_errors("train_target.py"):
        read(TargetTraining, arguments, "train_target.py").run()
