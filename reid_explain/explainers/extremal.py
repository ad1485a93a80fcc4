"""Extremal FAM: the areas of an image that keep most of an embedding, found by descent.

Named after the extremal perturbations of Fong et al., ICCV 2019, the masks of a given area that
keep most of a class score. Here an embedding takes the place of the class, one map answers for
all areas, and fills are random.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from captum.attr import GradientAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least, check_choice, check_images, describe
from reid_explain.errors import InputError
from reid_explain.explainers.amortized import AmortizedFAM, MapHead
from reid_explain.explainers.base import Explainer, Images, logged, only_tensor
from reid_explain.explainers.descent import Masks, Search, simple_maps
from reid_explain.explainers.gradient import gradient, own_slope
from reid_explain.explainers.ram import ReferenceExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.memory_format import AUTOCAST_DTYPES
from reid_explain.objectives import Cosine, Objective
from reid_explain.vectors import cosine

EXPLAINED = ("similarity", "difference")
EFFECTS = {"keeping": (1,), "removal": (-1,), "both": (1, -1)}
"""What an area is to do -> signs of scores: 1 of what shows there, -1 of what shows elsewhere."""


class ExtremalExplainer(Explainer, GradientAttribution):
    """The algorithm of :class:`ExtremalDescent`; subclasses give ``attribute``."""

    cost = "descent"

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        rounds: int = 4,
        descents: int = 8,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        effect: str = "keeping",
        head: MapHead | str | Path | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        check_at_least("rounds", rounds, 1)
        check_at_least("descents", descents, 1)
        check_at_least("seed", seed, 0)
        check_choice("autocast_dtype", autocast_dtype, AUTOCAST_DTYPES)
        check_choice("effect", effect, tuple(EFFECTS))
        self.rounds = rounds
        self.descents = descents
        self.seed = seed
        self.autocast_dtype = autocast_dtype
        self.effect = effect
        given = (forward_func, layer, head, reshape_transform)
        self.head = None if head is None else AmortizedFAM(*given).head

    def _descend(
        self,
        agreement_of: Callable[..., tuple[Tensor, Any]],
        inputs: Images,
        additional_forward_args: Any,
        interpolate_mode: str | None,
        show_progress: bool,
    ) -> Images:
        """Return the maps that descents of an agreement make of its starts."""
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        with self._evaluation():
            starts, agreement = agreement_of(images, args)
            search = Search(self.rounds, self.descents, self.seed)
            total = search.passes * len(images)
            with tqdm(total=total, unit="image", disable=not show_progress) as progress:
                maps = search.run(images, starts, agreement, progress)
        return self._finish(maps, inputs, interpolate_mode)

    def _keep(
        self, images: Tensor, args: tuple[Any, ...], objective: Objective
    ) -> tuple[Tensor, Any]:
        """Return maps to start from (B, s, h, w), and the score that masks keep or take."""
        batch = self._batch(images, args)
        score, slope_score = objective.prepare(batch), objective.slope.prepare(batch)
        starts, results = [], []
        with torch.enable_grad():
            for part in self._captures(images, args):
                own = objective.check(part.result.detach())
                of_own = [own_slope(part.result, part.activation)] if self.head is not None else []
                slope = gradient(slope_score(part.result, own, part.rows), part.activation)
                seen = (part.activation.detach(), slope, *of_own)
                starts.append(
                    self._starts(part.images, *(self._as_map(m, part.images) for m in seen))
                )
                results.append(own)
                del part
        own = torch.cat(results)

        def left(rows: Tensor, fills: Tensor, shares: Tensor) -> Tensor:
            shown = torch.lerp(fills, images[rows, None], shares)
            each = rows.repeat_interleave(shown.shape[1])
            found = self._results(shown.flatten(0, 1), each, args, len(images), self.autocast_dtype)
            return score(found, own[each], each).view(shown.shape[:2])

        def agreement(rows: Tensor, masks: Masks) -> Tensor:
            shares = {1: masks.highest, -1: 1 - masks.highest}
            scores = [n * left(rows, masks.fills, shares[n]) for n in EFFECTS[self.effect]]
            return torch.stack(scores).sum(dim=0)

        return torch.cat(starts), agreement

    def _starts(self, images: Tensor, activation: Tensor, slope: Tensor, *own: Tensor) -> Tensor:
        """Return the map (n, 1, h, w) of the head, or without one simple maps (n, 4, h, w)."""
        if self.head is None:
            return simple_maps(activation, slope)
        with torch.no_grad():
            start: Tensor = self.head(images, activation, slope, *own)
        return start


class ExtremalDescent(ExtremalExplainer):
    r"""A map whose highest pixels keep an objective, at every area and under random fills.

    A grid S of the layer's resolution, upsampled and standardized, is one soft mask for each area
    a: :math:`M_a = \sigma((S - q_a) / 0.15)`, with :math:`q_a` its (1 - a)-quantile. S ascends
    the score of

    .. math:: f(X \circ M_a + R \circ (1 - M_a))

    averaged over areas from 5 to 70 % and random fills R, drawn anew for each mask: the mean
    color, another color, noise, smooth noise, or a blur of random width; never another image, nor
    patches of the image elsewhere.

    One descent soon comes to fit its fills. So descents are short (three steps of Adam) and many:
    those of the first round start from simple maps (the channel mean, RAM and Grad-RAM at the
    layer, a blob in the center), those of each later round from the mean of the rounds before, and
    the map is the mean of all.

    What the highest pixels keep need not be what is lost without them: other pixels may do as
    well. With ``effect="removal"`` S descends the score of the image without them,
    :math:`f(X \circ (1 - M_a) + R \circ M_a)`; with ``"both"`` it ascends the difference of the
    two scores.

    Each image is explained by itself: its random numbers depend on the seed and on its values
    alone, neither on the batch nor on the global random state. It costs
    ``18 * rounds * descents`` masked images forward and backward; both effects, or a difference,
    twice that.

    Sources: Fong and Vedaldi, ICCV 2017 (random fills against adversarial masks, upsampled grid);
    Fong et al., ICCV 2019 (masks of a given area).

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        rounds: Number of rounds. ``rounds=1, descents=4`` is the fast setting, at an eighth of the
            cost.
        descents: Optimizations per round.
        seed: For the sampled areas and fills.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` for the passes of masked images
            under ``torch.autocast``. None leaves the precision to ``forward_func``.
        effect: ``"keeping"``, ``"removal"`` or ``"both"``.
        head: A head that :class:`.AmortizedFAM` learned for this model and layer, or its file:
            descents start from its map, so that fewer of them do.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        show_progress: bool = False,
    ) -> Images:
        """Explain the objective of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            objective: What is kept, from :mod:`reid_explain.objectives`; None for ``Cosine()``,
                the similarity of a masked image to the image itself.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. A
                tensor with B rows follows its images; :class:`.Shared` passes it whole.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            show_progress: Whether to show a bar on standard error.

        Returns:
            Maps (B, 1, H, W), signed: at the layer's resolution of mean 0 and standard deviation
            1. Their order has a meaning, their scale has none.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, the result has no
                gradient, or an embedding is zero, NaN or infinite.
        """
        keep = partial(self._keep, objective=objective or Cosine())
        return self._descend(keep, inputs, additional_forward_args, interpolate_mode, show_progress)


@EXPLAINERS.register
class ExtremalFAM(ExtremalExplainer, ReferenceExplainer):
    r"""Extremal FAM: extremal descent of the similarity to the image itself or to a reference.

    What is kept is :math:`\cos(f(X \circ M_a + R \circ (1 - M_a)), g)`, where g is the image's own
    embedding or its reference's: ``Cosine(references)``. For a difference, the same area of the
    image and of its reference Y is removed, and the two embeddings are to come together:

    .. math:: \cos(f(X \circ (1 - M_a) + R \circ M_a), f(Y \circ (1 - M_a) + R \circ M_a))

    A difference costs twice the passes, and takes no other ``effect``. The settings are those of
    :class:`.ExtremalDescent`.

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

    needs: ClassVar[tuple[str, ...]] = ()

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        explains: str = "similarity",
        show_progress: bool = False,
        *,
        reference_forward_args: Any = None,
    ) -> Images:
        """Explain each image by itself, or its similarity to (or difference from) a reference.

        Args:
            inputs: As in :meth:`.ExtremalDescent.attribute`, and so are those not described here.
            references: None for the image's own embedding; images (N, C, H, W) or embeddings
                (N, D), with N = B, 1, or a divisor of B: then each serves B / N images in a row.
                A difference takes images (N, C, H, W) of the size of the inputs.
            additional_forward_args: As there.
            interpolate_mode: As there.
            explains: ``"similarity"``, what to keep so that the embeddings stay together; or
                ``"difference"``, what to remove from both images so that they come together.
            show_progress: As there.
            reference_forward_args: Further arguments for the N reference images of a similarity;
                None for those of the images that they serve.
        """
        check_choice("explains", explains, EXPLAINED)
        if explains == "similarity":
            agreement_of = partial(self._keep, objective=Cosine(references, reference_forward_args))
        else:
            check_choice("effect", self.effect, ("keeping",))  # what differs is always cut out
            agreement_of = partial(self._remove, references=references)
        return self._descend(
            agreement_of, inputs, additional_forward_args, interpolate_mode, show_progress
        )

    def _remove(self, images: Tensor, args: tuple[Any, ...], references: Any) -> tuple[Tensor, Any]:
        """Return simple maps (B, 2, h, w), and the cosine (m, k) of two images without an area."""
        others = same_size(references, images)
        starts = [
            simple_differences(
                self._as_map(one.activation, one.images)
                - self._as_map(other.activation, other.images)
            )
            for one, other in zip(
                self._captures(images, args), self._captures(others, args), strict=True
            )
        ]

        def agreement(rows: Tensor, masks: Masks) -> Tensor:
            each = rows.repeat_interleave(masks.fills.shape[1])
            left = (
                torch.lerp(side[rows, None], masks.fills, masks.highest)
                for side in (images, others)
            )
            one, other = (
                self._results(part.flatten(0, 1), each, args, len(images), self.autocast_dtype)
                for part in left
            )
            return cosine(one, other).view(masks.fills.shape[:2])

        return torch.cat(starts), agreement


EXPLAINERS.register(partial(ExtremalFAM, rounds=1, descents=4), name="ExtremalFAMFast")


def simple_differences(change: Tensor) -> Tensor:
    """Return the mean size and RAM of a change (n, C, h, w) of the layer's map, (n, 2, h, w)."""
    pooled = change.mean(dim=(2, 3), keepdim=True)
    maps = (change.abs().mean(dim=1, keepdim=True), (pooled * change).sum(dim=1, keepdim=True))
    return torch.cat(maps, dim=1)


def same_size(references: Any, images: Tensor) -> Tensor:
    """Return images (B, C, H, W) of which the same area can be removed as of the inputs."""
    given = only_tensor("references", references)
    if given is None:
        raise InputError("references", "None", "what the inputs differ from")
    others = check_images("references", given).to(images)
    if others.shape[1:] != images.shape[1:] or len(others) == 0 or len(images) % len(others):
        raise InputError(
            "references",
            describe(given),
            f"images of the size of the inputs, {tuple(images.shape[1:])}; 1 or {len(images)} of "
            "them, or a number that divides it",
        )
    return others.repeat_interleave(len(images) // len(others), dim=0)
