"""Fit directions to interventions of a drawn world, and to its labels.

python benchmarks/fit_directions.py --output runs/directions
python benchmarks/fit_directions.py --output runs/directions --resume
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from reid_explain.benchmark.causal_attributes import effects_of, groups_of, random_pairs
from reid_explain.benchmark.command_line import TargetOptions, one_line_errors, read
from reid_explain.benchmark.run import Group, claim
from reid_explain.benchmark.task import Bench
from reid_explain.checks import check_at_least
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.directions import AttributeDirections, CounterfactualDirections
from reid_explain.files import atomic
from reid_explain.fingerprints import probe_images

SHARD = 50


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit directions to interventions of a drawn world, and to its labels.

    Pairs of different people are drawn, and the first of each with every value of the second in
    which they differ. The folder gets ``directions.safetensors`` (CounterfactualDirections) and
    ``attribute_directions.safetensors`` (AttributeDirections, which sees no intervention).

    Args:
        output: folder of this run
        resume: go on with the run in --output
        world: seed of the world, neither that of the target (100) nor one that is tested
        pairs: pairs of people
        people: people of the world
        ridge: penalty of the maps
    """

    target: TargetOptions = field(default_factory=TargetOptions)
    output: Path
    resume: bool = False
    world: int = 200
    pairs: int = 2500
    people: int = 1500
    ridge: float = 300.0

    def run(self) -> None:
        """Draw, fit, save."""
        check_at_least("pairs", self.pairs, 1)
        target = self.target.open()
        settings: dict[str, Any] = {"seed": self.world, "train_identities": self.people}
        world: Any = open_dataset(SYNTHETIC, test_identities=0, distractors=0, **settings)
        free = {name: v for name, v in asdict(self).items() if name not in ("output", "resume")}
        claim(self.output, {**free, "target": target.settings()}, resume=self.resume)
        drawn = draw(Bench(target, world, Group()), self.pairs, self.output)
        query, gallery, changed, group = (
            drawn[name] for name in ("query", "gallery", "changed", "group")
        )
        probes = target.embed(probe_images(target.spec.size, torch.empty(0)))
        rows = drawn["pair"]
        maps = CounterfactualDirections.fit(
            query[rows], gallery[rows], changed, group, [*groups_of(world)], ridge=self.ridge
        )
        labels = torch.cat([drawn["query_labels"], drawn["gallery_labels"]])
        directions = AttributeDirections.fit(
            torch.cat([query, gallery]), labels, world.attribute_names
        )
        with atomic(self.output / "directions.safetensors") as path:
            maps.save(path, fingerprint=probes)
        with atomic(self.output / "attribute_directions.safetensors") as path:
            directions.save(path, fingerprint=probes)


def draw(bench: Bench, pairs: int, folder: Path) -> dict[str, torch.Tensor]:
    """Return the embeddings of pairs and of their interventions; shards of ``folder`` keep them.

    ``query``, ``gallery`` (P, D) and their labels (P, M); ``changed`` (N, D), of the pairs ``pair``
    (N,), with the group ``group`` (N,) changed.
    """
    world: Any = bench.dataset
    chosen = random_pairs(world.train, world.train, 0)[:pairs]
    shards = []
    for start in tqdm(range(0, len(chosen), SHARD), desc="interventions", unit="shard"):
        path = folder / f"pairs-{start:06d}.safetensors"
        if not path.is_file():
            with atomic(path) as partial:
                save_file(_shard(bench, chosen[start : start + SHARD]), partial)
        shard = load_file(path)
        shard["pair"] += start
        shards.append(shard)
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


def _shard(bench: Bench, pairs: Sequence[Any]) -> dict[str, torch.Tensor]:
    labels: Any = bench.dataset.labels
    found = [effects_of(bench, *pair) for pair in pairs]
    sides = [
        torch.from_numpy(np.stack([labels[record.identity] for record in side]))
        for side in zip(*pairs, strict=True)
    ]
    return {
        "query": torch.stack([effects.embeddings[0] for effects in found]),
        "gallery": torch.stack([effects.embeddings[1] for effects in found]),
        "changed": torch.cat([effects.embeddings[2:] for effects in found]),
        "group": torch.tensor([group for effects in found for group in effects.groups]),
        "pair": torch.tensor([n for n, effects in enumerate(found) for _ in effects.groups]),
        "query_labels": sides[0],
        "gallery_labels": sides[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with one_line_errors("fit_directions.py"):
        read(Fit, arguments, "fit_directions.py").run()
