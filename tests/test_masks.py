"""Explainers by masks that know nothing of the image, against loops over each paper's equation."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_explain import (
    RELAX,
    RISE,
    SBSM,
    CorrRISE,
    InputError,
    MaskWeighting,
    Norm,
    Projection,
    blurred,
)
from reid_explain.explainers.masks import random_grids, without_rectangles
from reid_explain.testing import ContractNet, pictures

close = torch.testing.assert_close
X, Y = pictures(2), pictures(2, seed=7)
N = 30
FEW = {"masks": N, "cells": 3, "probability": 0.4, "seed": 1}


def net() -> nn.Module:
    return ContractNet().eval()


def few(images: Tensor = X) -> Tensor:
    """The masks (N, H, W) of FEW."""
    return random_grids(images, *FEW.values()).make(torch.arange(N))[:, 0]


def scores(image: Tensor, masks: Tensor, goal: Tensor | None = None) -> list[float]:
    """The cosine of each masked image with a goal, or with the image itself."""
    model = net().requires_grad_(False)
    goal = model(image[None])[0] if goal is None else goal
    return [float(F.cosine_similarity(model(image[None] * m)[0], goal, dim=0)) for m in masks]


# Masks


def bilinear(grid: list[list[float]], size: tuple[int, int], y: int, x: int) -> float:
    """A pixel of a grid upsampled to a size, from the four nearest cells."""
    total = 0.0
    fy, fx = (y + 0.5) * len(grid) / size[0] - 0.5, (x + 0.5) * len(grid[0]) / size[1] - 0.5
    for cy in (math.floor(fy), math.floor(fy) + 1):
        for cx in (math.floor(fx), math.floor(fx) + 1):
            inside = grid[min(max(cy, 0), len(grid) - 1)][min(max(cx, 0), len(grid[0]) - 1)]
            total += inside * (1 - abs(fy - cy)) * (1 - abs(fx - cx))
    return total


def test_masks_are_grids_upsampled_and_shifted():
    masks = few()
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(N, 4 * 3 + 2, generator=generator, dtype=torch.float64)
    for mask, drawn in zip(masks[:4], draws, strict=False):
        grid = (drawn[2:] < 0.4).double().view(4, 3).tolist()  # 12 x 8 pixels in cells of 3 x 3
        down, across = int(3 * drawn[0]), int(3 * drawn[1])
        by_hand = [
            [bilinear(grid, (15, 12), y + down, x + across) for x in range(8)] for y in range(12)
        ]
        close(mask, torch.tensor(by_hand, dtype=torch.float64))


def test_masks_keep_pixels_equally_often():
    masks = random_grids(torch.zeros(1, 3, 20, 10), 4000, 4, 0.3, 0).make(torch.arange(4000))
    close(masks.mean(dim=0), torch.full((1, 20, 10), 0.3), rtol=0, atol=0.03)
    assert masks.amin() >= 0
    assert masks.amax() <= 1


def test_the_first_of_more_masks_are_those_of_fewer():
    numbers = torch.tensor([4, 0])
    few, many = (random_grids(X, count, 7, 0.5, 3) for count in (5, 50))
    assert torch.equal(few.make(numbers), many.make(numbers))
    assert not torch.equal(few.make(numbers), random_grids(X, 5, 7, 0.5, 4).make(numbers))


def test_rectangles_are_hidden():
    corners = torch.tensor([[[0, 0], [2, 1]], [[-1, 6], [11, 6]]])
    for mask, places in zip(
        without_rectangles(X, corners, (3, 2)).make(torch.arange(2))[:, 0],
        (((0, 3, 0, 2), (2, 5, 1, 3)), ((0, 2, 6, 8), (11, 12, 6, 8))),
        strict=True,
    ):
        expected = torch.ones(12, 8, dtype=torch.float64)
        for top, bottom, left, right in places:
            expected[top:bottom, left:right] = 0
        assert torch.equal(mask, expected)


# Equations


def test_rise_by_hand():
    """S = sum of f(I * M) M / (N p), equation 6."""
    masks, model = few(), net()
    expected = torch.zeros(2, 1, 12, 8, dtype=torch.float64)
    for image, target, map_ in zip(X, (2, 0), expected, strict=True):
        for mask in masks:
            map_ += model(image[None] * mask).softmax(dim=1)[0, target].detach() * mask / (N * 0.4)
    close(RISE(model, **FEW).attribute(X, target=[2, 0]), expected)


def test_any_objective_and_any_baseline():
    masks, model = few(), net()
    blurry, references = blurred(X), pictures(1, seed=7)
    expected = torch.zeros(2, 2, 12, 8, dtype=torch.float64)
    goal = F.normalize(model(references), dim=1)[0]
    for image, behind, maps in zip(X, blurry, expected, strict=True):
        for mask in masks:
            seen = model((image * mask + behind * (1 - mask))[None])[0].detach()
            maps[0] += seen.norm() * mask / (N * 0.4)
            maps[1] += (seen @ goal).detach() * mask / (N * 0.4)
    weighting = MaskWeighting(model, **FEW)
    for number, objective in enumerate((Norm(), Projection(references))):
        close(weighting.attribute(X, objective, baselines=None), expected[:, number : number + 1])
    close(weighting.attribute(X, Norm(), baselines=blurry), expected[:, :1])


def relaxed(image: Tensor) -> tuple[Tensor, Tensor]:
    """R and U, pixel by pixel."""
    masks = few()
    own = scores(image, masks)
    importance, uncertainty = torch.zeros(2, 12, 8, dtype=torch.float64)
    for y in range(12):
        for x in range(8):
            weights = [float(mask[y, x]) for mask in masks]
            mean = sum(w * s for w, s in zip(weights, own, strict=True)) / sum(weights)
            importance[y, x] = mean
            uncertainty[y, x] = sum(
                w * (s - mean) ** 2 for w, s in zip(weights, own, strict=True)
            ) / sum(weights)
    return importance, uncertainty


def test_relax_by_hand():
    maps, uncertainty = RELAX(net(), **FEW).attribute(X, return_uncertainty=True)
    for n in range(2):
        importance, variance = relaxed(X[n])
        close(maps[n, 0], importance)
        close(uncertainty[n, 0], variance)
    assert torch.equal(RELAX(net(), **FEW).attribute(X), maps)


def test_relax_is_its_authors(monkeypatch):
    """Their one pass over the masks gives the same, with the variance not yet divided."""
    relax = pytest.importorskip("relax_xai.relax", reason="relax-xai is not installed")
    masks = few()
    monkeypatch.setattr(relax, "mask_generator", lambda *given, **settings: [masks[:, None]])
    with torch.no_grad():
        theirs = relax.RELAX(X[:1], net(), batch_size=N, num_batches=1)
        theirs()
    maps, uncertainty = RELAX(net(), **FEW).attribute(X[:1], return_uncertainty=True)
    close(maps[0, 0], theirs.importance.double(), rtol=1e-5, atol=1e-6)
    close(uncertainty[0, 0], (theirs.uncertainty / masks.sum(dim=0)).double(), rtol=1e-4, atol=1e-7)


def patches(count: int = N) -> Tensor:
    """CorrRISE's masks (N, H, W) with two patches of 3 x 3, drawn by hand."""
    generator = torch.Generator().manual_seed(5)
    masks = torch.ones(count, 12, 8, dtype=torch.float64)
    for mask, places in zip(
        masks, torch.rand(count, 2, 2, generator=generator, dtype=torch.float64), strict=True
    ):
        for down, across in places.tolist():
            top, left = int(down * 10), int(across * 6)
            mask[top : top + 3, left : left + 3] = 0
    return masks


