"""The leaderboard as CSV, Markdown and one HTML page that sorts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reid_explain.benchmark.leaderboard_results import (
    Agreement,
    Frames,
    Line,
    Results,
    columns,
    known_metrics,
    read_results,
    write_results,
)
from reid_explain.benchmark.metrics import METRICS
from reid_explain.benchmark.tables import cell, interval
from reid_explain.files import atomic
from reid_explain.report import Cell, Table, table_html

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
SIDE_BY_SIDE = ("keeping", "removal")
"""Metrics of the tables with a column for each entry."""
CONTROL = "ActivationMean"
"""The control that the others are compared with, identity by identity: the channel mean."""


def write_tables(frames: Frames, folder: Path) -> None:
    """Join rows to leaderboard.json, make leaderboard.csv, .md and .html of it, print Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    results = read_results(folder / "leaderboard.json").joined(frames)
    write_results(results, folder / "leaderboard.json")
    text = markdown(results)
    print(text)
    with atomic(folder / "leaderboard.md") as path:
        path.write_text(text, encoding="utf-8")
    with atomic(folder / "leaderboard.csv") as path:
        flat(results.lines).to_csv(path, index=False)
    with atomic(folder / "leaderboard.html") as path:
        path.write_text(page(results), encoding="utf-8")


def heads(lines: Sequence[Line]) -> dict[str, str]:
    """Return the titles of the metrics that some line has, by name."""
    names = {name for line in lines for name in line}
    return {m.name: m.title + ARROWS[m.better] for m in known_metrics() if m.name in names}


def method_titles(lines: Sequence[Line]) -> dict[str, str]:
    """Return titles of methods: without settings where one has that name, * for a control."""
    short = {line["method"]: line["method"].partition("(")[0] for line in lines}
    known = [*short.values()]
    controls = {line["method"] for line in lines if line["control"]}
    return {
        name: (title if known.count(title) == 1 else name) + " *" * (name in controls)
        for name, title in short.items()
    }


def cells(line: Line, names: Iterable[str]) -> list[str]:
    """Return a line as text: passes, time, metrics; and on how many images a method failed."""
    missing = "failed" if "speed failed" in line else ""
    costs = (
        f"{line[name]:.0f}" if name in line else missing for name in ("passes", "forwards of time")
    )
    failed = {m.name: line.get(f"{task} failed", 0) for task, own in columns().items() for m in own}
    return [*costs, *(_cell(line.get(name), failed=failed[name]) for name in names)]


def _cell(result: Mapping[str, Any] | None, digits: int = 1, failed: int = 0) -> str:
    text = cell(result, digits) + "+" * bool(result and result["ahead"])
    return text + f" ({failed} failed)" * bool(failed)


def markdown(results: Results) -> str:
    """Return tables of Markdown: entries side by side, each entry, agreement."""
    methods = method_titles(results.lines)
    entries = [*dict.fromkeys(line["entry"] for line in results.lines)]
    parts = [_table(side_by_side(results, name)) for name in SIDE_BY_SIDE if len(entries) > 1]
    if any(line["method"] == CONTROL for line in results.lines):
        parts.append(_table(leads(results, SIDE_BY_SIDE[0], CONTROL)))
    parts.append("<!-- complete tables -->")
    for entry in entries:
        own = [line for line in results.lines if line["entry"] == entry]
        titles = heads(own)
        counts = {task: max(line.get(f"{task} cases", 0) for line in own) for task in columns()}
        note = ", ".join(f"{task}: {n} images" for task, n in counts.items() if n)
        rows = [["method", "passes", "time, passes", *titles.values()]]
        rows += [[methods[line["method"]], *cells(line, titles)] for line in own]
        parts.append(f"## {entry}\n\n{note or 'nothing yet'}\n\n{_table(rows)}")
    parts.append(f"## Do rankings agree?\n\n{_table(agreement_rows(results.agreement))}")
    return "\n\n".join(parts) + "\n"


def side_by_side(results: Results, name: str) -> list[list[str]]:
    """Return rows of a metric with a column for each entry, by the mean rank in keeping."""
    titles, entries, found = _by_method(results)
    rows = [[METRICS[name].title + ARROWS[METRICS[name].better], "passes", *entries]]
    for method, own in found.items():
        passes = sorted(round(line["passes"]) for line in own.values() if "passes" in line)
        cost = " to ".join(map(str, dict.fromkeys(passes[:1] + passes[-1:])))
        texts = (_cell(own.get(entry, {}).get(name), digits=0) for entry in entries)
        rows.append([titles[method], cost, *texts])
    return rows


