"""Does a map show what the embedding is made of: one value, or curve, per image or query.

Maps are (B, 1, H, W), at the size of images (B, C, H, W). Shapes that do not fit, values that are
not finite and settings out of their range raise ``InputError``. A value that a query does not
have is NaN: average with ``nanmean`` and report how many were left out.

Source: Wu et al., FAM, CVPR 2022, section 4.2. Its three metrics (AS Drop, AP Drop, AP Increase)
do not control for the area that a map keeps; the same drops under ``top_area_masks`` do, best
beside those of ``random_phase_maps``, controls of the same smoothness.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reid_explain import checks
from reid_explain.checks import check_at_least, check_maps, describe
from reid_explain.errors import InputError
from reid_explain.fills import AREAS, unit_range
from reid_explain.vectors import cosine

Forward = Callable[[Tensor], Tensor]


def explanation_mask(
    maps: Tensor, high: float = 0.6, low: float = 0.3, kept: float = 0.9
) -> Tensor:
    """Return the mask M (B, 1, H, W) of each map, in [0, 1] (FAM, equation 14).

    With L the map stretched to [0, 1]: M is 1 where L >= ``high``, ``kept`` where
    ``low`` <= L < ``high``, and 0 below. The mask of a constant map is 0.

    Example:
        >>> explanation_mask(torch.tensor([[[[0.0, 2.0, 4.0, 5.0, 10.0]]]]))
        tensor([[[[0.0000, 0.0000, 0.9000, 0.9000, 1.0000]]]])
    """
    if not 0 < low <= high <= 1:
        raise InputError("low, high", (low, high), "0 < low <= high <= 1")
    if not 0 <= kept <= 1:
        raise InputError("kept", kept, "a share in [0, 1]")
    maps = check_maps("maps", maps)
    level = unit_range(checks.at_least_float32(maps))
    return ((level >= high) + kept * ((level >= low) & (level < high))).to(maps.dtype)


def top_area_masks(maps: Tensor, fractions: Sequence[float] = AREAS) -> Tensor:
    """Return the masks (B, F, 1, H, W), bool, of each map's round(a H W) highest pixels.

    a is each of F ``fractions``, in [0, 1]. Equal pixels come in the order of ``pixel_ranks``, so
    the areas are exact. Maps in half precision are better upsampled in float32: bfloat16 has some
    hundred levels, and chance decides among equals.

    Example:
        >>> maps = torch.tensor([[[[0.1, 0.9], [0.8, 0.3]]]])
        >>> top_area_masks(maps, [0.25, 0.5]).int()[0, :, 0].tolist()
        [[[0, 1], [0, 0]], [[0, 1], [1, 0]]]
    """
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise InputError("fractions", tuple(fractions), "shares in [0, 1], at least one")
    ranks = pixel_ranks(maps)
    counts = [round(fraction * ranks[0].numel()) for fraction in fractions]
    return ranks[:, None] < torch.tensor(counts, device=ranks.device).view(-1, 1, 1, 1)


def pixel_ranks(maps: Tensor) -> Tensor:
    """Return the rank of each pixel in its map, (B, 1, H, W) int64; the highest has rank 0.

    Equal pixels come in one fixed pseudo-random order over the image, the same for every map of
    that size: no side of the image comes first.
    """
    maps = check_maps("maps", maps)
    values = maps.flatten(1)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(values.shape[1], generator=generator).to(values.device)
    highest_first = order[values[:, order].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(values.shape[1], device=values.device).expand_as(highest_first)
    return torch.empty_like(highest_first).scatter_(1, highest_first, places).view(maps.shape)


def random_phase_maps(maps: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return a random map (B, 1, h, w) of the same smoothness as each map (B, 1, h, w).

    The random-phase surrogate: the amplitude of every spatial frequency is the map's own and its
    phase is random, so mean, variance and circular autocorrelation are the map's. Take it at the
    layer's resolution and upsample it as the map itself. A constant map stays as it is.

    ``seeds`` are B numbers, such as the queries'. The phases depend on them and the size alone,
    so that maps of several methods meet the same chance.

    Source: Theiler et al., Testing for nonlinearity in time series: the method of surrogate
    data, Physica D 1992.

    Example:
        >>> maps = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
        >>> control = random_phase_maps(maps, seeds=[0])
        >>> torch.allclose(maps.mean(), control.mean()), torch.allclose(maps.std(), control.std())
        (True, True)
    """
    maps = check_maps("maps", maps)
    if len(seeds) != len(maps):
        raise InputError("seeds", f"{len(seeds)} seeds", f"one for each of {len(maps)} maps")
    generators = (torch.Generator().manual_seed(seed) for seed in seeds)
    noise = [torch.randn(maps.shape[1:], generator=g, dtype=torch.float64) for g in generators]
    phases = torch.fft.rfft2(torch.stack(noise).to(maps.device)).sgn()
    phases[..., 0, 0] = 1
    spectrum = torch.fft.rfft2(maps.double()) * phases
    surrogates: Tensor = torch.fft.irfft2(spectrum, s=maps.shape[-2:])
    return surrogates.to(maps.dtype)


