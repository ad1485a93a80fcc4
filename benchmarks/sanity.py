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

import torch
from command_line import add_dataset, benchmark_parser, check_methods, one_line_errors
from methods import METHODS, QUICK, explainers
from run_folder import Rows, claim, fixed_settings, image_name
from sanity_report import report
from sanity_trial import LIKENESS, MODES, WEIGHT_FIGURES, Trial, compare, weigh
from subjects import Subject, match_of
from targets import Target, open_target

from reid_explain import InputError
from reid_explain.datasets import open_dataset, to_tensor
from reid_explain.datasets.records import ReIDDataset

DEFAULT_METHODS = tuple(name for name in QUICK if not METHODS[name].scores_channels)
"""Those that do without one forward pass per channel: a run then stays under five minutes."""


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
    methods = explainers(target, settings.methods)
    subjects = chosen_subjects(target, open_dataset(settings.dataset, settings.root), settings)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    trial = Trial(target, subjects, methods, settings.seed)
    modes = list(MODES) if settings.mode == "both" else [settings.mode]
    weights = Rows(settings.output / "weights.csv", ("image", "method"), WEIGHT_FIGURES)
    weigh(target, subjects, weights)
    rows = Rows(
        settings.output / "per_step.csv", ("layer", "mode", "image", "method"), tuple(LIKENESS)
    )
    for mode in modes:
        compare(trial, mode, rows)
    print(report(trial, modes, rows, weights, settings))


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
        if match is None:
            continue
        images, references = (to_tensor(dataset.load(record))[None] for record in (query, match))
        subject = Subject(images, references, target.predicted(images))
        found[image_name(query, settings.root)] = subject
        if len(found) == settings.images:
            break
    if not found:
        raise InputError("--root", "no query with a match from another camera", "at least one")
    return found


if __name__ == "__main__":
    main()
