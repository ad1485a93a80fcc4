"""Extremal FAM: the areas of an image that keep most of an embedding, found by descent.

Named after Fong et al., Understanding Deep Networks via Extremal Perturbations and Smooth Masks,
ICCV 2019, who look for the mask of a given area that keeps most of a class score; and after Fong
and Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017. Here
an embedding takes the place of the class, one map answers for all areas, and fills are random.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from captum.attr import GradientAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least, check_choice, check_finite, check_nonzero
from reid_explain.errors import InputError
from reid_explain.explainers.base import RESULT, Images, gradients, logged, rows_of
from reid_explain.explainers.controls import centre_blob
from reid_explain.explainers.layout import upsample
from reid_explain.explainers.ram import ReferenceExplainer, paired, repeated
from reid_explain.explainers.similarity import unit
from reid_explain.fills import content_generator
from reid_explain.memory_format import images_per_forward, in_fast_format

AREAS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""The kept areas that a map has to answer for, as shares of the image."""
AREA_JITTER = 0.2
"""Each area is drawn up to this share of itself below or above."""
SOFTNESS = 0.15
"""Width of a mask's edge, in standard deviations of the map."""
REMOVAL = 0.5
"""Weight of what the removed part must not hold, beside what the kept part must."""
TRAVEL = 1.8
"""How far the steps together can move a cell, in standard deviations of the start."""
FINEST = 8
"""The most cells across smooth noise or a blur; the fewest are one."""
FILL_KINDS = ("mean", "colour", "noise", "smooth", "blur")
"""What may show where a mask is 0. Another image and patches of this one never do: they are left
for judging a map."""
EXPLAINED = ("similarity", "difference")


class Masks(NamedTuple):
    """What is drawn for n images: a mask's area and its fill, k times for each."""

    areas: Tensor
    """(n, k), in (0, 1)."""
    fills: Tensor
    """(n, k, C, H, W)."""


