"""The pictures of an interpreter: pairs, the average map of each attribute, the true masks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from reid_explain.amd import AMDInterpreter
from reid_explain.benchmark.attribute_truth import resized
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.records import Record, RecordDataset, ReIDDataset, Role
from reid_explain.explainers.layout import upsample
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.visualization import attribute_maps_figure, attribute_pair_figure

BATCH = 32


def draw(
    interpreter: AMDInterpreter, dataset: ReIDDataset, count: int, seed: int
) -> Iterator[tuple[str, Figure]]:
    """Yield all pictures by name, ``count`` of the kinds that show a pair or a person."""
    for number, pair in enumerate(pairs(dataset, count, seed)):
        yield f"pair_{number:02d}", pair_figure(interpreter, dataset, *pair)
    yield "average_maps", average_figure(interpreter, dataset)
    if hasattr(dataset, "render"):
        chosen = np.random.default_rng(seed).permutation(len(dataset.query))[:count].tolist()
        for number, index in enumerate(chosen):
            yield f"masks_{number:02d}", mask_figure(interpreter, dataset, dataset.query[index])


def pairs(dataset: ReIDDataset, count: int, seed: int) -> Iterator[tuple[Record, Record]]:
    """Yield queries of the test split, by turns with a match and with another person."""
    generator = np.random.default_rng(seed)
    people, number = [record for record in dataset.gallery if record.role is Role.PERSON], 0
    for query in (dataset.query[i] for i in generator.permutation(len(dataset.query)).tolist()):
        same = [r for r in people if r.identity == query.identity and r.camera != query.camera][:1]
        others = [r for r in people if r.identity != query.identity]
        chosen = others if number % 2 else same
        if chosen and number < count:
            number += 1
            yield query, chosen[int(generator.integers(len(chosen)))]


def pair_figure(
    interpreter: AMDInterpreter, dataset: ReIDDataset, query: Record, gallery: Record
) -> Figure:
    """Draw why two images are as far apart as they are."""
    spec = interpreter.spec
    first, second = (spec.to_tensor(dataset.load(record)) for record in (query, gallery))
    found = interpreter.explain(first[None], second[None])
    a, b = record_labels(dataset, (query, gallery), interpreter.attributes)
    distance, total = float(found.distance), float(found.reconstructed)
    return attribute_pair_figure(
        spec.to_rgb(first),
        spec.to_rgb(second),
        found.query_maps[0].cpu(),
        found.gallery_maps[0].cpu(),
        found.contributions[0].cpu(),
        interpreter.attributes,
        title=f"distance {distance:.4g}, sum of the attributes {total:.4g}",
        labels=(a != b) & (a > 0) & (b > 0),
    )


def average_figure(interpreter: AMDInterpreter, dataset: ReIDDataset) -> Figure:
    """Draw the average map of each attribute over the query images that have it."""
    records, spec, attributes = dataset.query, interpreter.spec, interpreter.attributes
    labels = record_labels(dataset, records, attributes) == 2
    maps, images = (torch.zeros(len(attributes), channels, *spec.size) for channels in (1, 3))
    loader = DataLoader(RecordDataset(dataset, records, spec), BATCH)
    for number, (batch, _, _) in enumerate(tqdm(loader, desc="average maps", unit="batch")):
        has = labels[number * BATCH :][:BATCH].float()
        found = upsample(interpreter.decompose(batch).maps.cpu(), spec.size)
        maps[:, 0] += torch.einsum("bm,bmhw->mhw", has, found)
        images += torch.einsum("bm,bchw->mchw", has, spec.to_rgb(batch))
    counts = labels.sum(0)
    maps, images = (total / counts[:, None, None, None] for total in (maps, images))
    notes = [f"{count} images" for count in counts.tolist()]
    return attribute_maps_figure(maps[:, 0], attributes, images, notes=notes)


def mask_figure(interpreter: AMDInterpreter, world: Any, record: Record) -> Figure:
    """Draw maps of the attributes of a synthetic person, with the outlines of the truth."""
    rendering, spec = world.render(record), interpreter.spec
    image = spec.to_tensor(Image.fromarray(rendering.image))[None]
    masks = resized(torch.from_numpy(rendering.attributes), spec.size)
    shown = masks.flatten(1).any(1).nonzero()[:, 0]
    found = upsample(interpreter.decompose(image).maps.cpu(), spec.size)[0, shown]
    shares = zip(energy_inside(found[:, None], masks[shown]), area(masks[shown]), strict=True)
    return attribute_maps_figure(
        found,
        [interpreter.attributes[k] for k in shown.tolist()],
        spec.to_rgb(image[0]),
        masks=masks[shown, 0],
        notes=[f"{100 * e:.1f} % inside\n{100 * a:.1f} % by chance" for e, a in shares],
    )
