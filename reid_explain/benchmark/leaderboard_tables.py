"""The leaderboard as CSV, Markdown and one HTML page, and how far rankings of methods agree."""

import html
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reid_explain.benchmark.causal import PAIRED, SINGLE
from reid_explain.benchmark.methods import controls
from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import cell, named, summary
from reid_explain.files import atomic
from reid_explain.statistics import Interval, rank_agreement

METRIC_NAMES = ("keeping", "removal", "insertion_auc", "deletion_auc", "road")
TRUTH = ("person_energy", "change_energy")
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
FEWEST = 4
"""Methods that two rankings have in common to be compared."""
Frames = Mapping[str, Mapping[str, pd.DataFrame]]
"""Rows by entry and task."""


def columns() -> dict[str, list[Metric]]:
    """Return the metrics of the table by task."""
    return {
        "faithfulness": [METRICS[name] for name in METRIC_NAMES],
        "localization": [METRICS[name] for name in TRUTH],
        "causal": [*SINGLE, *PAIRED],
    }


def write_tables(frames: Frames, output: Path) -> None:
    """Write leaderboard.csv, leaderboard.md and leaderboard.html; print the Markdown."""
    lines, agreed = lines_of(frames), agreement(frames)
    text = f"{markdown(lines)}\n\n{agreed}\n"
    print(text)
    output.mkdir(parents=True, exist_ok=True)
    with atomic(output / "leaderboard.md") as path:
        path.write_text(text, encoding="utf-8")
    with atomic(output / "leaderboard.csv") as path:
        flat(lines).to_csv(path, index=False)
    with atomic(output / "leaderboard.html") as path:
        path.write_text(page(lines, agreed), encoding="utf-8")


def lines_of(frames: Frames) -> list[dict[str, Any]]:
    """Return a line for each entry and method: what it costs, and each metric's summary."""
    found, known = [], controls()
    for entry, tasks in frames.items():
        lines: dict[str, dict[str, Any]] = {}
        for task, metrics in {"speed": [], **columns()}.items():
            tables = by_method(tasks[task]) if len(tasks.get(task, ())) else {}
            for name, own in tables.items():
                line = lines.setdefault(
                    name, {"entry": entry, "method": name, "control": name in known}
                )
                if task == "speed":
                    last = own.iloc[-1]  # The first one warms up.
                    ratio = last["seconds"] * last["forwards"] / last["bare_seconds"]
                    line |= {"passes": last["forwards"], "forwards of time": ratio}
                for metric in metrics:
                    if metric.name in own:
                        line[metric.name] = summary(own, metric)
                        line[f"{task} cases"] = len(own)
        found += sorted(lines.values(), key=_place)
    return found


def _place(line: Mapping[str, Any]) -> float:
    keeping = line.get(METRIC_NAMES[0])
    return keeping["mean"] if keeping else np.inf


