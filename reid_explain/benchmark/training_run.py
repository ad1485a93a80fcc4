"""What the trainings of a network share: settings, processes, data, network and loop."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import KwargsHandler
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, default_collate

from reid_explain.benchmark.run import claim, write_json
from reid_explain.checks import check_at_least
from reid_explain.datasets.records import ReIDDataset
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.build import build_model, network_of
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pretrained import load_trained, save_trained
from reid_explain.models.timm_models import PREFIX, has_fixed_size
from reid_explain.retrieval import Gallery, embed_records, summarize
from reid_explain.training.images import Pixels, TrainingImages, cached_pixels
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.sampling import SharedBatches

FREE = ("output", "resume", "root", "cache", "workers", "goals")
"""Settings that may differ between a run and its continuation."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ABC):
    """Data, network and folder of a training; a subclass says what is trained and how.

    Args:
        output: folder of this run
        resume: continue the run in --output
        dataset: synthetic, market1501, folder, ..., or module:Class
        root: folder of the data set; synthetic has none
        cache: file of the resized training images; by default in --output
        workers: processes that load images
        seed: seed of every random choice
        backbone: resnet18, osnet_x0_25, sbs, ..., or timm/NAME
        width: factor on the planes of a ResNet's stages; by default the network's own
        pooling: of a ResNet, such as avg and gem; by default the network's own
        padding: of a ResNet's convolutions, zeros or partial; by default the network's own
        local: a ResNet whose cells see little beyond themselves
        image_size: height and width; by default the network's own
        options: further numbers of the network, as patch_size 8 embed_dim 128
        epochs: number of epochs, at least 1
        precision: of the training
        stored_dtype: of the saved weights
    """

    output: Path
    resume: bool = False
    dataset: str = SYNTHETIC
    root: Path | None = None
    cache: Path | None = None
    workers: int = 1
    seed: int = 0
    backbone: str = "resnet18"
    width: float | None = None
    pooling: str | None = None
    padding: str | None = None
    local: bool = False
    image_size: tuple[int, int] | None = None
    options: dict[str, int] = field(default_factory=dict)
    epochs: int
    precision: Literal["float32", "bfloat16"] = "float32"
    stored_dtype: Literal["float32", "float16"] = "float32"

    handlers: ClassVar[tuple[KwargsHandler, ...]] = ()
    """Options of accelerate."""

    def run(self) -> None:
        """Train in this process, one of those that a launcher started.

        Raises:
            InputError: a setting does not fit; found before the folder is claimed.
            OSError: a file cannot be written, with its name.
        """
        check_at_least("epochs", self.epochs, 1)
        network_of(self.backbone)  # A network that a card may name.
        torch.backends.cudnn.deterministic = True
        accelerator = Accelerator(
            mixed_precision="bf16" if self.precision == "bfloat16" else "no",
            # Without this, processes that torchrun started on a CPU would not find each other.
            cpu=not torch.accelerator.is_available(),
            kwargs_handlers=list(self.handlers),
        )
        try:
            self.train(accelerator)
        finally:
            accelerator.end_training()

    @abstractmethod
    def train(self, accelerator: Accelerator) -> None:
        """Train in one of the processes of ``accelerator``."""

    @abstractmethod
    def rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""

    def open_dataset(self) -> ReIDDataset:
        """Return the data set, which must have a training split."""
        dataset = open_dataset(self.dataset, self.root)
        if not dataset.train:
            expected = "a training split; of a folder, images.csv with the column split"
            raise InputError("root", f"no training image in {self.root}", expected)
        return dataset

    def architecture(self, **more: Any) -> dict[str, Any]:
        """Return the arguments of ``build_model``."""
        options = {"width": self.width, "pooling": self.pooling, "padding": self.padding}
        options |= {"local": self.local or None}
        given: dict[str, Any] = {k: value for k, value in options.items() if value is not None}
        if self.image_size and _takes_image_size(self.backbone):
            given["img_size"] = list(self.image_size)
        return {"name": self.backbone, **given, **self.options, **more}

    def network(self, architecture: dict[str, Any]) -> EmbeddingNet:
        """Return the untrained network, with the image size of this run."""
        own: dict[str, Any] = {"pretrained": False} if self.backbone.startswith(PREFIX) else {}
        model = build_model(**architecture, **own).to(memory_format=torch.channels_last)
        if self.image_size:
            model.input_spec = model.input_spec.replace(size=self.image_size)
        return model

    def start(
        self, accelerator: Accelerator, dataset: ReIDDataset, spec: InputSpec, **more: Any
    ) -> tuple[dict[str, Any], Pixels]:
        """Make ``output`` the folder of this run.

        Returns:
            The settings that are held to, as JSON has them; and the resized training images,
            written by one process of each machine.
        """
        recipe = {name: value for name, value in asdict(self).items() if name not in FREE}
        recipe |= more | {"image_size": list(spec.size), "processes": accelerator.num_processes}
        if accelerator.is_main_process:
            claim(self.output, recipe, resume=self.resume)
        accelerator.wait_for_everyone()
        path = self.cache or self.output / "train_images.npy"
        options: Any = {"workers": self.workers, "show_progress": accelerator.is_main_process}
        with accelerator.local_main_process_first():
            return recipe, cached_pixels(dataset, dataset.train, spec, path, **options)

    def save(
        self, model: EmbeddingNet, name: str, architecture: dict[str, Any], **facts: Any
    ) -> Path:
        """Write a network with its card NAME.json; return the card's path."""
        card, dtype = self.output / f"{name}.json", getattr(torch, self.stored_dtype)
        save_trained(model, card, architecture, dtype=dtype, **facts)
        return card

    def finish(
        self,
        model: EmbeddingNet,
        architecture: dict[str, Any],
        dataset: ReIDDataset,
        recipe: dict[str, Any],
        loop: TrainingLoop,
    ) -> None:
        """Save the network as it will be used, evaluate that, and print the scores."""
        seconds = round(sum(row["seconds"] for row in loop.log))
        device = next(model.parameters()).device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        training = {"seconds": seconds, "device": name, "torch": torch.__version__}
        save = partial(self.save, model, "model", architecture, recipe=recipe, training=training)
        results = evaluate(load_trained(save()).to(device), dataset, self.workers)
        save(results=results)
        write_json(self.output / "results.json", results)
        print(json.dumps(results))

    def loop(
        self,
        accelerator: Accelerator,
        step: nn.Module,
        optimizers: Sequence[Optimizer],
        images: TrainingImages[Any],
        batches: SharedBatches,
        collate: Callable[..., Any] = default_collate,
        after_epoch: Callable[[int], None] | None = None,
    ) -> TrainingLoop:
        """Return the loop over the batches of ``images``."""
        loader = DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        parts = (accelerator, step, optimizers, loader)
        own = (self.output, self.epochs, self.rate, self.seed)
        return TrainingLoop(*parts, *own, after_epoch=after_epoch)


def evaluate(model: EmbeddingNet, dataset: ReIDDataset, workers: int = 0) -> dict[str, Any]:
    """Return Rank-1, Rank-5, Rank-10 and mAP in percent, and the number of queries."""
    device, spec = next(model.parameters()).device, model.input_spec
    query, gallery = (
        embed_records(model, dataset, records, spec=spec, workers=workers, device=device)
        for records in (dataset.query, dataset.gallery)
    )
    summary = summarize(Gallery(gallery, device=device).ranks(query))
    return {
        "dataset": dataset.name,
        **{f"rank{k}": round(value, 3) for k, value in summary.cmc.items()},
        "mAP": round(summary.mean_ap, 3),
        "queries": summary.queries,
        "queries_without_match": summary.excluded,
        "gallery": len(dataset.gallery),
    }


def _takes_image_size(backbone: str) -> bool:
    """Tell whether a network is built for images of one size."""
    if backbone.startswith(PREFIX):
        return has_fixed_size(backbone.removeprefix(PREFIX))
    return "img_size" in network_of(backbone).card_settings
