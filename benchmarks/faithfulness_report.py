"""What the rows of the faithfulness benchmark say: results, tables, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from methods import CONTROLS
from run_folder import Rows, write_json
from tables import cell, error_bars, interval, layout, named, versions
from torch import Tensor

from reid_explain.datasets import denormalize
from reid_explain.fills import FILLS
from reid_explain.metrics.faithfulness import AREA_FRACTIONS
from reid_explain.metrics.retrieval import summarize
from reid_explain.visualization import overlay

FIGURES = ("as_drop", "ap_drop", "ap_increase", "kept_area", "seconds")
TITLES = {
    "as_drop": "AS Drop",
    "ap_drop": "AP Drop",
    "ap_increase": "AP Increase",
    "kept_area": "kept area",
}
DROPS = ("as_drop", "ap_drop")
KINDS = ("method", "random")
NOTHING = {"mean": 0.0, "interval": [0.0, 0.0]}
"""Drawn where no query has a value."""
REFERENCE_CONTROL = "ActivationMean"
"""The control that every method is compared with, query by query."""

PUBLISHED = {
    "market1501": {
        "GradCAM": (52.08, 77.18, 2.49),
        "ScoreCAM": (54.07, 67.41, 7.66),
        "RAM": (29.65, 38.45, 14.61),
        "CGRAM": (57.95, 79.05, 2.70),
        "GradFAM": (28.28, 35.14, 15.97),
        "ScoreFAM": (16.57, 17.01, 30.26),
    },
    "cuhk03": {
        "GradCAM": (56.97, 74.53, 8.57),
        "ScoreCAM": (51.27, 62.62, 18.07),
        "RAM": (35.88, 51.32, 22.00),
        "CGRAM": (59.63, 77.73, 7.64),
        "GradFAM": (33.11, 47.55, 24.86),
        "ScoreFAM": (17.49, 28.68, 38.86),
    },
}
PUBLISHED["cuhk03_detected"] = PUBLISHED["cuhk03"]
"""Table 2 of the FAM paper: AS Drop, AP Drop, AP Increase of a ResNet-50, in percent.

The paper does not say which boxes of CUHK03 it used.
"""


def curve_figure(kind: str, drop: str, fill: str, fraction: float) -> str:
    """Return the name of the column of one point of a curve."""
    return f"{kind}:{drop}:{fill}:{fraction:g}"


CURVE_FIGURES = tuple(
    curve_figure(kind, drop, fill, fraction)
    for kind in KINDS
    for drop in DROPS
    for fill in FILLS
    for fraction in AREA_FRACTIONS
)


class Example(NamedTuple):
    """A query image (1, 3, H, W), and of each method the map and what its mask keeps."""

    images: Tensor
    maps: dict[str, Tensor]
    kept: dict[str, Tensor]


def report(
    rows: Rows,
    ranks: Sequence[Tensor],
    settings: dict[str, Any],
    examples: Sequence[Example],
    output: Path,
) -> str:
    """Write results.json and the figures to ``output`` and return the tables."""
    results = summarise(rows, ranks, settings)
    write_json(output / "results.json", results)
    draw_bars(results["methods"]).savefig(output / "table.png", dpi=150)
    draw_area(results["methods"]).savefig(output / "area.png", dpi=150)
    draw_examples(examples).savefig(output / "examples.png", dpi=110)
    return "\n\n".join(
        [paper_table(results), area_table(results), *verdicts(results), seconds_table(results)]
    )


def summarise(rows: Rows, ranks: Sequence[Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the tables and figures show; percentages from 0 to 100."""
    retrieval = summarize(ranks, at=(1, 5))
    methods = settings["methods"]
    columns = {method: columns_of(rows, method) for method in methods}
    scored = len(next(iter(columns.values()))["as_drop"])
    one = columns[methods[0]]
    return {
        "dataset": settings["dataset"],
        "model": settings["model"],
        "settings": settings,
        "retrieval": {
            "rank1": retrieval.cmc[1],
            "rank5": retrieval.cmc[5],
            "mAP": retrieval.mean_ap,
        },
        "queries": scored,
        "excluded": {
            "queries_without_match": retrieval.excluded,
            "as_drop": int(np.isnan(one["as_drop"]).sum()),
            "ap_drop": int(np.isnan(one["ap_drop"]).sum()),
        },
        "methods": {
            method: {
                **{name: interval_of(100 * own[name]) for name in FIGURES if name != "seconds"},
                "seconds_per_image": float(own["seconds"].mean()),
                "area_matched": {
                    fill: area_matched(own, columns.get(REFERENCE_CONTROL), fill) for fill in FILLS
                },
            }
            for method, own in columns.items()
        },
        "versions": versions(),
    }


