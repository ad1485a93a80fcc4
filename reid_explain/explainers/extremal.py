"""Extremal FAM: the areas of an image that keep most of an embedding, found by descent.

Named after Fong et al., Understanding Deep Networks via Extremal Perturbations and Smooth Masks,
ICCV 2019, who look for the mask of a given area that keeps most of a class score; and after Fong
and Vedaldi, Interpretable Explanations of Black Boxes by Meaningful Perturbation, ICCV 2017. Here
an embedding takes the place of the class, one map answers for all areas, and fills are random.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import (
    check_at_least,
    check_choice,
    check_finite,
    check_images,
    check_nonzero,
    described,
)
from reid_explain.errors import InputError
from reid_explain.explainers.base import RESULT, Images, gradients, logged, only_tensor, rows_of
from reid_explain.explainers.controls import centre_blob
from reid_explain.explainers.descent import Masks, Search
from reid_explain.explainers.ram import ReferenceExplainer, paired, repeated
from reid_explain.explainers.similarity import unit
from reid_explain.memory_format import autocast, images_per_forward, in_fast_format

EXPLAINED = ("similarity", "difference")


class ExtremalFAM(ReferenceExplainer, GradientAttribution):
    r"""A map whose highest pixels keep the embedding, at every area and under random fills.

    A grid S of the layer's resolution, upsampled and standardised, is one soft mask for each area
    a: :math:`M_a = \sigma((S - q_a) / 0.15)`, with :math:`q_a` its (1 - a)-quantile. S ascends

    .. math:: \cos(f(X \circ M_a + R \circ (1 - M_a)), g)

    averaged over areas from 5 to 70 % and random fills R, where g is the image's own embedding or
    its reference's. For a difference, the same area of the image and of its reference Y is
    removed, and what is sought is that the two embeddings come together:

    .. math:: \cos(f(X \circ (1 - M_a) + R \circ M_a), f(Y \circ (1 - M_a) + R \circ M_a))

    R is drawn anew for each mask: the mean colour, another colour, noise, smooth noise, or a blur
    of random width; never another image, nor patches of the image elsewhere.

    One descent soon comes to fit its fills. So descents are short (three steps of Adam) and many:
    those of the first round start from simple maps (the channel mean, RAM and Grad-RAM at the
    layer, a blob in the centre), those of each later round from the mean of the rounds before, and
    the map is the mean of all.

    Each image is explained by itself: its random numbers depend on the seed and on its values
    alone, neither on the batch nor on the global random state. It costs
    ``18 * rounds * descents`` masked images forward and backward; a difference, twice that.

    Sources: Fong and Vedaldi, ICCV 2017 (random fills against adversarial masks, upsampled grid);
    Fong et al., ICCV 2019 (masks of a given area).

    Args:
        forward_func: As for every explainer; differentiable in the images.
        layer: As for every explainer; the map has its resolution.
        reshape_transform: As for every explainer.
        rounds: Of descents. ``rounds=1, descents=4`` is the fast setting, at an eighth of the cost.
        descents: In each round.
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
        rounds: int = 4,
        descents: int = 8,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        check_at_least("rounds", rounds, 1)
        check_at_least("descents", descents, 1)
        check_at_least("seed", seed, 0)
        check_choice("autocast_dtype", autocast_dtype, (None, torch.bfloat16, torch.float16))
        self.rounds = rounds
        self.descents = descents
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
                A difference takes images (N, C, H, W) of the size of the inputs.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple. The
                reference images are embedded with those of the images that they serve.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            explains: ``"similarity"``, what to keep so that the embeddings stay together; or
                ``"difference"``, what to remove from both images so that they come together.
            show_progress: Whether to show a bar on standard error.

        Returns:
            Maps (B, 1, H, W), signed: at the layer's resolution of mean 0 and standard deviation
            1. Their order has a meaning, their scale has none.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, the result has no
                gradient, or an embedding is zero, NaN or infinite.
        """
        check_choice("explains", explains, EXPLAINED)
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        with self._evaluation():
            embed = partial(self._directions, args=args, batch=len(images))
            if explains == "similarity":
                starts, goals = self._starts(images, args, references)
                agreement = partial(similarity, embed, images, goals)
            else:
                others = same_size(references, images)
                starts = self._starts_of_difference(images, args, others)
                agreement = partial(togetherness, embed, images, others)
            search = Search(self.rounds, self.descents, self.seed)
            total = search.passes * len(images)
            with tqdm(total=total, unit="image", disable=not show_progress) as progress:
                maps = search.run(images, starts, agreement, progress)
        return self._finish(maps, inputs, interpolate_mode)

    def _starts(
        self, images: Tensor, args: tuple[Any, ...], references: Any
    ) -> tuple[Tensor, Tensor]:
        """Return simple maps (B, 4, h, w), and the goals (B, D) of unit length."""
        given = None
        if references is not None:
            given = repeated(self._embedded(references, images, args), len(images))
        starts, goals = [], []
        for rows in parts_of(images):
            with torch.enable_grad():
                activation, output = self._seen(images, args, rows)
                own = check_nonzero(RESULT, output.detach())
                goal = unit(own if given is None else paired(given[rows], own))
                (slope,) = gradients((goal * output).sum(dim=1), [activation])
            maps = (self._as_map(each, images[rows]) for each in (activation.detach(), slope))
            starts.append(simple_maps(*maps))
            goals.append(goal)
        return torch.cat(starts), torch.cat(goals)

    def _starts_of_difference(
        self, images: Tensor, args: tuple[Any, ...], others: Tensor
    ) -> Tensor:
        """Return simple maps (B, 2, h, w) of what the layer says differently of two images."""
        starts = []
        for rows in parts_of(images):
            one, other = (
                self._as_map(self._seen(side, args, rows)[0], side[rows])
                for side in (images, others)
            )
            starts.append(simple_differences(one - other))
        return torch.cat(starts)

    def _seen(self, images: Tensor, args: tuple[Any, ...], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's raw output and the embeddings for these rows of the images."""
        own = rows_of(args, rows, len(images))
        return in_fast_format(partial(self._capture, args=own), images[rows])[0]

    def _directions(
        self, masked: Tensor, rows: Tensor, args: tuple[Any, ...], batch: int
    ) -> Tensor:
        """Return the embeddings (m, k, D), of unit length, of k images for each row of a batch."""
        count, each = masked.shape[:2]
        own = rows_of(args, rows.repeat_interleave(each), batch)

        def embed(images: Tensor) -> Tensor:
            with autocast(images.device, self.autocast_dtype):
                output = self.forward_func(images, *own)
            result = self._result(output, len(images))
            check_finite(RESULT, result)  # it returns the values without their graph
            return result

        return direction(in_fast_format(embed, masked.flatten(0, 1))[0]).view(count, each, -1)


