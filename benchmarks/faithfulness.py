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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from command_line import add_dataset, benchmark_parser, check_methods, one_line_errors
from faithfulness_report import CURVE_FIGURES, FIGURES, curve_figure, report
from methods import FULL_IMAGE, METHODS, Method, Subject, Target
from run_folder import Rows, claim, fixed_settings, image_name
from safetensors.torch import load_file, save_file
from targets import open_target
from torch import Tensor, distributed
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from reid_explain import InputError
from reid_explain.datasets import open_dataset, to_tensor
from reid_explain.datasets.catalogue import SYNTHETIC
from reid_explain.datasets.records import (
    DISTRACTOR_IDENTITY,
    JUNK_IDENTITY,
    Record,
    ReIDDataset,
)
from reid_explain.explainers.layout import upsample
from reid_explain.fills import FILLS
from reid_explain.metrics.embedding import Embedded, embed_records
from reid_explain.metrics.faithfulness import (
    AREA_FRACTIONS,
    composite,
    drop,
    explanation_mask,
    increase,
    kept_area,
    match_similarity,
    random_phase_maps,
    top_area_masks,
)
from reid_explain.metrics.retrieval import average_precision, match_ranks

NAMES = (*METHODS, FULL_IMAGE)
SYNTHETIC_QUERIES = 40
"""Queries of a run without arguments: it stays under five minutes on two cores."""
BATCH_SIZE = 64

Embed = Callable[[Tensor], Tensor]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, methods=NAMES)
    add_dataset(parser)
    add = parser.add_argument
    add("--queries", type=int, help=f"a random choice of so many; {SYNTHETIC_QUERIES} of synthetic")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--device", default="cpu", help="cpu, cuda (one GPU per process), cuda:1, ...")
    settings = parser.parse_args(arguments)
    if settings.queries is None and settings.dataset == SYNTHETIC:
        settings.queries = SYNTHETIC_QUERIES
    if settings.device == "cuda" and "LOCAL_RANK" in os.environ:
        settings.device = f"cuda:{os.environ['LOCAL_RANK']}"
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    settings = parse_arguments(arguments)
    with one_line_errors("faithfulness.py"), process_group() as (process, processes):
        run(settings, process, processes)


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Yield this process's number and how many torchrun or accelerate launch started."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def wait_for_all(processes: int) -> None:
    """Wait until every process has come this far."""
    if processes > 1:
        distributed.barrier()


def run(settings: argparse.Namespace, process: int, processes: int) -> None:
    """Embed, score this process's queries row by row, and report them all."""
    check_arguments(settings)
    target = open_target(settings)
    target.model.to(settings.device)
    dataset = open_dataset(settings.dataset, settings.root)
    output: Path = settings.output
    if process == 0:
        claim(output, fixed_settings(settings), resume=settings.resume)
    wait_for_all(processes)
    embed = embedder(target.model, settings)
    with mixed_precision(settings):
        query, gallery = (
            embedded_once(output / f"{name}.safetensors", embed, dataset, records, process)
            for name, records in (("query", dataset.query), ("gallery", dataset.gallery))
        )
        wait_for_all(processes)
        query, gallery = query(), gallery()
        ranks = match_ranks(query, gallery)
        chosen = chosen_queries([len(row) > 0 for row in ranks], settings)
        done = finished_rows(output)
        own = row_file(output / f"rows-{process}.csv")
        methods = {name: METHODS[name](target) for name in settings.methods if name != FULL_IMAGE}
        scorer = Scorer(target, dataset, query, gallery, methods, embed, settings)
        mine = tqdm(chosen[process::processes], unit="query", disable=process > 0)
        for number in mine:
            name = image_name(dataset.query[number], settings.root)
            if not all((name, method) in done for method in settings.methods):
                for method, figures in scorer.score(number):
                    own.add((name, method), figures)
    wait_for_all(processes)
    if process == 0:
        names = [image_name(dataset.query[number], settings.root) for number in chosen]
        rows = collected_rows(output, names, settings.methods)
        examples = [scorer.maps(number) for number in chosen[:3]]
        print(report(rows, ranks, fixed_settings(settings), examples, output))


def check_arguments(settings: argparse.Namespace) -> None:
    """Raise unless methods, queries and device are there."""
    check_methods(settings.methods, NAMES)
    if settings.queries is not None and settings.queries < 1:
        raise InputError("--queries", settings.queries, "at least 1")
    try:
        torch.empty(0, device=settings.device)
    except (RuntimeError, AssertionError) as error:
        came = f"{settings.device} ({str(error).splitlines()[0]})"
        raise InputError("--device", came, "a device that is here") from error


def mixed_precision(settings: argparse.Namespace) -> torch.autocast:
    """Return the context that every forward pass runs in."""
    kind = torch.device(settings.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=settings.precision == "bfloat16")