def heads(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the titles of the metrics that some line has, by name."""
    known = [metric for metrics in columns().values() for metric in metrics]
    return {m.name: m.title + ARROWS[m.better] for m in known if any(m.name in x for x in lines)}


def cells(line: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return a line as text: method, passes, time, metrics."""
    costs = (f"{line[name]:.0f}" if name in line else "" for name in ("passes", "forwards of time"))
    marked = named(line["method"], [line["method"]] if line["control"] else [])
    return [marked, *costs, *(cell(line.get(name)) for name in names)]


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of Markdown for each entry."""
    parts = []
    for entry in dict.fromkeys(line["entry"] for line in lines):
        own = [line for line in lines if line["entry"] == entry]
        titles = heads(own)
        rows = [["method", "passes", "time, passes", *titles.values()]]
        rows += [["---"] * len(rows[0])] + [cells(line, [*titles]) for line in own]
        counts = {task: max(line.get(f"{task} cases", 0) for line in own) for task in columns()}
        note = ", ".join(f"{task}: {n} images" for task, n in counts.items() if n)
        body = "\n".join(f"| {' | '.join(row)} |".replace(" *", " \\*") for row in rows)
        parts.append(f"### {entry}\n\n{note or 'nothing yet'}\n\n{body}")
    return "\n\n".join(parts)


def flat(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a frame with mean, low, high and lead over chance of each metric."""
    rows = []
    for line in lines:
        row = {name: value for name, value in line.items() if not isinstance(value, dict | None)}
        for name in heads(lines):
            if found := line.get(name):
                low, high = found["interval"]
                row |= {name: found["mean"], f"{name} low": low, f"{name} high": high}
                if "lead" in found:
                    row[f"{name} lead over chance"] = found["lead"]
        rows.append(row)
    return pd.DataFrame(rows)


def scores(frame: pd.DataFrame, metric: Metric, methods: Sequence[str]) -> Tensor:
    """Return the mean of each identity and method, (identities, n), higher is better."""
    own = frame[frame["metric"] == metric.name]
    table = own.pivot_table(index="identity", columns="method", values="value", observed=True)
    values = torch.from_numpy(table.reindex(columns=methods).to_numpy(np.float64, copy=True))
    return -values if metric.better == "lower" else values


def agreement(frames: Frames) -> str:
    """Return Markdown: how far metrics agree on a model, and models under a metric."""
    known = controls()
    found: dict[tuple[str, str], tuple[pd.DataFrame, Metric, set[str]]] = {}
    for entry, tasks in frames.items():
        for task, metrics in columns().items():
            for metric in metrics if task in tasks else ():
                frame = tasks[task]
                own = frame[frame["metric"] == metric.name].dropna(subset="value")
                if names := {*map(str, own["method"])} - known:
                    found[entry, metric.name] = (frame, metric, names)
    rows = [["rankings", "methods", "Kendall's W", "mean Spearman"]]
    for entry in frames:
        keys = [key for key in found if key[0] == entry and key[1] in METRIC_NAMES]
        rows += _compared(found, keys, f"five metrics on {entry}")
        truth = [key for key in found if key[0] == entry and key[1] not in METRIC_NAMES]
        for key in truth:
            rows += _compared(found, [(entry, "keeping"), key], f"keeping and {key[1]} on {entry}")
    for name in METRIC_NAMES:
        rows += _compared(found, [key for key in found if key[1] == name], f"{name} on all models")
    for one, other in combinations(frames, 2):
        keys = [(one, "keeping"), (other, "keeping")]
        rows += _compared(found, keys, f"keeping on {one} and {other}")
    rows.insert(1, ["---"] * 4)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _compared(found: Mapping[Any, Any], keys: Sequence[Any], title: str) -> list[list[str]]:
    """Return a line of agreement, or none where there is nothing to compare."""
    if len(keys) < 2 or any(key not in found for key in keys):
        return []
    names = sorted(set.intersection(*(found[key][2] for key in keys)))
    if len(names) < FEWEST:
        return []
    own = (found[key] for key in keys)
    w = rank_agreement([scores(frame, metric, names) for frame, metric, _ in own])
    pairwise = Interval(*((len(keys) * value - 1) / (len(keys) - 1) for value in w))
    texts = (f"{v.mean:.2f} [{v.low:.2f}, {v.high:.2f}]" for v in (w, pairwise))
    return [[title, str(len(names)), *texts]]


def page(lines: Sequence[Mapping[str, Any]], note: str) -> str:
    """Return one HTML page with a table that sorts by the column that is clicked."""
    titles = heads(lines)
    top = ["model, data", "method", "passes", "time, passes", *titles.values()]
    rows = []
    for line in lines:
        values = [line["entry"], line["method"], line.get("passes"), line.get("forwards of time")]
        values += [(line.get(name) or {}).get("mean") for name in titles]
        texts = [line["entry"], *cells(line, [*titles])]
        rows.append(
            "".join(
                f'<td data-v="{"" if v is None else html.escape(str(v))}">{html.escape(t)}</td>'
                for v, t in zip(values, texts, strict=True)
            )
        )
    head = "".join(f"<th>{html.escape(title)}</th>" for title in top)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return PAGE.format(head=head, body=body, note=html.escape(note))


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Leaderboard</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 14px system-ui, sans-serif; margin: 1.5rem }}
table {{ border-collapse: collapse; white-space: nowrap }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left }}
th {{ position: sticky; top: 0; background: Canvas; cursor: pointer }}
tr:hover td {{ background: #8882 }}
</style>
<h1>Leaderboard</h1>
<p>Means in percent with 95 % intervals over identities; + beats random maps as smooth, or chance;
* control. Click a column to sort. <input type="search" placeholder="filter rows"></p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
<h2>Do rankings agree?</h2><pre>{note}</pre>
<script>
const body = document.querySelector("tbody"), rows = [...body.rows];
const value = (row, i) => row.cells[i].dataset.v;
document.querySelectorAll("th").forEach((head, i) => head.onclick = () => {{
  const sign = head.dataset.sign = head.dataset.sign === "1" ? -1 : 1;
  rows.sort((a, b) => {{
    const [x, y] = [value(a, i), value(b, i)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (isNaN(x) ? x.localeCompare(y) : x - y);
  }}).forEach(row => body.append(row));
}});
document.querySelector("input").oninput = event => rows.forEach(row =>
  row.hidden = !row.textContent.toLowerCase().includes(event.target.value.toLowerCase()));
</script></html>
"""
