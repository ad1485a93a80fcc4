"""Compare methods of faithfulness runs with one of them, query by query and at equal areas.

    python benchmarks/faithfulness_against.py RUN
    python benchmarks/faithfulness_against.py RUN ANOTHER_RUN --against GradRAM

The runs are output folders of faithfulness.py that differ in their methods alone. A figure is the
change of a drop (the mean over kept areas from 5 to 70 %) in percent of the other method's mean,
with the 95 % bootstrap interval of the paired differences: below 0 is better. The last column is
the mean of the fills.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from command_line import one_line_errors
from faithfulness import row_file
from faithfulness_report import DROPS, TITLES, columns_of, curve, interval_of
from tables import cell, layout, named

from reid_explain import InputError
from reid_explain.fills import FILLS

Drops = dict[str, np.ndarray]
"""Of a fill, to a method's drop of each query in percent: (queries,)."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of faithfulness.py")
    parser.add_argument("--against", default="ScoreFAM", help="a method of one of the runs")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison."""
    settings = parse_arguments(arguments)
    with one_line_errors("faithfulness_against.py"):
        columns = columns_of_runs(settings.runs)
        if settings.against not in columns:
            raise InputError("--against", settings.against, f"one of {', '.join(columns)}")
        print("\n\n".join(table(columns, settings.against, drop) for drop in DROPS))


def columns_of_runs(runs: Sequence[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Return the figures of the methods of all runs, over the same queries.

    Raises:
        InputError: If a folder is no finished run, or the runs differ in more than methods.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    first = None
    for run in runs:
        if not (run / "results.json").is_file():
            raise InputError("RUN", run, "the output folder of a finished faithfulness.py")
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
        methods = settings.pop("methods")
        rows = row_file(run / "per_query.csv")
        common = (settings, sorted({query for query, _ in rows.rows}))
        first = first or common
        if common != first:
            raise InputError("RUN", run, f"the settings and queries of {runs[0]}")
        for method in methods:
            found.setdefault(method, columns_of(rows, method))
    return found


def table(columns: Mapping[str, dict[str, np.ndarray]], against: str, drop: str) -> str:
    """Return one drop of every method, in percent of the other method's."""
    base = drops_of(columns[against], drop)
    lines = [[f"{TITLES[drop]}, {against}", *(f"{np.nanmean(base[f]):.1f}" for f in FILLS), ""]]
    for method, own in columns.items():
        drops = drops_of(own, drop)
        if method == against or all(np.isnan(values).all() for values in drops.values()):
            continue
        changes = changes_of(drops, base)
        values = [*changes.values(), np.mean(list(changes.values()), axis=0)]
        lines.append([named(method), *(cell(interval_of(each)) for each in values)])
    return layout([["", *FILLS, "mean of fills"], *lines])


def drops_of(columns: Mapping[str, np.ndarray], drop: str) -> Drops:
    """Return the mean of one drop over the kept areas, under each fill."""
    return {fill: curve(dict(columns), "method", drop, fill).mean(axis=1) for fill in FILLS}


def changes_of(own: Drops, base: Drops) -> Drops:
    """Return the differences of drops in percent of the mean of ``base``; NaN where one is."""
    return {
        fill: 100 * (own[fill] - base[fill]) / base[fill][~np.isnan(own[fill])].mean()
        for fill in FILLS
    }


if __name__ == "__main__":
    main()
