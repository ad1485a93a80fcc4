"""Train the head of AmortizedFAM for a model, on images without labels.

    python benchmarks/train_amortized.py --output runs/amortized
    python benchmarks/train_amortized.py --dataset market1501 --root DIR --weights FILE --output DIR
    python benchmarks/train_amortized.py --output runs/amortized --resume

Writes settings.json, log.csv, checkpoint/ (the last completed epoch) and, at the end,
head.safetensors, which is the ``head`` of ``AmortizedFAM``.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from reid_explain.benchmark.command_line import TargetOptions, one_line_errors, read
from reid_explain.benchmark.run import claim
from reid_explain.benchmark.target import Target
from reid_explain.capture import capture
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError
from reid_explain.explainers.amortized import HEADS, AmortizedFAM
from reid_explain.files import atomic
from reid_explain.fills import AREAS
from reid_explain.training.amortized import KeepStep
from reid_explain.training.images import TrainingImages, cached_pixels, to_input
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor

FREE = ("output", "resume", "root", "cache")
FILE = "head.safetensors"
WARMUP = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainAmortized:
    """Train the head of AmortizedFAM for a model, on images without labels.

    Args:
        output: folder of this run
        resume: go on with the run in --output
        dataset: synthetic, market1501, folder, ..., or module:Class; its training split
        root: folder of the data set; synthetic has none
        cache: file of the resized images; by default in --output
        images: how many, chosen at random; by default all
        epochs: over these images
        batch: images of a step
        masks: of an image, at different areas; at most 6
        references: share of the images that are explained as similar to another one
        others: share of fills that are another image, which is a kind of the evaluation, too
        learning_rate: of AdamW, with a warm-up and a cosine to 0
        weight_decay: of AdamW
        sees: what the head reads; of "image" it is a control, which never meets the activations
        seed: of every random choice
    """

    target: TargetOptions = field(default_factory=TargetOptions)
    output: Path
    resume: bool = False
    dataset: str = SYNTHETIC
    root: Path | None = None
    cache: Path | None = None
    images: int | None = None
    epochs: int = 4
    batch: int = 8
    masks: int = 2
    references: float = 0.5
    others: float = 0.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    sees: Literal["activation", "image"] = "activation"
    seed: int = 0

    def run(self) -> None:
        """Train and save."""
        for name in ("epochs", "batch", "masks"):
            check_at_least(name, getattr(self, name), 1)
        if self.masks > len(AREAS):
            raise InputError("masks", self.masks, f"at most {len(AREAS)}, one for each area")
        target, dataset = self.target.open(), open_dataset(self.dataset, self.root)
        records = self._chosen(dataset)
        settings = {name: value for name, value in asdict(self).items() if name not in FREE}
        recipe = {**settings, "target": target.settings(), "images": len(records)}
        claim(self.output, recipe, resume=self.resume)
        path = self.cache or self.output / "images.npy"
        pixels = cached_pixels(dataset, records, target.spec, path)
        augment = v2.Compose([v2.RandomHorizontalFlip(), to_input(target.spec)])
        images = TrainingImages(pixels, range(len(pixels)), self.seed, augment)
        batches = ShuffledBatches(len(images), self.batch, self.seed)
        set_seed(self.seed)
        explainer = self._explainer(target, images[next(iter(batches))[0]][0][None])
        accelerator = Accelerator(cpu=target.device.type == "cpu")
        step = KeepStep(explainer, self.masks, self.references, self.others)
        optimizer = torch.optim.AdamW(step.parameters(), weight_decay=self.weight_decay)
        loader: Any = DataLoader(images, batch_sampler=batches)
        parts = (accelerator, step, [optimizer], loader, self.output, self.epochs)
        TrainingLoop(*parts, self._rate, self.seed).fit()
        with atomic(self.output / FILE) as part:
            explainer.save(part, target.spec.size)

    def _chosen(self, dataset: ReIDDataset) -> list[Record]:
        records = list(dataset.train)
        if len(records) < self.batch:
            came = f"{len(records)} training images in {self.root}"
            raise InputError("root", came, f"a batch of {self.batch}; of a folder, in images.csv")
        random.Random(self.seed).shuffle(records)
        return records[: self.images]

    def _explainer(self, target: Target, image: torch.Tensor) -> AmortizedFAM:
        """Return an explainer with an untrained head; the target's weights are frozen."""
        target.model.requires_grad_(False)
        with torch.no_grad():
            activation, _ = capture(target.embedding, target.layer, image.to(target.device), ())
        head = HEADS[self.sees](channels_of(activation)).to(target.device)
        return AmortizedFAM(target.embedding, target.layer, head)

    def _rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        warmup = WARMUP * self.epochs
        return self.learning_rate * learning_rate_factor(epoch, self.epochs, warmup, "cosine", 0.02)


def channels_of(activation: torch.Tensor) -> int:
    """Return the channels of a layer's output: a map (B, C, h, w), or tokens (B, T, C)."""
    return activation.shape[1 if activation.dim() == 4 else 2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with one_line_errors("train_amortized.py"):
        read(TrainAmortized, arguments, "train_amortized.py").run()
