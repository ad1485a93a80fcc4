"""Whether places that are said to match show the same point of a real scene.

    python benchmarks/disparity.py --model mobilenet:imagenet

scikit-image's photographs of a motorcycle from two places, and for each pixel of the left one how
much further left it lies in the right one (Scharstein et al., High-resolution stereo datasets with
subpixel-accurate ground truth, GCPR 2014). A left place goes with the right places that show at
least a quarter of its pixels; judged are places half of which can be seen in both. ``nearest``: in
percent, how many of them have their best right place among these; ``off``: how many places it is
away on average from where it should be; ``lines``: in percent, how many of the strongest mutual
matches are right. Beside them chance, and each place matched with the same place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.benchmark.command_line import TargetOptions, one_line_errors, read
from reid_explain.benchmark.methods import find_methods, method_names, pair_methods
from reid_explain.benchmark.part_to_part import SHOWN, FeatureCosine, FeatureProduct
from reid_explain.benchmark.run import write_json
from reid_explain.benchmark.tables import cell, interval, layout, named
from reid_explain.benchmark.target import Target
from reid_explain.capture import evaluation
from reid_explain.checks import check_at_least
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.files import atomic
from reid_explain.visualization import matches_figure

STRIDE = 32
"""Sides of the photographs become the nearest multiples of so many pixels."""
VISIBLE = 0.5
"""Share of a place that has to be seen in both photographs for it to be judged."""
DRAWN = 12
"""Lines in a figure."""
COLUMNS = ("nearest", "off", "lines")


@dataclass(frozen=True, kw_only=True)
class Disparity:
    """Whether places that are said to match show the same point of a real scene.

    Args:
        methods: names, between spaces or commas; by default all that explain pairs of places
        k: how many of the strongest mutual matches
        output: a folder for results.json and a figure of the lines of each method
    """

    target: TargetOptions = field(default_factory=TargetOptions)
    methods: tuple[str, ...] = ()
    k: int = 30
    output: Path = Path("outputs", "disparity")

    def run(self) -> dict[str, Any]:
        """Explain the pair by every method, judge, print and write; return the results."""
        check_at_least("k", self.k, 1)
        known = pair_methods(FeatureProduct, FeatureCosine)
        wanted = method_names(self.methods)
        methods = find_methods(wanted, known) if wanted else known
        target, scene = self.target.open(), Scene.motorcycle()
        size = self.target.image_size or tuple(STRIDE * round(n / STRIDE) for n in scene.size)
        spec = target.spec.replace(size=size)
        sides = [spec.to_tensor(Image.fromarray(side))[None] for side in scene[:2]]
        target.check(sides[0])
        self.output.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {}
        for name, method in methods.items():
            explanation = explained(target, method.build(target), sides)
            view = View(explanation, scene, self.k)
            measured = {**view.of(view.best()), "lines": view.lines()}
            found[name] = {column: interval(values) for column, values in measured.items()}
            self._draw(name, [spec.to_rgb(side)[0] for side in sides], explanation)
        places = torch.arange(len(view.right))
        found["same place"] = {c: interval(v) for c, v in view.of(places).items()}
        found["chance"] = {c: {"mean": mean} for c, mean in view.chance().items()}
        results = {"places": int(view.judged.sum()), "methods": found}
        write_json(self.output / "results.json", {**target.settings(), "size": size, **results})
        controls = [
            "same place",
            *(n for n, method in methods.items() if method.fact("is_control")),
        ]
        lines = [
            [named(n, controls), *(_cell(own.get(c)) for c in COLUMNS)] for n, own in found.items()
        ]
        print(layout([["", *COLUMNS], *lines]))
        print(
            f"nearest and lines in %, off in places; [95 % bootstrap interval over the rows of "
            f"{results['places']} places]; * control; figures in {self.output}"
        )
        return results

    def _draw(self, name: str, sides: Sequence[Tensor], explanation: PairExplanation) -> None:
        _, *shape = explanation.contributions.shape
        (best,) = explanation.top(DRAWN, apart=2)
        grids = [(shape[0], shape[1]), (shape[2], shape[3])]
        with atomic(self.output / f"{name}.png") as path:
            figure = matches_figure(sides[0], sides[1], best, grids, titles=["left", "right"])
            figure.savefig(path, format="png", dpi=150)


def explained(target: Target, explainer: Any, sides: Sequence[Tensor]) -> PairExplanation:
    """Return the explanation of two images (1, 3, H, W), on the CPU."""
    with evaluation(target.model, target.layer):
        found = explainer.explain(*(side.to(target.device) for side in sides))
    return PairExplanation(found.contributions.cpu(), found.affinity.cpu(), found.similarity.cpu())


class Scene(NamedTuple):
    """Two photographs (H, W, 3), bytes, and how much further left a pixel is in the right one.

    ``disparity`` (H, W) is in pixels, and not finite where it is not known.
    """

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    disparity: NDArray[np.float32]

    @classmethod
    def motorcycle(cls) -> "Scene":
        """Return scikit-image's pair."""
        from skimage import data

        load: Any = data.stereo_motorcycle
        return cls(*load())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.disparity.shape[0], self.disparity.shape[1]

    def landing(self, left: tuple[int, int], right: tuple[int, int]) -> Tensor:
        """Return which share of each left place's pixels each right place shows, (Z, Z').

        Pixels that are not known, that leave the image or that something hides are shown nowhere.
        Something hides a pixel that lands where another does which has moved a pixel more.
        """
        height, width = self.size
        y, x = np.nonzero(np.isfinite(self.disparity))
        moved = self.disparity[y, x]
        lands = np.floor(x + 0.5 - moved).astype(int)
        inside = lands >= 0
        y, x, moved, lands = y[inside], x[inside], moved[inside], lands[inside]
        nearest = np.full((height, width), -np.inf, dtype=np.float32)
        np.maximum.at(nearest, (y, lands), moved)
        seen = moved > nearest[y, lands] - 1
        here, there = (
            (y * h // height) * w + column * w // width
            for (h, w), column in ((left, x), (right, lands))
        )
        table = np.zeros((left[0] * left[1], right[0] * right[1]))
        np.add.at(table, (here[seen], there[seen]), 1)
        return torch.from_numpy(table * left[0] * left[1] / (height * width))


def _cell(value: Mapping[str, Any] | None) -> str:
    return cell(value) if value is None or "interval" in value else f"{value['mean']:.1f}"


class View:
    """What an explanation of the pair says of places, against where they are."""

    def __init__(self, explanation: PairExplanation, scene: Scene, k: int) -> None:
        self.explanation, self.k = explanation, k
        _, *shape = explanation.contributions.shape
        self.width, self.other = shape[1], (shape[2], shape[3])
        shares = scene.landing((shape[0], shape[1]), self.other)
        seen = shares.sum(dim=1)
        self.right, self.judged = (shares >= SHOWN).double(), seen >= VISIBLE
        self.cells = torch.cartesian_prod(*map(torch.arange, self.other)).double()
        target = shares @ self.cells / seen.clamp(min=VISIBLE)[:, None]
        self.off = torch.cdist(target, self.cells)

    def best(self) -> Tensor:
        """Return the best right place of each left place, by affinity, (Z,)."""
        best: Tensor = self.explanation.affinity.flatten(3).flatten(1, 2)[0].argmax(dim=1)
        return best

    def of(self, best: Tensor) -> dict[str, pd.Series]:
        """Return of the judged places whether their best places (Z,) are right, and how far off."""
        places = self.judged.nonzero()[:, 0]
        tables = {"nearest": 100 * self.right, "off": self.off}
        return {n: self._series(places, t[places, best[places]]) for n, t in tables.items()}

    def chance(self) -> dict[str, float]:
        """Return the same of right places at random, on average."""
        right, off = self.right[self.judged], self.off[self.judged]
        return {"nearest": 100 * float(right.mean()), "off": float(off.mean())}

    def lines(self) -> pd.Series:
        """Return of the strongest matches of judged places whether they are right, in percent."""
        (matches,) = self.explanation.top(len(self.right))
        ends = (matches.query, self.width), (matches.gallery, self.other[1])
        ours, theirs = (cells[:, 0] * width + cells[:, 1] for cells, width in ends)
        kept = self.judged[ours].nonzero()[: self.k, 0]
        return self._series(ours[kept], 100 * self.right[ours[kept], theirs[kept]])

    def _series(self, places: Tensor, values: Tensor) -> pd.Series:
        """Return values by the row of their place, over which intervals go."""
        rows = pd.Index((places // self.width).tolist(), name="identity")
        return pd.Series(values.numpy(), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with one_line_errors("disparity.py"):
        read(Disparity, arguments, "disparity.py").run()
