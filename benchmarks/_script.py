"""Runs a benchmark of the package; what is not installed ends it with one line."""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(module: str, task: str = "") -> None:
    """Run ``main`` of a module, or the command line of a task in it."""
    sys.path.append(str(ROOT))  # A clone works without installing it.
    try:
        found = import_module(f"reid_explain.benchmark.{module}")
        main = import_module("reid_explain.benchmark.command_line").main
    except ModuleNotFoundError as error:
        from reid_explain.errors import not_installed  # here: a clone is found only now

        sys.exit(f"{sys.argv[0]}: {not_installed(error.name)}")
    main(getattr(found, task)) if task else found.main()
