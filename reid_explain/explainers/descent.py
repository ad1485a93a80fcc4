"""Maps found by descent: grids whose highest areas, as masks, agree best with what is sought.

One long descent comes to fit the fills that it meets. Here descents are short and many, and what
they have in common is the map.

Sources: Fong and Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation,
ICCV 2017 (an upsampled grid, random fills against adversarial masks); Fong et al., Understanding
Deep Networks via Extremal Perturbations and Smooth Masks, ICCV 2019 (masks of a given area).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_explain.explainers.controls import center_blob
from reid_explain.explainers.gradient import gradient
from reid_explain.explainers.layout import upsample
from reid_explain.fills import AREAS, content_generator
from reid_explain.memory_format import images_per_forward

AREA_JITTER = 0.2
"""Each area is drawn up to this share of itself below or above."""
SOFTNESS = 0.15
"""Width of a mask's edge, in standard deviations of the map."""
STEPS = 3
"""Of one descent."""
STEP_SIZE = 0.6
"""How far the first step moves every cell, in standard deviations of the start."""
SMOOTHING = 0.5
"""Share of its neighbourhood's mean in a cell's gradient."""
FINEST = 8
"""The most cells of smooth noise or a blur along the shorter side; the fewest are one."""
FILL_KINDS = ("mean", "color", "noise", "smooth", "blur")
"""What may show in place of the image. Another image and patches of this one never do: they are
left for judging a map."""


class Masks(NamedTuple):
    """Masks of m images, k for each, and what they are filled with."""

    highest: Tensor
    """(m, k, 1, H, W), in (0, 1): near 1 where a map is highest."""
    fills: Tensor
    """(m, k, C, H, W)."""


Agreement = Callable[[Tensor, Masks], Tensor]
"""(rows (m,) of the images, masks) -> objective to maximize (m, k)."""


class Search(NamedTuple):
    """Rounds of some descents of each image, with areas and fills from a seed.

    Those of the first round start from simple maps in turn, the others from the mean so far.
    """

    rounds: int
    descents: int
    seed: int

    @property
    def passes(self) -> int:
        """Return how many masked images the model sees for each image, forward and backward."""
        return self.rounds * self.descents * STEPS * len(AREAS)

    def run(self, images: Tensor, starts: Tensor, agreement: Agreement, progress: Any) -> Tensor:
        """Return the maps (B, 1, h, w) of images (B, C, H, W) from simple maps (B, s, h, w)."""
        batch, simple, *grid = starts.shape
        rows = torch.arange(batch, device=images.device).repeat_interleave(self.descents)
        generators = [each for image in images for each in self._generators(image)]
        origins = standardized(starts)[:, torch.arange(self.descents) % simple]
        total = torch.zeros_like(starts[:, :1])
        for _ in range(self.rounds):
            ends = []
            for part in torch.split(torch.arange(len(rows)), descents_at_once(images)):
                own = [generators[place] for place in part.tolist()]
                origin = origins.flatten(0, 1)[part, None]
                ends.append(descend(origin, images, rows[part], own, agreement))
                progress.update(len(part) * STEPS * len(AREAS))
            mean = torch.cat(ends).view(batch, self.descents, *grid).mean(dim=1, keepdim=True)
            total = total + standardized(mean)
            origins = standardized(total).expand(-1, self.descents, -1, -1)
        return standardized(total)

    def _generators(self, image: Tensor) -> Iterator[torch.Generator]:
        """Yield one for each descent, from the seed and the image's values alone."""
        source = content_generator(image, self.seed)
        for seed in torch.randint(2**62, (self.descents,), generator=source).tolist():
            yield torch.Generator().manual_seed(seed)


def descend(
    origins: Tensor,
    images: Tensor,
    rows: Tensor,
    generators: Sequence[torch.Generator],
    agreement: Agreement,
) -> Tensor:
    """Return the maps (m, 1, h, w) that a few steps of Adam make of standardized ``origins``.

    ``rows`` (m,) are the images (B, C, H, W) that the maps are of, each with its generator.
    """
    grids = origins.clone()
    optimizer = torch.optim.Adam([grids], lr=STEP_SIZE)
    for _ in range(STEPS):
        areas, fills = draw(images[rows], generators)
        with torch.enable_grad():
            highest = soft_masks(grids.requires_grad_(), areas, fills.shape[-2:]).to(fills)
            slope = gradient(agreement(rows, Masks(highest, fills)), grids)
        grids.grad = -smoothed(slope)
        optimizer.step()
    return standardized(grids.detach())


