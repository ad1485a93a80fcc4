"""Check whether a map depends on what the model has learnt.

    python benchmarks/sanity.py
    python benchmarks/sanity.py --dataset market1501 --root DIR --model osnet_x0_25 --weights FILE
    python benchmarks/sanity.py --methods ScoreCAM,ScoreFAM --images 2 --mode cascading

Layers of the model are randomised, from the last that runs to the first, and the maps of some
queries are compared with those of the trained model. A map that tells of the model has to change
(which is not enough: ActivationMean does too, and knows nothing of the embedding):

cascading     each step randomises one more layer, until nothing learnt is left
independent   each step randomises one layer, with all others as learnt

The likeness of two maps is SSIM, the rank correlation of their pixels (Spearman), and the
correlation of their oriented gradients (HOG). A method is compared where the randomised layer takes
part in what the method explains: RAM explains the pooled map, so no layer behind that counts for
it. The reference of RAM, CG-RAM and Grad-RAM is a match from another camera; the class of Grad-CAM
and Score-CAM is the one that the trained model predicts.

Score-FAM and Score-CAM weight the channels by a softmax. Beside the entropy of their weights, which
is 1 where these are the same for all channels, stands how close their map is to the channel mean.

Output: tables on the screen, results.json, per_step.csv, weights.csv, curves.png, and for each mode
the maps of one query as layers are randomised, maps_MODE.png (as figure 5 of the FAM paper). A run
that was interrupted goes on with --resume and ends with the same tables.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from command_line import add_dataset, benchmark_parser, check_methods, one_line_errors
from localisation import match_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from methods import CONTROLS, METHODS, Method, Subject, Target
from run_folder import Rows, claim, fixed_settings, image_name, write_json
from tables import cell, layout, named, versions
from targets import open_target
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain import InputError
from reid_explain.datasets import denormalize, open_dataset, to_tensor
from reid_explain.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, ReIDDataset
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.metrics.sanity import (
    cascading_randomisation,
    executed_layers,
    hog_similarity,
    independent_randomisation,
    spearman,
    ssim,
    weight_entropy,
)
from reid_explain.visualization import comparison_figure

CLASS_BASED = ("GradCAM", "ScoreCAM")
SCORE_BASED = ("ScoreFAM", "ScoreCAM")
DEFAULT_METHODS = tuple(name for name in METHODS if name not in SCORE_BASED)
"""Those that do without one forward pass per channel: a run then stays under five minutes."""
MODES = {"cascading": cascading_randomisation, "independent": independent_randomisation}
LIKENESS = {"ssim": ssim, "spearman": spearman, "hog": hog_similarity}
TITLES = {"ssim": "SSIM", "spearman": "Spearman", "hog": "HOG"}
WEIGHT_FIGURES = ("entropy", "score_range", "spearman_with_mean")
INSENSITIVE = 0.9
"""A method whose interval of Spearman's correlation lies above this hardly changes."""
DRAWN_STEPS = 8
NAMED_STEPS = 30
BAND_RESAMPLES = 200


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, methods=DEFAULT_METHODS)
    add_dataset(parser)
    add = parser.add_argument
    add("--images", type=int, default=8, help="a random choice of so many queries")
    add("--mode", choices=(*MODES, "both"), default="both")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    with one_line_errors("sanity.py"):
        run(parse_arguments(arguments))


def run(settings: argparse.Namespace) -> None:
    """Compare the maps of every randomised model, row by row, and show what came out."""
    check_arguments(settings)
    target = open_target(settings)
    subjects = chosen_subjects(target, open_dataset(settings.dataset, settings.root), settings)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    trial = Trial(target, subjects, settings.methods, settings.seed)
    modes = list(MODES) if settings.mode == "both" else [settings.mode]
    weights = Rows(settings.output / "weights.csv", ("image", "method"), WEIGHT_FIGURES)
    weigh(target, subjects, weights)
    rows = Rows(
        settings.output / "per_step.csv", ("layer", "mode", "image", "method"), tuple(LIKENESS)
    )
    for mode in modes:
        compare(trial, mode, rows)
    results = summarise(trial, modes, rows, weights, settings)
    write_json(settings.output / "results.json", results)
    draw_curves(trial, modes, rows).savefig(settings.output / "curves.png", dpi=150)
    for mode in modes:
        draw_maps(trial, mode).savefig(settings.output / f"maps_{mode}.png", dpi=110)
    print(as_tables(results))


def check_arguments(settings: argparse.Namespace) -> None:
    """Raise unless the methods are known and there is an image to explain."""
    check_methods(settings.methods, list(METHODS))
    if settings.images < 1:
        raise InputError("--images", settings.images, "at least 1")


