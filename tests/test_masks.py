"""Explainers by masks that know nothing of the image, against loops over each paper's equation."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid_explain import RELAX, RISE, InputError, MaskWeighting, Norm, Projection, blurred
from reid_explain.explainers.masks import random_grids
from reid_explain.testing import ContractNet, pictures

close = torch.testing.assert_close
X = pictures(2)
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


def test_the_uncertainty_is_not_lost_to_rounding():
    """Cosines near 1 that hardly differ, in float32."""
    model = lambda images: images.mean(dim=(2, 3)) + 3  # noqa: E731
    exact = RELAX(model, **FEW).attribute(X, return_uncertainty=True)[1]
    found = RELAX(model, **FEW).attribute(X.float(), return_uncertainty=True)[1]
    assert 0 < exact.max() < 1e-5
    close(found.double(), exact, rtol=1e-3, atol=1e-12)


# How models are used


EXPLAINERS = [partial(MaskWeighting, **FEW), partial(RELAX, **FEW)]


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_no_layer_is_needed(explainer):
    model = net()
    black_box = explainer(lambda images: model(images))
    close(black_box.attribute(X), explainer(model, "layer").attribute(X))


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_passes_are_bounded_and_counted(explainer):
    seen = []

    def model(images: Tensor, shift: Tensor) -> Tensor:
        seen.append(len(images))
        return net()(images, shift)

    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    maps = explainer(model).attribute(X, additional_forward_args=shift, perturbations_per_eval=7)
    assert max(seen) == 7
    assert sum(seen) == 2 * N + 2
    alone = explainer(net()).attribute(X[1:], additional_forward_args=shift[1:])
    close(maps[1:], alone)


def test_lower_precision_of_the_passes():
    exact = RELAX(net().float(), **FEW).attribute(X.float())
    lower = RELAX(net().float(), **FEW, autocast_dtype=torch.bfloat16).attribute(X.float())
    assert not torch.equal(lower, exact)
    close(lower, exact, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("masks", 0), ("cells", 0), ("seed", -1), ("probability", 1), ("autocast_dtype", torch.int8)],
)
def test_bad_settings(setting, value):
    with pytest.raises(InputError, match=setting):
        RELAX(net(), **{setting: value})


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
