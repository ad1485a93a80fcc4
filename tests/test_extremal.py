"""Extremal FAM: the map finds what the embedding sees, by itself and whatever else is there."""

import copy

import pytest
import torch
from captum.attr import NoiseTunnel
from nets import HeadNet, PooledNet, images
from test_nothing_left_behind import assert_same, model_for, state_of
from torch import Tensor, nn

from reid_explain import ActivationMean, Centre, ExtremalFAM, GradRAM, InputError
from reid_explain.explainers import extremal
from reid_explain.explainers.extremal import (
    FILL_KINDS,
    Masks,
    Separation,
    direction,
    draw,
    random_fill,
    soft_masks,
    standardised,
)
from reid_explain.fills import FILLS, content_generator

close = torch.testing.assert_close
X = images(2)


class Window(nn.Module):
    """Sees one cell of a 4 x 4 grid alone: the embedding is its mean colour."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(4)
        self.cell = row, column

    def forward(self, x: Tensor) -> Tensor:
        row, column = self.cell
        return self.layer(x)[:, :, row, column]


@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_map_finds_the_one_region_that_a_model_sees(cell, seed):
    model = Window(*cell)
    x = images(3, (4, 4)).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # plain cells
    maps = ExtremalFAM(model, "layer", seed=seed).attribute(x, interpolate_mode=None)
    assert maps.shape == (3, 1, 4, 4)
    best = maps.flatten(1).argmax(dim=1)
    assert (best == 4 * cell[0] + cell[1]).all()


class Middle(nn.Module):
    """Sees the four cells in the middle of a 4 x 4 grid alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, :, 1:3, 1:3].flatten(1)


def test_the_descent_starts_from_the_simple_map_of_lowest_loss(monkeypatch):
    monkeypatch.setattr(extremal, "TRAVEL", 1e-9)  # the map stays where it starts
    x = images(4, (4, 4)).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    model = Middle()
    maps = ExtremalFAM(model, "layer", steps=1).attribute(x, interpolate_mode=None)
    centre = Centre(model, "layer").attribute(x, interpolate_mode=None)
    close(maps, standardised(centre), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("explains", "sign"), [("similarity", 1), ("difference", -1)])
def test_every_start_is_one_of_four(monkeypatch, explains, sign):
    monkeypatch.setattr(extremal, "TRAVEL", 1e-9)
    net, x = HeadNet().eval(), images(12, seed=3)
    other = x if explains == "similarity" else x.flip(0)
    maps = sign * ExtremalFAM(net, "relu", steps=1).attribute(
        x, other, interpolate_mode=None, explains=explains
    )
    a = net.relu(net.conv(x)).detach()
    starts = [
        ActivationMean(net, "relu").attribute(x, interpolate_mode=None),
        (a.mean(dim=(2, 3), keepdim=True) * a).sum(dim=1, keepdim=True),
        GradRAM(net, "relu").attribute(x, other, interpolate_mode=None),
        Centre(net, "relu").attribute(x, interpolate_mode=None),
    ]
    away = torch.stack([(maps - standardised(s)).abs().amax(dim=(1, 2, 3)) for s in starts])
    assert away.amin(dim=0).max() < 1e-6
    assert len(away.argmin(dim=0).unique()) > 2  # no start is the best of all images


def test_a_difference_is_where_it_is_and_similarity_where_it_is_not():
    """The embedding lists the means of all cells; two images differ in one of them."""

    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.AvgPool2d(4)

        def forward(self, x):
            return self.layer(x).flatten(1)

    x = 1 + 0.1 * images(1, (16, 16))
    other = x.clone()
    x[:, :, 4:8, 8:12] = -6
    explainer = ExtremalFAM(Cells(), "layer")
    difference = explainer.attribute(x, other, interpolate_mode=None, explains="difference")
    assert difference.flatten().argmax() == 4 + 2
    similarity = explainer.attribute(x, other, interpolate_mode=None)
    assert similarity.flatten().argmin() == 4 + 2


def test_references_are_images_or_embeddings():
    net = HeadNet().eval()
    explainer = ExtremalFAM(net, "relu", steps=2)
    reference = images(2, seed=7)
    maps = explainer.attribute(X, references=reference)
    close(maps, explainer.attribute(X, references=net(reference)))
    close(maps[:1], explainer.attribute(X[:1], references=3 * net(reference[:1]).detach()))
    assert not torch.equal(maps, explainer.attribute(X))
    close(explainer.attribute(X, references=X), explainer.attribute(X))
    one, other = explainer.attribute_pair(X, reference)
    close(one, maps)
    close(other, explainer.attribute(reference, references=X))


def test_further_arguments_go_with_their_images():
    net = HeadNet().eval()
    explainer = ExtremalFAM(net, "relu", steps=2)
    shifts = torch.tensor([0.5, -2.0], dtype=torch.float64)
    maps = explainer.attribute(X, additional_forward_args=shifts)
    for row in range(2):
        own = slice(row, row + 1)
        close(maps[own], explainer.attribute(X[own], None, shifts[own]))