class ExtremalFAM(ReferenceExplainer, GradientAttribution):
    r"""A map whose highest pixels keep the embedding, at every area and under random fills.

    A grid S of the layer's resolution, upsampled and standardised, is one soft mask for each area
    a: :math:`M_a = \sigma((S - q_a) / 0.15)`, with :math:`q_a` its (1 - a)-quantile. S descends

    .. math:: -\cos(f(X \circ M_a + R \circ (1 - M_a)), g)
        + \tfrac{1}{2} \cos(f(X \circ (1 - M_a) + R \circ M_a), g)

    averaged over areas from 5 to 70 % and random fills R, where g is the image's own embedding or
    its reference's. A difference is the same with :math:`M_a` and :math:`1 - M_a` exchanged: what
    to remove so that the two embeddings come together (experimental: on counterfactual pairs of
    the synthetic world it was at chance). R is drawn anew for each mask: the mean
    colour, another colour, noise, smooth noise, or a blur of random width; never another image,
    nor patches of the image elsewhere. S starts from the simple map of lowest loss: the channel
    mean, RAM and Grad-RAM at the layer, or a blob in the centre. The map is the mean of S over the
    later half of the steps.

    Each image is explained by itself: its random numbers depend on the seed and on its values
    alone, neither on the batch nor on the global random state. A step is 12 masked images forward
    and backward, the choice of the start 24 forward.

    Sources: Fong and Vedaldi, ICCV 2017 (random fills against adversarial masks, upsampled grid);
    Fong et al., ICCV 2019 (masks of a given area).

    Args:
        forward_func: As for every explainer; differentiable in the images.
        layer: As for every explainer; the map has its resolution.
        reshape_transform: As for every explainer.
        steps: Of the descent. The default costs 144 masked images forward and backward; 5, the
            fast setting, 60.
        seed: Of areas and fills; another seed, another map, of a similar order.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` for the passes of masked images
            under ``torch.autocast``. None leaves the precision to ``forward_func``.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.

    Example:
        >>> import torch
        >>> from reid_explain import ExtremalFAM
        >>> layer = torch.nn.Identity()
        >>> corner = lambda images: layer(images)[:, :, :2, :2].mean(dim=(2, 3))  # sees no more
        >>> image = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> maps = ExtremalFAM(corner, layer).attribute(image)
        >>> bool(maps[..., :2, :2].mean() > maps.mean())
        True
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        steps: int = 12,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        check_at_least("steps", steps, 1)
        check_at_least("seed", seed, 0)
        check_choice("autocast_dtype", autocast_dtype, (None, torch.bfloat16, torch.float16))
        self.steps = steps
        self.seed = seed
        self.autocast_dtype = autocast_dtype

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        explains: str = "similarity",
        show_progress: bool = False,
    ) -> Images:
        """Explain each image by itself, or its similarity to (or difference from) a reference.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            references: None for the image's own embedding; images (N, C, H, W) or embeddings
                (N, D), with N = B, 1, or a divisor of B: then each serves B / N images in a row.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple. The
                reference images are embedded with those of the images that they serve.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            explains: ``"similarity"``, what to keep so that the embeddings stay together; or
                ``"difference"``, what to remove so that they come together.
            show_progress: Whether to show a bar on standard error.

        Returns:
            Maps (B, 1, H, W), signed: at the layer's resolution of mean 0 and standard deviation
            1. Their order has a meaning, their scale has none.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, the result has no
                gradient, or an embedding is zero, NaN or infinite.
        """
        check_choice("explains", explains, EXPLAINED)
        if explains == "difference" and references is None:
            raise InputError("references", "None", "what the inputs differ from")
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        batch = len(images)
        everyone = torch.arange(batch, device=images.device)
        parts = torch.split(everyone, images_per_descent(images))
        bar = tqdm(total=len(parts) * self.steps, unit="step", disable=not show_progress)
        with self._evaluation(), bar as progress:
            given = None
            if references is not None:
                given = repeated(self._embedded(references, images, args), batch)
            maps = [
                self._descend(
                    images[rows],
                    rows_of(args, rows, batch),
                    None if given is None else given[rows],
                    explains == "difference",
                    progress,
                )
                for rows in parts
            ]
        return self._finish(torch.cat(maps), inputs, interpolate_mode)

    def _descend(
        self,
        images: Tensor,
        args: tuple[Any, ...],
        given: Tensor | None,
        difference: bool,
        progress: Any,
    ) -> Tensor:
        """Return the maps (n, 1, h, w) of n images that share each pass through the model."""
        with torch.enable_grad():
            (activation, output), form = in_fast_format(partial(self._capture, args=args), images)
            own = check_nonzero(RESULT, output.detach())
            goals = unit(own if given is None else paired(given, own))
            (slope,) = gradients((goals * output).sum(dim=1), [activation])
        maps = self._as_map(activation.detach(), images)
        starts = simple_maps(maps, self._as_map(slope, images))
        starts = [-start for start in starts] if difference else starts

        def embed(masked: Tensor, rows: Tensor) -> Tensor:
            masked = masked.contiguous(memory_format=form)
            with self._autocast(images.device):
                output = self.forward_func(masked, *rows_of(args, rows, len(images)))
            result = self._result(output, len(rows))
            check_finite(RESULT, result)  # it returns the values without their graph
            return result

        separation = Separation(embed, images, goals, difference)
        generators = [content_generator(image, self.seed) for image in images]
        masks = draw(images, generators, AREAS[1::2])
        losses = torch.stack([separation.loss(start, masks) for start in starts])
        grid = torch.stack(starts)[
            losses.argmin(dim=0), torch.arange(len(images), device=images.device)
        ]
        optimiser = torch.optim.Adam([grid], lr=TRAVEL / self.steps)
        mean = torch.zeros_like(grid)
        for step in range(self.steps):
            masks = draw(images, generators, AREAS)
            with torch.enable_grad():
                loss = separation.loss(grid.requires_grad_(), masks)
                (grid.grad,) = gradients(loss, [grid])
            optimiser.step()
            if 2 * step >= self.steps - 1:
                mean += standardised(grid.detach())
            progress.update()
        return standardised(mean)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the precision for masked images."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def simple_maps(activation: Tensor, slope: Tensor) -> list[Tensor]:
    """Return where a descent may start, each (n, 1, h, w) and standardised.

    The channel mean, RAM and Grad-RAM, and a blob in the centre, from the layer's map and its
    gradient, (n, C, h, w).
    """
    pooled = activation.mean(dim=(2, 3), keepdim=True)
    weights = slope.mean(dim=(2, 3), keepdim=True)
    maps = (
        activation.mean(dim=1, keepdim=True),
        (pooled * activation).sum(dim=1, keepdim=True),
        (weights * activation).sum(dim=1, keepdim=True).relu(),
        centre_blob(activation),
    )
    return [standardised(map_) for map_ in maps]


class Separation(NamedTuple):
    """How well a map separates what makes n images resemble their goals from the rest.

    Args:
        embed: Of masked images and the rows (m,) of ``images`` that they were made from, to
            embeddings (m, D).
        images: (n, C, H, W).
        goals: (n, D), of length 1.
        difference: Whether the highest pixels are to be removed in place of kept.
    """

    embed: Callable[[Tensor, Tensor], Tensor]
    images: Tensor
    goals: Tensor
    difference: bool

    def loss(self, maps: Tensor, masks: Masks) -> Tensor:
        """Return the loss (n,) of maps (n, 1, h, w) under the areas and fills of ``masks``."""
        count, drawn = masks.areas.shape
        size = (self.images.shape[2], self.images.shape[3])
        high = soft_masks(maps, masks.areas, size).to(self.images.dtype)
        kept = 1 - high if self.difference else high
        whole = self.images[:, None].expand_as(masks.fills)
        both = (torch.lerp(masks.fills, whole, kept), torch.lerp(whole, masks.fills, kept))
        rows = torch.arange(count, device=maps.device).repeat_interleave(2 * drawn)
        embeddings = self.embed(torch.stack(both, dim=1).flatten(0, 2), rows)
        cosines = (direction(embeddings) * self.goals[rows]).sum(dim=1)
        of_kept, of_rest = cosines.view(count, 2, drawn).mean(dim=2).unbind(dim=1)
        return REMOVAL * of_rest - of_kept


def soft_masks(maps: Tensor, areas: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, k, 1, H, W) in (0, 1) of the highest ``areas`` (n, k) of maps (n, 1, h, w).

    The threshold is no part of the gradient.
    """
    levels = standardised(upsample(maps, size))
    highest_first = levels.detach().flatten(1).sort(dim=1, descending=True).values
    places = (areas * highest_first.shape[1]).long().clamp(max=highest_first.shape[1] - 1)
    thresholds = highest_first.gather(1, places)[:, :, None, None, None]
    return torch.sigmoid((levels[:, None] - thresholds) / SOFTNESS)


