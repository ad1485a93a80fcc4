"""Means with intervals over identities, as tables and as dots."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from reid_explain.benchmark.metrics import Metric
from reid_explain.report import Cell, Table, table_html
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import Curve, interval_figure, tradeoff_figure


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def named(method: str, controls: Collection[str]) -> str:
    """Return a method's name, marked if it is a control."""
    return method + (" *" if method in controls else "")


def interval(values: pd.Series) -> dict[str, Any] | None:
    """Return ``{"mean": m, "interval": [low, high]}`` of the values that are there; None if none.

    The 95 % bootstrap interval is over the level ``identity`` of the index; its bounds are None
    where there is one. Of a difference it is paired.
    """
    present = values.dropna()
    if present.empty:
        return None
    groups = torch.tensor(present.index.get_level_values("identity"))
    mean, *bounds = bootstrap_mean(torch.tensor(present.to_numpy(np.float64)), groups)
    return {"mean": mean, "interval": [None if np.isnan(bound) else bound for bound in bounds]}


def summary(table: pd.DataFrame, metric: Metric) -> dict[str, Any] | None:
    """Return the interval of a metric, and chance with the lead over it if there is one.

    ``table`` is of one method (``by_method``).
    """
    found = interval(table[metric.name])
    if found is None or metric.chance is None:
        return found
    chance = table[metric.chance] if isinstance(metric.chance, str) else metric.chance
    lead = interval((table[metric.name] - chance) * (-1 if metric.better == "lower" else 1)) or {}
    level = {"chance": float(np.mean(chance)), "lead": lead["mean"]}
    return {**found, **level, "lead_interval": lead["interval"]}


def cell(value: Mapping[str, Any] | None, digits: int = 1) -> str:
    """Return a mean with its interval, marked if the lead over chance excludes 0."""
    if value is None:
        return "-"
    low, high = ("?" if bound is None else f"{bound:.{digits}f}" for bound in value["interval"])
    mark = "+" if (value.get("lead_interval", [0])[0] or 0) > 0 else ""
    return f"{value['mean']:.{digits}f} [{low}, {high}]{mark}"


def metric_table(
    methods: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[Metric],
    controls: Collection[str],
    corner: str = "",
) -> list[list[str]]:
    """Return the lines of a table with a row for each method and a column for each metric."""
    lines = [[corner, *(metric.title for metric in metrics)]]
    for name, found in methods.items():
        lines.append([named(name, controls), *(cell(found[metric.name]) for metric in metrics)])
    first = next(iter(methods.values()))
    levels = [(first[metric.name] or {}).get("chance") for metric in metrics]
    if any(level is not None for level in levels):
        lines.append(["chance", *("" if level is None else f"{level:.1f}" for level in levels)])
    return lines


def html_table(
    title: str,
    methods: Mapping[str, Mapping[str, Any]],
    controls: Collection[str],
    facts: Mapping[str, Any],
) -> str | None:
    """Return the means of methods as a page that sorts; None where no mean was measured.

    ``methods`` has for each method its results, in which means are found however deep.
    """
    rows = {name: measured(found) for name, found in methods.items()}
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    if not heads:
        return None
    cells = [
        [Cell(named(name, controls), name)]
        + [Cell(cell(row.get(head)), row[head]["mean"] if head in row else None) for head in heads]
        for name, row in rows.items()
    ]
    note = "Means [95 % intervals over identities]; + better than chance; * control."
    return table_html(title, [Table(["method", *heads], cells)], note, facts)


def measured(found: Mapping[str, Any], within: str = "") -> dict[str, Mapping[str, Any]]:
    """Return the means with their intervals that results have, by the words that lead to them."""
    means: dict[str, Mapping[str, Any]] = {}
    for key, value in found.items():
        name = f"{within} {key.replace('_', ' ')}".strip()
        if isinstance(value, Mapping) and value.get("mean") is not None and "interval" in value:
            means[name] = value
        elif isinstance(value, Mapping):
            means |= measured(value, name)
    return means


def metric_figure(
    methods: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric], controls: Collection[str]
) -> Callable[[], Figure]:
    """Return what draws each metric of each method with its interval, beside chance."""
    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    chance: dict[str, float] = {}
    for metric in metrics:
        found = {name: own[metric.name] for name, own in methods.items() if own[metric.name]}
        if found:
            title = f"{metric.title}, {metric.unit}"
            panels[title] = {
                name: (own["mean"], *(own["mean"] if b is None else b for b in own["interval"]))
                for name, own in found.items()
            }
            if metric.chance is not None:
                chance[title] = next(iter(found.values()))["chance"]
    return lambda: interval_figure(panels, chance=chance, controls=controls)


def tradeoff(
    costs: Mapping[str, float],
    label: str,
    losses: Mapping[str, pd.Series],
    controls: Collection[str],
) -> Callable[[], Figure]:
    """Return what draws the mean AS Drop at equal areas of each method against its cost.

    ``losses`` are as :func:`interval` takes them; a method without any is left out.
    """
    points, names = {}, without_settings(losses)
    for name, values in losses.items():
        if found := interval(values):
            low, high = found["interval"] if None not in found["interval"] else (None, None)
            points[names[name]] = Curve(costs[name], found["mean"], low, high)
    drop = "AS Drop at equal areas, %"
    return lambda: tradeoff_figure(points, xlabel=label, ylabel=drop, controls=controls)


def without_settings(methods: Collection[str]) -> dict[str, str]:
    """Return methods by name without what is in brackets, where that still tells them apart."""
    plain = {name: name.partition("(")[0] for name in methods}
    seen = Counter(plain.values())
    return {name: short if seen[short] == 1 else name for name, short in plain.items()}
