"""What the rows of the sanity benchmark say: results, tables, figures."""

import argparse
import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from methods import CONTROLS
from run_folder import Rows, fixed_settings, write_json
from sanity_trial import LIKENESS, WEIGHT_FIGURES, Trial, scoring_methods
from tables import cell, interval, layout, named, versions

from reid_explain.datasets import denormalize
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.visualization import comparison_figure

TITLES = {"ssim": "SSIM", "spearman": "Spearman", "hog": "HOG"}
INSENSITIVE = 0.9
"""A method whose interval of Spearman's correlation lies above this hardly changes."""
DRAWN_STEPS = 8
NAMED_STEPS = 30


def report(
    trial: Trial, modes: Sequence[str], rows: Rows, weights: Rows, settings: argparse.Namespace
) -> str:
    """Write results.json and the figures to --output and return the tables."""
    results = summarise(trial, modes, rows, weights, settings)
    write_json(settings.output / "results.json", results)
    draw_curves(trial, modes, rows).savefig(settings.output / "curves.png", dpi=150)
    for mode in modes:
        draw_maps(trial, mode).savefig(settings.output / f"maps_{mode}.png", dpi=110)
    return as_tables(results)


def summarise(
    trial: Trial, modes: Sequence[str], rows: Rows, weights: Rows, settings: argparse.Namespace
) -> dict[str, Any]:
    """Return means with 95 % intervals over the images, and the curve of each method."""
    return {
        "dataset": settings.dataset,
        "model": settings.model,
        "settings": fixed_settings(settings),
        "images": len(trial.subjects),
        "layers": trial.steps,
        "modes": {
            mode: {name: of_method(trial, mode, name, rows) for name in trial.methods}
            for mode in modes
        },
        "weights": {
            name: {
                figure: interval([weights.rows[image, name][figure] for image in trial.subjects])
                for figure in WEIGHT_FIGURES
            }
            for name in scoring_methods(trial.target)
        },
        "versions": versions(),
    }


def of_method(trial: Trial, mode: str, name: str, rows: Rows) -> dict[str, Any]:
    """Return each likeness of one method: the mean over layers per image, then over images."""
    found: dict[str, Any] = {}
    curves = {figure: curve(trial, mode, name, figure, rows) for figure in LIKENESS}
    for figure, values in curves.items():
        found[figure] = interval(values.mean(axis=0))
        found[figure]["curve"] = dict(
            zip(trial.layers[name], values.mean(axis=1).tolist(), strict=True)
        )
    found["insensitive"] = found["spearman"]["interval"][0] > INSENSITIVE
    return found


def curve(trial: Trial, mode: str, name: str, figure: str, rows: Rows) -> np.ndarray:
    """Return one likeness of one method, (layers, images)."""
    values = [
        [rows.rows[layer, mode, image, name][figure] for image in trial.subjects]
        for layer in trial.layers[name]
    ]
    return np.array(values)


def as_tables(results: dict[str, Any]) -> str:
    """Return the results as text."""
    parts = [likeness_table(mode, results) for mode in results["modes"]]
    parts.append(
        "Likeness to the maps of the trained model, 1 for the same map: the mean over the "
        f"randomised layers, then over {results['images']} images, with its 95 % bootstrap "
        "interval over these. The trained model itself is in no mean. * control"
    )
    parts += [note for mode in results["modes"] if (note := verdict(mode, results))]
    return "\n\n".join([*parts, weights_table(results["weights"])])


def likeness_table(mode: str, results: dict[str, Any]) -> str:
    """Return the likeness of each method's maps under one kind of randomisation."""
    lines = [[f"{mode}, {len(results['layers'])} layers", *TITLES.values()]]
    for name, figures in results["modes"][mode].items():
        lines.append([named(name), *(cell(figures[figure], 2) for figure in LIKENESS)])
    return layout(lines)