def standardised(maps: Tensor) -> Tensor:
    """Return maps (n, 1, h, w) at mean 0 and standard deviation 1; a constant map becomes 0."""
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return centred / (variance + torch.finfo(maps.dtype).eps).sqrt()


def direction(embeddings: Tensor) -> Tensor:
    """Return embeddings (m, D) at unit length; a zero row stays zero, with a bounded gradient."""
    lengths: Tensor = embeddings.norm(dim=1, keepdim=True)
    return embeddings / lengths.where(lengths > 0, torch.ones_like(lengths))


def draw(images: Tensor, generators: Sequence[torch.Generator], areas: Sequence[float]) -> Masks:
    """Draw areas near these and a fill for each, for every image from its own generator."""
    drawn, fills = [], []
    for image, generator in zip(images, generators, strict=True):
        jitter = 2 * torch.rand(len(areas), generator=generator) - 1
        drawn.append(torch.tensor(areas) * (1 + AREA_JITTER * jitter))
        fills.append(torch.stack([random_fill(image, generator) for _ in areas]))
    return Masks(torch.stack(drawn).to(images.device), torch.stack(fills))


def random_fill(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return what shows where a mask is 0, (C, H, W), of a random kind and strength.

    Of ``image`` (C, H, W) it holds the mean and the spread of each colour, and in a blur what is
    left of it in at most 8 x 8 cells.
    """
    channels, height, width = image.shape
    kind = FILL_KINDS[int(torch.randint(len(FILL_KINDS), (), generator=generator))]
    mean = image.mean(dim=(1, 2), keepdim=True)
    if kind == "mean":
        return mean.expand_as(image)
    cells = int(torch.randint(1, FINEST + 1, (), generator=generator))
    if kind == "blur":
        coarse = F.adaptive_avg_pool2d(image[None], cells)
        return upsample(coarse, (height, width))[0]
    grid = {"colour": (1, 1), "smooth": (cells, cells), "noise": (height, width)}[kind]
    noise = torch.randn(1, channels, *grid, generator=generator).to(image)
    spread = image.std(dim=(1, 2), keepdim=True, correction=0)
    return mean + spread * upsample(noise, (height, width))[0]


def images_per_descent(images: Tensor) -> int:
    """Return how many images' descents fill the device: each passes 12 masked images at once."""
    return max(1, images_per_forward(images) // (2 * len(AREAS)))