def columns_of(rows: Rows, method: str) -> dict[str, np.ndarray]:
    """Return the figures of one method as arrays over the queries."""
    own = [figures for (_, name), figures in rows.rows.items() if name == method]
    return {name: np.array([row[name] for row in own]) for name in own[0]}


def interval_of(values: np.ndarray) -> dict[str, Any] | None:
    """Return mean and 95 % interval over the queries that have a value; None if none has."""
    present = values[~np.isnan(values)]
    return interval(present) if len(present) else None


def area_matched(
    own: dict[str, np.ndarray], control: dict[str, np.ndarray] | None, fill: str
) -> dict[str, Any]:
    """Return drops at equal areas under one fill: curves, their mean, and paired leads."""
    found: dict[str, Any] = {"fractions": list(AREA_FRACTIONS)}
    for drop in DROPS:
        curves = {kind: curve(own, kind, drop, fill) for kind in KINDS}
        area = {kind: values.mean(axis=1) for kind, values in curves.items()}
        found[drop] = {
            "curve": point_means(curves["method"]),
            "random_curve": point_means(curves["random"]),
            "area": interval_of(area["method"]),
            "random_area": interval_of(area["random"]),
            "lead_over_random": interval_of(area["random"] - area["method"]),
        }
        if control is not None:
            base = curve(control, "method", drop, fill).mean(axis=1)
            found[drop][f"lead_over_{REFERENCE_CONTROL}"] = interval_of(base - area["method"])
    return found


def curve(columns: dict[str, np.ndarray], kind: str, drop: str, fill: str) -> np.ndarray:
    """Return one drop in percent, (queries, fractions)."""
    names = [curve_figure(kind, drop, fill, fraction) for fraction in AREA_FRACTIONS]
    return 100 * np.stack([columns[name] for name in names], axis=1)


def point_means(values: np.ndarray) -> list[float | None]:
    """Return the mean of each column over the queries that have it."""
    kept = values[~np.isnan(values).any(axis=1)]
    return kept.mean(axis=0).tolist() if len(kept) else [None] * values.shape[1]


def beats(figures: dict[str, Any], lead: str) -> str:
    """Say under how many fills a lead in AS Drop at equal areas excludes 0."""
    leads = [figures["area_matched"][fill]["as_drop"].get(lead) for fill in FILLS]
    if any(value is None for value in leads):
        return "-"
    won = sum(value["interval"][0] > 0 for value in leads)
    return {len(FILLS): "yes", 0: "no"}.get(won, f"{won} of {len(FILLS)} fills")


def paper_table(results: dict[str, Any]) -> str:
    """Return the paper's figures, the kept area beside them."""
    excluded, retrieval = results["excluded"], results["retrieval"]
    lines = [["", *TITLES.values()]]
    for method, figures in results["methods"].items():
        lines.append([named(method), *(cell(figures[name]) for name in TITLES)])
    for method, values in PUBLISHED.get(results["dataset"], {}).items():
        lines.append([f"{method}, published", *(f"{value:.1f}" for value in values), ""])
    notes = (
        f"{results['dataset']}, {results['model']}: Rank-1 {retrieval['rank1']:.1f}, "
        f"mAP {retrieval['mAP']:.1f}. In %, with 95 % bootstrap intervals over "
        f"{results['queries']} queries. Left out: {excluded['queries_without_match']} queries "
        f"without a match; of AS Drop {excluded['as_drop']}, of AP Drop {excluded['ap_drop']} with "
        "a denominator of at most 0. * control"
    )
    if results["dataset"] in PUBLISHED:
        notes += "; published: table 2 of the FAM paper, another model (ResNet-50)"
    return f"{layout(lines)}\n{notes}"


