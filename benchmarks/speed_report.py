"""The speed benchmark's rows as results, tables and a figure of error against speed-up."""

import argparse
import platform
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from run_folder import Rows, fixed_settings
from tables import cell, interval, layout, versions

Figures = dict[str, Any]
DROPS = ("as_drop", "ap_drop")


def summarise(times: Rows, agreement: Rows, settings: argparse.Namespace) -> dict[str, Any]:
    """Return medians over turns with ratios, and errors over images."""
    return {
        "settings": fixed_settings(settings),
        "device": device_name(settings.device),
        "times": [with_ratios(group) for group in groups_of(times)],
        "errors": errors(agreement),
        "versions": versions(),
    }


def device_name(device: str) -> str:
    """Return what the times were taken on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def groups_of(times: Rows) -> list[Figures]:
    """Return the ways that were taken in turns together, with the medians of their figures."""
    groups: dict[tuple[str, ...], dict[str, list[dict[str, float]]]] = {}
    for (part, network, setting, way, _), row in times.rows.items():
        groups.setdefault((part, network, setting), {}).setdefault(way, []).append(row)
    return [
        {
            "part": part,
            "network": network,
            "setting": setting,
            "ways": {
                way: {name: median(row[name] for row in rows) for name in rows[0]}
                for way, rows in ways.items()
            },
        }
        for (part, network, setting), ways in groups.items()
    ]


def with_ratios(group: Figures) -> Figures:
    """Add the seconds of a whole explanation, and what they are to the peer's and the floor's.

    A way that took some of the channels is reckoned up to all that it passes: the peer passes
    the constant ones as well.
    """
    ways = group["ways"]
    if group["part"] == "gradient":
        for way in ways.values():
            way["per_image"] = way["seconds"] / way["images"]
            if "passes" in ways:
                way["to_passes"] = way["seconds"] / ways["passes"]["seconds"]
        return group
    for way in ways.values():
        way["per_mask"] = way["seconds"] / way["masks"]
        way["whole_seconds"] = way["per_mask"] * way["whole"]
    for way in ways.values():
        if "floor" in ways:
            way["to_floor"] = way["whole_seconds"] / ways["floor"]["whole_seconds"]
            way["extra_mib"] = way["peak_mib"] - ways["floor"]["peak_mib"]
        if "peer" in ways:
            way["speed_up"] = ways["peer"]["whole_seconds"] / way["whole_seconds"]
    return group


def errors(agreement: Rows) -> Figures:
    """Return for each network and way the largest and mean error over its images."""
    groups: dict[str, dict[str, list[dict[str, float]]]] = {}
    for (network, _, way), row in agreement.rows.items():
        groups.setdefault(network, {}).setdefault(way, []).append(row)
    return {
        network: {way: error(rows) for way, rows in ways.items()}
        for network, ways in groups.items()
    }


def error(rows: Sequence[Mapping[str, float]]) -> Figures:
    """Return the error over images; drops with intervals, None without retrieval."""
    found: Figures = {
        "images": len(rows),
        "max_abs": max(row["max_abs"] for row in rows),
        "mean_max_abs": float(np.mean([row["max_abs"] for row in rows])),
        "spearman": min(row["spearman"] for row in rows),
        "forwards": float(np.mean([row["forwards"] for row in rows])),
    }
    for name in DROPS:
        values = [row[name] for row in rows if not np.isnan(row[name])]
        found[name] = interval(values) if values else None
    return found


def as_tables(results: Figures) -> str:
    """Return the results as text."""
    parts = [time_table(group) for group in results["times"]]
    parts += [error_table(network, ways) for network, ways in results["errors"].items()]
    return "\n\n".join(parts)


def time_table(group: Figures) -> str:
    """Return one group of ways as a table."""
    columns = {
        "time": ("whole_seconds", "speed_up", "to_floor", "extra_mib"),
        "growth": ("seconds", "per_mask"),
        "gradient": ("per_image", "to_passes"),
        "descent": ("whole_seconds", "to_floor", "extra_mib"),
    }[group["part"]]
    lines = [[f"{group['network']}, {group['setting']}", *columns]]
    for name, way in group["ways"].items():
        lines.append([name, *(f"{way[c]:.4g}" if c in way else "-" for c in columns)])
    return layout(lines)


def error_table(network: str, ways: Mapping[str, Figures]) -> str:
    """Return the errors on one trained network as a table."""
    columns = ("images", "forwards", "max_abs", "mean_max_abs", "spearman")
    lines = [[network, *columns, *DROPS]]
    for name, row in ways.items():
        figures = (f"{row[column]:.4g}" for column in columns)
        lines.append([name, *figures, *(cell(row[drop], 2) for drop in DROPS)])
    meaning = "largest and mean error, smallest Spearman; drops are differences in points"
    return f"{layout(lines)}\n{meaning}"


def draw(results: Figures) -> Figure | None:
    """Draw the error on each trained network against the speed-up, if both were measured."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    timed = next((group for group in results["times"] if group["part"] == "time"), None)
    if timed is None or not results["errors"]:
        return None
    for network, ways in results["errors"].items():
        points = [
            (timed["ways"][way]["speed_up"], found["max_abs"], way)
            for way, found in ways.items()
            if way in timed["ways"]
        ]
        axes.plot(*zip(*((x, y) for x, y, _ in points), strict=True), "o-", label=network)
    for speed_up, _, way in points:
        name = way.replace(" bfloat16", "")
        axes.text(speed_up, 1.02, name, transform=axes.get_xaxis_transform(), rotation=40)
    axes.axhline(0.02, color="tab:red", linestyle="--", linewidth=1)
    axes.set(
        xlabel=f"times faster than pytorch-grad-cam on {timed['network']}",
        ylabel="largest error of the map in [0, 1]",
        xscale="log",
        yscale="log",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
