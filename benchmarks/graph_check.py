"""Check that a graph read into torch is the network that OpenVINO's runtime runs.

    python benchmarks/graph_check.py NET.xml NET.onnx --root Market-1501

For each file, read and run: Rank-1 and mAP with 95 % intervals over identities, the largest
difference of two numbers of an embedding, and of two places of a Score-FAM map, each of its image's
largest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from reid_explain import ScoreFAM
from reid_explain.datasets import ReIDDataset
from reid_explain.datasets.registry import open_dataset
from reid_explain.models import OpenVinoNet, open_checkpoint
from reid_explain.retrieval import Gallery, average_precision, cumulative_matches, embed_records
from reid_explain.statistics import bootstrap_mean


@dataclass(frozen=True)
class Settings:
    """What to check.

    Args:
        files: graphs, .xml with their .bin or .onnx
        root: the data set's folder
        dataset: market1501, folder, ...
        maps: queries that Score-FAM explains, with all channels
        channels: groups of channels that Score-FAM scores in place of all
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    root: Path
    dataset: str = "market1501"
    maps: int = 1
    channels: int | None = None


def main(settings: Settings) -> None:
    """Print the figures of every file."""
    dataset = open_dataset(settings.dataset, settings.root)
    for path in settings.files:
        box = OpenVinoNet(path)
        read = open_checkpoint(path)
        print(f"{path.name}, layer {read.map_layer}")
        embeddings = [retrieved(name, net, dataset) for name, net in named(read, box)]
        print(f"embeddings differ by at most {difference(*embeddings):.1e}", flush=True)
        images = torch.stack(
            [box.input_spec.to_tensor(dataset.load(r)) for r in dataset.query[: settings.maps]]
        )
        maps = [
            ScoreFAM(net, net.map_layer, max_scored_channels=settings.channels).attribute(
                images, interpolate_mode=None
            )
            for net in (read, box)
        ]
        print(f"Score-FAM maps of {len(images)} images by at most {difference(*maps):.1e}")


def named(read: nn.Module, box: nn.Module) -> tuple[tuple[str, nn.Module], ...]:
    """Return both networks with the words for them."""
    return ("read into torch", read), ("the runtime", box)


def retrieved(name: str, net: nn.Module, dataset: ReIDDataset) -> Tensor:
    """Print how well a network retrieves; return the embeddings of the queries."""
    query, gallery = (
        embed_records(net, dataset, records, spec=net.input_spec)
        for records in (dataset.query, dataset.gallery)
    )
    ranks = Gallery(gallery).ranks(query)
    figures = {"Rank-1": cumulative_matches(ranks, (1,))[:, 0], "mAP": average_precision(ranks)}
    told = []
    for figure, values in figures.items():
        there = ~values.isnan()
        mean, low, high = bootstrap_mean(100 * values[there], query.identities[there])
        told.append(f"{figure} {mean:.1f} % [{low:.1f}, {high:.1f}]")
    print(f"{name}: {', '.join(told)}", flush=True)
    return query.embeddings


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two numbers, of the largest of its row."""
    a, b = a.flatten(1), b.flatten(1)
    return float(((a - b).abs() / b.abs().amax(dim=1, keepdim=True)).max())


if __name__ == "__main__":
    main(tyro.cli(Settings))
