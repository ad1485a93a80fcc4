"""What the command lines of the benchmarks share: options, and errors of one line."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import tyro
from torch import nn

from reid_explain.benchmark.methods import method_names
from reid_explain.benchmark.target import Precision, Target
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError, not_installed
from reid_explain.inputs import PIXELS
from reid_explain.models.build import MODELS, build_model
from reid_explain.models.checkpoints import open_checkpoint
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pretrained import load_pretrained, load_trained, shipped_names

if TYPE_CHECKING:
    from reid_explain.benchmark.task import Task

SHIPPED = "synthetic"
"""The model that comes with the package."""
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The model that is explained.

    Args:
        model: synthetic (the package's own), synthetic_vit (its vision transformer), a name that
            build_model takes, timm/NAME, or module:NAME, a function that returns a network, of the
            weights if there are any
        weights: a checkpoint, or the .json card that train_target.py wrote
        layer: dotted name; by default the last map of the model
        image_size: height and width of its images; by default what the model says
        resize: squash, letterbox (keeps the aspect ratio, bars at the sides) or crop (keeps it and
            the middle); by default what the model says
        pixels: how they become numbers, where the model does not say: imagenet (its mean and
            deviation), rgb (0 to 1), rgb255, bgr255 (0 to 255, as files of OpenVINO take them)
        device: cpu, cuda (one GPU per process), cuda:1, ...
        precision: of the model
    """

    model: str = SHIPPED
    weights: Path | None = None
    layer: str | None = None
    image_size: tuple[int, int] | None = None
    resize: Literal["squash", "letterbox", "crop"] | None = None
    pixels: Literal["imagenet", "rgb", "rgb255", "bgr255"] | None = None
    device: str = "cpu"
    precision: Precision = "float32"

    @property
    def label(self) -> str:
        """The name of the model in tables: of a file without a name, that of the file."""
        return self.weights.name if self.weights and self.model == SHIPPED else self.model

    def open(self, *, untrained: bool = False) -> Target:
        """Return the model with its weights, or with none, in eval mode, on the device.

        Raises:
            InputError: If there are no weights or they do not fit, the model has no such layer,
                or the device is not there.
        """
        device = open_device(self.device)
        model = open_model(self.model, self.weights, untrained=untrained).eval().to(device)
        model.to(memory_format=torch.channels_last)
        spec = model.input_spec
        if self.pixels is not None:
            wanted = PIXELS[self.pixels]
            spec = wanted.replace(
                size=spec.size, resize=spec.resize, interpolation=spec.interpolation
            )
        if self.image_size is not None:
            spec = spec.replace(size=self.image_size)
        if self.resize is not None:
            spec = spec.replace(resize=self.resize)
        return Target(model, self.layer, spec, device, self.precision, self.label)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run.

    Args:
        dataset: synthetic, market1501, folder, ..., or module:Class
        root: the data set's folder; synthetic has none
        world: seed of the synthetic world
        methods: names, NAME(setting=value), module:Class, captum:NAME(option=value), between
            spaces or commas; by default those that suit
        output: a folder; by default one in outputs
        resume: go on with the run in --output
    """

    dataset: str = SYNTHETIC
    root: Path | None = None
    world: int = 0
    methods: tuple[str, ...] = ()
    output: Path | None = None
    resume: bool = False

    def drawn(self) -> dict[str, int]:
        """Return what is set of the drawn world; for another data set that raises InputError."""
        if self.world and self.dataset != SYNTHETIC:
            raise InputError("world", self.world, f"none, {self.dataset} is not drawn")
        return {"seed": self.world} if self.world else {}


def main(task: "type[Task]", arguments: Sequence[str] | None = None) -> None:
    """Run a task as a command line says."""
    script = f"{task.name}.py"
    fields = [("task", task), ("target", TargetOptions), ("run", RunOptions)]
    line = make_dataclass(task.__name__, fields, namespace={"__doc__": task.__doc__})
    options: Any = read(line, arguments, script)
    target, run = options.target, options.run
    parts = [p for p in (run.dataset, target.label) if p != "synthetic"]
    folder = "_".join([task.name, *parts]).replace("/", "-").replace(":", "-")
    with one_line_errors(script):
        drawn = run.drawn()
        options.task.run(
            target.open(untrained=task.untrained),
            open_dataset(run.dataset, run.root, **drawn),
            methods=method_names(run.methods),
            output=run.output or Path("outputs", folder),
            resume=run.resume,
            show=True,
        )


def read(
    settings: type[Settings], arguments: Sequence[str] | None, script: str, **more: Any
) -> Settings:
    """Return settings, a dataclass of them or of dataclasses, from a command line."""
    plain: Any = (
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.FlagCreatePairsOff,
    )
    found: Settings = tyro.cli(settings, prog=script, args=arguments, config=plain, **more)
    return found


@contextmanager
def one_line_errors(script: str, again: str = "with --resume goes on") -> Iterator[None]:
    """End with one line where an input is wrong, a package missing, a file not written."""
    sys.path.append(os.getcwd())  # So that module:Class finds a file that lies here.
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"{script}: {not_installed(error.name)}")
    except (InputError, OSError) as error:
        sys.exit(f"{script}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: interrupted; the same command {again}")


def open_device(name: str) -> torch.device:
    """Return a device; of ``cuda``, the GPU of this process where a launcher started several."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        came = f"{name} ({str(error).splitlines()[0]})"
        raise InputError("device", came, "a device that is here") from error


def open_model(name: str, weights: Path | None, *, untrained: bool = False) -> EmbeddingNet:
    """Return a network with its weights; which one, a file says where ``name`` is ``SHIPPED``.

    Raises:
        InputError: If a network that may not be ``untrained`` has no weights, they do not fit, or
            they are of no network that can be told from them.
    """
    if ":" in name:
        made: EmbeddingNet = _made(name, MODELS.resolve(name), weights)
        return made
    if weights is None and name in shipped_names():
        return load_pretrained(name)
    if weights is None and untrained:
        return build_model(name)
    if weights is None:
        raise InputError("weights", "nothing", f"a checkpoint of {name}")
    if weights.suffix == ".json":
        return load_trained(weights)
    return open_checkpoint(weights, name=None if name == SHIPPED else name)


def _made(name: str, make: Callable[..., Any], weights: Path | None) -> Any:
    """Return the network that a function of the user's makes."""
    expected = "a function that returns a network, of the weights if there are any"
    try:
        model = make(weights) if weights else make()
    except TypeError as error:
        raise InputError("model", f"{name} ({error})", expected) from error
    if not isinstance(model, nn.Module):
        raise InputError("model", f"{name}, which returned {model!r}", expected)
    return model
