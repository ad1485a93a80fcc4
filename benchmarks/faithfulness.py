"""Measure how faithful every explainer's maps are: the FAM paper's table 2, with controls.

    python benchmarks/faithfulness.py
    python benchmarks/faithfulness.py --dataset market1501 --root DIR \
        --model osnet_x0_25 --weights FILE
    torchrun --nproc_per_node 2 benchmarks/faithfulness.py ...

The paper's figures (AS Drop, AP Drop, AP Increase) reward maps that keep more of the image. So each
method also meets random maps of its own smoothness, at equal kept areas and under several fills. A
method that does not beat them has explained nothing, and the table says so.

Output: tables on the screen, results.json, per_query.csv (one row per query and method), figures.
A run that was interrupted goes on with --resume and ends with the same table. Processes on several
machines need one --output that all of them see.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from command_line import add_dataset, benchmark_parser, check_methods, one_line_errors
from faithfulness_report import CURVE_FIGURES, FIGURES, report
from faithfulness_scorer import Scorer, Search
from methods import FULL_IMAGE, METHODS, QUICK, explainers
from run_folder import Rows, claim, fixed_settings, image_name
from safetensors.torch import load_file, save_file
from targets import Target, open_target
from torch import distributed
from tqdm.auto import tqdm

from reid_explain import InputError
from reid_explain.datasets import open_dataset
from reid_explain.datasets.catalogue import SYNTHETIC
from reid_explain.datasets.records import ReIDDataset
from reid_explain.metrics.embedding import Embedded, embed_records
from reid_explain.metrics.retrieval import match_ranks

NAMES = (*METHODS, FULL_IMAGE)
SYNTHETIC_QUERIES = 40
"""Queries of a run without arguments: it stays under five minutes on two cores."""
EXAMPLES = 3
"""Queries whose maps are drawn."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, methods=(*QUICK, FULL_IMAGE))
    add_dataset(parser)
    drawn = f"a random choice of so many; {SYNTHETIC_QUERIES} of synthetic"
    parser.add_argument("--queries", type=int, help=drawn)
    settings = parser.parse_args(arguments)
    if settings.queries is None and settings.dataset == SYNTHETIC:
        settings.queries = SYNTHETIC_QUERIES
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    settings = parse_arguments(arguments)
    with one_line_errors("faithfulness.py"), process_group() as group:
        run(settings, group)


class Group(NamedTuple):
    """The processes that torchrun or accelerate launch started, and which one this is."""

    rank: int = 0
    size: int = 1

    def wait(self) -> None:
        """Wait until every process has come this far."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def process_group() -> Iterator[Group]:
    """Yield the group that this process is in."""
    if "WORLD_SIZE" not in os.environ:
        yield Group()
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def run(settings: argparse.Namespace, group: Group) -> None:
    """Embed, score this process's queries row by row, and report them all."""
    check_arguments(settings)
    target = open_target(settings)
    methods = explainers(target, [name for name in settings.methods if name != FULL_IMAGE])
    dataset = open_dataset(settings.dataset, settings.root)
    output: Path = settings.output
    if group.rank == 0:
        claim(output, fixed_settings(settings), resume=settings.resume)
    group.wait()
    search = embedded(target, dataset, output, group)
    ranks = match_ranks(search.query, search.gallery)
    chosen = chosen_queries([len(row) > 0 for row in ranks], settings)
    names = [image_name(dataset.query[number], settings.root) for number in chosen]
    scorer = Scorer(target, search, methods, settings.seed)
    score(scorer, list(zip(chosen, names, strict=True)), settings, group)
    group.wait()
    if group.rank == 0:
        rows = collected_rows(output, names, settings.methods)
        examples = [scorer.example(number) for number in chosen[:EXAMPLES]]
        print(report(rows, ranks, fixed_settings(settings), examples, output))


def check_arguments(settings: argparse.Namespace) -> None:
    """Raise unless the methods are known and there is a query to ask for."""
    check_methods(settings.methods, NAMES)
    if settings.queries is not None and settings.queries < 1:
        raise InputError("--queries", settings.queries, "at least 1")


def embedded(target: Target, dataset: ReIDDataset, output: Path, group: Group) -> Search:
    """Embed the data set into two files in the first process, unless they are there; read them."""
    paths = {name: output / f"{name}.safetensors" for name in ("query", "gallery")}
    if group.rank == 0:
        for name, path in paths.items():
            if not path.is_file():
                made = embed_records(target.embed, dataset, getattr(dataset, name))
                partial = path.with_name(f"{path.name}.partial")
                save_file(made._asdict(), partial)
                partial.replace(path)
    group.wait()
    return Search(dataset, *(Embedded(**load_file(path)) for path in paths.values()))


def score(
    scorer: Scorer, queries: Sequence[tuple[int, str]], settings: argparse.Namespace, group: Group
) -> None:
    """Write a row for each of this process's queries and each method, unless it is there."""
    done = finished_rows(settings.output)
    own = row_file(settings.output / f"rows-{group.rank}.csv")
    mine = queries[group.rank :: group.size]
    for number, name in tqdm(mine, unit="query", disable=group.rank > 0):
        if not all((name, method) in done for method in settings.methods):
            for method, figures in scorer.score(number, settings.methods):
                own.add((name, method), figures)


def chosen_queries(has_match: Sequence[bool], settings: argparse.Namespace) -> list[int]:
    """Return the numbers of the queries to score, ascending: those with a match, or some."""
    usable = [number for number, match in enumerate(has_match) if match]
    if not usable:
        raise InputError("--root", "no query with a match in the gallery", "at least one")
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(usable), generator=generator)[: settings.queries]
    return sorted(usable[place] for place in order.tolist())


def row_file(path: Path) -> Rows:
    """Return the rows in a file."""
    return Rows(path, key=("query", "method"), figures=(*FIGURES, *CURVE_FIGURES))


def finished_rows(output: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """Return the whole rows that the processes of this and earlier runs have written."""
    files = [*sorted(output.glob("rows-*.csv")), output / "per_query.csv"]
    return {
        key: row for path in files if path.is_file() for key, row in row_file(path).rows.items()
    }


def collected_rows(output: Path, queries: Sequence[str], methods: Sequence[str]) -> Rows:
    """Put the rows of all processes into per_query.csv, in the order of queries and methods."""
    found = finished_rows(output)
    partial = output / "per_query.csv.partial"
    partial.unlink(missing_ok=True)
    rows = row_file(partial)
    for query in queries:
        for method in methods:
            rows.add((query, method), found[query, method])
    partial.replace(output / "per_query.csv")
    for path in output.glob("rows-*.csv"):
        path.unlink()
    return rows


if __name__ == "__main__":
    main()