def composite(images: Tensor, masks: Tensor, fill: Tensor) -> Tensor:
    """Return E = X∘M + B∘(1 − M), exactly X where M is 1 and exactly B where it is 0.

    X and the ``fill`` B, one of ``reid_explain.fills.FILLS``, are (B, C, H, W); M is (B, 1, H, W),
    bool or in [0, 1].

    Example:
        >>> image = torch.tensor([[[[4.0, 6.0]]]])
        >>> composite(image, torch.tensor([[[[1.0, 0.5]]]]), fill=torch.zeros(1, 1, 1, 2))
        tensor([[[[4., 3.]]]])
    """
    images = _check_fit(images, "masks", masks, fill)
    return torch.lerp(fill.to(images), images, masks.to(images))


def _check_fit(images: Tensor, argument: str, masks: Tensor, fill: Tensor) -> Tensor:
    """Return ``images`` if they are finite, with a mask (or map) and a fill for each."""
    images = checks.check_images("images", images)
    if fill.shape != images.shape:
        raise InputError("fill", describe(fill), f"the shape of images, {tuple(images.shape)}")
    if masks.shape != (expected := (len(images), 1, *images.shape[2:])):
        raise InputError(argument, describe(masks), f"one for each image, {expected}")
    return images


def kept_area(masks: Tensor) -> Tensor:
    """Return the mean (B,) of each mask (B, 1, H, W), bool or in [0, 1]: the share it keeps.

    Example:
        >>> kept_area(explanation_mask(torch.tensor([[[[0.0, 0.5, 0.5, 1.0]]]])))
        tensor([0.7000], dtype=torch.float64)
    """
    return masks.double().mean(dim=(1, 2, 3))


def drop(original: Tensor, explained: Tensor, baseline: Tensor) -> Tensor:
    r"""Return what share of a query's score is lost with what its mask removes.

    .. math:: \frac{\max(0, o - e)}{o - b}

    for o (Q,) of the images, e (Q,) of the masked images, or (Q, F) of several masks, and b (Q,)
    of the fill alone. AS Drop with ``Gallery.match_similarity`` (FAM, equation 15), AP Drop with
    ``average_precision`` (16). Under the F masks of ``top_area_masks`` the mean of a row is the
    area-matched drop.

    Returns:
        Shares from 0, of the shape of e; above 1 where the masked image is worse than the fill.
        NaN where :math:`o - b \le 0` (nothing to lose) and where a score is NaN (no match).

    Example:
        >>> image, masked = torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.9])
        >>> drop(image, masked, torch.tensor([0.4, 0.4]))  # half of what the fill takes; nothing
        tensor([0.5000, 0.0000])
    """
    original, baseline = _columns(original, explained, baseline)
    share = (original - explained).clamp_min(0) / (original - baseline)
    return share.where(original > baseline, torch.nan)


def increase(original: Tensor, explained: Tensor) -> Tensor:
    """Return 1 where the masked image retrieves better than the image, else 0; NaN for NaN.

    It has the shape (Q,), or (Q, F), and dtype of ``explained``, the average precision of the
    masked images; that of the images is ``original`` (Q,). Source: FAM, equation 17.

    Example:
        >>> increase(torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.9]))
        tensor([0., 1.])
    """
    original, _ = _columns(original, explained, original)
    better = (explained > original).to(explained.dtype)
    return better.where(~(original.isnan() | explained.isnan()), torch.nan)


def _columns(original: Tensor, explained: Tensor, baseline: Tensor) -> tuple[Tensor, Tensor]:
    """Return o and b (Q,) with the dimensions of e, (Q,) or (Q, F)."""
    if original.shape != baseline.shape or original.shape != explained.shape[:1]:
        shapes = [tuple(scores.shape) for scores in (original, explained, baseline)]
        raise InputError("original, explained, baseline", shapes, "(Q,), (Q,) or (Q, F), (Q,)")
    shape = (-1, *[1] * (explained.dim() - 1))
    return original.view(shape), baseline.view(shape)


def area_under_curve(fractions: Tensor, values: Tensor) -> Tensor:
    """Return the mean height (...) of curves (..., F) over ascending fractions (F,), F from 2.

    Source: Petsiuk et al., RISE, BMVC 2018: insertion and deletion scores.

    Example:
        >>> area_under_curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 1.0]))
        tensor(0.7500)
    """
    ascending = fractions.dim() == 1 and len(fractions) > 1 and bool((fractions.diff() > 0).all())
    if not ascending or values.shape[-1:] != fractions.shape:
        got = f"{describe(fractions)} with values {describe(values)}"
        raise InputError("fractions", got, "ascending (F,), F of at least 2, values (..., F)")
    return torch.trapezoid(values, fractions.to(values), dim=-1) / (fractions[-1] - fractions[0])


