"""What the leaderboard has measured, as one file of JSON, and how far rankings of methods agree.

A line is a method on an entry of the plan: what it costs, and a result of each metric, with the
mean of each identity, so that rankings are compared again when an entry joins.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reid_explain.benchmark.causal import PAIRED, SINGLE
from reid_explain.benchmark.methods import controls
from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import summary
from reid_explain.benchmark.task import FAILED
from reid_explain.errors import InputError
from reid_explain.files import atomic
from reid_explain.statistics import kendall_w, rank_agreement

METRIC_NAMES = ("keeping", "removal", "insertion_auc", "deletion_auc", "road")
TRUTH = ("person_energy", "change_energy")
FEWEST = 4
"""Methods that rankings have in common to be compared."""
DIGITS = 5
"""Significant digits of results: maps that differ by rounding errors tie."""
Frames = Mapping[str, Mapping[str, pd.DataFrame]]
"""Rows by entry and task."""
Line = dict[str, Any]


class Agreement(NamedTuple):
    """Kendall's W of rankings of methods: so many rankings, methods; None for no interval."""

    title: str
    rankings: int
    methods: int
    w: float
    low: float | None = None
    high: float | None = None

    def mean_spearman(self, w: float) -> float:
        """Return the mean of Spearman's correlations of all pairs of so many rankings at a W."""
        return (self.rankings * w - 1) / (self.rankings - 1)


class Results(NamedTuple):
    """Lines by entry, in the order of keeping, and how far their rankings agree."""

    lines: Sequence[Line]
    agreement: Sequence[Agreement]

    def joined(self, frames: Frames) -> "Results":
        """Return these results with those of new rows, in whose order of entries they are."""
        found: dict[tuple[str, str], Line] = {}
        for line in (*self.lines, *lines_of(frames)):
            found.setdefault((line["entry"], line["method"]), {}).update(line)
        entries = [*dict.fromkeys([*frames, *(entry for entry, _ in found)])]
        lines = sorted(
            found.values(), key=lambda line: (entries.index(line["entry"]), _place(line))
        )
        return Results(lines, agreement(lines, self.agreement))


def columns() -> dict[str, list[Metric]]:
    """Return the metrics of the table by task."""
    return {
        "faithfulness": [METRICS[name] for name in METRIC_NAMES],
        "localization": [METRICS[name] for name in TRUTH],
        "causal": [*SINGLE, *PAIRED],
    }


def lines_of(frames: Frames) -> list[Line]:
    """Return a line for each entry and method."""
    known = controls()
    found: list[Line] = []
    for entry, tasks in frames.items():
        lines: dict[str, Line] = {}
        for task, metrics in {"speed": [], **columns()}.items():
            tables = by_method(tasks[task]) if len(tasks.get(task, ())) else {}
            for name, own in tables.items():
                line = lines.setdefault(
                    name, {"entry": entry, "method": name, "control": name in known}
                )
                if FAILED in own:
                    line[f"{task} failed"] = int(own[FAILED].sum())
                elif task == "speed":
                    last = own.iloc[-1]  # The first one warms up.
                    line |= {"passes": last["forwards"], "forwards of time": last["in_passes"]}
                for metric in metrics:
                    if metric.name in own:
                        line[metric.name] = _result(own, metric)
                        line[f"{task} cases"] = len(own)
        found += map(_rounded, lines.values())
    return found


def _result(table: pd.DataFrame, metric: Metric) -> dict[str, Any] | None:
    """Return mean, interval, chance and whether the lead excludes 0, and identities' means."""
    found = summary(table, metric)
    if found is None:
        return None
    own = table[metric.name].dropna().groupby(level="identity").mean()
    ahead = (found.get("lead_interval", [0])[0] or 0) > 0
    chance = found.get("chance")
    result = {
        "mean": found["mean"],
        "interval": found["interval"],
        "chance": chance,
        "ahead": ahead,
    }
    return {**result, "identities": {str(key): float(value) for key, value in own.items()}}


def _place(line: Line) -> float:
    keeping = line.get(METRIC_NAMES[0])
    return keeping["mean"] if keeping else np.inf