def embedder(model: Embed, settings: argparse.Namespace) -> Embed:
    """Return images (B, 3, H, W) -> embeddings (B, D) float32 on the CPU, in batches."""

    def embed(images: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [model(part.to(settings.device)) for part in images.split(BATCH_SIZE)]
        return torch.cat(parts).float().cpu()

    return embed


def embedded_once(
    path: Path, embed: Embed, dataset: ReIDDataset, records: Sequence[Record], process: int
) -> Callable[[], Embedded]:
    """Embed ``records`` into a file in the first process, unless it is there; return its reader."""
    if process == 0 and not path.is_file():
        made = embed_records(embed, dataset, records)
        partial = path.with_name(f"{path.name}.partial")
        save_file(made._asdict(), partial)
        partial.replace(path)
    return lambda: Embedded(**load_file(path))


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


class Figures(NamedTuple):
    """What retrieval says of N images, (N,), under the names of the drops that they give."""

    as_drop: Tensor
    """Mean cosine with the matches."""
    ap_drop: Tensor
    """Average precision."""


class Scorer:
    """Scores every method on one query at a time."""

    def __init__(
        self,
        target: Target,
        dataset: ReIDDataset,
        query: Embedded,
        gallery: Embedded,
        methods: dict[str, Method],
        embed: Embed,
        settings: argparse.Namespace,
    ) -> None:
        self.target = target
        self.dataset = dataset
        self.query = query
        self.gallery = gallery
        self.methods = methods
        self.embed = embed
        self.settings = settings

    def score(self, number: int) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield the figures of each method for one query."""
        subject = self._subject(number)
        images = subject.images.cpu()
        other = self._image(self._other(number)).cpu()
        fills = {name: fill(images, other) for name, fill in FILLS.items()}
        original = self._figures(number, images)
        blank = {name: self._figures(number, fill) for name, fill in fills.items()}
        for name in self.settings.methods:
            started = time.perf_counter()
            raw = self._raw_map(name, subject)
            seconds = time.perf_counter() - started
            mask = mask_of(raw, images)
            explained = self._figures(number, composite(images, mask, fills["blur"]))
            figures = {
                **{
                    name: drop(figure, kept, lost).item()
                    for name, figure, kept, lost in zip(
                        Figures._fields, original, explained, blank["blur"], strict=True
                    )
                },
                "ap_increase": increase(original.ap_drop, explained.ap_drop).item(),
                "kept_area": kept_area(mask).item(),
                "seconds": seconds,
            }
            yield name, figures | self._curves(number, raw, images, fills, original, blank)

    def maps(self, number: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return one query's image, and each method's map and explanation map."""
        subject = self._subject(number)
        images = subject.images.cpu()
        blur = FILLS["blur"](images, images)
        raw = {name: self._raw_map(name, subject) for name in self.methods}
        size = (images.shape[2], images.shape[3])
        maps = {name: upsample(map_, size) for name, map_ in raw.items()}
        kept = {n: composite(images, mask_of(map_, images), blur) for n, map_ in raw.items()}
        return images, maps, kept

    def _curves(
        self,
        number: int,
        raw: Tensor | None,
        images: Tensor,
        fills: dict[str, Tensor],
        original: Figures,
        blank: dict[str, Figures],
    ) -> dict[str, float]:
        """Return the drops at equal areas, of the method and of random maps as smooth as its."""
        if raw is None:
            return dict.fromkeys(CURVE_FIGURES, float("nan"))
        found: dict[str, float] = {}
        size = (images.shape[2], images.shape[3])
        random = random_phase_maps(raw, [self.settings.seed + number])
        for kind, map_ in (("method", raw), ("random", random)):
            masks = top_area_masks(upsample(map_, size))[0]
            everywhere = images.expand(len(masks), -1, -1, -1)
            for fill, pixels in fills.items():
                masked = composite(everywhere, masks, pixels.expand_as(everywhere))
                explained = self._figures(number, masked)
                figures = zip(Figures._fields, original, explained, blank[fill], strict=True)
                for metric, whole, kept, lost in figures:
                    shares = drop(whole, kept[None], lost)[0].tolist()
                    names = (curve_figure(kind, metric, fill, a) for a in AREA_FRACTIONS)
                    found |= zip(names, shares, strict=True)
        return found

    def _raw_map(self, name: str, subject: Subject) -> Tensor | None:
        """Return a method's map at the layer's resolution; None keeps the whole image."""
        if name == FULL_IMAGE:
            return None
        return self.methods[name](subject, interpolate_mode=None).float().cpu()

    def _figures(self, number: int, images: Tensor) -> Figures:
        """Return the figures of images (N, 3, H, W) that stand in for one query."""
        asked = Embedded(
            self.embed(images),
            self.query.identities[number].expand(len(images)),
            self.query.cameras[number].expand(len(images)),
        )
        ranks = match_ranks(asked, self.gallery)
        return Figures(match_similarity(asked, self.gallery), average_precision(ranks))

    def _subject(self, number: int) -> Subject:
        """Return one query with the first in rank among its valid gallery images."""
        images = self._image(self.dataset.query[number])
        reference = self._image(self.dataset.gallery[self._first_in_rank(number)])
        with torch.no_grad():
            classes = self.target.logits(images).argmax(dim=1)
        return Subject(images, reference, classes)

    def _first_in_rank(self, number: int) -> int:
        own, gallery = self.query, self.gallery
        same = gallery.identities == own.identities[number]
        junk = (same & (gallery.cameras == own.cameras[number])) | (
            gallery.identities == JUNK_IDENTITY
        )
        cosine = normalize(gallery.embeddings) @ normalize(own.embeddings[number], dim=0)
        return int(cosine.masked_fill(junk, -torch.inf).argmax())

    def _other(self, number: int) -> Record:
        """Return a gallery image of another person, chosen at random."""
        identity = self.dataset.query[number].identity
        nobody = (identity, JUNK_IDENTITY, DISTRACTOR_IDENTITY)
        others = [record for record in self.dataset.gallery if record.identity not in nobody]
        if not others:
            raise InputError("--root", "a gallery of one person", "several people")
        generator = torch.Generator().manual_seed(self.settings.seed + number)
        return others[int(torch.randint(len(others), (), generator=generator))]

    def _image(self, record: Record) -> Tensor:
        return to_tensor(self.dataset.load(record))[None].to(self.settings.device)


def mask_of(raw: Tensor | None, images: Tensor) -> Tensor:
    """Return the explanation mask of a map at the layer's resolution; ones for no map."""
    if raw is None:
        return torch.ones_like(images[:, :1])
    return explanation_mask(upsample(raw, (images.shape[2], images.shape[3])))


if __name__ == "__main__":
    main()