def insertion_curve(
    forward_func: Forward,
    images: Tensor,
    maps: Tensor,
    fill: Tensor,
    steps: int = 32,
    batch_size: int = 32,
) -> Tensor:
    """Return how each image's embedding appears as its highest pixels replace the fill.

    The value at i is cos(f(E_i), f(X)), with E_i the fill and the i / ``steps`` highest pixels
    of the image: the higher its area (``area_under_curve``), the better the map.

    Args:
        forward_func: images (B, C, H, W) to embeddings (B, D); a model belongs in eval mode.
        images: X, (B, C, H, W).
        maps: (B, 1, H, W); equal pixels in the order of ``pixel_ranks``.
        fill: (B, C, H, W), one of ``reid_explain.fills.FILLS``.
        steps: number of equal parts in which pixels are replaced.
        batch_size: the most images in one forward pass; it bounds the memory.

    Returns:
        (B, steps + 1) float64 in [-1, 1], at fractions 0, 1/steps, ..., 1; a partial image whose
        embedding is zero has cosine 0, an image with such an embedding raises ``InputError``.

    Source: Petsiuk et al., RISE, BMVC 2018, with the cosine in place of the class probability.

    Example:
        >>> image = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])  # red, then green
        >>> mean_color = lambda images: images.mean(dim=(2, 3))
        >>> red_first = torch.tensor([[[[1.0, 0.0]]]])
        >>> insertion_curve(mean_color, image, red_first, torch.zeros_like(image), steps=2)
        tensor([[0.0000, 0.8944, 1.0000]], dtype=torch.float64)
    """
    masks = _step_masks(images, maps, fill, steps)
    return _similarities(forward_func, images, masks, fill, batch_size)


def deletion_curve(
    forward_func: Forward,
    images: Tensor,
    maps: Tensor,
    fill: Tensor,
    steps: int = 32,
    batch_size: int = 32,
) -> Tensor:
    """Return how each image's embedding fades as the fill replaces its highest pixels.

    Arguments, values and source as of ``insertion_curve``; the lower its area, the better the map.
    """
    masks = ~_step_masks(images, maps, fill, steps)
    return _similarities(forward_func, images, masks, fill, batch_size)


def weight_entropy(weights: Tensor) -> Tensor:
    """Return the entropy (B,) of each image's channel weights (B, K) over log K, in [0, 1].

    1 is the uniform mean of the channels, 0 one channel alone; a single channel scores 1.
    Weights that are negative or do not sum to 1 raise ``InputError``.

    Example:
        >>> weight_entropy(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    shares = weights.double()
    sums_to_1 = shares.dim() == 2 and bool(((shares.sum(dim=1) - 1).abs() < 1e-3).all())
    if not sums_to_1 or bool((shares < 0).any()):
        raise InputError("weights", describe(weights), "(B, K), at least 0 with sums of 1")
    if shares.shape[1] == 1:
        return torch.ones_like(shares[:, 0])
    return -torch.xlogy(shares, shares).sum(dim=1) / math.log(shares.shape[1])


def _step_masks(images: Tensor, maps: Tensor, fill: Tensor, steps: int) -> Tensor:
    """Return the masks (B, steps + 1, 1, H, W) of each map's highest pixels, none to all."""
    check_at_least("steps", steps, 1)
    _check_fit(images, "maps", maps, fill)
    return top_area_masks(maps, [step / steps for step in range(steps + 1)])


def _similarities(
    forward_func: Forward, images: Tensor, masks: Tensor, fill: Tensor, batch_size: int
) -> Tensor:
    """Return the cosine (B, F) of each image with what its F masks (B, F, 1, H, W) keep."""
    check_at_least("batch_size", batch_size, 1)
    name = "the result of forward_func"

    def embed(part: Tensor) -> Tensor:
        with torch.no_grad():
            return checks.check_embeddings(name, forward_func(part), rows=len(part)).double()

    whole = torch.cat([embed(part) for part in torch.split(images, batch_size)])
    checks.check_nonzero(name, whole)
    cosines = []
    pairs = torch.cartesian_prod(*(torch.arange(n, device=images.device) for n in masks.shape[:2]))
    for rows, steps in (part.unbind(1) for part in torch.split(pairs, batch_size)):
        partial = embed(composite(images[rows], masks[rows, steps], fill[rows]))
        cosines.append(cosine(partial, whole[rows]))
    return torch.cat(cosines).view(masks.shape[:2])