def leads(results: Results, name: str, control: str) -> list[list[str]]:
    """Return rows of the lead over a control, paired by identity, likewise; + where above 0."""
    titles, entries, found = _by_method(results)
    sign = -1 if METRICS[name].better == "lower" else 1
    own = {entry: line[name] for entry, line in found.get(control, {}).items() if name in line}
    rows = [[f"{METRICS[name].title}: lead over {control}", *entries]]
    for method, lines in found.items():
        texts = []
        for entry in entries:
            pair = [own.get(entry), lines.get(entry, {}).get(name)]
            means = [pd.Series((one or {}).get("identities", {}), dtype=float) for one in pair]
            lead = (sign * (means[1] - means[0])).rename(int).rename_axis("identity")
            found_lead = interval(lead)
            ahead = found_lead is not None and (found_lead["interval"][0] or 0) > 0
            texts.append(cell(found_lead) + "+" * ahead)
        rows.append([titles[method], *texts])
    return rows


def _by_method(results: Results) -> tuple[dict[str, str], list[str], dict[str, dict[str, Line]]]:
    """Return titles of methods, entries, and lines by method and entry, by mean rank in keeping."""
    lines = [line for line in results.lines if line.get(SIDE_BY_SIDE[0])]
    entries = [*dict.fromkeys(line["entry"] for line in lines)]
    ranks: dict[str, list[int]] = {}
    found: dict[str, dict[str, Line]] = {}
    for entry in entries:
        for rank, line in enumerate(line for line in lines if line["entry"] == entry):
            ranks.setdefault(line["method"], []).append(rank)
            found.setdefault(line["method"], {})[entry] = line
    order = sorted(ranks, key=lambda method: sum(ranks[method]) / len(ranks[method]))
    return method_titles(results.lines), entries, {method: found[method] for method in order}


def agreement_rows(agreement: Iterable[Agreement]) -> list[list[str]]:
    """Return rows of text: W and the mean of Spearman's correlations of all pairs of rankings."""
    rows = [["rankings", "methods", "Kendall's W", "mean Spearman"]]
    for one in agreement:
        bounds = (one.w, one.low, one.high)
        means = [w if w is None else one.mean_spearman(w) for w in bounds]
        rows.append([one.title, str(one.methods), _bounds(bounds), _bounds(means)])
    return rows


def _bounds(values: Sequence[float | None]) -> str:
    mean, *bounds = (f"{value:.2f}" for value in values if value is not None)
    return f"{mean} [{', '.join(bounds)}]" if bounds else mean


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown, its head in the first row."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |".replace(" *", " \\*") for line in lines)


def flat(lines: Sequence[Line]) -> pd.DataFrame:
    """Return a frame with mean, low, high, chance of each metric, and whether it is ahead."""
    rows = []
    for line in lines:
        row = {name: value for name, value in line.items() if not isinstance(value, dict | None)}
        for name in heads(lines):
            if found := line.get(name):
                low, high = found["interval"]
                row |= {name: found["mean"], f"{name} low": low, f"{name} high": high}
                row |= {f"{name} chance": found.get("chance")}
                row |= {f"{name} ahead of chance": found["ahead"]}
        rows.append(row)
    return pd.DataFrame(rows)


def page(results: Results) -> str:
    """Return one HTML page with tables that sort by the column that is clicked."""
    methods, titles = method_titles(results.lines), heads(results.lines)
    values: list[Any]
    rows = []
    for line in results.lines:
        values = [line["method"], line["entry"], line.get("passes"), line.get("forwards of time")]
        values += [(line.get(name) or {}).get("mean") for name in titles]
        texts = [methods[line["method"]], line["entry"], *cells(line, titles)]
        rows.append([*map(Cell, texts, values)])
    top = ["method", "model, data", "passes", "time in passes", *titles.values()]
    names, *words = agreement_rows(results.agreement)
    agreed = []
    for texts, one in zip(words, results.agreement, strict=True):
        values = [one.title, one.methods, one.w, one.mean_spearman(one.w)]
        agreed.append([*map(Cell, texts, values)])
    note = AGREEMENT + UNKNOWN * any(one.low is None for one in results.agreement)
    tables = [Table(top, rows), Table(names, agreed, "Do rankings agree?", note)]
    return table_html("Leaderboard", tables, NOTE)


NOTE = (
    "Each row is a method on a model. Keeping: percent of the similarity to the matches that is "
    "lost when only the top pixels of a map stay, less is better; removal: when they go, more is "
    "better. Brackets: 95 % intervals over identities. +: better than random maps as smooth, or "
    "than chance. *: a control, which knows nothing of the embedding or of the image. Click a "
    "column to sort it."
)
AGREEMENT = (
    "1 is one order of the methods; a mean Spearman correlation of 0 is none. Controls left out."
)
UNKNOWN = " No interval where the means of identities of a model are not known."