def descents_at_once(images: Tensor) -> int:
    """Return how many descents fill the device: each passes a masked image for every area."""
    return max(1, images_per_forward(images) // len(AREAS))


def smoothed(slope: Tensor) -> Tensor:
    """Return a gradient (m, 1, h, w) half of which is the mean of the 3 x 3 cells around each.

    What single cells gain is mostly what fits one fill.
    """
    around = F.avg_pool2d(F.pad(slope, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(slope, around, SMOOTHING)


def soft_masks(maps: Tensor, areas: Tensor, size: Sequence[int]) -> Tensor:
    """Return masks (m, k, 1, H, W) in (0, 1) of the highest ``areas`` (m, k) of maps (m, 1, h, w).

    The threshold is no part of the gradient.
    """
    levels = standardized(upsample(maps, (size[0], size[1])))
    highest_first = levels.detach().flatten(1).sort(dim=1, descending=True).values
    places = (areas * highest_first.shape[1]).long().clamp(max=highest_first.shape[1] - 1)
    thresholds = highest_first.gather(1, places)[:, :, None, None, None]
    return torch.sigmoid((levels[:, None] - thresholds) / SOFTNESS)


def simple_maps(activation: Tensor, slope: Tensor) -> Tensor:
    """Return the channel mean, RAM, Grad-RAM and a blob in the center, together (n, 4, h, w).

    ``slope`` is the gradient of the score at ``activation``, both (n, C, h, w).
    """
    pooled = activation.mean(dim=(2, 3), keepdim=True)
    weights = slope.mean(dim=(2, 3), keepdim=True)
    maps = (
        activation.mean(dim=1, keepdim=True),
        (pooled * activation).sum(dim=1, keepdim=True),
        (weights * activation).sum(dim=1, keepdim=True).relu(),
        center_blob(activation),
    )
    return torch.cat(maps, dim=1)


def standardized(maps: Tensor) -> Tensor:
    """Return maps (B, k, h, w) at mean 0 and standard deviation 1; a constant map becomes 0."""
    centered = maps - maps.mean(dim=(2, 3), keepdim=True)
    variance = centered.square().mean(dim=(2, 3), keepdim=True)
    return centered / (variance + torch.finfo(maps.dtype).eps).sqrt()


def draw(images: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Draw areas (m, k) near ``AREAS`` and a fill (m, k, C, H, W) for each, of m images."""
    areas, fills = [], []
    for image, generator in zip(images, generators, strict=True):
        jitter = 2 * torch.rand(len(AREAS), generator=generator) - 1
        areas.append(torch.tensor(AREAS) * (1 + AREA_JITTER * jitter))
        fills.append(torch.stack([random_fill(image, generator) for _ in AREAS]))
    return torch.stack(areas).to(images.device), torch.stack(fills)


def random_fill(image: Tensor, generator: torch.Generator, kind: str | None = None) -> Tensor:
    """Return what shows in place of an image, (C, H, W), of one of ``FILL_KINDS``; None draws it.

    Of ``image`` (C, H, W) it holds the mean and the spread of each color, and in a blur what is
    left of it with at most 8 square cells along its shorter side.
    """
    kind = kind or FILL_KINDS[int(torch.randint(len(FILL_KINDS), (), generator=generator))]
    channels, height, width = image.shape
    mean = image.mean(dim=(1, 2), keepdim=True)
    if kind == "mean":
        return mean.expand_as(image)
    cells = int(torch.randint(1, FINEST + 1, (), generator=generator))
    coarse = (cells * height // min(height, width), cells * width // min(height, width))
    if kind == "blur":
        return upsample(F.adaptive_avg_pool2d(image[None], coarse), (height, width))[0]
    grid = {"color": (1, 1), "smooth": coarse, "noise": (height, width)}[kind]
    noise = torch.randn(1, channels, *grid, generator=generator).to(image)
    spread = image.std(dim=(1, 2), keepdim=True, correction=0)
    return mean + spread * upsample(noise, (height, width))[0]
