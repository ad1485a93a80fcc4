"""Seconds and memory of ways to do the same thing, taken in turns."""

import argparse
import ctypes
import gc
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_grad_cam import ScoreCAM as PeerScoreCAM
from run_folder import Rows
from speed_subjects import SIZE, Network, Showing, untrained
from torch import Tensor
from torch.nn.functional import cosine_similarity

from reid_explain import CGRAM, ExtremalFAM, GradFAM, GradRAM, ScoreFAM
from reid_explain.capture import capture, find_layer
from reid_explain.explainers.descent import Search
from reid_explain.explainers.landmarks import channel_range
from reid_explain.explainers.layout import as_map
from reid_explain.memory_format import images_per_forward

CLUSTERS = (16, 32, 64, 128)
MIB = 2**20


class Way(NamedTuple):
    """Something to time.

    ``images`` says how many images it explains, ``masks`` how many it passes through the model,
    ``whole`` how many it would pass for a whole explanation; 0 where that means nothing.
    """

    run: Callable[[], Any]
    images: int = 1
    masks: int = 0
    whole: int = 0


Ways = Mapping[str, Way]
TIME = ("seconds", "images", "masks", "whole", "peak_mib")
OWN_PASSES = 2
"""What Score-FAM passes beside the masked images: the image and its baseline."""


def take_turns(
    rows: Rows, key: tuple[str, str, str], ways: Ways, repeats: int, device: torch.device
) -> None:
    """Write a row for each way and turn, after a first turn that does not count."""
    wanted = [
        (name, turn)
        for turn in range(repeats)
        for name in ways
        if (*key, name, str(turn)) not in rows
    ]
    for name in dict.fromkeys(name for name, _ in wanted):
        ways[name].run()
    for name, turn in wanted:
        way = ways[name]
        before = PeakMemory(device)
        started = time.perf_counter()
        way.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        figures = {
            "seconds": seconds,
            "images": way.images,
            "masks": way.masks,
            "whole": way.whole,
            "peak_mib": before.extra() / MIB,
        }
        rows.add((*key, name, str(turn)), figures)


class PeakMemory:
    """The most memory that is taken from now on, above what is taken now.

    On a GPU what torch allocates; elsewhere the resident memory of the process, as Linux counts
    it. NaN where neither is known.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.before = float(torch.cuda.memory_allocated(device))
        else:
            gc.collect()
            self._reset()
            self.before = self._resident("VmRSS")

    def extra(self) -> float:
        """Return the bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return self._resident("VmHWM") - self.before

    @staticmethod
    def _reset() -> None:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or it would hide new needs
            Path("/proc/self/clear_refs").write_text("5")
        except (AttributeError, OSError):
            return

    @staticmethod
    def _resident(field: str) -> float:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return float("nan")
        kilobytes = next((line.split()[1] for line in lines if line.startswith(field)), "nan")
        return float(kilobytes) * 1024


def time_part(
    name: str, settings: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Ways]]:
    """Yield Score-FAM in every way, beside its peer and its floor."""
    network = on(untrained(name), device)
    images = noise(1, SIZE, device)
    activation = activation_of(network, images)
    live = (channel_range(activation) > 0)[0].nonzero()[:, 0]
    generator = torch.Generator().manual_seed(settings.seed)
    some = live[torch.randperm(len(live), generator=generator)[: settings.maps].to(device)]
    shown = Showing(network.model, activation[:, some]).eval()
    count = len(some)
    channels = activation.shape[1]
    own = {"masks": count + OWN_PASSES, "whole": len(live) + OWN_PASSES}
    setting = f"{len(live)} live of {channels}"
    yield (
        setting,
        {
            "peer": Way(peer(shown, images), masks=count, whole=channels),
            "floor": Way(floor(network.model, images, count), masks=count, whole=len(live)),
            "exact float32": Way(explained(shown, "shown", images), **own),
            "exact bfloat16": Way(
                explained(shown, "shown", images, autocast_dtype=torch.bfloat16), **own
            ),
            **{
                f"{clusters} clusters {kind}": Way(
                    explained(
                        network.model,
                        network.layer,
                        images,
                        max_scored_channels=clusters,
                        autocast_dtype=dtype,
                    ),
                    masks=min(clusters, len(live)) + OWN_PASSES,
                    whole=min(clusters, len(live)) + OWN_PASSES,
                )
                for clusters, kind, dtype in (
                    (64, "float32", None),
                    *((clusters, "bfloat16", torch.bfloat16) for clusters in CLUSTERS),
                )
            },
        },
    )


