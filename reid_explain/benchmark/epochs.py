"""What the maps of a network show while it learns, epoch by epoch.

The rows, in a folder for each epoch: one for each image and method. Columns, in percent:
``person_energy``, ``person_pointing``, ``person_area``, ``spread``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from reid_explain.benchmark.command_line import open_device
from reid_explain.benchmark.methods import Subject, method_names
from reid_explain.benchmark.run import by_method, write_json
from reid_explain.benchmark.tables import cell, interval, layout
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Bench, Case, Report, Task, shuffled
from reid_explain.checks import check_at_least
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.errors import InputError
from reid_explain.explainers.layout import upsample
from reid_explain.metrics.localization import area, energy_inside, pointing_game
from reid_explain.models.network import PooledMap
from reid_explain.models.pretrained import load_trained
from reid_explain.retrieval import Embedded, Gallery, embed_records, summarize

COLUMNS = ("person_energy", "person_pointing", "person_area", "spread")


def spread(maps: Tensor) -> Tensor:
    r"""Return the share (B,) of the image over which each map (B, 1, H, W) spreads, in (0, 1].

    The inverse participation ratio :math:`(\sum_i m_i)^2 / (N \sum_i m_i^2)` of the positive
    values: 1 for a constant map, a for one that is constant on a share a and 0 elsewhere; 1 for a
    map without positive values.
    """
    values = maps.double().clamp_min(0).flatten(1)
    squares = values.square().sum(1)
    shares = values.sum(1).square() / (values.shape[1] * squares.where(squares > 0, 1))
    return shares.where(squares > 0, 1)


@dataclass(frozen=True, kw_only=True)
class PersonMaps(Task):
    """Whether maps lie on the person, and over how much of the image they spread.

    Args:
        images: number of query images, drawn with the seed
    """

    images: int = 492
    name: ClassVar[str] = "person_maps"
    gives = COLUMNS

    def cases(self, bench: Bench) -> Sequence[Case]:
        """Return some of the queries, or all if there are fewer."""
        check_at_least("images", self.images, 1)
        records = bench.dataset.query
        numbers = sorted(shuffled(range(len(records)), self.seed)[: self.images])
        chosen = [records[number] for number in numbers]
        return [Case(bench.name(record), record.identity, record) for record in chosen]

    def measure(self, bench: Bench, case: Case, method: str) -> dict[str, float]:
        """Return what a method's map says of one image, at the size at which it was drawn."""
        world: Any = bench.dataset
        person = torch.from_numpy(world.render(case.data).person)[None, None]
        map_ = bench.explain[method](Subject(bench.image(case.data)), interpolate_mode=None)
        map_ = upsample(map_, (person.shape[2], person.shape[3]))
        inside = (energy_inside(map_, person), pointing_game(map_, person), area(person))
        return {c: 100 * v.item() for c, v in zip(COLUMNS, (*inside, spread(map_)), strict=True)}

    def report(self, bench: Bench, cases: Sequence[Case], frame: pd.DataFrame) -> Report:
        """Return means in percent."""
        return Report({"methods": {n: _means(own, own) for n, own in by_method(frame).items()}}, "")


