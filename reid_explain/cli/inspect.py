"""The commands that tell what is there."""

import importlib.util
import sys
from dataclasses import dataclass, field

import torch

from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.benchmark.run import versions
from reid_explain.errors import EXTRAS
from reid_explain.explainers.fam import GradFAM
from reid_explain.models.build import MODELS
from reid_explain.models.checkpoints import GRAPHS
from reid_explain.models.layouts import LAYOUTS
from reid_explain.models.pretrained import shipped_names


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that open by name."""

    def run(self) -> None:
        """Print the names."""
        for name in shipped_names():
            print(f"{name} (shipped, trained on drawn people)")
        for name in MODELS:
            print(name)
        print("timm/NAME (any network of timm; extra: models)")
        print("--weights FILE without a name opens these:")
        print(f"  checkpoints of {', '.join(LAYOUTS)}")
        print(f"  whole networks: {', '.join(GRAPHS)}, programs of TorchScript")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check what is installed, which devices are there, and that the model can be explained."""

    target: TargetOptions = field(default_factory=TargetOptions)

    def run(self) -> None:
        """Print the findings."""
        print(", ".join(f"{name} {version}" for name, version in versions().items()))
        for package, extra in EXTRAS.items():
            there = importlib.util.find_spec(package) is not None
            print(f"{package}: {'there' if there else f'not installed (extra: {extra})'}")
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"GPUs: {', '.join(gpus) or 'none'}; threads: {torch.get_num_threads()}")
        target = self.target.open()
        height, width = target.spec.size
        generator = torch.Generator().manual_seed(0)
        images = target.spec.from_rgb(torch.rand(1, 3, height, width, generator=generator))
        embedding = target.embed(images)
        print(f"{target.label}: images {height} x {width} to {embedding.shape[1]} numbers")
        explainer = GradFAM(target.embedding, target.layer)
        found = explainer.attribute(images.to(target.device), interpolate_mode=None)
        rows, columns = found.shape[2:]
        layer = target.settings()["layer"]
        print(f"layer {layer}: a map of {rows} x {columns}, with gradients: all methods work")
        if not found.any():
            print(f"its Grad-FAM is 0 everywhere: is {layer} the right one?", file=sys.stderr)
