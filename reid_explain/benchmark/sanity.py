"""Whether a map depends on what the model has learnt.

    python benchmarks/sanity.py
    python benchmarks/sanity.py --dataset market1501 --root DIR --weights FILE
    python benchmarks/sanity.py --methods ScoreCAM,ScoreFAM --images 2 --mode cascading

The rows: one for each image and method. Columns: ``MODE:MEASURE:LAYER``, the similarity of its map
to that of the trained model when LAYER (cascading: and all later ones) is randomized, 1 for equal
maps, NaN where the explainer gives no map of the broken model; and, of methods that score channels,
``weights:FIGURE`` of the trained model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from reid_explain.benchmark.methods import Subject, all_methods
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import cell, interval, layout, named
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.errors import InputError
from reid_explain.metrics.faithfulness import weight_entropy
from reid_explain.metrics.randomization import (
    cascading_randomization,
    executed_layers,
    independent_randomization,
)
from reid_explain.metrics.similarity import hog_similarity, spearman, ssim
from reid_explain.visualization import Curve, comparison_figure, curves_figure

MODES = {"cascading": cascading_randomization, "independent": independent_randomization}
MEASURES = {"ssim": ssim, "spearman": spearman, "hog": hog_similarity}
TITLES = {"ssim": "SSIM", "spearman": "Spearman", "hog": "HOG"}
WEIGHTS = ("entropy", "score_range", "spearman_with_mean")
INSENSITIVE = 0.9
"""A method whose interval of Spearman's correlation lies above this hardly changes."""
DRAWN_STEPS = 8
NAMED_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Sanity(Task):
    """Whether a map depends on what the model has learnt.

    Layers of the model are randomized, from the last that runs to the first, and the maps of some
    queries compared with those of the trained model: each step of the mode "cascading" randomizes
    one more layer, each of "independent" one alone. A map that tells of the model has to change
    (which is not enough: ActivationMean does too, and knows nothing of the embedding). A method is
    compared where the layer takes part in what it explains. References are matches from another
    camera; the class is the one that the trained model predicts. Methods that take one pass per
    channel are compared when they are named; otherwise their channel weights alone are shown.

    Args:
        images: how many queries, chosen at random
        mode: which layers are randomized together
    """

    images: int = 8
    mode: Literal["cascading", "independent", "both"] = "both"

    name: ClassVar[str] = "sanity"

    @property
    def modes(self) -> list[str]:
        """The modes of this run."""
        return list(MODES) if self.mode == "both" else [self.mode]

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return some queries, each with a match from another camera."""
        check_at_least("images", self.images, 1)
        records = shuffled(bench.dataset.query, self.seed)
        chosen = [record for record in records if bench.match(record) is not None]
        if not chosen:
            raise InputError("root", "no query with a match from another camera", "at least one")
        return [Case(bench.name(r), r.identity, r) for r in chosen[: self.images]]

    def columns(self, bench: Bench, method: str) -> list[str]:
        """Return the weights and, by mode, layer and measure, the similarities."""
        scores = bench.methods[method].takes("return_scores")
        layers = layers_behind(bench, method) if method in compared(bench) else ()
        keys = (f"{mode}:{name}" for mode in self.modes for name in MEASURES)
        similarities = [f"{key}:{layer}" for key in keys for layer in layers]
        return [f"weights:{name}" for name in WEIGHTS if scores] + similarities

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return how similar the maps of randomized models are to that of the trained one."""
        subject = bench.current = bench.current or bench.subject(case.data)
        values: dict[str, float] = {}
        if bench.methods[method].takes("return_scores"):
            values |= weights_of(bench, method, subject)
        if method in compared(bench):
            trained = bench.explain[method](subject)
            for mode in self.modes:
                for layer in randomized(bench, method, mode, self.seed):
                    map_ = map_or_none(bench, method, subject)
                    for name, measure in MEASURES.items():
                        value = math.nan if map_ is None else measure(trained, map_).item()
                        values[f"{mode}:{name}:{layer}"] = value
        return values

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means over layers, then over images, and the curve of each method."""
        tables, names = by_method(frame), compared(bench)
        layers = {name: layers_behind(bench, name) for name in names}
        results: dict[str, Any] = {
            "images": len(cases),
            "layers": max(layers.values(), key=len, default=[]),
            "modes": {
                mode: {name: _similarity(tables[name], mode, layers[name]) for name in names}
                for mode in self.modes
            },
            "weights": {
                name: {figure: interval(tables[name][f"weights:{figure}"]) for figure in WEIGHTS}
                for name, method in bench.methods.items()
                if method.takes("return_scores")
            },
        }
        figures: dict[str, Callable[[], Figure]] = {}
        if names:
            figures["curves"] = lambda: _draw_curves(results, tables, bench.controls)
            for mode in self.modes:
                draw = partial(_draw_maps, bench, cases[0], mode, self.seed, results["layers"])
                figures[f"maps_{mode}"] = draw
        return Report(results, _as_text(results, bench.controls), figures)


def compared(bench: Bench) -> list[str]:
    """Return the methods whose maps are compared: those that are named, or take one pass."""
    methods = bench.methods.items()
    return [name for name, m in methods if bench.named or m.fact("cost", "pass") == "pass"]


def pass_of(bench: Bench, method: str) -> tuple[nn.Module, Tensor, Callable[..., Any]]:
    """Return the model, an image, and the function of the target that a method explains."""
    image = bench.image(bench.dataset.query[0]).to(bench.target.device)
    return bench.target.model, image, getattr(bench.target, bench.methods[method].explains)


def layers_behind(bench: Bench, method: str) -> list[str]:
    """Return the layers that take part in what a method explains, the last first."""
    return [layer.name for layer in executed_layers(*pass_of(bench, method))][::-1]


def randomized(bench: Bench, method: str, mode: str, seed: int) -> Iterator[str]:
    """Yield each layer behind a method with the model randomized; restore it at the end."""
    model, image, function = pass_of(bench, method)
    return MODES[mode](model, image, forward_func=function, seed=seed)


def map_or_none(bench: Bench, method: str, subject: Subject) -> Tensor | None:
    """Return a map; None where the model is too broken to have one."""
    try:
        map_: Tensor = bench.explain[method](subject)
    except (InputError, RuntimeError):
        return None
    return map_


def weights_of(bench: Bench, method: str, subject: Subject) -> dict[str, float]:
    """Return what the channel weights of a method are like."""
    map_, scores = bench.explain[method](subject, return_scores=True)
    mean = all_methods()["ActivationMean"].on(bench.target)(subject)
    span = scores.amax(dim=1) - scores.amin(dim=1)
    figures = (weight_entropy(scores.softmax(dim=1)), span, spearman(map_, mean))
    return {f"weights:{name}": v.item() for name, v in zip(WEIGHTS, figures, strict=True)}


def _similarity(table: pd.DataFrame, mode: str, layers: Sequence[str]) -> dict[str, Any]:
    """Return each similarity of one method: the mean over layers per image, then over images."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        values = table[[f"{mode}:{measure}:{layer}" for layer in layers]]
        curve = [None if math.isnan(mean) else mean for mean in values.mean()]
        found[measure] = {
            **(interval(values.mean(axis=1)) or {"mean": None, "interval": [None, None]}),
            "curve": dict(zip(layers, curve, strict=True)),
        }
    found["no_map"] = int(values.isna().sum().sum())
    found["insensitive"] = (found["spearman"]["interval"][0] or 0) > INSENSITIVE
    return found