def agreement(lines: Sequence[Line], earlier: Sequence[Agreement] = ()) -> list[Agreement]:
    """Return how far metrics agree on a model, and models under a metric.

    Where means of identities are missing the interval is that of an ``earlier`` agreement of the
    same value, or None.
    """
    before = {one.title: one for one in earlier}
    found = []
    for title, rankings in _compared(lines):
        one = _agreement(title, rankings)
        old = before.get(title)
        if one.low is None and old and old[:3] == one[:3] and abs(old.w - one.w) < 0.03:
            one = old
        found.append(one)
    return found


def _agreement(title: str, rankings: Sequence[pd.DataFrame]) -> Agreement:
    """Return the agreement of tables (identities, methods); its interval takes two identities."""
    shape = len(rankings), rankings[0].shape[1]
    tables = [torch.from_numpy(table.to_numpy(np.float64, copy=True)) for table in rankings]
    if min(map(len, tables)) < 2:
        return Agreement(title, *shape, kendall_w(torch.stack([t.nanmean(0) for t in tables])))
    return Agreement(title, *shape, *rank_agreement(tables))


def _compared(lines: Sequence[Line]) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """Yield a title and the tables of its rankings, (identities, methods) of equal methods."""
    tables, titles = dict(_scores(lines)), {m.name: m.title for m in known_metrics()}
    entries = [*dict.fromkeys(entry for entry, _ in tables)]
    compared: list[tuple[str, list[tuple[str, str]]]] = []
    for entry in entries:
        keys = [key for key in tables if key[0] == entry]
        compared.append((f"five metrics on {entry}", [k for k in keys if k[1] in METRIC_NAMES]))
        for key in keys:
            if key[1] not in METRIC_NAMES:
                title = f"keeping and {titles[key[1]]} on {entry}"
                compared.append((title, [(entry, "keeping"), key]))
    for name in METRIC_NAMES:
        keys = [key for key in tables if key[1] == name]
        compared.append((f"{titles[name]} on {len(keys)} models", keys))
    for pair in combinations(entries, 2):
        compared.append((f"keeping on {' and '.join(pair)}", [(e, "keeping") for e in pair]))
    for title, keys in compared:
        if len(keys) > 1 and all(key in tables for key in keys):
            own = [tables[key] for key in keys]
            names = sorted(set.intersection(*({*table.columns} for table in own)))
            if len(names) >= FEWEST:
                yield title, [table[names] for table in own]


def _scores(lines: Sequence[Line]) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield a table for each entry and metric, controls left out; higher is better.

    One row for each identity, or one of means where those of identities are missing.
    """
    for entry in dict.fromkeys(line["entry"] for line in lines):
        methods = [line for line in lines if line["entry"] == entry and not line["control"]]
        for metric in known_metrics():
            results = {
                line["method"]: line[metric.name] for line in methods if line.get(metric.name)
            }
            whole = all("identities" in result for result in results.values())
            table = pd.DataFrame(
                {
                    name: result["identities"] if whole else {"": result["mean"]}
                    for name, result in results.items()
                }
            )
            if results:
                yield (entry, metric.name), -table if metric.better == "lower" else table


def known_metrics() -> list[Metric]:
    """Return the metrics of all tasks."""
    return [metric for metrics in columns().values() for metric in metrics]


def read_results(path: Path) -> Results:
    """Return the results of a file, none where there is no file.

    Raises:
        InputError: If it is not what ``write_results`` writes.
    """
    if not path.is_file():
        return Results((), ())
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Results(found["lines"], [Agreement(*one) for one in found["agreement"]])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError("tables", f"{path} ({error!r})", "a leaderboard.json") from error


def write_results(results: Results, path: Path) -> None:
    """Write results as JSON, a line for each line and agreement."""
    parts = []
    for name, part in results._asdict().items():
        rows = ",\n".join(json.dumps(_rounded(one)) for one in part)
        parts.append(f'"{name}": [\n{rows}\n]')
    with atomic(path) as partial:
        partial.write_text(f"{{{', '.join(parts)}}}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