def similarity(
    embed: Callable[..., Tensor], images: Tensor, goals: Tensor, rows: Tensor, masks: Masks
) -> Tensor:
    """Return the cosine (m, k) of what masks of these rows of the images keep with the goals."""
    kept = torch.lerp(masks.fills, images[rows, None], masks.highest)
    return (embed(kept, rows) * goals[rows, None]).sum(dim=2)


def togetherness(
    embed: Callable[..., Tensor], images: Tensor, others: Tensor, rows: Tensor, masks: Masks
) -> Tensor:
    """Return the cosine (m, k) of images and others when the same area is removed from both."""
    one, other = (
        embed(torch.lerp(side[rows, None], masks.fills, masks.highest), rows)
        for side in (images, others)
    )
    return (one * other).sum(dim=2)


def simple_maps(activation: Tensor, slope: Tensor) -> Tensor:
    """Return the channel mean, RAM, Grad-RAM and a blob in the centre, together (n, 4, h, w).

    Args:
        activation: The layer's map (n, C, h, w).
        slope: Its gradient of the projection on the goal, of the same shape.
    """
    pooled = activation.mean(dim=(2, 3), keepdim=True)
    weights = slope.mean(dim=(2, 3), keepdim=True)
    maps = (
        activation.mean(dim=1, keepdim=True),
        (pooled * activation).sum(dim=1, keepdim=True),
        (weights * activation).sum(dim=1, keepdim=True).relu(),
        centre_blob(activation),
    )
    return torch.cat(maps, dim=1)


def simple_differences(change: Tensor) -> Tensor:
    """Return the mean size and RAM of a change (n, C, h, w) of the layer's map, (n, 2, h, w)."""
    pooled = change.mean(dim=(2, 3), keepdim=True)
    maps = (change.abs().mean(dim=1, keepdim=True), (pooled * change).sum(dim=1, keepdim=True))
    return torch.cat(maps, dim=1)


def direction(embeddings: Tensor) -> Tensor:
    """Return embeddings (m, D) at unit length; a zero row stays zero, with a bounded gradient."""
    lengths: Tensor = embeddings.norm(dim=1, keepdim=True)
    return embeddings / lengths.where(lengths > 0, torch.ones_like(lengths))


def same_size(references: Any, images: Tensor) -> Tensor:
    """Return images (B, C, H, W) of which the same area can be removed as of the inputs."""
    given = only_tensor("references", references)
    if given is None:
        raise InputError("references", "None", "what the inputs differ from")
    others = check_images("references", given).to(images)
    if others.shape[1:] != images.shape[1:] or len(others) == 0 or len(images) % len(others):
        raise InputError(
            "references",
            described(given),
            f"images of the size of the inputs, {tuple(images.shape[1:])}; 1 or {len(images)} of "
            "them, or a number that divides it",
        )
    return repeated(others, len(images))


def parts_of(images: Tensor) -> Sequence[Tensor]:
    """Return the rows of a batch, as many at a time as fill the device."""
    everyone = torch.arange(len(images), device=images.device)
    return torch.split(everyone, images_per_forward(images))
