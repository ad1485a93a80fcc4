"""Masks that know nothing of the image, and the scores of what they keep of it.

Source: Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models,
BMVC 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from captum.attr import LayerAttribution, PerturbationAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import at_least_float32, check_at_least, check_choice, check_share
from reid_explain.explainers.base import Explainer, Images, logged
from reid_explain.explainers.layout import upsample
from reid_explain.explainers.ram import ReferenceExplainer
from reid_explain.explainers.score import Call, as_baseline
from reid_explain.memory_format import AUTOCAST_DTYPES, images_per_forward
from reid_explain.objectives import Cosine, Objective


@dataclass(frozen=True)
class Masks:
    """A set of masks in [0, 1], each made when it is asked for: 1 keeps a pixel.

    ``make`` maps numbers (n,) of masks to masks (n, 1, H, W).
    """

    count: int
    make: Callable[[Tensor], Tensor]

    def total(self, weights: Tensor) -> Tensor:
        """Return the sum (B, 1, H, W) of all masks with weights (B, count)."""
        numbers = torch.arange(self.count, device=weights.device)
        first = self.make(numbers[:1])
        sums = weights.new_zeros(len(weights), *first.shape[1:])
        for part in torch.split(numbers, images_per_forward(first)):
            masks = self.make(part).to(weights)
            sums += torch.einsum("bn,nchw->bchw", weights[:, part], masks)
        return sums


def random_grids(images: Tensor, count: int, cells: int, probability: float, seed: int) -> Masks:
    """Return RISE's masks of images (B, C, H, W): random grids, upsampled and shifted.

    Each cell of a grid is 1 with the probability, else 0; there are ``cells`` along the shorter
    side of the image, and they are about as high as wide. A grid is upsampled bilinearly to one
    cell more than the image, and cut to its size at a random place. The masks depend on the
    settings and the size of the images alone, and the first of more masks are those of fewer.
    """
    height, width = images.shape[2:]
    rows, columns = (cells * side // min(height, width) for side in (height, width))
    cell = torch.tensor([-(-height // rows), -(-width // columns)])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, rows * columns + 2, generator=generator, dtype=torch.float64)
    grids = (drawn[:, 2:] < probability).view(count, 1, rows, columns)
    shifts = (drawn[:, :2] * cell).long()
    size = ((rows + 1) * int(cell[0]), (columns + 1) * int(cell[1]))

    def make(numbers: Tensor) -> Tensor:
        chosen = numbers.cpu()
        large = upsample(at_least_float32(grids[chosen].to(images)), size)
        places = zip(large, shifts[chosen].tolist(), strict=True)
        return torch.stack([mask[:, y : y + height, x : x + width] for mask, (y, x) in places])

    return Masks(count, make)


def without_rectangles(images: Tensor, corners: Tensor, size: tuple[int, int]) -> Masks:
    """Return masks of images (B, C, H, W): 0 in rectangles, of any of which a mask has P, else 1.

    Args:
        images: (B, C, H, W).
        corners: Top and left of each rectangle, (count, P, 2); it may reach out of the image.
        size: Height and width of all rectangles.
    """
    corners = corners.to(images.device)

    def make(numbers: Tensor) -> Tensor:
        inside = []
        for axis in (0, 1):
            pixels = torch.arange(images.shape[2 + axis], device=images.device)
            offset = pixels - corners[numbers, :, axis, None]
            inside.append(((offset >= 0) & (offset < size[axis])).float())
        hidden = torch.einsum("nph,npw->nhw", *inside) > 0
        return at_least_float32((~hidden)[:, None].to(images))

    return Masks(len(corners), make)


class Scored(NamedTuple):
    """The masks of one call, the scores (B, N) under each and (B, 1) of the whole images."""

    masks: Masks
    scores: Tensor
    whole: Tensor


class MaskExplainer(Explainer, PerturbationAttribution):
    """Explains by masks that know nothing of the image.

    Subclasses give ``_masks``, ``_reduce``, which is the formula, and ``attribute``. No layer is
    needed: maps have the resolution of the masks, the pixels'.
    """

    cost = "masks"

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        if layer is None:
            LayerAttribution.__init__(self, forward_func, nn.Identity())
        else:
            super().__init__(forward_func, layer)
        check_choice("autocast_dtype", autocast_dtype, AUTOCAST_DTYPES)
        self.autocast_dtype = autocast_dtype

    def _masks(self, images: Tensor) -> Masks:
        """Return the masks of images (B, C, H, W), the same for all."""
        raise NotImplementedError

    def _reduce(self, scored: Scored) -> Tensor:
        """Return the maps (B, 1, H, W)."""
        raise NotImplementedError

    def _explain_by_masks(
        self, inputs: Images, objective: Objective, baselines: Any, call: Call
    ) -> Images:
        maps = self._reduce(self._scored(inputs, objective, baselines, call))
        return self._finish(maps, inputs, call.interpolate_mode)

    def _scored(self, inputs: Images, objective: Objective, baselines: Any, call: Call) -> Scored:
        """Return the masks and the scores of what they keep of the images."""
        if call.perturbations_per_eval is not None:
            check_at_least("perturbations_per_eval", call.perturbations_per_eval, 1)
        images, args = self._begin(inputs, call.additional_forward_args, call.interpolate_mode)
        baseline = as_baseline(baselines, images)
        per_forward = call.perturbations_per_eval or images_per_forward(images)
        masks, scores = self._masks(images), []
        with self._evaluation():
            batch = self._batch(images, args, per_forward)
            score = objective.prepare(batch)
            own = objective.check(batch.embed(images, None))
            everything = torch.arange(len(images) * masks.count, device=images.device)
            hidden = not call.show_progress
            with tqdm(total=len(everything), unit="mask", disable=hidden) as progress:
                for block in torch.split(everything, per_forward):
                    rows, numbers = block // masks.count, block % masks.count
                    kept = masks.make(numbers).to(images)
                    shown = torch.lerp(baseline[rows], images[rows], kept)
                    result = self._results(shown, rows, args, len(images), self.autocast_dtype)
                    scores.append(score(result, own[rows], rows))
                    progress.update(len(block))
            whole = score(own, own, torch.arange(len(images), device=images.device))
        return Scored(masks, torch.cat(scores).view(len(images), -1), whole[:, None])


class GridExplainer(MaskExplainer):
    """Explains by RISE's masks; the formula is RISE's, too, where subclasses give no other."""

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        masks: int = 4000,
        cells: int = 7,
        probability: float = 0.5,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, autocast_dtype)
        check_at_least("masks", masks, 1)
        check_at_least("cells", cells, 1)
        check_at_least("seed", seed, 0)
        check_share("probability", probability)
        self.masks = masks
        self.cells = cells
        self.probability = probability
        self.seed = seed

    def _masks(self, images: Tensor) -> Masks:
        return random_grids(images, self.masks, self.cells, self.probability, self.seed)

    def _reduce(self, scored: Scored) -> Tensor:
        return scored.masks.total(scored.scores) / (self.masks * self.probability)


class MaskReferenceExplainer(MaskExplainer, ReferenceExplainer):
    """Explains the similarity to a reference by masks of the image."""

    objective = Cosine

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Any,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        baselines: Any = 0.0,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        reference_forward_args: Any = None,
    ) -> Images:
        """Explain what in each image makes it similar to its reference.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            references: Images (N, C, H, W) or embeddings (N, D), as in :meth:`.RAM.attribute`. They
                are not masked.
            additional_forward_args: As there.
            interpolate_mode: As there; maps have the size of the images anyway.
            baselines: As in :meth:`.MaskWeighting.attribute`.
            perturbations_per_eval: As there.
            show_progress: As there.
            reference_forward_args: As in :meth:`.RAM.attribute`.

        Returns:
            Maps (B, 1, H, W).

        Raises:
            InputError: If an argument does not fit, or an embedding is zero, NaN or infinite.
        """
        objective = self._given(references, reference_forward_args)
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_masks(inputs, objective, baselines, call)