def chosen_subjects(
    target: Target, dataset: ReIDDataset, settings: argparse.Namespace
) -> dict[str, Subject]:
    """Return some queries, each with a match from another camera and its predicted class.

    Raises:
        InputError: If no query has a match.
    """
    found: dict[str, Subject] = {}
    generator = torch.Generator().manual_seed(settings.seed)
    for index in torch.randperm(len(dataset.query), generator=generator).tolist():
        query = dataset.query[index]
        match = match_of(query, dataset.gallery)
        if match is None or query.identity in (JUNK_IDENTITY, DISTRACTOR_IDENTITY):
            continue
        images, references = (to_tensor(dataset.load(record))[None] for record in (query, match))
        with torch.no_grad():
            classes = target.logits(images).argmax(dim=1)
        found[image_name(query, settings.root)] = Subject(images, references, classes)
        if len(found) == settings.images:
            break
    if not found:
        raise InputError("--root", "no query with a match from another camera", "at least one")
    return found


class Trial:
    """What is explained and how, with the maps of the trained model.

    Args:
        target: Its model is randomised in place and restored.
        subjects: The queries, by name.
        methods: Names.
        seed: Of the random weights.
    """

    def __init__(
        self, target: Target, subjects: dict[str, Subject], methods: Sequence[str], seed: int
    ) -> None:
        self.target = target
        self.subjects = subjects
        self.seed = seed
        self.methods: dict[str, Method] = {name: METHODS[name](target) for name in methods}
        self.first, *_ = subjects.values()
        self.layers = {name: self._layers_behind(name) for name in methods}
        self.longest = max(methods, key=lambda name: len(self.layers[name]))
        """The method that the most layers take part in; the others' are among these."""
        self.trained = {
            (image, name): method(subject)
            for image, subject in subjects.items()
            for name, method in self.methods.items()
        }

    @property
    def steps(self) -> list[str]:
        """All layers, in the order in which they are randomised."""
        return self.layers[self.longest]

    def randomised(self, mode: str) -> Iterator[str]:
        """Yield each layer with the model randomised; restore it when closed."""
        function = explained_function(self.longest, self.target)
        return MODES[mode](
            self.target.model, self.first.images, forward_func=function, seed=self.seed
        )

    def _layers_behind(self, name: str) -> list[str]:
        """Return the layers that take part in what a method explains, the last first."""
        function = explained_function(name, self.target)
        layers = executed_layers(self.target.model, self.first.images, function)
        return [layer.name for layer in reversed(layers)]


def explained_function(name: str, target: Target) -> Callable[[Tensor], Tensor]:
    """Return what a method explains: logits, the pooled map, or the embedding."""
    if name in CLASS_BASED:
        return target.logits
    return target.pooled if name == "RAM" else target.model


def compare(trial: Trial, mode: str, rows: Rows) -> None:
    """Write a row for each randomised layer, image and method, unless it is there."""
    with closing(trial.randomised(mode)) as randomised:
        for layer in tqdm(randomised, desc=mode, total=len(trial.steps), unit="layer"):
            for image, subject in trial.subjects.items():
                for name, method in trial.methods.items():
                    key = (layer, mode, image, name)
                    if layer in trial.layers[name] and key not in rows:
                        rows.add(key, likeness(trial.trained[image, name], method(subject)))


def likeness(trained: Tensor, randomised: Tensor) -> dict[str, float]:
    """Return how alike two maps (1, 1, H, W) are, by each measure."""
    return {name: measure(trained, randomised).item() for name, measure in LIKENESS.items()}


def weigh(target: Target, subjects: dict[str, Subject], rows: Rows) -> None:
    """Write what the channel weights of the trained model are like, unless it is there."""
    mean = METHODS["ActivationMean"](target)
    methods = {name: METHODS[name](target) for name in SCORE_BASED}
    for image, subject in tqdm(subjects.items(), desc="channel weights", unit="image"):
        for name, method in methods.items():
            if (image, name) not in rows:
                map_, scores = method(subject, return_scores=True)
                figures = (
                    weight_entropy(scores.softmax(dim=1)),
                    scores.amax(dim=1) - scores.amin(dim=1),
                    spearman(map_, mean(subject)),
                )
                values = (value.item() for value in figures)
                rows.add((image, name), dict(zip(WEIGHT_FIGURES, values, strict=True)))


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
            for name in SCORE_BASED
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


def interval(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return the mean over images with its 95 % interval."""
    mean, low, high = bootstrap_mean(torch.as_tensor(values, dtype=torch.float64))
    return {"mean": mean, "interval": [low, high]}


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
    bands = [bootstrap_mean(torch.from_numpy(v), resamples=BAND_RESAMPLES) for v in values]
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
                maps = [method(trial.first)[0] for method in trial.methods.values()]
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


if __name__ == "__main__":
    main()