def verdict(mode: str, results: dict[str, Any]) -> str:
    """Say in words which maps hardly change."""
    methods = results["modes"][mode]
    names = [named(name) for name, figures in methods.items() if figures["insensitive"]]
    if not names:
        return ""
    what = "the model has" if mode == "cascading" else "any one layer has"
    return (
        f"INSENSITIVE to {mode} randomisation: {', '.join(names)}. Spearman's interval lies above "
        f"{INSENSITIVE}: such a map hardly depends on what {what} learnt."
    )


def weights_table(weights: dict[str, Any]) -> str:
    """Return what the channel weights of the trained model are like."""
    lines = [["channel weights", "entropy", "largest / smallest", "Spearman with ActivationMean"]]
    for name, figures in weights.items():
        ratio = {
            "mean": math.exp(figures["score_range"]["mean"]),
            "interval": [math.exp(bound) for bound in figures["score_range"]["interval"]],
        }
        lines.append(
            [
                name,
                cell(figures["entropy"], 4),
                cell(ratio, 1),
                cell(figures["spearman_with_mean"], 3),
            ]
        )
    return (
        f"{layout(lines)}\nOf the trained model. Entropy of the softmax weights over its largest "
        "value: 1 is the plain mean of the channels"
    )


def draw_curves(trial: Trial, modes: Sequence[str], rows: Rows) -> Figure:
    """Draw each likeness of each method against the layers, in the order of randomisation."""
    figure = Figure(figsize=(15, 2 + 3.6 * len(modes)), layout="constrained")
    grid = figure.subplots(len(modes), len(LIKENESS), sharex=True, sharey=True, squeeze=False)
    shown = range(0, len(trial.steps), math.ceil(len(trial.steps) / NAMED_STEPS))
    names = [trial.steps[place] for place in shown]
    for row, mode in zip(grid, modes, strict=True):
        for axes, measure in zip(row, LIKENESS, strict=True):
            for number, name in enumerate(trial.methods):
                draw_curve(axes, trial, number, name, curve(trial, mode, name, measure, rows))
            axes.set_title(f"{TITLES[measure]}, {mode}")
            axes.grid(alpha=0.3)
            axes.set_xticks(shown, names, rotation=90, fontsize=6)
        row[0].set_ylabel("likeness to the trained model's map")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def draw_curve(axes: Axes, trial: Trial, number: int, name: str, values: np.ndarray) -> None:
    """Draw one method's likeness (layers, images): the mean, and its interval as a band."""
    places = [trial.steps.index(layer) for layer in trial.layers[name]]
    bands = [bootstrap_mean(torch.from_numpy(v)) for v in values]
    mean, low, high = zip(*bands, strict=True)
    dashes = (number % 2 * 4, (4, 4))  # of two controls that lie on each other, both show
    style = dashes if name in CONTROLS else "-"
    axes.plot(places, mean, ls=style, color=f"C{number}", linewidth=1.2, label=named(name))
    axes.fill_between(places, low, high, color=f"C{number}", alpha=0.12, linewidth=0)


def draw_maps(trial: Trial, mode: str) -> Figure:
    """Draw the first image's maps, one row per method, as layers are randomised."""
    image, *_ = trial.subjects
    columns = {"trained": [trial.trained[image, name][0] for name in trial.methods]}
    places = np.linspace(0, len(trial.steps) - 1, DRAWN_STEPS).round().astype(int)
    chosen = {trial.steps[place] for place in places}
    with closing(trial.randomised(mode)) as randomised:
        for layer in randomised:
            if layer in chosen:
                maps = [explain(trial.first)[0] for explain in trial.methods.values()]
                columns[in_two_lines(layer)] = maps
    photo = denormalize(trial.first.images)[0]
    titles = [named(name) for name in trial.methods]
    return comparison_figure([photo] * len(titles), columns, titles=titles)


def in_two_lines(layer: str) -> str:
    """Return a dotted name, broken at the dot nearest to its middle."""
    dots = [place for place, character in enumerate(layer, 1) if character == "."]
    if not dots:
        return layer
    middle = min(dots, key=lambda place: abs(place - len(layer) / 2))
    return f"{layer[:middle]}\n{layer[middle:]}"