@dataclass(frozen=True, kw_only=True)
class EpochMaps:
    """Explain synthetic test images with every network that a training kept.

    Args:
        run: output folder of the training
        output: folder of this evaluation
        resume: continue the evaluation in --output
        layer: dotted name; by default the last map of the network
        methods: names or module:Class, between spaces or commas
        images: number of query images, drawn with the seed
        seed: seed of every random choice
        device: cpu, cuda, cuda:1, ...
    """

    run: Path
    output: Path
    resume: bool = False
    layer: str | None = None
    methods: tuple[str, ...] = ("GradFAM", "ScoreFAM", "ActivationMean", "Random", "Centre")
    images: int = 492
    seed: int = 0
    device: str = "cpu"

    def evaluate(self) -> None:
        """Write results.json and a folder for each epoch, and print a table by epoch.

        Raises:
            InputError: the run kept no network, or a setting does not fit.
        """
        cards = sorted(self.run.glob("epoch_*.json"))
        if not cards:
            raise InputError("run", f"{self.run} without epoch_*.json", "an output of a training")
        world, device = SyntheticReID(), open_device(self.device)
        world.load = cache(world.load)  # type: ignore[method-assign]  # Drawn for all epochs.
        task = PersonMaps(images=self.images, seed=self.seed)
        methods = method_names(self.methods)
        epochs: list[dict[str, Any]] = []
        first: dict[str, pd.DataFrame] = {}
        for card in cards:
            model = load_trained(card).to(memory_format=torch.channels_last).to(device)
            layer = f"model.{self.layer or model.map_layer}"
            target = Target(PooledMap(model).eval(), layer, model.input_spec, device)
            folder = self.output / card.stem
            frame = task.run(target, world, methods=methods, output=folder, resume=self.resume)
            tables = by_method(frame)
            first = first or tables
            epochs.append(
                {
                    "epoch": int(card.stem.removeprefix("epoch_")),
                    **quality(*embedded(target, world)),
                    "methods": {name: _means(own, first[name]) for name, own in tables.items()},
                }
            )
            print(f"epoch {epochs[-1]['epoch']} done", flush=True)
        write_json(self.output / "results.json", {"dataset": world.name, "epochs": epochs})
        print(as_table(epochs, methods))


def _means(own: pd.DataFrame, first: pd.DataFrame) -> dict[str, Any]:
    """Return the mean of each column, and the paired gain of the energy over the first epoch."""
    gain = interval(own["person_energy"] - first["person_energy"])
    return {column: interval(own[column]) for column in COLUMNS} | {"gain": gain}


def embedded(target: Target, world: SyntheticReID) -> Iterator[Embedded]:
    """Yield the embedded queries, then the gallery."""
    for records in (world.query, world.gallery):
        yield embed_records(target.embed, world, records, spec=target.spec, show_progress=False)


def quality(query: Embedded, gallery: Embedded) -> dict[str, float]:
    """Return retrieval in percent, and what else embeddings know.

    ``camera``: share of queries whose nearest image of another person is from the same camera, in
    percent. ``deviation``: standard deviation of the unit embeddings, mean over the D dimensions,
    times √D: 0 if all images collapse into one point, 1 if they spread over the whole sphere.
    """
    summary = summarize(Gallery(gallery).ranks(query))
    unit, others = (functional.normalize(part.embeddings) for part in (query, gallery))
    cosine = unit @ others.T
    cosine[query.identities[:, None] == gallery.identities] = -1
    nearest = gallery.cameras[cosine.argmax(dim=1)]
    deviation = torch.cat([unit, others]).std(0).mean() * unit.shape[1] ** 0.5
    return {
        "mAP": summary.mean_ap,
        "rank1": summary.cmc[1],
        "camera": 100 * (nearest == query.cameras).double().mean().item(),
        "deviation": float(deviation),
    }


def as_table(epochs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the results as text: quality, energy of each method, more of the first method."""
    quality = ("mAP", "rank1", "camera", "deviation")
    lines = [["epoch", *quality, *names, "gain", "peak", "spread"]]
    for row in epochs:
        own = row["methods"]
        numbers = [f"{row[name]:.2f}" for name in quality]
        energies = [cell(own[name]["person_energy"]) for name in names]
        more = [cell(own[names[0]][name]) for name in ("gain", "person_pointing", "spread")]
        lines.append([str(row["epoch"]), *numbers, *energies, *more])
    covered = cell(epochs[0]["methods"][names[0]]["person_area"])
    return (
        f"{layout(lines)}\nenergy of the maps inside the person, who covers {covered} % of the "
        "image, in % [95 % bootstrap interval over identities]\n"
        f"gain, peak, spread of {names[0]}: over the first row; peaks in the person; share of the "
        "image\ncamera: nearest image of another person is of the same camera, in %; deviation: "
        "of the unit embeddings"
    )
