"""Measure whether maps point at the person, and at what differs between two images.

    python benchmarks/localisation.py --output outputs/localisation

The synthetic world knows both. Each image comes with the mask of its person, and with a
counterfactual: the same image with one attribute changed, and the region that changed. Figures:

person   the map of an image: its energy inside the person, and whether its peak is there
change   the map of a difference: its energy inside the changed region, and its peak

The map of a difference is the absolute change of a method's map when the image changes (methods
that explain an image by itself), or when the reference does, from the image itself to its
counterfactual (RAM, CG-RAM, Grad-RAM); a method that explains differences is asked for this one
(ExtremalFAM). Chance is the region's share of the image: what a constant
map scores, and random maps on average.

Output: a table on the screen, results.json, per_image.csv, localisation.png.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from command_line import benchmark_parser, check_methods, one_line_errors
from matplotlib.figure import Figure
from methods import CONTROLS, METHODS, QUICK, Explain, explainers
from run_folder import Rows, claim, fixed_settings, write_json
from subjects import Subject, as_batch, match_of
from tables import cell, error_bars, interval, layout, named, versions
from targets import open_target
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain import InputError
from reid_explain.datasets.images import to_tensor
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.localisation import area, energy_inside, pointing_game

FIGURES = ("person_energy", "person_pointing", "change_energy", "change_pointing")
CHANCE = {figure: f"{figure.split('_')[0]}_area" for figure in FIGURES}
SMALLEST_REGION = 64
"""Pixels that have to change for a pair to count: 8 x 8, one cell of the usual layer."""


class Pair(NamedTuple):
    """An image (1, 3, H, W), the same with one attribute changed, a match, and the truth."""

    name: str
    attribute: str
    original: Tensor
    changed: Tensor
    match: Tensor
    person: Tensor
    change: Tensor


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, methods=QUICK)
    parser.add_argument("--pairs", type=int, default=2, help="pairs for each attribute")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    with one_line_errors("localisation.py"):
        run(parse_arguments(arguments))


def run(settings: argparse.Namespace) -> None:
    """Score every method on every pair, row by row, and show what came out."""
    check_methods(settings.methods, list(METHODS))
    if settings.pairs < 1:
        raise InputError("--pairs", settings.pairs, "at least 1")
    target = open_target(settings)
    methods = explainers(target, settings.methods)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    rows = Rows(
        settings.output / "per_image.csv",
        key=("image", "attribute", "method"),
        figures=(*FIGURES, "person_area", "change_area"),
    )
    world = SyntheticReID()
    total = settings.pairs * len(world.attribute_names)
    for pair in tqdm(pairs(world, settings.pairs, settings.seed), total=total, unit="pair"):
        classes = target.predicted(pair.original)
        for name, explain in methods.items():
            key = (pair.name, pair.attribute, name)
            if key not in rows:
                rows.add(key, score(pair, *maps_of(name, explain, pair, classes)))
    results = summarise(rows, settings)
    write_json(settings.output / "results.json", results)
    draw(results["methods"]).savefig(settings.output / "localisation.png", dpi=150)
    print(as_table(results))


def pairs(world: SyntheticReID, per_attribute: int, seed: int) -> Iterator[Pair]:
    """Yield query images with each attribute changed, where the change can be seen."""
    for number, attribute in enumerate(world.attribute_names):
        generator = torch.Generator().manual_seed(seed * len(world.attribute_names) + number)
        found = 0
        for index in torch.randperm(len(world.query), generator=generator).tolist():
            record = world.query[index]
            match = match_of(record, world.gallery)
            if match is None:
                continue
            original, changed, region = world.counterfactual(record, attribute)
            if (original.image != changed.image).any(axis=2).sum() < SMALLEST_REGION:
                continue
            yield Pair(
                record.path.name,
                attribute,
                as_batch(original.image),
                as_batch(changed.image),
                to_tensor(world.load(match))[None],
                torch.from_numpy(original.person)[None, None],
                torch.from_numpy(region)[None, None],
            )
            found += 1
            if found == per_attribute:
                break


def maps_of(
    name: str, explain: Explain, pair: Pair, classes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the map of the image and the map of the difference, both (1, 1, H, W)."""

    def map_of(images: Tensor, references: Tensor) -> Tensor:
        map_: Tensor = explain(Subject(images, references, classes))
        return map_.cpu()

    own = map_of(pair.original, pair.match)
    if METHODS[name].explains_differences:
        asked = Subject(pair.original)
        return own, explain(asked, references=pair.changed, explains="difference").cpu()
    if METHODS[name].needs == "references":
        before = map_of(pair.original, pair.original)
        after = map_of(pair.original, pair.changed)
    else:
        before, after = own, map_of(pair.changed, pair.match)
    return own, (before - after).abs()


