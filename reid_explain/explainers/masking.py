"""Explainers that mask the image with each channel and weigh the channel by what remains."""

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import PerturbationAttribution
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.checks import check_at_least, check_images, described
from reid_explain.errors import InputError
from reid_explain.explainers.base import Explainer, Images, only_tensor, rows_of
from reid_explain.explainers.layout import upsample
from reid_explain.fills import blurred, unit_range

Scorer = Callable[[Tensor, Tensor], Tensor]
"""Results (n, D) and the images (n,) that they belong to -> scores (n,)."""


class MaskingExplainer(Explainer, PerturbationAttribution):
    r"""Weights each channel with the softmax of its score: one formula s, ``_scorer``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k a_k A^k\right), \quad
        a = \mathrm{softmax}_k(S_k), \quad
        S_k = s(X \circ M_k + B \circ (1 - M_k)) - s(B), \quad
        M_k = \mathrm{minmax}(\mathrm{upsample}(A^k))

    A constant channel has no mask: its image is the baseline, so its score is 0, and it costs no
    forward pass. The masked images are made and forgotten ``perturbations_per_eval`` at a time.
    """

    def _scorer(self, output: Tensor, target: Any) -> Scorer:
        """Return s, given the model's result (B, D) for the images themselves."""
        raise NotImplementedError

    def _explain_by_scores(
        self,
        inputs: Images,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        perturbations_per_eval: int,
        show_progress: bool,
        interpolate_mode: str | None,
        return_scores: bool,
    ) -> Any:
        """Return the maps, with the scores (B, K) if asked for."""
        check_at_least("perturbations_per_eval", perturbations_per_eval, 1)
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        baseline = as_baseline(baselines, images)
        with self._evaluation():
            activation, output = self._capture(images, args)
            activation = self._as_map(activation, images)
            scorer = self._scorer(output, target)
            everyone = torch.arange(len(images), device=images.device)
            of_baseline = scorer(self._forward(baseline, args), everyone)

            def score(masked: Tensor, rows: Tensor) -> Tensor:
                result = self._forward(masked, rows_of(args, rows, len(images)))
                return scorer(result, rows) - of_baseline[rows]

            scores = channel_scores(
                score, activation, images, baseline, perturbations_per_eval, show_progress
            )
            weights = scores.softmax(dim=1)[:, :, None, None]
            maps = (weights * activation).sum(dim=1, keepdim=True).relu()
        explained = self._finish(maps, inputs, interpolate_mode)
        return (explained, scores) if return_scores else explained


def channel_scores(
    score: Scorer,
    activation: Tensor,
    images: Tensor,
    baseline: Tensor,
    perturbations_per_eval: int,
    show_progress: bool,
) -> Tensor:
    """Score the image that each channel leaves, ``perturbations_per_eval`` images at a time.

    Args:
        score: Masked images (n, C, H, W) and the rows (n,) of ``images`` that they were made
            from -> scores (n,).
        activation: (B, K, h, w).
        images: (B, C, H, W).
        baseline: (B, C, H, W), what shows where a mask is 0.
        perturbations_per_eval: The largest n.
        show_progress: Whether to show a bar on standard error.

    Returns:
        Scores (B, K); that of a constant channel is 0.
    """
    live = activation.amax(dim=(2, 3)) > activation.amin(dim=(2, 3))
    rows, channels = live.nonzero(as_tuple=True)
    scores = torch.zeros_like(live, dtype=activation.dtype)
    size = (images.shape[2], images.shape[3])
    with tqdm(total=len(rows), unit="mask", disable=not show_progress) as progress:
        for start in range(0, len(rows), perturbations_per_eval):
            chunk = slice(start, start + perturbations_per_eval)
            row, channel = rows[chunk], channels[chunk]
            masks = unit_range(upsample(activation[row, channel][:, None], size))
            masked = baseline[row].lerp_(images[row], masks.to(images.dtype))
            del masks
            scores[row, channel] = score(masked, row).to(scores.dtype)
            del masked
            progress.update(len(row))
    return scores


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
