"""The pictures of an interpreter: pairs, the average map of each attribute, the true masks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from subjects import as_batch, match_of
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.amd import AMDInterpreter
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.images import denormalize, to_tensor
from reid_explain.datasets.records import Record, ReIDDataset
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.explainers.layout import upsample
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.visualization import (
    attribute_maps_figure,
    attribute_pair_figure,
    save_figure,
)

BATCH = 32


def draw_pairs(
    interpreter: AMDInterpreter, dataset: ReIDDataset, count: int, seed: int, output: Path
) -> None:
    """Draw pairs of the test split: by turns a match and another person."""
    for number, pair in enumerate(pairs(dataset, count, seed)):
        query, gallery = (load(interpreter, dataset, record) for record in pair)
        found = interpreter.explain(query, gallery)
        first, second = record_labels(dataset, pair, interpreter.attributes)
        figure = attribute_pair_figure(
            denormalize(query[0]),
            denormalize(gallery[0]),
            found.query_maps[0].cpu(),
            found.gallery_maps[0].cpu(),
            found.contributions[0].cpu(),
            interpreter.attributes,
            title=f"distance {float(found.distance):.4g}, sum of the attributes "
            f"{float(found.reconstructed):.4g}",
            labels=(first != second) & (first > 0) & (second > 0),
        )
        save_figure(figure, output / f"pair_{number:02d}.png")


def pairs(dataset: ReIDDataset, count: int, seed: int) -> Iterator[tuple[Record, Record]]:
    """Yield queries, each with a match (even ones) or another labelled person (odd ones)."""
    generator = np.random.default_rng(seed)
    found = 0
    for index in generator.permutation(len(dataset.query)).tolist():
        if found == count:
            break
        query = dataset.query[index]
        others = [r for r in dataset.gallery if r.identity > 0 and r.identity != query.identity]
        other = others[int(generator.integers(len(others)))] if others else None
        chosen = other if found % 2 else match_of(query, dataset.gallery)
        if chosen is not None:
            found += 1
            yield query, chosen


def draw_average_maps(interpreter: AMDInterpreter, dataset: ReIDDataset, output: Path) -> None:
    """Draw the average map of each attribute over the query images that have it."""
    records, size = dataset.query, interpreter.spec.size
    labels = record_labels(dataset, records, interpreter.attributes) == 2
    maps = torch.zeros(len(interpreter.attributes), *size)
    images = torch.zeros(len(interpreter.attributes), 3, *size)
    for start in tqdm(range(0, len(records), BATCH), desc="average maps", unit="batch"):
        rows = slice(start, start + BATCH)
        batch = torch.cat([load(interpreter, dataset, record) for record in records[rows]])
        found = upsample(interpreter.decompose(batch).maps.cpu(), size)
        has = labels[rows].float()
        maps += torch.einsum("bm,bmhw->mhw", has, found)
        images += torch.einsum("bm,bchw->mchw", has, denormalize(batch))
    counts = labels.sum(0)
    figure = attribute_maps_figure(
        maps / counts[:, None, None],
        interpreter.attributes,
        images / counts[:, None, None, None],
        notes=[f"{count} images" for count in counts.tolist()],
    )
    save_figure(figure, output / "average_maps.png")


def draw_masks(
    interpreter: AMDInterpreter, world: SyntheticReID, count: int, seed: int, output: Path
) -> None:
    """Draw maps of attributes on people of the synthetic world, with the outlines of the truth."""
    chosen = np.random.default_rng(seed).permutation(len(world.query))[:count]
    for number, index in enumerate(chosen.tolist()):
        rendering = world.render(world.query[index])
        image = as_batch(rendering.image, interpreter.spec.size)
        masks = torch.from_numpy(rendering.attributes)
        shown = masks.flatten(1).any(1).nonzero()[:, 0]
        found = interpreter.explain(image, image).query_maps[0, shown].cpu()
        regions = masks[shown][:, None]
        shares = zip(energy_inside(found[:, None], regions), area(regions), strict=True)
        figure = attribute_maps_figure(
            found,
            [interpreter.attributes[k] for k in shown.tolist()],
            denormalize(image[0]),
            masks=masks[shown],
            notes=[f"{100 * e:.1f} % inside\n{100 * a:.1f} % by chance" for e, a in shares],
        )
        save_figure(figure, output / f"masks_{number:02d}.png")


def load(interpreter: AMDInterpreter, dataset: ReIDDataset, record: Record) -> Tensor:
    """Return the image of a record as the target takes it, (1, 3, H, W)."""
    return to_tensor(dataset.load(record), interpreter.spec.size)[None]
