"""The speed of two versions of the package, in one run, in turns."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

import reid_explain
from reid_explain.benchmark import stopwatch
from reid_explain.errors import InputError

HERE = Path(reid_explain.__file__).parents[1]


class Version:
    """A version of the package, in a folder such as another checkout, in a process of its own."""

    def __init__(self, path: Path) -> None:
        if not (path / "reid_explain" / "__init__.py").is_file():
            raise InputError("against", path, "a folder with the package reid_explain in it")
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", Path(stopwatch.__file__).read_text(encoding="utf-8")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(path.resolve())},
        )

    def ask(self, name: str) -> float:
        """Return the MiB of ``memory``, or the seconds of an explanation."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(name, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise InputError(
                "against", f"{self.path}, which failed on {name}", "a version that runs"
            )
        return float(answer)


def compare_versions(path: Path, turns: int = 5) -> pd.DataFrame:
    """Measure this version and the one in a folder in turns, of which a first does not count.

    Returns:
        A row for Score-FAM's extra memory in MiB at 16 masks of 256 x 128, and one for the seconds
        of each explainer: medians over the turns ``here``, ``there`` and of their ``ratio``, and
        the ``least`` and the ``most`` ratio.

    Raises:
        InputError: there is no package, or it does not run.
    """
    both = [Version(HERE), Version(path)]
    try:
        memory = [[version.ask("memory") for version in both]]
        measured = {"extra MiB": memory} | {name: [] for name in stopwatch.EXPLAINERS}
        for _, name in product(range(turns + 1), stopwatch.EXPLAINERS):
            measured[name].append([version.ask(name) for version in both])
    finally:
        for version in both:
            version.process.communicate()
    rows = {}
    for name, pairs in measured.items():
        here, there = np.array(pairs[1:] or pairs).T
        ratio = here / there
        rows[name] = [*map(np.median, (here, there, ratio)), ratio.min(), ratio.max()]
    return pd.DataFrame.from_dict(
        rows, "index", columns=["here", "there", "ratio", "least", "most"]
    )