def score(pair: Pair, own: Tensor, difference: Tensor) -> dict[str, float]:
    """Return the figures of one row."""
    return {
        "person_energy": energy_inside(own, pair.person).item(),
        "person_pointing": pointing_game(own, pair.person).item(),
        "change_energy": energy_inside(difference, pair.change).item(),
        "change_pointing": pointing_game(difference, pair.change).item(),
        "person_area": area(pair.person).item(),
        "change_area": area(pair.change).item(),
    }


def summarise(rows: Rows, settings: argparse.Namespace) -> dict[str, Any]:
    """Return means in percent with 95 % intervals, chance, and the paired lead over chance."""
    by_method = {
        name: [figures for (*_, method), figures in rows.rows.items() if method == name]
        for name in settings.methods
    }
    return {
        "dataset": "synthetic",
        "pairs": len(by_method[settings.methods[0]]),
        "settings": fixed_settings(settings),
        "methods": {
            name: {figure: over_chance(own, figure) for figure in FIGURES}
            for name, own in by_method.items()
        },
        "versions": versions(),
    }


def over_chance(rows: Sequence[dict[str, float]], figure: str) -> dict[str, Any]:
    """Return one figure of one method: mean, chance and lead, in percent."""
    values = 100 * np.array([row[figure] for row in rows])
    chance = 100 * np.array([row[CHANCE[figure]] for row in rows])
    own, lead = interval(values), interval(values - chance)
    return {
        **own,
        "chance": float(chance.mean()),
        "lead": lead["mean"],
        "lead_interval": lead["interval"],
    }


def as_table(results: dict[str, Any]) -> str:
    """Return the results as text: mean and interval, with a mark where they beat chance."""
    lines = [["in %", *(figure.replace("_", ": ") for figure in FIGURES)]]
    for name, figures in results["methods"].items():
        marks = {f: "+" if figures[f]["lead_interval"][0] > 0 else "" for f in FIGURES}
        lines.append([named(name), *(f"{cell(figures[f])}{marks[f]}" for f in FIGURES)])
    chances = next(iter(results["methods"].values()))
    lines.append(["chance", *(f"{chances[figure]['chance']:.1f}" for figure in FIGURES)])
    return (
        f"{layout(lines)}\n[95 % bootstrap interval over {results['pairs']} pairs]; + where the "
        "lead over chance, pair by pair, excludes 0; * control"
    )


def draw(methods: dict[str, Any]) -> Figure:
    """Draw each figure of each method with its interval, beside the chance level."""
    figure = Figure(figsize=(11, 1.2 + 0.34 * len(methods)), layout="constrained")
    names = list(methods)[::-1]
    for axes, title in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES, strict=True):
        values = [methods[name][title] for name in names]
        means, reach = error_bars(values)
        colours = ["0.55" if name in CONTROLS else "tab:blue" for name in names]
        axes.errorbar(means, range(len(names)), xerr=reach, fmt="none", ecolor=colours)
        axes.scatter(means, range(len(names)), color=colours, zorder=3)
        axes.axvline(values[0]["chance"], color="tab:red", linestyle="--", label="chance")
        axes.set(title=title.replace("_", ": "), xlabel="%", xlim=(0, 100))
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