def test_the_seed_decides_and_nothing_else():
    net = HeadNet().eval()
    maps = ExtremalFAM(net, "relu", steps=3).attribute(X)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(maps, ExtremalFAM(net, "relu", steps=3).attribute(X))
    assert torch.equal(before, torch.get_rng_state())
    other = ExtremalFAM(net, "relu", steps=3, seed=1).attribute(X)
    assert not torch.allclose(maps, other)


@pytest.mark.parametrize("per_descent", [1, 2, 5])
def test_an_image_does_not_depend_on_its_batch(monkeypatch, per_descent):
    monkeypatch.setattr(extremal, "images_per_descent", lambda images: per_descent)
    batch, others = images(5), images(5, seed=7)
    explainer = ExtremalFAM(HeadNet().eval(), "relu", steps=3)
    together = explainer.attribute(batch)
    close(together[3:], explainer.attribute(batch[3:]))
    close(together.flip(0), explainer.attribute(batch.flip(0)))
    paired = explainer.attribute(batch, others)
    close(paired[3:], explainer.attribute(batch[3:], others[3:]))


def test_form_of_the_maps():
    explainer = ExtremalFAM(HeadNet(), "relu", steps=3)
    grid = explainer.attribute(X, interpolate_mode=None)
    assert grid.shape == (2, 1, 6, 4)
    close(grid.mean(dim=(2, 3)), torch.zeros(2, 1, dtype=torch.float64), atol=1e-12, rtol=0)
    close(grid.std(dim=(2, 3), correction=0), torch.ones(2, 1, dtype=torch.float64))
    (alone,) = explainer.attribute((X,))
    assert alone.shape == (2, 1, 12, 8)
    assert torch.equal(alone, explainer.attribute(X))
    with torch.no_grad(), torch.inference_mode():
        inferred = explainer.attribute(X)
    assert torch.equal(alone, inferred)


@pytest.mark.parametrize("references", [None, images(2, seed=7)])
def test_nothing_is_left_behind(references):
    net = model_for(ExtremalFAM)
    before, x = state_of(net), X.clone().requires_grad_()
    evaluated = copy.deepcopy(net).eval()
    explainer = ExtremalFAM(net, net.relu, steps=2)
    maps = explainer.attribute(x, references)
    assert_same(before, state_of(net))
    assert x.grad is None
    assert not maps.requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(maps, ExtremalFAM(evaluated, "relu", steps=2).attribute(X, references))


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_nothing_is_left_behind_after_an_exception(calls):
    net = model_for(ExtremalFAM)
    before, seen = state_of(net), []

    def boom(module, inputs):
        seen.append(inputs)
        if len(seen) > calls:
            raise ZeroDivisionError

    handle = net.conv.register_forward_pre_hook(boom)
    with pytest.raises(ZeroDivisionError):
        ExtremalFAM(net, net.relu, steps=2).attribute(X)
    handle.remove()
    assert_same(before, state_of(net))
    assert torch.is_grad_enabled()


def test_cost_in_masked_images():
    net, passed = HeadNet(), []
    net.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    ExtremalFAM(net, "relu", steps=3).attribute(X[:1])
    assert passed == [1, *4 * [6], *3 * [12]]


def test_fills_are_never_another_image_nor_patches():
    """Neither of two fills of the evaluation is among those of the descent."""
    assert FILL_KINDS == ("mean", "colour", "noise", "smooth", "blur")
    assert {"other", "shuffle"} <= set(FILLS)
    x = images(1, (32, 16))[0]
    generator = content_generator(x, 0)
    fills = torch.stack([random_fill(x, generator) for _ in range(60)])
    assert fills.shape == (60, 3, 32, 16)
    assert fills.isfinite().all()
    shuffled = FILLS["shuffle"](x[None], x[None])
    assert (fills - shuffled).square().mean(dim=(1, 2, 3)).min() > 0.1
    assert (fills - x).square().mean(dim=(1, 2, 3)).min() > 0.1
    flat = fills.std(dim=(2, 3)).amax(dim=1) < 1e-9  # mean and colours
    assert 10 < flat.sum() < 40


def test_a_fill_holds_the_colours_of_the_image_alone(monkeypatch):
    x = images(1, (32, 16))[0] * torch.tensor([1.0, 5.0, 0.0])[:, None, None] + 3
    for kind, spread in {"mean": 0, "colour": 0, "noise": 1, "smooth": 0.4, "blur": 0.05}.items():
        monkeypatch.setattr(extremal, "FILL_KINDS", (kind,))
        fills = torch.stack([random_fill(x, content_generator(x, seed)) for seed in range(40)])
        close(fills[:, 2], torch.full_like(fills[:, 2], 3))  # a plain colour stays
        measured = fills[:, 1].std(dim=(1, 2)).mean() / 5
        assert abs(float(measured) - spread) < 0.25, kind
    again = random_fill(x, content_generator(x, 3))
    assert torch.equal(again, random_fill(x, content_generator(x, 3)))