def area_table(results: dict[str, Any]) -> str:
    """Return the AS Drop at equal areas under each fill, beside that of random maps."""
    lines = [["AS Drop at equal areas", *FILLS, "beats random", f"beats {REFERENCE_CONTROL}"]]
    for method, figures in results["methods"].items():
        cells = []
        for fill in FILLS:
            found = figures["area_matched"][fill]["as_drop"]
            cells.append(
                f"{found['area']['mean']:.1f} ({found['random_area']['mean']:.1f})"
                if found["area"]
                else "-"
            )
        against = (
            "" if method == REFERENCE_CONTROL else beats(figures, f"lead_over_{REFERENCE_CONTROL}")
        )
        lines.append([named(method), *cells, beats(figures, "lead_over_random"), against])
    shares = ", ".join(f"{100 * fraction:g}" for fraction in AREA_FRACTIONS)
    return (
        f"{layout(lines)}\nMean over kept areas of {shares} %; lower is better. In brackets: "
        "random maps of the same smoothness. yes: the paired 95 % interval of the lead excludes 0 "
        "under every fill"
    )


def verdicts(results: dict[str, Any]) -> list[str]:
    """Return what has to be said in words."""
    nothing = [
        method
        for method, figures in results["methods"].items()
        if beats(figures, "lead_over_random") not in ("yes", "-")
    ]
    if not nothing:
        return []
    return [
        f"{', '.join(nothing)}: not shown to beat random maps at equal area under every fill. "
        "There, such a map has explained nothing."
    ]


def seconds_table(results: dict[str, Any]) -> str:
    """Return table 1 of the paper: seconds per image, here."""
    lines = [["seconds per image", ""]]
    for method, figures in results["methods"].items():
        lines.append([method, f"{figures['seconds_per_image']:.3f}"])
    return layout(lines)


def draw_bars(methods: dict[str, Any]) -> Figure:
    """Draw the paper's figures and the kept area as bars with intervals."""
    figure = Figure(figsize=(12, 1.2 + 0.32 * len(methods)), layout="constrained")
    shown = list(methods)[::-1]
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        means, reach = error_bars([methods[method][name] or NOTHING for method in shown])
        colours = ["0.6" if method in CONTROLS else "tab:blue" for method in shown]
        axes.barh(range(len(shown)), means, xerr=reach, color=colours, ecolor="0.2")
        axes.set_yticks(range(len(shown)), shown)
        axes.set(title=title, xlabel="%")
        axes.grid(axis="x", alpha=0.3)
    return figure


def draw_area(methods: dict[str, Any]) -> Figure:
    """Draw AS Drop against kept area: as the paper keeps it, and at equal areas."""
    figure = Figure(figsize=(16, 4.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(FILLS))
    for number, (method, figures) in enumerate(methods.items()):
        colour = f"C{number}" if number < 10 else "black"
        marker = "s" if method in CONTROLS else "o"
        if figures["as_drop"]:
            point = figures["kept_area"]["mean"], figures["as_drop"]["mean"]
            first.plot(*point, marker, color=colour, label=method)
        for axes, fill in zip(others, FILLS, strict=True):
            found = figures["area_matched"][fill]["as_drop"]
            if found["area"]:
                shares = [100 * fraction for fraction in AREA_FRACTIONS]
                axes.plot(shares, found["curve"], f"{marker}-", color=colour, markersize=3)
                axes.plot(shares, found["random_curve"], ":", color=colour, alpha=0.5)
    first.set(title="explanation maps of the paper", ylabel="AS Drop, %")
    for axes, fill in zip(others, FILLS, strict=True):
        axes.set(title=f"equal areas, fill: {fill}", ylim=(0, None))
    for axes in (first, *others):
        axes.set_xlabel("kept area, %")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=11, fontsize=8, frameon=False)
    return figure


def draw_examples(examples: Sequence[Example]) -> Figure:
    """Draw the maps of some queries, and below each what its explanation map keeps."""
    methods = list(examples[0].maps)
    shape = (2 * len(examples), 1 + len(methods))
    figure = Figure(figsize=(1.1 * shape[1], 2.2 * shape[0]), layout="constrained")
    panels = figure.subplots(*shape, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, title in zip(panels[0], ["query", *methods], strict=True):
        axes.set_title(title, fontsize=8)
    for row, (images, maps, kept) in enumerate(examples):
        panels[2 * row, 0].imshow(picture(images))
        for column, method in enumerate(methods, start=1):
            over = overlay(denormalize(images)[0], maps[method][0])
            panels[2 * row, column].imshow(over)
            panels[2 * row + 1, column].imshow(picture(kept[method]))
    return figure


def picture(image: Tensor) -> np.ndarray:
    """Return a normalised image (1, 3, H, W) as (H, W, 3) in [0, 1]."""
    return denormalize(image)[0].permute(1, 2, 0).numpy()
