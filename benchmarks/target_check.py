"""Check what a target trained on the synthetic world is worth: retrieval, border, person.

    python benchmarks/target_check.py --seeds 0 1

For the test identities of each world: Rank-1 and mAP; the channel mean of the last map in its
outermost cells against all others (1 for a map that knows no border); and the share of the energy
of maps that lies on the person, with 95 % intervals over identities. Chance is the person's share
of the image: what a constant map scores.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import tyro
from torch import Tensor

from reid_explain import RAM, ActivationMean, GradFAM, ScoreFAM
from reid_explain.datasets import Record, SyntheticReID
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.models import load_pretrained, load_trained
from reid_explain.models.network import EmbeddingNet
from reid_explain.retrieval import Embedded, Gallery, embed_records, summarize
from reid_explain.statistics import bootstrap_mean

METHODS = (ActivationMean, ScoreFAM, RAM, GradFAM)


@dataclass(frozen=True)
class Settings:
    """What to check.

    Args:
        card: of the target, as ``train_target.py`` writes it; the shipped one by default.
        seeds: of the worlds.
        images: queries that are explained, from as many identities as there are.
    """

    card: Path | None = None
    seeds: tuple[int, ...] = (0, 1)
    images: int = 100


def main(settings: Settings) -> None:
    """Print a table of every world."""
    model = load_trained(settings.card) if settings.card else load_pretrained("synthetic")
    for seed in settings.seeds:
        world = SyntheticReID(seed=seed)
        query, gallery = (
            embed_records(model, world, records, spec=model.input_spec)
            for records in (world.query, world.gallery)
        )
        prepared = Gallery(gallery)
        found = summarize(prepared.ranks(query))
        print(f"world of seed {seed}: Rank-1 {found.cmc[1]:.1f} %, mAP {found.mean_ap:.1f} %")
        explain(model, world, prepared, query, settings.images)


def explain(
    model: EmbeddingNet, world: SyntheticReID, gallery: Gallery, query: Embedded, count: int
) -> None:
    """Print the border's share and the energy on the person, over ``count`` queries."""
    chosen = torch.linspace(0, len(world.query) - 1, count).long()
    records = [world.query[i] for i in chosen.tolist()]
    matches = [world.gallery[i] for i in gallery.nearest(query.rows(chosen))[:, 0].tolist()]
    images, references = (as_batch(model, world, each) for each in (records, matches))
    persons = torch.stack([torch.from_numpy(world.render(r).person) for r in records])[:, None]
    groups = torch.tensor([record.identity for record in records])
    target = SimpleNamespace(
        layer=model.get_submodule(model.map_layer),
        embedding=model,
        pooled=lambda x: model.pool(model.features(x)),
    )
    print(f"chance {100 * area(persons).mean():5.1f} % of the image is the person")
    for method in METHODS:
        explainer, maps = method.for_target(target), []
        for i in range(0, count, 4):
            asked = {"references": references[i : i + 4]} if "references" in method.needs else {}
            maps.append(explainer.attribute(images[i : i + 4], **asked).detach())
        values = 100 * energy_inside(torch.cat(maps), persons)
        mean, low, high = bootstrap_mean(values, groups)
        print(f"{method.__name__:15} {mean:5.1f} % [{low:.1f}, {high:.1f}] of its energy is on it")
    with torch.no_grad():
        mean_map = torch.cat([model.features(part).mean(1) for part in images.split(8)])
    inner = torch.zeros(mean_map.shape[1:], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    ratio = mean_map[:, ~inner].mean() / mean_map[:, inner].mean()
    print(f"channel mean in the outermost cells: {ratio:.2f} times that in all others")


def as_batch(model: EmbeddingNet, world: SyntheticReID, records: list[Record]) -> Tensor:
    """Return the images (N, 3, H, W) of records as the model takes them."""
    return torch.stack([model.input_spec.to_tensor(world.load(record)) for record in records])


if __name__ == "__main__":
    main(tyro.cli(Settings))
