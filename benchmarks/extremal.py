"""Check what may fool Extremal FAM: under which fills its lead is real, and what the seed decides.

    python benchmarks/extremal.py
    python benchmarks/extremal.py --dataset market1501 --root DIR \
        --model osnet_x0_25 --weights FILE --queries 8

gain       how much more of the embedding the highest 5 to 70 % of the map keep than those of the
           channel mean: the difference of the cosines with the whole image, in points, under each
           kind of fill that the descents meet (met) and each of the faithfulness benchmark, of
           which another image and shuffled patches are never met
agreement  Spearman correlation of the maps of two seeds

A lead is worth what of it holds under fills that were never met.

Output: a table on the screen, results.json, per_query.csv. A run that was
interrupted goes on with --resume.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from command_line import add_dataset, benchmark_parser, check_methods, one_line_errors
from methods import METHODS
from run_folder import Rows, claim, fixed_settings, image_name, write_json
from subjects import Subject
from tables import cell, interval, layout, versions
from targets import Target, open_target
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from reid_explain import InputError
from reid_explain.datasets import open_dataset, to_tensor
from reid_explain.explainers.descent import FILL_KINDS, random_fill
from reid_explain.fills import FILLS, content_generator
from reid_explain.metrics.faithfulness import composite, top_area_masks
from reid_explain.metrics.sanity import spearman

DESCENDING = tuple(name for name, method in METHODS.items() if method.descends)
GAINS = (*(f"met: {kind}" for kind in FILL_KINDS), *FILLS)
FIGURES = (*GAINS, "agreement")
FILL_SEED = 2**31
"""Of the fills here: another one than any that a method was given."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, methods=DESCENDING)
    add_dataset(parser)
    parser.add_argument("--queries", type=int, default=8, help="a random choice of so many")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    with one_line_errors("extremal.py"):
        run(parse_arguments(arguments))


def run(settings: argparse.Namespace) -> None:
    """Measure every method on every query, row by row, and show what came out."""
    check_methods(settings.methods, DESCENDING)
    if settings.queries < 1:
        raise InputError("--queries", settings.queries, "at least 1")
    target = open_target(settings)
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    rows = Rows(settings.output / "per_query.csv", ("query", "method"), FIGURES)
    for query, images, other in tqdm(chosen(settings), total=settings.queries, unit="query"):
        for name in settings.methods:
            if (query, name) not in rows:
                rows.add((query, name), measure(target, name, images, other))
    results = summarise(rows, settings)
    write_json(settings.output / "results.json", results)
    print(as_table(results))


def chosen(settings: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield some queries: name, image (1, 3, H, W), and an image of another person."""
    dataset = open_dataset(settings.dataset, settings.root)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(dataset.query), generator=generator)
    for query in (dataset.query[number] for number in order[: settings.queries].tolist()):
        others = [record for record in dataset.gallery if record.identity != query.identity]
        other = others[int(torch.randint(len(others), (), generator=generator))]
        images = (to_tensor(dataset.load(record))[None] for record in (query, other))
        yield image_name(query, settings.root), *images


def measure(target: Target, name: str, images: Tensor, other: Tensor) -> dict[str, float]:
    """Return the figures of one method on one image (1, 3, H, W)."""
    explainer = METHODS[name].explainer
    one, second = (
        explainer(target.embedding, target.layer, seed=seed)
        .attribute(images.to(target.device))
        .cpu()
        for seed in (0, 1)
    )
    mean = METHODS["ActivationMean"].on(target)(Subject(images)).cpu()
    generator = content_generator(images[0], FILL_SEED)
    met = {f"met: {kind}": random_fill(images[0], generator, kind)[None] for kind in FILL_KINDS}
    fills = met | {kind: fill(images, other) for kind, fill in FILLS.items()}
    own, mean_kept = (kept(target, map_, images, fills) for map_ in (one, mean))
    gains = {kind: 100 * (own[kind] - mean_kept[kind]) for kind in fills}
    return gains | {"agreement": spearman(one, second).item()}


def kept(
    target: Target, map_: Tensor, images: Tensor, fills: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the mean cosine of an image with what the highest 5 to 70 % of a map keep of it."""
    masks = top_area_masks(map_)[0]
    whole = images.expand(len(masks), -1, -1, -1)
    goal = target.embed(images)
    return {
        kind: cosine_similarity(target.embed(composite(whole, masks, fill.expand_as(whole))), goal)
        .mean()
        .item()
        for kind, fill in fills.items()
    }


def summarise(rows: Rows, settings: argparse.Namespace) -> dict[str, Any]:
    """Return the means with 95 % intervals over the queries, and the least agreement."""
    by_method = {
        name: [figures for (_, method), figures in rows.rows.items() if method == name]
        for name in settings.methods
    }
    return {
        "settings": fixed_settings(settings),
        "methods": {
            name: {
                **{figure: interval([row[figure] for row in own]) for figure in FIGURES},
                "least_agreement": min(row["agreement"] for row in own),
            }
            for name, own in by_method.items()
        },
        "versions": versions(),
    }


def as_table(results: dict[str, Any]) -> str:
    """Return the results as text."""
    methods = results["methods"]
    lines = [["gain in points", *methods]]
    for figure in GAINS:
        lines.append([figure, *(cell(found[figure]) for found in methods.values())])
    lines.append(["agreement", *(cell(found["agreement"], 2) for found in methods.values())])
    lines.append(["least", *(f"{found['least_agreement']:.2f}" for found in methods.values())])
    return layout(lines)


if __name__ == "__main__":
    main()
