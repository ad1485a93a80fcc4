"""Maps of randomised models beside those of the trained one, and its channel weights, as rows."""

from collections.abc import Generator, Mapping
from contextlib import closing

from methods import METHODS, Explain, explainers
from run_folder import Rows
from subjects import Subject
from targets import Target
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.metrics.sanity import (
    cascading_randomisation,
    executed_layers,
    hog_similarity,
    independent_randomisation,
    spearman,
    ssim,
    weight_entropy,
)

MODES = {"cascading": cascading_randomisation, "independent": independent_randomisation}
LIKENESS = {"ssim": ssim, "spearman": spearman, "hog": hog_similarity}
WEIGHT_FIGURES = ("entropy", "score_range", "spearman_with_mean")


class Trial:
    """What is explained and how, with the maps of the trained model.

    Args:
        target: Its model is randomised in place and restored.
        subjects: The queries, by name.
        methods: On the target, by name.
        seed: Of the random weights.
    """

    def __init__(
        self,
        target: Target,
        subjects: Mapping[str, Subject],
        methods: Mapping[str, Explain],
        seed: int,
    ) -> None:
        self.target = target
        self.subjects = subjects
        self.methods = methods
        self.seed = seed
        self.first, *_ = subjects.values()
        self.images = self.first.images.to(target.device)
        self.layers = {name: self._layers_behind(name) for name in methods}
        self.longest = max(methods, key=lambda name: len(self.layers[name]))
        """The method that the most layers take part in; the others' are among these."""
        self.trained = {
            (image, name): explain(subject)
            for image, subject in subjects.items()
            for name, explain in methods.items()
        }

    @property
    def steps(self) -> list[str]:
        """All layers, in the order in which they are randomised."""
        return self.layers[self.longest]

    def randomised(self, mode: str) -> Generator[str, None, None]:
        """Yield each layer with the model randomised; restore it when closed."""
        function = METHODS[self.longest].function(self.target)
        return MODES[mode](self.target.model, self.images, forward_func=function, seed=self.seed)

    def _layers_behind(self, name: str) -> list[str]:
        """Return the layers that take part in what a method explains, the last first."""
        function = METHODS[name].function(self.target)
        layers = executed_layers(self.target.model, self.images, function)
        return [layer.name for layer in reversed(layers)]


def compare(trial: Trial, mode: str, rows: Rows) -> None:
    """Write a row for each randomised layer, image and method, unless it is there."""
    with closing(trial.randomised(mode)) as randomised:
        for layer in tqdm(randomised, desc=mode, total=len(trial.steps), unit="layer"):
            for image, subject in trial.subjects.items():
                for name, explain in trial.methods.items():
                    key = (layer, mode, image, name)
                    if layer in trial.layers[name] and key not in rows:
                        rows.add(key, likeness(trial.trained[image, name], explain(subject)))


def likeness(trained: Tensor, randomised: Tensor) -> dict[str, float]:
    """Return how alike two maps (1, 1, H, W) are, by each measure."""
    return {name: measure(trained, randomised).item() for name, measure in LIKENESS.items()}


def scoring_methods(target: Target) -> list[str]:
    """Return the names of the methods that weight channels by scores."""
    return [name for name, m in METHODS.items() if m.scores_channels and m.suits(target)]


def weigh(target: Target, subjects: Mapping[str, Subject], rows: Rows) -> None:
    """Write what the channel weights of the trained model are like, unless it is there."""
    mean = METHODS["ActivationMean"].on(target)
    methods = explainers(target, scoring_methods(target))
    for image, subject in tqdm(subjects.items(), desc="channel weights", unit="image"):
        for name, explain in methods.items():
            if (image, name) not in rows:
                map_, scores = explain(subject, return_scores=True)
                figures = (
                    weight_entropy(scores.softmax(dim=1)),
                    scores.amax(dim=1) - scores.amin(dim=1),
                    spearman(map_, mean(subject)),
                )
                values = (value.item() for value in figures)
                rows.add((image, name), dict(zip(WEIGHT_FIGURES, values, strict=True)))
