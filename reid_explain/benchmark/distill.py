"""Training of a network to embed as a trained one does: no labels, few images.

    python benchmarks/distill.py --dataset market1501 --root world \
        --backbone timm/vit_tiny_patch16_224 --image-size 128 64 --output runs/vit

The teacher is the shipped network by default. The output folder gets what train_target.py writes
and goals.safetensors, what the teacher makes of the images; --resume continues an interrupted run
exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from reid_explain.benchmark.command_line import SHIPPED, TargetOptions, one_line_errors, read
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.training_run import TrainingSettings
from reid_explain.capture import capture
from reid_explain.datasets.records import ReIDDataset
from reid_explain.errors import InputError
from reid_explain.files import atomic
from reid_explain.retrieval import embed_records
from reid_explain.training.distillation import DistillationStep
from reid_explain.training.images import TrainingImages, augmentation, to_input
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor

GOALS = "goals.safetensors"
SILENT = 1e-3
"""Channels with a lower root mean square are left nearly as they are."""


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingSettings):
    """Train a network to embed the training images as a trained one does, without labels.

    Args:
        teacher: its checkpoint or card; by default the shipped network
        goals: file of what the teacher makes of the images; by default in --output
        places: rows and columns of the patches of a vision transformer, which then learn the
            teacher's map, too; images are mirrored and not otherwise changed
        stem: that of a hybrid_vit is the teacher's, and stays as it is
        batch: images per batch of all processes
        warmup_epochs: epochs of linear warm-up; a cosine to 0 follows
        learning_rate: of AdamW, after the warm-up
        weight_decay: of AdamW
        erasing: share of the images of which a part is erased
    """

    teacher: Path | None = None
    goals: Path | None = None
    places: tuple[int, int] | None = None
    stem: bool = False
    epochs: int = 20
    batch: int = 32
    warmup_epochs: float = 1.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    erasing: float = 0.0

    def train(self, accelerator: Accelerator) -> None:
        """Train, save and evaluate in one of the processes of ``accelerator``."""
        dataset = self.open_dataset()
        processes = (accelerator.process_index, accelerator.num_processes)
        batches = ShuffledBatches(len(dataset.train), self.batch, self.seed, *processes)
        set_seed(self.seed)
        architecture = self.architecture()
        model = self.network(architecture)
        teacher = self.teacher.name if self.teacher else SHIPPED
        if self.stem:
            self._copy_stem(model)
        recipe, pixels = self.start(accelerator, dataset, model.input_spec, teacher=teacher)
        with accelerator.local_main_process_first():
            goals, maps = self._taught(dataset)
        step = DistillationStep(model, model.embedding_dim, goals, maps).to(accelerator.device)
        spec = model.input_spec
        augment = augmentation(spec, self.erasing) if maps is None else to_input(spec)
        images = TrainingImages(pixels, range(len(pixels)), self.seed, augment)
        trained = [weights for weights in step.parameters() if weights.requires_grad]
        adam = torch.optim.AdamW(trained, self.learning_rate, weight_decay=self.weight_decay)
        loop = self.loop(accelerator, step, [adam], images, batches)
        loop.fit()
        if accelerator.is_main_process:
            self.finish(model, architecture, dataset, recipe, loop)

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        warmup = self.warmup_epochs
        return self.learning_rate * learning_rate_factor(epoch, self.epochs, warmup, "cosine")

    def _copy_stem(self, model: Any) -> None:
        """Give a ``HybridViT`` the first stages of the teacher, frozen."""
        own, teacher = model.stem.state_dict(), TargetOptions(weights=self.teacher).open().model
        given = getattr(teacher, "backbone", nn.Module()).state_dict()
        if any(key not in given or given[key].shape != own[key].shape for key in own):
            expected = "a teacher with these stages: the same backbone and width"
            raise InputError("stem", type(teacher).__name__, expected)
        model.stem.load_state_dict({key: given[key] for key in own})
        model.stem.requires_grad_(False)

    def _taught(self, dataset: ReIDDataset) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's embeddings and maps of the training images, from the file if any."""
        path = self.goals or self.output / GOALS
        if not path.is_file():
            teacher = TargetOptions(weights=self.teacher).open()
            with atomic(path) as part:
                save_file(taught(teacher, dataset, self.places), part)
        found = load_file(path)
        return found["goals"], found.get("maps")


def taught(
    target: Target, dataset: ReIDDataset, places: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Return what a network makes of the training images.

    ``goals`` are its embeddings (N, D) and, with ``places``, ``maps`` those of its layer as means
    over so many rows and columns, (N, C, rows, columns) float16, each channel with a root mean
    square of 1.
    """
    maps: list[Tensor] = []

    def embed(images: Tensor) -> Tensor:
        embedded: Tensor
        map_, embedded = capture(target.embedding, target.layer, images, ())
        if places:
            maps.append(functional.adaptive_avg_pool2d(map_.float(), places).half().cpu())
        return embedded

    records = dataset.train
    found = embed_records(embed, dataset, records, spec=target.spec, device=target.device)
    if not places:
        return {"goals": found.embeddings}
    joined = torch.cat(maps).contiguous()
    for channel in joined.unbind(1):
        channel /= channel.float().square().mean().sqrt().clamp_min(SILENT).half()
    return {"goals": found.embeddings, "maps": joined}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save and evaluate as a command line says."""
    with one_line_errors("distill.py"):
        read(Distillation, arguments, "distill.py").run()