def _as_text(results: dict[str, Any], controls: Sequence[str]) -> str:
    """Return the results as text."""
    parts, notes = [], []
    for mode, methods in results["modes"].items():
        lines = [[f"{mode}, {len(results['layers'])} layers", *TITLES.values()]]
        for name, found in methods.items():
            cells = (cell(found[m] if found[m]["mean"] is not None else None, 2) for m in MEASURES)
            lines.append([named(name, controls), *cells])
        parts.append(layout(lines))
        if names := [named(n, controls) for n, found in methods.items() if found["insensitive"]]:
            what = "the model has" if mode == "cascading" else "any one layer has"
            notes.append(
                f"INSENSITIVE to {mode} randomization: {', '.join(names)}. Spearman's interval "
                f"lies above {INSENSITIVE}: such a map hardly depends on what {what} learnt."
            )
        if lost := [
            f"{n} {found['no_map']} times" for n, found in methods.items() if found["no_map"]
        ]:
            notes.append(f"No map of the broken model ({mode}), in no mean: {', '.join(lost)}.")
    parts.append(
        "Similarity to the maps of the trained model, 1 for the same map: the mean over the "
        f"randomized layers, then over {results['images']} images, with its 95 % bootstrap "
        "interval over identities. The trained model itself is in no mean. * control"
    )
    if weights := results["weights"]:
        head = ["channel weights", "entropy", "largest / smallest", "Spearman with ActivationMean"]
        lines = [head]
        for name, found in weights.items():
            span = found["score_range"]
            bounds = [None if bound is None else math.exp(bound) for bound in span["interval"]]
            ratio = {"mean": math.exp(span["mean"]), "interval": bounds}
            entropy, mean = found["entropy"], found["spearman_with_mean"]
            lines.append([name, cell(entropy, 4), cell(ratio), cell(mean, 3)])
        notes.append(
            f"{layout(lines)}\nOf the trained model. Entropy of the softmax weights over its "
            "largest value: 1 is the plain mean of the channels"
        )
    return "\n\n".join([*parts, *notes])