CORR = {"masks": N, "patches": 2, "patch": 3 / 8, "seed": 5}


def test_corr_rise_by_hand():
    maps = CorrRISE(net(), **CORR).attribute(X, Y)
    masks = patches()
    assert bool((masks == 1).all(dim=0).any())  # some pixel is never hidden
    for image, other, map_ in zip(X, Y, maps, strict=True):
        own = scores(image, masks, net()(other[None])[0].detach())
        for y in range(12):
            for x in range(8):
                shown = masks[:, y, x].numpy()
                expected = np.corrcoef(shown, own)[0, 1] if np.ptp(shown) else 0.0
                assert float(map_[0, y, x]) == pytest.approx(expected, abs=1e-9)


def test_what_never_changes_correlates_with_nothing():
    blind = CorrRISE(lambda images: 0 * images.mean(dim=(2, 3)) + 0.1)
    assert torch.equal(blind.attribute(X.float(), Y.float()), torch.zeros(2, 1, 12, 8))


def slid(length: int, side: int, step: int) -> list[int]:
    """The first pixel of each window, of which as much overhangs before as after."""
    first = list(range(0, length, step))
    return [place - (side - length + first[-1]) // 2 for place in first]


def test_sbsm_by_hand():
    maps = SBSM(net(), window=3 / 8, stride=2 / 3).attribute(X, Y)  # 3 x 3 pixels, every second
    for image, other, map_ in zip(X, Y, maps, strict=True):
        goal = net()(other[None])[0].detach()
        (whole,) = scores(image, [torch.ones(12, 8)], goal)
        lost, covered = torch.zeros(2, 12, 8, dtype=torch.float64)
        for top in slid(12, 3, 2):
            for left in slid(8, 3, 2):
                hidden = torch.zeros(12, 8, dtype=torch.float64)
                hidden[max(top, 0) : top + 3, max(left, 0) : left + 3] = 1
                (left_over,) = scores(image, [1 - hidden], goal)
                lost += max(0.0, whole - left_over) * hidden
                covered += hidden
        close(map_[0], lost / covered)


def test_sbsm_is_that_of_xaitk():
    """Their windows, and their scores of these with the cosine for a distance, up to a factor."""
    scoring = pytest.importorskip(
        "xaitk_saliency.impls.gen_descriptor_sim_sal.similarity_scoring",
        reason="xaitk-saliency is not installed",
    )
    from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow

    masks = SlidingWindow((3, 3), (2, 2)).perturb(X[0].permute(1, 2, 0).numpy())
    shown = X[:1] * torch.from_numpy(masks)[:, None]
    own, goal, seen = (net()(images).detach().numpy() for images in (X[:1], Y[:1], shown))
    theirs = scoring.SimilarityScoring("cosine").generate(own[0], goal, seen, masks)
    (map_,) = SBSM(net(), window=3 / 8, stride=2 / 3).attribute(X[:1], Y[:1])
    close(map_ / map_.max(), torch.from_numpy(theirs))


@pytest.mark.parametrize("explainer", [partial(CorrRISE, **CORR), SBSM])
def test_both_images_of_a_pair(explainer):
    method = explainer(net())
    own, theirs = (torch.tensor(v, dtype=torch.float64) for v in ((0.3, -0.2), (0.7, 0.1)))
    maps = method.attribute_pair(
        X, Y, own, reference_forward_args=theirs, perturbations_per_eval=3, baselines=0.5
    )
    for n, (a, b, c, d) in enumerate(((X, Y, own, theirs), (Y, X, theirs, own))):
        close(maps[n], method.attribute(a, b, c, reference_forward_args=d, baselines=0.5))
    with pytest.raises(InputError, match="references"):
        method.attribute(X, None)


def test_the_uncertainty_is_not_lost_to_rounding():
    """Cosines near 1 that hardly differ, in float32."""
    model = lambda images: images.mean(dim=(2, 3)) + 3  # noqa: E731
    exact = RELAX(model, **FEW).attribute(X, return_uncertainty=True)[1]
    found = RELAX(model, **FEW).attribute(X.float(), return_uncertainty=True)[1]
    assert 0 < exact.max() < 1e-5
    close(found.double(), exact, rtol=1e-3, atol=1e-12)


# How models are used


PAIRED = {"references": Y}
EXPLAINERS = [
    (partial(MaskWeighting, **FEW), {}, N),
    (partial(RELAX, **FEW), {}, N),
    (partial(CorrRISE, **CORR), PAIRED, N),
    (partial(SBSM, window=0.5, stride=0.5), PAIRED, 6 * 4),
]


@pytest.mark.parametrize(("explainer", "data", "masks"), EXPLAINERS)
def test_no_layer_is_needed(explainer, data, masks):
    model = net()
    black_box = explainer(lambda images: model(images))
    close(black_box.attribute(X, **data), explainer(model, "layer").attribute(X, **data))


@pytest.mark.parametrize(("explainer", "data", "masks"), EXPLAINERS)
def test_passes_are_bounded_and_counted(explainer, data, masks):
    """The images themselves, and their references, are passed once."""
    seen = []

    def model(images: Tensor, shift: Tensor) -> Tensor:
        seen.append(len(images))
        return net()(images, shift)

    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    maps = explainer(model).attribute(
        X, additional_forward_args=shift, perturbations_per_eval=7, **data
    )
    assert max(seen) == 7
    assert sum(seen) == 2 * masks + (4 if data else 2)
    row = {name: value[1:] for name, value in data.items()}
    alone = explainer(net()).attribute(X[1:], additional_forward_args=shift[1:], **row)
    close(maps[1:], alone)


def test_lower_precision_of_the_passes():
    exact = RELAX(net().float(), **FEW).attribute(X.float())
    lower = RELAX(net().float(), **FEW, autocast_dtype=torch.bfloat16).attribute(X.float())
    assert not torch.equal(lower, exact)
    close(lower, exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("explainer", "setting", "value"),
    [
        (RELAX, "masks", 0),
        (RELAX, "cells", 0),
        (RELAX, "seed", -1),
        (RELAX, "probability", 0),
        (RELAX, "autocast_dtype", torch.int8),
        (CorrRISE, "masks", 1),
        (CorrRISE, "patches", 0),
        (CorrRISE, "patch", 1.5),
        (CorrRISE, "seed", 0.5),
        (SBSM, "window", 0),
        (SBSM, "stride", True),
    ],
)
def test_bad_settings(explainer, setting, value):
    with pytest.raises(InputError, match=setting):
        explainer(net(), **{setting: value})


def test_bad_data():
    for argument, options in {
        "perturbations_per_eval": {"perturbations_per_eval": 0},
        "baselines": {"baselines": pictures(3)},
        "interpolate_mode": {"interpolate_mode": "area"},
    }.items():
        with pytest.raises(InputError, match=argument):
            RELAX(net(), **FEW).attribute(X, **options)
    with pytest.raises(InputError, match="result"):
        RELAX(lambda images: 0 * images.mean(dim=(2, 3))).attribute(X)
