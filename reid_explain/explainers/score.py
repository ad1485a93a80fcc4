"""Score weighting: channels weighted by the objective of what their masks keep of the image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least, check_choice, check_images, check_share, describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import Explainer, Images, logged, only_tensor, parts_of, rows_of
from reid_explain.explainers.landmarks import channel_range, sampled_scores, weighted_sum
from reid_explain.explainers.layout import upsample
from reid_explain.fills import blurred
from reid_explain.memory_format import AUTOCAST_DTYPES, autocast, images_per_forward, in_fast_format
from reid_explain.objectives import RESULT, Cosine, Objective, Score

FIRST_SCORED = 16
"""How many channels are scored before the first refinement to a tolerance."""


class Call(NamedTuple):
    """The options of one call of ``attribute``, as :class:`ScoreWeighting` has them."""

    additional_forward_args: Any
    perturbations_per_eval: int | None
    show_progress: bool
    interpolate_mode: str | None


class ScoreExplainer(Explainer, PerturbationAttribution):
    """The algorithm of :class:`ScoreWeighting`; subclasses give ``attribute``."""

    cost = "channels"

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        max_scored_channels: int | None = None,
        tolerance: float | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        if max_scored_channels is not None:
            check_at_least("max_scored_channels", max_scored_channels, 1)
        if tolerance is not None:
            check_share("tolerance", tolerance)
        check_choice("autocast_dtype", autocast_dtype, AUTOCAST_DTYPES)
        self.max_scored_channels = max_scored_channels
        self.tolerance = tolerance
        self.autocast_dtype = autocast_dtype

    def _explain_by_scores(
        self, inputs: Images, objective: Objective, baselines: Any, call: Call, return_scores: bool
    ) -> Any:
        """Return the maps, with the scores (B, K) if asked for."""
        if call.perturbations_per_eval is not None:
            check_at_least("perturbations_per_eval", call.perturbations_per_eval, 1)
        images, args = self._begin(inputs, call.additional_forward_args, call.interpolate_mode)
        baseline = as_baseline(baselines, images)
        per_forward = call.perturbations_per_eval or images_per_forward(images)
        with self._evaluation():
            score = objective.prepare(self._batch(images, args, per_forward))
            parts = list(self._captures(images, args, per_forward))
            activation = torch.cat([self._as_map(part.activation, part.images) for part in parts])
            own = objective.check(torch.cat([part.result for part in parts]))
            channels = Channels(
                self, args, score, own, activation, images, baseline, per_forward, call
            )
            scores = self._scores(channels)
            maps = weighted_sum(scores, activation).relu()
        explained = self._finish(maps, inputs, call.interpolate_mode)
        return (explained, scores) if return_scores else explained

    def _scores(self, channels: "Channels") -> Tensor:
        """Return the scores (B, K) of all channels, measured or predicted."""
        with autocast(channels.images.device, self.autocast_dtype):
            base = channels.of_baseline()

        def measure(wanted: Tensor) -> Tensor:
            with autocast(channels.images.device, self.autocast_dtype):
                scores = channels.measured(wanted)
            if bad := int(channels.nonfinite):
                raise InputError(RESULT, f"{bad} NaN or infinite values", "finite values")
            return scores.where(~wanted, scores - base[:, None].to(scores))

        if self.max_scored_channels is None and self.tolerance is None:
            return measure(channel_range(channels.activation) > 0)
        first = self.max_scored_channels or FIRST_SCORED
        return sampled_scores(measure, channels.activation, first, self.tolerance)


class ScoreWeighting(ScoreExplainer):
    r"""Weights the layer's channels with the softmax of the scores s of masked images.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad
        a = \mathrm{softmax}_k(S_k), \quad
        S_k = s(X \circ M_k + B \circ (1 - M_k)) - s(B), \quad
        M_k = \mathrm{minmax}(\mathrm{upsample}(A^k))

    A constant channel has no mask: its image is the baseline, so its score is 0, and it costs no
    forward pass. Masked images are made and forgotten ``perturbations_per_eval`` at a time; the
    images of a batch share forward passes.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        max_scored_channels: How many channels of an image are scored at most; the scores of the
            others, whose masks resemble theirs, are predicted
            (:mod:`reid_explain.explainers.landmarks`). All channels enter the map. None, or at
            least the number of channels that are not constant, is the exact map.
        tolerance: Error to stay below, in the map stretched to [0, 1]: ``max_scored_channels`` (16
            if None) is doubled until the map changes by no more. An estimate, not a bound.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` for the forward passes of masked
            images under ``torch.autocast``; scores are compared in float32. None leaves the
            precision to ``forward_func``.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        baselines: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        interpolate_mode: str | None = "bilinear",
        return_scores: bool = False,
    ) -> Any:
        """Explain the objective of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            objective: What is explained, from :mod:`reid_explain.objectives`; None for
                ``Cosine()``, the similarity of a masked image to the image itself.
            baselines: What shows where the mask is 0: images (B or 1, C, H, W) or a number;
                None for the image under a Gaussian blur (:func:`~reid_explain.blurred`).
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. A
                tensor with B rows follows its images; :class:`.Shared` passes it whole.
            perturbations_per_eval: The most images in one forward pass; it bounds the memory and
                does not change the result beyond rounding. None fills the device.
            show_progress: Whether to show a bar on standard error.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            return_scores: Whether to return the scores S as well.

        Returns:
            Maps (B, 1, H, W), at least 0, within the range of the activations; with
            ``return_scores`` a pair of these and the scores (B, K) of the K channels.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        call = Call(
            additional_forward_args, perturbations_per_eval, show_progress, interpolate_mode
        )
        return self._explain_by_scores(
            inputs, objective or Cosine(), baselines, call, return_scores
        )


@dataclass
class Channels:
    """The channels of one call, and the scores of what they keep of the images.

    What is not finite is counted without waiting for the device.
    """

    explainer: Explainer
    args: tuple[Any, ...]
    score: Score
    own: Tensor
    """The results (B, D) of the images."""
    activation: Tensor
    """(B, K, h, w)."""
    images: Tensor
    baseline: Tensor
    """(B, C, H, W), what shows where a mask is 0."""
    per_forward: int
    """The most masked images at a time."""
    call: Call

    def __post_init__(self) -> None:
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=self.own.device)

    def scored(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return the scores (n,) of images (n, C, H, W) in the place of these rows (n,)."""
        args = rows_of(self.args, rows, len(self.own))
        result = self.explainer._result(self.explainer.forward_func(images, *args), rows)
        self.nonfinite += result.isfinite().logical_not().sum()
        return self.score(result, self.own[rows], rows)

    def of_baseline(self) -> Tensor:
        """Return the scores (B,) of the baseline; images take the format that is fast for it."""
        memory_format, scores = torch.contiguous_format, []
        for rows in parts_of(self.baseline, self.per_forward):
            run = partial(self.scored, rows=rows)
            scored, memory_format = in_fast_format(run, self.baseline[rows])
            scores.append(scored)
        self.images = self.images.contiguous(memory_format=memory_format)
        self.baseline = self.baseline.contiguous(memory_format=memory_format)
        return torch.cat(scores)

    def measured(self, wanted: Tensor) -> Tensor:
        """Return the scores (B, K) of the channels wanted, (B, K) bool; 0 of the others.

        Nothing waits for the device between one block and the next.
        """
        rows, channels = wanted.nonzero(as_tuple=True)
        owners = rows.tolist()
        scores = torch.zeros_like(wanted, dtype=self.activation.dtype)
        hidden = not self.call.show_progress
        with tqdm(total=len(owners), unit="mask", disable=hidden) as progress:
            for start in range(0, len(owners), self.per_forward):
                block = slice(start, start + self.per_forward)
                own, kept = rows[block], channels[block]
                maps = self.activation[own, kept][:, None]
                # No name for the masked images: one block of them lives at a time.
                scored = self.scored(
                    masked_images(maps, owners[block], self.images, self.baseline), own
                )
                scores[own, kept] = scored.to(scores.dtype)
                progress.update(len(scored))
        return scores


def masked_images(
    channel_maps: Tensor, owners: list[int], images: Tensor, baseline: Tensor
) -> Tensor:
    """Return X∘M + B∘(1 − M) for each channel map (n, 1, h, w) of its owner, (n, C, H, W).

    Written image by image into one tensor: no image is copied for its masks.
    """
    masks = upsample(channel_maps, (images.shape[2], images.shape[3]))
    low = masks.amin(dim=(2, 3), keepdim=True)
    span = masks.sub_(low).amax(dim=(2, 3), keepdim=True)
    masks = masks.div_(span.where(span > 0, torch.ones_like(span))).to(images.dtype)
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    masked = torch.empty(
        (len(owners), *images.shape[1:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if is_last else torch.contiguous_format,
    )
    for owner in dict.fromkeys(owners):
        own = slice(owners.index(owner), owners.index(owner) + owners.count(owner))
        image = slice(owner, owner + 1)
        torch.lerp(baseline[image], images[image], masks[own], out=masked[own])
    return masked


def as_baseline(baselines: Any, images: Tensor) -> Tensor:
    """Return the baselines of ``attribute`` as images (B, C, H, W)."""
    baselines = only_tensor("baselines", baselines)
    if baselines is None:
        return blurred(images)
    if isinstance(baselines, int | float):
        return torch.full_like(images, baselines)
    given = check_images("baselines", baselines)
    if given.shape[1:] != images.shape[1:] or len(given) not in (1, len(images)):
        raise InputError("baselines", describe(given), f"the shape of inputs, {describe(images)}")
    return given.to(images).expand_as(images)
