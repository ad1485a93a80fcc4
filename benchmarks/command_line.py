"""What the command lines of the benchmarks have in common."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reid_explain import InputError
from reid_explain.datasets.registry import DATASETS, SYNTHETIC
from reid_explain.models.build import MODELS, check_model_name

SHIPPED = "synthetic"
"""The model that comes with the package."""
MODEL_HELP = f"{', '.join(MODELS)}, or timm/NAME"
TARGET_HELP = f"{SHIPPED}, {MODEL_HELP}"


def model_name(name: str) -> str:
    """Return ``name`` if ``build_model`` knows it: the type of an argument."""
    try:
        check_model_name(name)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def target_name(name: str) -> str:
    """Return ``name`` if it is the shipped model or one of ``build_model``."""
    return name if name == SHIPPED else model_name(name)


def benchmark_parser(description: str, *, methods: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the target, the methods and the run of a benchmark.

    Args:
        description: The benchmark's docstring; its first line is shown.
        methods: Names that run by default.
    """
    parser = argparse.ArgumentParser(
        description=description.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=target_name, default=SHIPPED, metavar="NAME", help=TARGET_HELP)
    add("--weights", type=Path, help="a checkpoint, or the .json card that train_target.py wrote")
    add("--layer", help="dotted name, default: the last map of the model")
    add(
        "--methods",
        type=lambda names: names.split(","),
        default=",".join(methods),
        help="names, separated by commas",
    )
    add("--seed", type=int, default=0, help="of every random choice")
    add("--device", default="cpu", help="cpu, cuda (one GPU per process), cuda:1, ...")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="of the model")
    add("--output", type=Path, default=Path("outputs", Path(sys.argv[0]).stem), help="a folder")
    add("--resume", action="store_true", help="go on with the run in --output")
    return parser


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add --dataset and --root."""
    parser.add_argument("--dataset", choices=tuple(DATASETS), default=SYNTHETIC)
    parser.add_argument("--root", type=Path, help="the data set's folder; synthetic has none")


def check_methods(methods: Sequence[str], known: Sequence[str]) -> None:
    """Raise unless every method is known."""
    unknown = sorted(set(methods) - set(known))
    if unknown:
        raise InputError("--methods", ", ".join(unknown), f"names among {', '.join(known)}")


@contextmanager
def one_line_errors(script: str) -> Iterator[None]:
    """End the program with one line where an input is wrong or a file cannot be written."""
    try:
        yield
    except (InputError, OSError) as error:
        sys.exit(f"{script}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{script}: interrupted; the same command with --resume goes on")