def _draw_curves(
    results: dict[str, Any], tables: dict[str, pd.DataFrame], controls: Sequence[str]
) -> Figure:
    """Draw each similarity of each method against the layers, in the order of randomization."""
    steps, panels = results["layers"], dict[str, dict[str, Curve]]()
    for mode, methods in results["modes"].items():
        for measure, title in TITLES.items():
            curves = panels[f"{title}, {mode}"] = {}
            for name, found in methods.items():
                means = {k: mean for k, mean in found[measure]["curve"].items() if mean is not None}
                columns = [tables[name][f"{mode}:{measure}:{layer}"] for layer in means]
                bounds = [(interval(column) or {})["interval"] for column in columns]
                if means:
                    sure = all(low is not None for low, _ in bounds)
                    low, high = zip(*bounds, strict=True) if sure else (None, None)
                    places = [steps.index(layer) for layer in means]
                    curves[name] = Curve(places, list(means.values()), low, high)
    shown = range(0, len(steps), math.ceil(len(steps) / NAMED_STEPS))
    return curves_figure(
        panels,
        ylabel="similarity to the trained model's map",
        ticks={place: steps[place] for place in shown},
        controls=controls,
        columns=len(MEASURES),
    )


def _draw_maps(bench: Bench, case: Case, mode: str, seed: int, steps: Sequence[str]) -> Figure:
    """Draw the first image's maps, one row per method, as layers are randomized."""
    subject = bench.subject(case.data)
    blank = torch.zeros(1, *bench.target.spec.size)
    places = np.linspace(0, len(steps) - 1, DRAWN_STEPS).round().astype(int)
    titles = {layer: ".\n".join(layer.rsplit(".", 1)) for layer in (steps[p] for p in places)}
    columns = {title: [blank] * len(compared(bench)) for title in ("trained", *titles.values())}
    for row, method in enumerate(compared(bench)):
        columns["trained"][row] = bench.explain[method](subject)[0]
        for layer in randomized(bench, method, mode, seed):
            map_ = map_or_none(bench, method, subject) if layer in titles else None
            if map_ is not None:
                columns[titles[layer]][row] = map_[0]
    photo = bench.target.spec.to_rgb(subject.images)[0]
    rows = [named(name, bench.controls) for name in compared(bench)]
    return comparison_figure([photo] * len(rows), columns, titles=rows)