def growth_part(
    name: str, settings: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Ways]]:
    """Yield exact Score-FAM with more channels, larger images and larger batches."""
    if name != "osnet_x0_25":
        return
    model = on(untrained(name), device).model
    channels = settings.maps

    def way(channels: int, batch: int, size: tuple[int, int]) -> Way:
        maps = torch.rand(1, channels, 16, 8, generator=torch.Generator().manual_seed(0))
        shown = Showing(model, maps.to(device)).eval()
        run = explained(shown, "shown", noise(batch, size, device))
        return Way(run, images=batch, masks=channels * batch)

    yield "channels", {f"{n}": way(n, 1, SIZE) for n in (channels, 2 * channels, 4 * channels)}
    sizes = [(SIZE[0] * scale // 2, SIZE[1] * scale // 2) for scale in (1, 2, 3, 4)]
    yield "size", {f"{h} x {w}": way(channels, 1, (h, w)) for h, w in sizes}
    yield "batch", {f"{n}": way(channels, n, SIZE) for n in (1, 2, 4)}


def gradient_part(
    name: str, settings: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Ways]]:
    """Yield the gradient methods, and the passes that they cannot avoid."""
    network = on(untrained(name), device)
    images = noise(8, SIZE, device)
    with torch.no_grad():
        references = network.model(images.flip(3))
    layers = {network.layer}
    if name == "resnet50":
        layers.add("backbone.layer3")
    for layer in sorted(layers):
        yield (
            layer,
            {
                "passes": Way(passes(network.model, layer, images), images=len(images)),
                "GradFAM": Way(
                    lambda layer=layer: GradFAM(network.model, layer).attribute(images),
                    images=len(images),
                ),
                **{
                    explainer.__name__: Way(
                        lambda explainer=explainer, layer=layer: explainer(
                            network.model, layer
                        ).attribute(images, references=references),
                        images=len(images),
                    )
                    for explainer in (GradRAM, CGRAM)
                },
            },
        )
    batches = (1, 4) if settings.quick else (1, 64)
    yield (
        "batch",
        {
            f"GradFAM, batch {batch}": Way(
                lambda batch=batch: GradFAM(network.model, network.layer).attribute(
                    noise(batch, SIZE, device)
                ),
                images=batch,
            )
            for batch in batches
        },
    )


def descent_part(
    name: str, settings: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, Ways]]:
    """Yield Extremal FAM in its settings, beside the floor of exact Score-FAM.

    Its descents are alike: some are taken, and reckoned up to all.
    """
    network = on(untrained(name), device)
    model, images = network.model, noise(1, SIZE, device)
    live = int((channel_range(activation_of(network, images)) > 0).sum())
    others = images.flip(3)

    def way(whole: ExtremalFAM, taken: ExtremalFAM, **data: Any) -> Way:
        masks, every = (Search(e.rounds, e.descents, e.seed).passes for e in (taken, whole))
        return Way(lambda: taken.attribute(images, **data), masks=masks, whole=every)

    every, fast, one = (
        ExtremalFAM(model, network.layer, **options)
        for options in ({}, {"rounds": 1, "descents": 4}, {"rounds": 1, "descents": 1})
    )
    yield (
        f"{live} live channels",
        {
            "floor": Way(floor(model, images, settings.maps), masks=settings.maps, whole=live),
            "ExtremalFAM": way(every, fast),
            "fast": way(fast, fast),
            "difference": way(every, one, references=others, explains="difference"),
        },
    )


PARTS = {
    "time": time_part,
    "growth": growth_part,
    "gradient": gradient_part,
    "descent": descent_part,
}


def on(network: Network, device: torch.device) -> Network:
    """Return a network on a device."""
    return network._replace(model=network.model.to(device))


def noise(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return fixed random images (B, 3, H, W)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)


def activation_of(network: Network, images: Tensor) -> Tensor:
    """Return the map (B, K, h, w) of a network's layer."""
    with torch.no_grad():
        layer = find_layer(network.model, network.layer)
        activation, _ = capture(network.model, layer, images, ())
    return as_map(activation, (images.shape[2], images.shape[3])).float()


def explained(
    model: torch.nn.Module, layer: str, images: Tensor, **settings: Any
) -> Callable[[], Tensor]:
    """Return Score-FAM, ready to run."""
    explainer = ScoreFAM(model, layer, **settings)
    return lambda: explainer.attribute(images)


def floor(model: torch.nn.Module, images: Tensor, count: int) -> Callable[[], None]:
    """Return ``count`` bare forward passes, in Score-FAM's batches and memory format."""
    size = min(images_per_forward(images), count)
    batch = images.expand(size, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            for start in range(0, count, size):
                model(batch[: count - start])

    return run


def peer(shown: Showing, images: Tensor) -> Callable[[], None]:
    """Return pytorch-grad-cam's ScoreCAM of the cosine with the image's own embedding."""
    with torch.no_grad():
        own = shown(images)[0]

    def similarity(embedding: Tensor) -> Tensor:
        return cosine_similarity(embedding, own, dim=0)

    def run() -> None:
        with redirect_stderr(io.StringIO()), PeerScoreCAM(shown, [shown.shown]) as explainer:
            explainer(images, [similarity])

    return run


def passes(model: torch.nn.Module, layer: str, images: Tensor) -> Callable[[], None]:
    """Return a forward pass without gradients, and both ways through the layers above one."""
    module = find_layer(model, layer)
    with torch.no_grad():
        activation, _ = capture(model, module, images, ())

    def run() -> None:
        with torch.no_grad():
            model(images)
        above(model, layer, activation)

    return run


def above(model: torch.nn.Module, layer: str, activation: Tensor) -> None:
    """Run forward and backward from a layer's output to the length of the embedding."""
    leaf = activation.detach().requires_grad_()
    torch.autograd.grad(after(model, layer, leaf).norm(dim=1).sum(), leaf)


def after(model: torch.nn.Module, layer: str, activation: Tensor) -> Tensor:
    """Return the embeddings of what a layer of a network of ``untrained`` gave."""
    if layer == "backbone.layer3":
        activation = model.backbone.layer4(activation)
    if layer.startswith("model.blocks"):
        vit = model.model
        following = vit.blocks[int(layer.rsplit(".", 1)[1]) + 1 :]
        embeddings: Tensor = vit.forward_head(vit.norm(following(activation)), pre_logits=True)
        return embeddings
    embedded: Tensor = model.embed(activation)
    return embedded