def test_soft_masks_keep_their_areas():
    maps = torch.randn(2, 1, 8, 4, generator=torch.Generator().manual_seed(0))
    areas = torch.tensor([[0.1, 0.5], [0.3, 0.7]])
    masks = soft_masks(maps, areas, (64, 32))
    assert masks.shape == (2, 2, 1, 64, 32)
    close((masks > 0.5).float().mean(dim=(2, 3, 4)), areas, atol=1e-3, rtol=0)
    close(soft_masks(3 * maps + 7, areas, (64, 32)), masks, atol=1e-4, rtol=0)  # only the order


def test_loss_by_hand():
    """Two pixels; the model lists them. The kept one has cosine 0.6, the other 0.8."""
    image = torch.tensor([[[[3.0, 4.0]]]])
    goal = torch.tensor([[0.6, 0.8]])
    maps = torch.tensor([[[[1e6, -1e6]]]])  # hard masks
    masks = Masks(torch.tensor([[0.25]]), torch.zeros(1, 1, 1, 1, 2))

    def embed(masked, rows):
        assert rows.tolist() == [0, 0]
        return masked.flatten(1)

    # the threshold is the highest pixel itself: half of it is kept, and none of the other
    kept, rest = torch.tensor([1.5, 0.0]), torch.tensor([1.5, 4.0])
    of_kept, of_rest = (float((v / v.norm() * goal[0]).sum()) for v in (kept, rest))
    loss = Separation(embed, image, goal, difference=False).loss(maps, masks)
    close(loss, torch.tensor([0.5 * of_rest - of_kept]), atol=1e-3, rtol=0)
    opposite = Separation(embed, image, goal, difference=True).loss(maps, masks)
    close(opposite, torch.tensor([0.5 * of_kept - of_rest]), atol=1e-3, rtol=0)


def test_a_zero_embedding_has_a_bounded_gradient():
    embeddings = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = direction(embeddings)
    close(unit, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    unit.sum().backward()
    assert embeddings.grad.abs().max() <= 1
    black = torch.zeros(1, 3, 12, 8, dtype=torch.float64)
    black[..., :2, :2] = 1
    net = PooledNet()
    net.conv.bias.data.zero_()
    assert ExtremalFAM(net, "relu", steps=2).attribute(black).isfinite().all()


def test_constant_maps_stay_finite():
    close(standardised(torch.full((1, 1, 3, 2), 7.0)), torch.zeros(1, 1, 3, 2))
    plain = torch.ones(1, 3, 12, 8, dtype=torch.float64)
    assert ExtremalFAM(HeadNet(), "relu", steps=2).attribute(plain).isfinite().all()


def test_areas_are_near_those_asked_for():
    generators = [content_generator(x, 0) for x in X]
    masks = draw(X, generators, (0.1, 0.5))
    assert masks.fills.shape == (2, 2, 3, 12, 8)
    asked = torch.tensor([0.1, 0.5])
    assert ((masks.areas - asked).abs() <= 0.2 * asked + 1e-6).all()
    assert not torch.equal(masks.areas[0], masks.areas[1])


def test_mixed_precision_is_close():
    net = PooledNet().float()
    x = X.float()
    exact = ExtremalFAM(net, "relu", steps=1).attribute(x)
    mixed = ExtremalFAM(net, "relu", steps=1, autocast_dtype=torch.bfloat16).attribute(x)
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    assert torch.corrcoef(torch.stack([exact.flatten(), mixed.flatten()]))[0, 1] > 0.8


def test_with_noise_tunnel():
    tunnel = NoiseTunnel(ExtremalFAM(HeadNet().eval(), "relu", steps=1))
    assert tunnel.attribute(X, nt_samples=2, stdevs=0.1).shape == (2, 1, 12, 8)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"seed": -1}, "seed"),
        ({"autocast_dtype": torch.float64}, "autocast_dtype"),
        ({"layer": "no such layer"}, "layer"),
    ],
)
def test_wrong_settings(settings, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        ExtremalFAM(HeadNet(), **{"layer": "relu"} | settings)


@pytest.mark.parametrize(
    ("data", "argument"),
    [
        ({"inputs": X[0]}, "inputs"),
        ({"inputs": X * torch.nan}, "inputs"),
        ({"references": images(3)}, "references"),
        ({"references": torch.zeros(1, 4, dtype=torch.float64)}, "references"),
        ({"references": torch.ones(1, 9, dtype=torch.float64)}, "references"),
        ({"explains": "difference"}, "references"),
        ({"explains": "everything"}, "explains"),
        ({"interpolate_mode": "cubic"}, "interpolate_mode"),
    ],
)
def test_wrong_data(data, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        ExtremalFAM(HeadNet(), "relu", steps=1).attribute(**{"inputs": X} | data)


def test_a_model_without_gradients_or_with_nan_is_refused():
    net = PooledNet()
    with pytest.raises(InputError, match="gradients"):
        ExtremalFAM(lambda x: net(x).detach(), net.relu).attribute(X)
    calls = []

    def failing(x):
        calls.append(x)
        return net(x) * (torch.nan if len(calls) > 2 else 1)

    with pytest.raises(InputError, match="NaN"):
        ExtremalFAM(failing, net.relu).attribute(X)
