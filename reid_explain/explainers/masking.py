"""Explainers that mask the image with each channel and weigh the channel by what remains."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least, check_choice, check_images, described
from reid_explain.errors import InputError
from reid_explain.explainers.base import RESULT, Explainer, Images, only_tensor, rows_of
from reid_explain.explainers.landmarks import Measure, sampled_scores, spans, weighted_sum
from reid_explain.explainers.layout import upsample
from reid_explain.fills import blurred, unit_range
from reid_explain.memory_format import autocast, images_per_forward, in_fast_format

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Results (n, D) and the images (n,) that they belong to -> scores (n,)."""
FIRST_CLUSTERS = 16
"""Where the refinement to a tolerance starts."""


class MaskingExplainer(Explainer, PerturbationAttribution):
    r"""Weights each channel with the softmax of its score: one formula s, ``_scorer``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad
        a = \mathrm{softmax}_k(S_k), \quad
        S_k = s(X \circ M_k + B \circ (1 - M_k)) - s(B), \quad
        M_k = \mathrm{minmax}(\mathrm{upsample}(A^k))

    A constant channel has no mask: its image is the baseline, so its score is 0, and it costs no
    forward pass. The masked images are made and forgotten ``perturbations_per_eval`` at a time;
    the images of a batch share forward passes.

    Args:
        forward_func: As for every explainer.
        layer: As for every explainer.
        reshape_transform: As for every explainer.
        clusters: How many channels of an image are scored; the scores of the others, whose masks
            resemble theirs, are predicted (:mod:`reid_explain.explainers.landmarks`). All
            channels enter the map. None, or at least the number of channels that are not
            constant, scores every channel: the exact map.
        tolerance: The error to stay below, in the map stretched to [0, 1]: the clusters (16 at
            first, if ``clusters`` is None) are doubled until the map changes by no more than
            this. An estimate, not a bound.
        autocast_dtype: ``torch.bfloat16`` or ``torch.float16`` for the forward passes of masked
            images under ``torch.autocast``; their results are compared in float32. None leaves
            the precision to ``forward_func``.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        clusters: int | None = None,
        tolerance: float | None = None,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        if clusters is not None:
            check_at_least("clusters", clusters, 1)
        if tolerance is not None and not (
            isinstance(tolerance, int | float) and 0 < tolerance <= 1
        ):
            raise InputError("tolerance", repr(tolerance), "an error in (0, 1]")
        check_choice("autocast_dtype", autocast_dtype, (None, torch.bfloat16, torch.float16))
        self.clusters = clusters
        self.tolerance = tolerance
        self.autocast_dtype = autocast_dtype

    def _scorer(self, output: Tensor, target: Any) -> Scorer:
        """Return s, given the model's result (B, D) for the images themselves."""
        raise NotImplementedError

    def _explain_by_scores(
        self,
        inputs: Images,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
        interpolate_mode: str | None,
        return_scores: bool,
    ) -> Any:
        """Return the maps, with the scores (B, K) if asked for."""
        if perturbations_per_eval is not None:
            check_at_least("perturbations_per_eval", perturbations_per_eval, 1)
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        baseline = as_baseline(baselines, images)
        with self._evaluation():
            activation, output = self._capture(images, args)
            activation = self._as_map(activation, images)
            scorer = self._scorer(output, target)
            wrong: list[Tensor] = []

            def score(masked: Tensor, rows: Tensor) -> Tensor:
                output = self.forward_func(masked, *rows_of(args, rows, len(images)))
                result = self._result(output, len(rows))
                wrong.append(result.isfinite().logical_not().sum())
                return scorer(result, rows)

            everyone = torch.arange(len(images), device=images.device)
            with autocast(images.device, self.autocast_dtype):
                of_baseline, form = in_fast_format(lambda blank: score(blank, everyone), baseline)
            images = images.contiguous(memory_format=form)
            baseline = baseline.contiguous(memory_format=form)
            per_forward = perturbations_per_eval or images_per_forward(images)

            def measure(wanted: Tensor) -> Tensor:
                with autocast(images.device, self.autocast_dtype):
                    scores = channel_scores(
                        lambda masked, rows: score(masked, rows) - of_baseline[rows],
                        wanted,
                        activation,
                        images,
                        baseline,
                        per_forward,
                        show_progress,
                    )
                check_none(wrong)
                return scores

            scores = self._all_scores(measure, activation)
            maps = weighted_sum(scores, activation).relu()
        explained = self._finish(maps, inputs, interpolate_mode)
        return (explained, scores) if return_scores else explained

    def _all_scores(self, measure: Measure, activation: Tensor) -> Tensor:
        """Return the scores (B, K) of all channels, measured or predicted."""
        if self.clusters is None and self.tolerance is None:
            return measure(spans(activation) > 0)
        return sampled_scores(measure, activation, self.clusters or FIRST_CLUSTERS, self.tolerance)


def channel_scores(
    score: Scorer,
    wanted: Tensor,
    activation: Tensor,
    images: Tensor,
    baseline: Tensor,
    per_forward: int,
    show_progress: bool,
) -> Tensor:
    """Score the images that channels leave, ``per_forward`` images at a time.

    Nothing waits for the device between one block and the next.

    Args:
        score: Masked images (n, C, H, W) and the rows (n,) of ``images`` that they were made
            from -> scores (n,).
        wanted: Which channels, (B, K) bool.
        activation: (B, K, h, w).
        images: (B, C, H, W).
        baseline: (B, C, H, W), what shows where a mask is 0.
        per_forward: The largest n.
        show_progress: Whether to show a bar on standard error.

    Returns:
        Scores (B, K), 0 where not wanted.
    """
    rows, channels = wanted.nonzero(as_tuple=True)
    owners = rows.tolist()
    scores = torch.zeros_like(wanted, dtype=activation.dtype)
    size = (images.shape[2], images.shape[3])

    def masked(block: slice) -> Tensor:
        masks = upsample(activation[rows[block], channels[block]][:, None], size)
        first, last = owners[block][0], owners[block][-1]
        own = slice(first, first + 1) if first == last else rows[block]  # a slice copies nothing
        return torch.lerp(baseline[own], images[own], unit_range(masks).to(images.dtype))

    with tqdm(total=len(owners), unit="mask", disable=not show_progress) as progress:
        for start in range(0, len(owners), per_forward):
            block = slice(start, start + per_forward)
            scored = score(masked(block), rows[block])
            scores[rows[block], channels[block]] = scored.to(scores.dtype)
            progress.update(len(scored))
    return scores


def check_none(wrong: Sequence[Tensor]) -> None:
    """Raise if any of these numbers of NaN and infinite results is not 0."""
    bad = int(torch.stack(tuple(wrong)).sum())
    if bad:
        raise InputError(RESULT, f"{bad} NaN or infinite values", "finite values")


def as_baseline(baselines: Any, images: Tensor) -> Tensor:
    """Return what shows where the mask is 0, (B, C, H, W).

    Args:
        baselines: None for the blurred images; a number; or images (B or 1, C, H, W).
        images: (B, C, H, W).
    """
    baselines = only_tensor("baselines", baselines)
    if baselines is None:
        return blurred(images)
    if isinstance(baselines, int | float):
        return torch.full_like(images, baselines)
    given = check_images("baselines", baselines)
    if given.shape[1:] != images.shape[1:] or len(given) not in (1, len(images)):
        raise InputError("baselines", described(given), f"the shape of inputs, {described(images)}")
    return given.to(images).expand_as(images)
