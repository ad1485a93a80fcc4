"""Compare methods of faithfulness runs with one of them, query by query and at equal areas.

python benchmarks/faithfulness_against.py RUN
python benchmarks/faithfulness_against.py RUN ANOTHER_RUN --against GradRAM
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

from reid_explain.benchmark.command_line import one_line_errors, read
from reid_explain.benchmark.faithfulness import Faithfulness
from reid_explain.benchmark.metrics.faithfulness import DROPS, curve_columns
from reid_explain.benchmark.run import Rows, by_method, read_settings
from reid_explain.benchmark.tables import cell, interval, layout
from reid_explain.errors import InputError
from reid_explain.fills import FILLS

SCRIPT = "faithfulness_against.py"


@dataclass(frozen=True)
class Against:
    """Compare methods of faithfulness runs with one of them, query by query and at equal areas.

    A figure is the change of a drop (the mean over kept areas from 5 to 70 %) in percent of the
    other method's mean, with the 95 % bootstrap interval over identities of the paired differences:
    below 0 is better. The last column is the mean of the fills.

    Args:
        runs: output folders of faithfulness.py that differ in their methods alone
        against: a method of one of the runs
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    against: str = "ScoreFAM"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    options = read(Against, arguments, SCRIPT)
    with one_line_errors(SCRIPT):
        methods = methods_of(options.runs)
        if options.against not in methods:
            raise InputError("against", options.against, f"one of {', '.join(methods)}")
        print("\n\n".join(_table(methods, options.against, drop) for drop in DROPS))


def methods_of(runs: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return the rows of the methods of all runs, over the same queries.

    Raises:
        InputError: If a folder is no finished run, or the runs differ in more than methods.
    """
    found: dict[str, pd.DataFrame] = {}
    first = None
    for run in runs:
        settings, rows = read_settings(run), Rows(run)
        if not (run / "results.json").is_file():
            raise InputError("run", run, "the output folder of a finished faithfulness.py")
        methods = settings.pop("methods")
        first = first or (settings, {*rows.identities})
        if first != (settings, {*rows.identities}):
            raise InputError("run", run, f"the settings and queries of {runs[0]}")
        frame = rows.frame(Faithfulness.name, sorted(rows.identities), methods)
        found = {**by_method(frame), **found}
    return found


def _table(methods: Mapping[str, pd.DataFrame], against: str, drop: str) -> str:
    """Return one drop of every method, in percent of the other method's."""
    base = _drops(methods[against], drop)
    title = f"{drop[:2].upper()} Drop, {against}"
    lines = [["", *FILLS, "mean of fills"], [title, *(f"{v:.1f}" for v in base.mean()), ""]]
    for method, own in methods.items():
        drops = _drops(own, drop)
        if method == against or drops.isna().all(axis=None):
            continue
        changes = 100 * (drops - base) / base.where(drops.notna()).mean()
        columns = [changes[fill] for fill in FILLS]
        lines.append([method, *map(cell, map(interval, [*columns, changes.mean(axis=1)]))])
    return layout(lines)


def _drops(table: pd.DataFrame, drop: str) -> pd.DataFrame:
    """Return the mean of one drop over the kept areas, a column for each fill."""
    curves = {fill: table[curve_columns(drop, fill)] for fill in FILLS}
    return pd.DataFrame({fill: own.mean(axis=1, skipna=False) for fill, own in curves.items()})
