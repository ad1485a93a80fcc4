"""What the maps of a self-supervised run show, epoch by epoch, on the synthetic test images."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from command_line import check_methods
from methods import explainers
from run_folder import Rows, claim, fixed_settings, write_json
from ssl_byol import Representation
from subjects import Subject
from tables import cell, interval, layout, named, versions
from targets import BATCH_SIZE, Target, open_device
from torch import Tensor
from torch.nn import functional

from reid_explain import InputError
from reid_explain.capture import find_layer
from reid_explain.datasets.images import normalize
from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.explainers.layout import upsample
from reid_explain.inputs import InputSpec
from reid_explain.metrics.embedding import Embedded
from reid_explain.metrics.localization import area, energy_inside, pointing_game
from reid_explain.metrics.retrieval import match_ranks, summarize
from reid_explain.models.pretrained import load_trained
from reid_explain.training.images import cached_pixels

FIGURES = ("energy", "pointing", "spread")
EVALUATED = ("GradFAM", "ScoreFAM", "ActivationMean", "Random", "Centre")


class Kept(NamedTuple):
    """A network that ``train`` kept: after how many epochs, and its card."""

    epoch: int
    card: Path


class Scenes(NamedTuple):
    """Test images as a network takes them, (N, 3, h, w), and their people, (N, 1, H, W) bool.

    People are as large as they were drawn, images as large as those of the training.
    """

    records: Sequence[Record]
    images: Tensor
    people: Tensor


def evaluate(settings: argparse.Namespace) -> None:
    """Explain every image with every network that was kept, row by row, and show the figures."""
    check_methods(settings.methods, EVALUATED)
    if settings.images < 1:
        raise InputError("--images", settings.images, "at least 1")
    device = open_device(settings.device)
    series, size = kept(settings.run)
    open_card(series[0].card, settings.layer, device)  # A layer that is not there ends it here.
    claim(settings.output, fixed_settings(settings), resume=settings.resume)
    world = SyntheticReID()
    records = [*world.query, *world.gallery]
    cache = settings.cache or settings.output / "test_images.npy"
    pixels = cached_pixels(world, records, InputSpec(size), cache)
    images = normalize(torch.from_numpy(np.array(pixels)).float() / 255)
    scenes = draw(world, images[: len(world.query)], settings.images, settings.seed)
    rows = Rows(
        settings.output / "per_image.csv",
        key=("epoch", "image", "method"),
        figures=(*FIGURES, "person_area"),
    )
    epochs = []
    for epoch, card in series:
        target = open_card(card, settings.layer, device)
        explain_all(target, scenes, settings.methods, str(epoch), rows)
        epochs.append({"epoch": epoch, **quality(target.embed(images), world)})
        print(f"epoch {epoch} done", flush=True)
    results = summarise(rows, epochs, settings)
    write_json(settings.output / "results.json", results)
    print(as_table(results))


def kept(run: Path) -> tuple[list[Kept], tuple[int, int]]:
    """Return the networks that a run kept, by epoch, and the size of its images.

    Raises:
        InputError: If there is none.
    """
    cards = sorted(run.glob("epoch_*.json"))
    if not cards:
        raise InputError("--run", f"{run} without epoch_*.json", "an --output of train")
    contents = [json.loads(card.read_text(encoding="utf-8")) for card in cards]
    height, width = contents[0]["recipe"]["image_size"]
    series = [Kept(c["epoch"], card) for c, card in zip(contents, cards, strict=True)]
    return sorted(series), (height, width)


def draw(world: SyntheticReID, images: Tensor, number: int, seed: int) -> Scenes:
    """Return ``number`` of the queries, or all if there are fewer, with their people."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:number].sort().values
    records = [world.query[index] for index in chosen.tolist()]
    people = [torch.from_numpy(world.render(record).person)[None] for record in records]
    return Scenes(records, images[chosen], torch.stack(people))


def open_card(card: Path, layer: str | None, device: torch.device) -> Target:
    """Return a network that was kept, with the pooled map as its embedding."""
    model = load_trained(card).to(device, memory_format=torch.channels_last)
    return Target(Representation(model), find_layer(model, layer or model.map_layer), device)


def explain_all(
    target: Target, scenes: Scenes, methods: Sequence[str], epoch: str, rows: Rows
) -> None:
    """Add the rows of one network that are not there."""
    for name, explain in explainers(target, methods).items():
        for batch in batches(scenes, lambda record, name=name: (epoch, record, name) not in rows):
            maps = explain(Subject(batch.images), interpolate_mode=None).detach().cpu()
            figures = score(upsample(maps, tuple(batch.people.shape[2:])), batch.people)
            for number, record in enumerate(batch.records):
                own = {figure: values[number].item() for figure, values in figures.items()}
                rows.add((epoch, record.path.name, name), own)


def batches(scenes: Scenes, is_missing: Callable[[str], bool]) -> Iterator[Scenes]:
    """Yield the scenes whose image is missing, in batches."""
    missing = [n for n, record in enumerate(scenes.records) if is_missing(record.path.name)]
    for start in range(0, len(missing), BATCH_SIZE):
        part = missing[start : start + BATCH_SIZE]
        yield Scenes([scenes.records[n] for n in part], scenes.images[part], scenes.people[part])


