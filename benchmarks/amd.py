"""Train, evaluate and look at an interpreter (attribute-guided metric distillation, AMD).

    python benchmarks/amd.py train --dataset market1501 --root DATA --target osnet_x0_25 \
        --weights osnet.pth --output runs/amd
    python benchmarks/amd.py evaluate --dataset market1501 --root DATA --target osnet_x0_25 \
        --weights osnet.pth --interpreter runs/amd/interpreter.safetensors --output runs/amd_test
    python benchmarks/amd.py explain --output runs/amd_figures
    python benchmarks/amd.py cross-domain synthetic runs/amd --output runs/amd_systems
    python benchmarks/amd.py reweight synthetic runs/amd --output runs/amd_systems --resume

Without --interpreter the one that comes with the package is evaluated and explains.

An interrupted training goes on with --resume after its last finished epoch and ends with the
same weights (bit for bit on the CPU with the same number of threads). The last two commands compare
systems, see ``amd_systems``; they share what they measure.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import amd_figures
import amd_report
import amd_systems
import amd_truth
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from amd_systems import measure, open_interpreter
from command_line import SHIPPED, TARGET_HELP, add_dataset, one_line_errors, target_name
from run_folder import claim, fixed_settings, write_json
from tables import versions
from targets import open_model

from reid_explain import InputError
from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.amd.recipe import Recipe
from reid_explain.amd.trainer import train_interpreter
from reid_explain.datasets.catalogue import open_dataset
from reid_explain.datasets.records import ReIDDataset
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.visualization import save_figure, training_figure


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        summary = str(command.__doc__).splitlines()[0]
        part = commands.add_parser(
            name, help=summary, description=summary, formatter_class=parser.formatter_class
        )
        add = part.add_argument
        add("--output", type=Path, required=True, help="folder of this run")
        add("--resume", action="store_true", help="go on with the run in --output")
        add("--workers", type=int, default=0, help="processes that load images")
        if name == "train":
            add_target(part)
            add_recipe(part)
            continue
        add("--device", default="cpu")
        if name in SYSTEMS:
            amd_systems.add_systems(part)
            continue
        add_target(part)
        add("--interpreter", type=Path, help="a file of train; default: the package's own")
        add("--seed", type=int, default=0, help="of every random choice")
        add("--cross-domain", action="store_true", help="attributes are matched by name")
    add = commands.choices["evaluate"].add_argument
    add("--gamma", type=float, default=1.0, help="weight of the largest exclusive distance")
    add("--pairs", type=int, default=10, help="synthetic: one-difference pairs per attribute")
    add = commands.choices["explain"].add_argument
    add("--figures", type=int, default=6, help="pairs to explain")
    return parser.parse_args(arguments)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the target and the data set."""
    add = parser.add_argument
    add("--target", type=target_name, default=SHIPPED, metavar="NAME", help=TARGET_HELP)
    add("--weights", type=Path, help="of the target: a checkpoint, or a train_target.py card")
    add_dataset(parser)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the settings of a training."""
    add = parser.add_argument
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--hidden", type=int, help="channels between the convolutions of the head, default C/8")
    add("--stored-dtype", choices=("float32", "float16"), default="float32")
    for field in fields(Recipe):
        kind = type(field.default) if field.default is not None else int
        add(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a wrong input ends with one line that says what was wrong."""
    settings = parse_arguments(arguments)
    with one_line_errors("amd.py"):
        COMMANDS[settings.command](settings)


def train(settings: argparse.Namespace) -> None:
    """Train an interpreter and save it."""
    precision = "bf16" if settings.precision == "bfloat16" else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.accelerator.is_available())
    recipe, output = recipe_of(settings), settings.output
    if accelerator.is_main_process:
        fixed = fixed_settings(settings) | {"processes": accelerator.num_processes}
        claim(output, fixed, resume=settings.resume)
    accelerator.wait_for_everyone()
    dataset = open_dataset(settings.dataset, settings.root)
    interpreter = untrained(settings, dataset)
    log = train_interpreter(
        interpreter, dataset, output, recipe, accelerator=accelerator, workers=settings.workers
    )
    if accelerator.is_main_process:
        dtype = getattr(torch, settings.stored_dtype)
        interpreter.save(output / "interpreter.safetensors", dtype=dtype)
        save_figure(training_figure(log), output / "log.png")


def recipe_of(settings: argparse.Namespace) -> Recipe:
    """Return how to train."""
    return Recipe(**{field.name: getattr(settings, field.name) for field in fields(Recipe)})


def untrained(settings: argparse.Namespace, dataset: ReIDDataset) -> AMDInterpreter:
    """Return the interpreter as it starts, the same for the same seed."""
    set_seed(settings.seed)
    target = open_model(settings.target, settings.weights)
    interpreter = AMDInterpreter(target, dataset.attribute_names, hidden=settings.hidden)
    return interpreter.to(memory_format=torch.channels_last)


def evaluate(settings: argparse.Namespace) -> None:
    """Measure an interpreter on the test split of a data set."""
    dataset = open_dataset(settings.dataset, settings.root)
    interpreter = interpreter_of(settings)
    check_attributes(settings, interpreter, dataset)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    results = measure(interpreter, dataset, workers=settings.workers, gamma=settings.gamma)
    measured = [amd_report.Measured(dataset.name, dataset.name, settings.cross_domain, results)]
    print(
        amd_report.decomposition_table(measured),
        amd_report.reweighting_table(measured),
        sep="\n\n",
    )
    if isinstance(dataset, SyntheticReID):
        rows = amd_truth.evaluate_truth(interpreter, dataset, settings.pairs, settings.seed)
        results["truth"] = amd_truth.summarise(rows)
        results["truth_by_pair"] = rows
        print("", amd_truth.as_table(results["truth"], len(interpreter.attributes)), sep="\n")
    write_json(settings.output / "results.json", {**results, "versions": versions()})


def explain(settings: argparse.Namespace) -> None:
    """Draw pairs, the average map of each attribute and, on synthetic data, the true masks."""
    dataset = open_dataset(settings.dataset, settings.root)
    interpreter = interpreter_of(settings)
    check_attributes(settings, interpreter, dataset)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    amd_figures.draw_pairs(interpreter, dataset, settings.figures, settings.seed, settings.output)
    amd_figures.draw_average_maps(interpreter, dataset, settings.output)
    if isinstance(dataset, SyntheticReID):
        amd_figures.draw_masks(
            interpreter, dataset, settings.figures, settings.seed, settings.output
        )


def interpreter_of(settings: argparse.Namespace) -> AMDInterpreter:
    """Return the interpreter of --interpreter on the target of --target and --weights."""
    return open_interpreter(
        settings.target, settings.weights, settings.interpreter, settings.device
    )


def check_attributes(
    settings: argparse.Namespace, interpreter: AMDInterpreter, dataset: ReIDDataset
) -> None:
    """Raise if the data set has other attributes than the interpreter, unless that is meant."""
    if not settings.cross_domain and set(dataset.attribute_names) != set(interpreter.attributes):
        raise InputError(
            "--dataset",
            f"{dataset.name} with other attributes than the interpreter's",
            "the same attributes, or --cross-domain",
        )


SYSTEMS = {"cross-domain": amd_systems.cross_domain, "reweight": amd_systems.reweight}
COMMANDS = {"train": train, "evaluate": evaluate, "explain": explain, **SYSTEMS}

if __name__ == "__main__":
    main()