def score(maps: Tensor, people: Tensor) -> dict[str, Tensor]:
    """Return the figures (B,) of maps (B, 1, H, W)."""
    return {
        "energy": energy_inside(maps, people),
        "pointing": pointing_game(maps, people),
        "spread": spread(maps),
        "person_area": area(people),
    }


def spread(maps: Tensor) -> Tensor:
    r"""Return the share (B,) of the image over which each map (B, 1, H, W) spreads, in (0, 1].

    The inverse participation ratio :math:`(\sum_i m_i)^2 / (N \sum_i m_i^2)` of the positive
    values: 1 for a constant map, a for one that is constant on a share a and 0 elsewhere. A map
    without positive values spreads its attention evenly.
    """
    values = maps.double().clamp_min(0).flatten(1)
    squares = values.square().sum(1)
    shares = values.sum(1).square() / (values.shape[1] * squares.where(squares > 0, 1))
    return shares.where(squares > 0, 1)


def quality(embeddings: Tensor, world: SyntheticReID) -> dict[str, float]:
    """Return retrieval in percent, and what else embeddings (Q + G, D) know.

    ``camera``: how often the nearest image of another person is from the same camera, in percent.
    ``deviation``: of the unit embeddings, mean over the D dimensions, times √D; 0 where all
    images have collapsed into one point, 1 where they are spread over the whole sphere.
    """
    parts = embeddings.split([len(world.query), len(world.gallery)])
    query, gallery = (
        Embedded.of(part, records)
        for part, records in zip(parts, (world.query, world.gallery), strict=True)
    )
    summary = summarize(match_ranks(query, gallery))
    cosine = functional.normalize(query.embeddings) @ functional.normalize(gallery.embeddings).T
    cosine[query.identities[:, None] == gallery.identities] = -1
    nearest = gallery.cameras[cosine.argmax(dim=1)]
    unit = functional.normalize(embeddings)
    return {
        "mAP": summary.mean_ap,
        "rank1": summary.cmc[1],
        "camera": 100 * (nearest == query.cameras).double().mean().item(),
        "deviation": float(unit.std(0).mean() * unit.shape[1] ** 0.5),
    }


def summarise(
    rows: Rows, epochs: Sequence[dict[str, Any]], settings: argparse.Namespace
) -> dict[str, Any]:
    """Return means in percent with 95 % intervals, and how energy differs, image by image."""
    tables = {
        (epoch["epoch"], name): columns(rows, str(epoch["epoch"]), name)
        for epoch in epochs
        for name in settings.methods
    }
    first = epochs[0]["epoch"]
    shares = 100 * next(iter(tables.values()))["person_area"]
    return {
        "dataset": "synthetic",
        "images": len(shares),
        "person_area": interval(shares),
        "settings": fixed_settings(settings),
        "epochs": [
            {
                **epoch,
                "methods": {
                    name: against(tables[epoch["epoch"], name], tables[first, name])
                    for name in settings.methods
                },
            }
            for epoch in epochs
        ],
        "versions": versions(),
    }


def columns(rows: Rows, epoch: str, method: str) -> dict[str, np.ndarray]:
    """Return the figures (N,) of one method at one epoch, images in alphabetical order."""
    own = {key[1]: row for key, row in rows.rows.items() if (key[0], key[2]) == (epoch, method)}
    return {
        figure: np.array([own[image][figure] for image in sorted(own)])
        for figure in (*FIGURES, "person_area")
    }


def against(own: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the figures of a method in percent, beside the person's area and the first epoch."""
    return {
        **{figure: interval(100 * own[figure]) for figure in FIGURES},
        "energy_over_area": interval(100 * (own["energy"] - own["person_area"])),
        "energy_over_first": interval(100 * (own["energy"] - first["energy"])),
        "spread_over_first": interval(100 * (own["spread"] - first["spread"])),
    }


def as_table(results: dict[str, Any]) -> str:
    """Return the results as text: quality, each method's energy, more of the first."""
    names = list(next(iter(results["epochs"]))["methods"])
    main = names[0]
    lines = [
        [
            "epoch",
            "mAP",
            "rank-1",
            "camera",
            "deviation",
            *map(named, names),
            "gain",
            "peak",
            "spread",
        ],
        *(
            [
                str(row["epoch"]),
                f"{row['mAP']:.1f}",
                f"{row['rank1']:.1f}",
                f"{row['camera']:.1f}",
                f"{row['deviation']:.2f}",
                *(cell(row["methods"][name]["energy"]) for name in names),
                cell(row["methods"][main]["energy_over_first"]),
                cell(row["methods"][main]["pointing"]),
                cell(row["methods"][main]["spread"]),
            ]
            for row in results["epochs"]
        ),
    ]
    return (
        f"{layout(lines)}\n% of a map's energy inside the person, who covers "
        f"{cell(results['person_area'])} % of the image; mean [95 % bootstrap interval over "
        f"{results['images']} images]; * control\ngain, peak, spread: {main} over the first row, "
        "image by image; how often its highest place is in the person; share of the image over "
        "which it spreads\ncamera: how often the nearest image of another person is from the same "
        "camera; deviation: of the unit embeddings"
    )
