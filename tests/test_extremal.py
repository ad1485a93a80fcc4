"""Extremal FAM: the map finds what the embedding sees, by itself and whatever else is there."""

import pytest
import torch
from captum.attr import NoiseTunnel
from nets import HeadNet, PooledNet, images
from torch import Tensor, nn
from tqdm.auto import tqdm

from reid_explain import ActivationMean, Centre, ExtremalFAM, GradRAM, InputError
from reid_explain.explainers import descent
from reid_explain.explainers.descent import (
    AREAS,
    FILL_KINDS,
    Masks,
    Search,
    draw,
    random_fill,
    smoothed,
    soft_masks,
    standardized,
)
from reid_explain.fills import FILLS, content_generator
from reid_explain.objectives import Cosine
from reid_explain.vectors import unit

close = torch.testing.assert_close
X = images(2)


class Window(nn.Module):
    """Sees one cell of a 4 x 4 grid alone: the embedding is its mean color."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(4)
        self.cell = row, column

    def forward(self, x: Tensor) -> Tensor:
        row, column = self.cell
        return self.layer(x)[:, :, row, column]


@pytest.mark.slow
@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_map_finds_the_one_region_that_a_model_sees(cell, seed):
    model = Window(*cell)
    x = images(3, (4, 4)).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # plain cells
    maps = ExtremalFAM(model, "layer", seed=seed).attribute(x, interpolate_mode=None)
    assert maps.shape == (3, 1, 4, 4)
    best = maps.flatten(1).argmax(dim=1)
    assert (best == 4 * cell[0] + cell[1]).all()


def test_the_descents_start_from_four_simple_maps(monkeypatch):
    monkeypatch.setattr(descent, "STEP_SIZE", 1e-9)  # the maps stay where they start
    net, x = HeadNet().eval(), images(3, seed=3)
    a = net.relu(net.conv(x)).detach()
    own = {"interpolate_mode": None}
    starts = [
        ActivationMean(net, "relu").attribute(x, **own),
        (a.mean(dim=(2, 3), keepdim=True) * a).sum(dim=1, keepdim=True),
        GradRAM(net, "relu").attribute(x, x, **own),
        Centre(net, "relu").attribute(x, **own),
    ]
    for descents, used in {1: starts[:1], 4: starts, 6: starts + starts[:2]}.items():
        explainer = ExtremalFAM(net, "relu", rounds=2, descents=descents)
        mean = standardized(sum(standardized(start) for start in used))
        close(explainer.attribute(x, **own), mean, atol=1e-6, rtol=0)


def test_the_starts_of_a_difference_are_two_maps_of_the_change(monkeypatch):
    monkeypatch.setattr(descent, "STEP_SIZE", 1e-9)
    net, x, other = HeadNet().eval(), images(3, seed=3), images(3, seed=4)
    change = (net.relu(net.conv(x)) - net.relu(net.conv(other))).detach()
    size = change.abs().mean(dim=1, keepdim=True)
    ram = (change.mean(dim=(2, 3), keepdim=True) * change).sum(dim=1, keepdim=True)
    maps = ExtremalFAM(net, "relu", rounds=1, descents=2).attribute(
        x, other, interpolate_mode=None, explains="difference"
    )
    close(maps, standardized(standardized(size) + standardized(ram)), atol=1e-6, rtol=0)


class Cells(nn.Module):
    """Lists the mean colors of the cells of a 4 x 4 grid, or of some of its rows."""

    def __init__(self, rows: slice = slice(None)) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(4)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[:, :, self.rows].flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_difference_is_where_it_is_and_similarity_where_it_is_not(seed):
    x = 1 + 0.1 * images(1, (16, 16))
    other = x.clone()
    x[:, :, 4:8, 8:12] = -6
    explainer = ExtremalFAM(Cells(), "layer", seed=seed)
    difference = explainer.attribute(x, other, interpolate_mode=None, explains="difference")
    assert difference.flatten().argmax() == 4 + 2
    swapped = explainer.attribute(other, x, interpolate_mode=None, explains="difference")
    assert swapped.flatten().argmax() == 4 + 2
    similarity = explainer.attribute(x, other, interpolate_mode=None)
    assert similarity.flatten().argmin() == 4 + 2


def test_a_difference_that_the_model_does_not_see_is_none():
    """Two images differ most in the first row, which the embedding leaves out."""
    x = 1 + 0.1 * images(1, (16, 16))
    other = x.clone()
    x[:, :, 0:4, 0:4] = -9
    x[:, :, 8:12, 12:16] = -3
    maps = ExtremalFAM(Cells(slice(1, None)), "layer").attribute(
        x, other, interpolate_mode=None, explains="difference"
    )
    assert maps.flatten().argmax() == 2 * 4 + 3


@pytest.mark.slow
def test_references_are_images_or_embeddings():
    net = HeadNet().eval()
    explainer = ExtremalFAM(net, "relu", rounds=2)
    reference = images(2, seed=7)
    maps = explainer.attribute(X, references=reference)
    close(maps, explainer.attribute(X, references=net(reference)))
    close(maps[:1], explainer.attribute(X[:1], references=3 * net(reference[:1]).detach()))
    assert not torch.equal(maps, explainer.attribute(X))
    close(explainer.attribute(X, references=X), explainer.attribute(X))
    one, other = explainer.attribute_pair(X, reference)
    close(one, maps)
    close(other, explainer.attribute(reference, references=X))


def test_references_of_a_difference_serve_several_images_in_a_row():
    batch, others = images(4), images(2, seed=7)
    explainer = ExtremalFAM(HeadNet().eval(), "relu", rounds=1, descents=2)
    maps = explainer.attribute(batch, others, explains="difference")
    for row in range(4):
        own, other = batch[row : row + 1], others[row // 2 : row // 2 + 1]
        close(maps[row : row + 1], explainer.attribute(own, other, explains="difference"))


def test_further_arguments_go_with_their_images():
    net = HeadNet().eval()
    explainer = ExtremalFAM(net, "relu", rounds=2)
    shifts = torch.tensor([0.5, -2.0], dtype=torch.float64)
    maps = explainer.attribute(X, additional_forward_args=shifts)
    for row in range(2):
        own = slice(row, row + 1)
        close(maps[own], explainer.attribute(X[own], None, shifts[own]))


@pytest.mark.slow
def test_the_seed_decides_and_nothing_else():
    net = HeadNet().eval()
    maps = ExtremalFAM(net, "relu", rounds=3).attribute(X)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(maps, ExtremalFAM(net, "relu", rounds=3).attribute(X))
    assert torch.equal(before, torch.get_rng_state())
    other = ExtremalFAM(net, "relu", rounds=3, seed=1).attribute(X)
    assert not torch.allclose(maps, other)


@pytest.mark.slow
@pytest.mark.parametrize("per_descent", [1, 2, 5])
def test_an_image_does_not_depend_on_its_batch(monkeypatch, per_descent):
    monkeypatch.setattr(descent, "descents_at_once", lambda images: per_descent)
    batch, others = images(5), images(5, seed=7)
    explainer = ExtremalFAM(HeadNet().eval(), "relu", rounds=2, descents=3)
    together = explainer.attribute(batch)
    close(together[3:], explainer.attribute(batch[3:]))
    close(together.flip(0), explainer.attribute(batch.flip(0)))
    paired = explainer.attribute(batch, others)
    close(paired[3:], explainer.attribute(batch[3:], others[3:]))
    apart = explainer.attribute(batch, others, explains="difference")
    close(apart[3:], explainer.attribute(batch[3:], others[3:], explains="difference"))


@pytest.mark.slow
def test_form_of_the_maps():
    explainer = ExtremalFAM(HeadNet(), "relu", rounds=3)
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


def test_cost_in_masked_images():
    net, passed = HeadNet(), []
    net.register_forward_pre_hook(lambda module, inputs: passed.append(len(inputs[0])))
    explainer = ExtremalFAM(net, "relu", rounds=2, descents=3)
    explainer.attribute(X[:1])
    masked = 2 * 3 * 3 * 6
    assert passed[0] == 1
    assert sum(passed) == 1 + masked
    assert Search(rounds=2, descents=3, seed=0).passes == masked
    passed.clear()
    explainer.attribute(X[:1], X[1:], explains="difference")
    assert passed[:2] == [1, 1]
    assert sum(passed) == 2 + 2 * masked
    passed.clear()
    ExtremalFAM(net, "relu", rounds=2, descents=3, effect="both").attribute(X[:1])
    assert sum(passed) == 1 + 2 * masked


def test_fills_are_never_another_image_nor_patches():
    """Neither of two fills of the evaluation is among those of the descent."""
    assert FILL_KINDS == ("mean", "color", "noise", "smooth", "blur")
    assert {"other", "shuffle"} <= set(FILLS)
    x = images(1, (32, 16))[0]
    generators = [content_generator(x, seed) for seed in range(10)]
    fills = draw(x.expand(10, -1, -1, -1), generators)[1].flatten(0, 1)
    assert fills.shape == (60, 3, 32, 16)
    assert fills.isfinite().all()
    shuffled = FILLS["shuffle"](x[None], x[None])
    assert (fills - shuffled).square().mean(dim=(1, 2, 3)).min() > 0.1
    assert (fills - x).square().mean(dim=(1, 2, 3)).min() > 0.1
    flat = fills.std(dim=(2, 3)).amax(dim=1) < 1e-9  # mean and colors
    assert 10 < flat.sum() < 40


def test_a_fill_holds_the_colors_of_the_image_alone():
    x = images(1, (32, 16))[0] * torch.tensor([1.0, 5.0, 0.0])[:, None, None] + 3
    for kind, spread in {"mean": 0, "color": 0, "noise": 1, "smooth": 0.4, "blur": 0.05}.items():
        fills = torch.stack([random_fill(x, content_generator(x, s), kind) for s in range(40)])
        close(fills[:, 2], torch.full_like(fills[:, 2], 3))  # a plain color stays
        measured = fills[:, 1].std(dim=(1, 2)).mean() / 5
        assert abs(float(measured) - spread) < 0.25, kind
        again = random_fill(x, content_generator(x, 39), kind)
        assert torch.equal(again, fills[-1])


def test_soft_masks_keep_their_areas():
    maps = torch.randn(2, 1, 8, 4, generator=torch.Generator().manual_seed(0))
    areas = torch.tensor([[0.1, 0.5], [0.3, 0.7]])
    masks = soft_masks(maps, areas, (64, 32))
    assert masks.shape == (2, 2, 1, 64, 32)
    close((masks > 0.5).float().mean(dim=(2, 3, 4)), areas, atol=1e-3, rtol=0)
    close(soft_masks(3 * maps + 7, areas, (64, 32)), masks, atol=1e-4, rtol=0)  # only the order


def test_agreement_by_hand():
    """Two pixels, of which the model lists the values; the first is kept, or removed."""
    image, other = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[5.0, 8.0]]]])
    highest = torch.tensor([1.0, 0.0]).view(1, 1, 1, 1, 2)
    masks = Masks(highest, torch.full((1, 1, 1, 1, 2), 2.0))
    rows = torch.tensor([0])
    layer = torch.nn.Identity()
    explainer = ExtremalFAM(lambda x: layer(x).flatten(1), layer)
    kept = (3 * 0.6 + 2 * 0.8) / 13**0.5  # of (3, 2)
    left = (2 * 0.6 + 4 * 0.8) / 20**0.5  # of (2, 4)
    for effect, expected in {"keeping": kept, "removal": -left, "both": kept - left}.items():
        explainer.effect = effect
        _, keep = explainer._keep(image, (), Cosine(torch.tensor([[0.6, 0.8]])))
        close(keep(rows, masks), torch.tensor([[expected]]))
    _, remove = explainer._remove(image, (), other)  # of (2, 4) and (2, 8)
    close(remove(rows, masks), torch.tensor([[(2 * 2 + 4 * 8) / (20 * 68) ** 0.5]]))


def test_a_search_ascends():
    """What agrees is written down: the share of each mask in the left half."""
    x = images(2, (16, 16))

    def agreement(rows, masks):
        return masks.highest[..., :8].mean(dim=(2, 3, 4)) - masks.highest[..., 8:].mean(
            dim=(2, 3, 4)
        )

    starts = torch.randn(2, 3, 4, 4, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    maps = Search(rounds=2, descents=3, seed=0).run(x, starts, agreement, tqdm(disable=True))
    assert maps.shape == (2, 1, 4, 4)
    assert maps[..., :2].amin() > maps[..., 2:].amax()


def test_each_round_starts_from_the_mean_of_those_before(monkeypatch):
    """Descents that come to maps that were written down, six in each round."""
    ends = torch.randn(3, 6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    origins = []

    def descend(origin, images, rows, generators, agreement):
        number, place = divmod(len(torch.cat([torch.empty(0, 1, 4, 4), *origins])), 6)
        origins.append(origin)
        assert rows.tolist() == [(place + i) // 3 for i in range(len(origin))]
        return ends[number, place : place + len(origin)]

    monkeypatch.setattr(descent, "descend", descend)
    monkeypatch.setattr(descent, "descents_at_once", lambda images: 2)
    starts = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    x = images(2, (16, 16))
    maps = Search(rounds=3, descents=3, seed=0).run(x, starts, None, tqdm(disable=True))
    first, second, third = torch.cat(origins).view(3, 2, 3, 1, 4, 4)
    close(first, standardized(starts)[:, [0, 1, 0]][:, :, None])
    means = [standardized(each.view(2, 3, 1, 4, 4).mean(dim=1)) for each in ends]
    close(second, standardized(means[0])[:, None].expand_as(second))
    close(third, standardized(means[0] + means[1])[:, None].expand_as(third))
    close(maps, standardized(sum(means)))


def test_a_step_follows_the_smoothed_gradient(monkeypatch):
    """Adam's first step has one length for all cells: those around the one that counts move too."""
    monkeypatch.setattr(descent, "STEPS", 1)
    monkeypatch.setattr(descent, "soft_masks", lambda maps, areas, size: maps[:, None])
    counts = torch.zeros(5, 5)
    counts[2, 2] = 1
    origins = standardized(torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)))
    end = descent.descend(
        origins,
        images(1, (5, 5), dtype=torch.float32),
        torch.tensor([0]),
        [content_generator(X[0], 0)],
        lambda rows, masks: (masks.highest * counts).sum(dim=(1, 2, 3, 4)),
    )
    moved = torch.zeros(5, 5)
    moved[1:4, 1:4] = descent.STEP_SIZE
    close(end, standardized(origins + moved), atol=1e-5, rtol=0)


def test_random_numbers_come_from_the_seed_and_the_image():
    def drawn(image, seed):
        search = Search(rounds=1, descents=2, seed=seed)
        return [torch.rand(1, generator=each).item() for each in search._generators(image)]

    assert drawn(X[0], 0) == drawn(X[0].clone(), 0)
    assert len({*drawn(X[0], 0), *drawn(X[1], 0), *drawn(X[0], 1)}) == 6


def test_a_smoothed_gradient_keeps_its_mean_inside():
    slope = torch.zeros(1, 1, 5, 5)
    slope[..., 2, 2] = 18
    expected = torch.zeros(1, 1, 5, 5)
    expected[..., 1:4, 1:4] = 1
    expected[..., 2, 2] = 10
    close(smoothed(slope), expected)
    close(smoothed(torch.ones(2, 1, 3, 2)), torch.ones(2, 1, 3, 2))


def test_a_zero_embedding_has_a_bounded_gradient():
    embeddings = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    rows = unit(embeddings)
    close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    rows.sum().backward()
    assert embeddings.grad.abs().max() <= 1
    black = torch.zeros(1, 3, 12, 8, dtype=torch.float64)
    black[..., :2, :2] = 1
    net = PooledNet()
    net.conv.bias.data.zero_()
    assert ExtremalFAM(net, "relu", rounds=2).attribute(black).isfinite().all()


def test_constant_maps_stay_finite():
    close(standardized(torch.full((1, 1, 3, 2), 7.0)), torch.zeros(1, 1, 3, 2))
    plain = torch.ones(1, 3, 12, 8, dtype=torch.float64)
    assert ExtremalFAM(HeadNet(), "relu", rounds=2).attribute(plain).isfinite().all()


def test_areas_are_near_those_asked_for():
    areas, fills = draw(X, [content_generator(x, 0) for x in X])
    assert fills.shape == (2, 6, 3, 12, 8)
    asked = torch.tensor(AREAS)
    assert ((areas - asked).abs() <= 0.2 * asked + 1e-6).all()
    assert not torch.equal(areas[0], areas[1])


def test_mixed_precision_is_close():
    net = PooledNet().float()
    x = X.float()
    exact = ExtremalFAM(net, "relu", rounds=1).attribute(x)
    mixed = ExtremalFAM(net, "relu", rounds=1, autocast_dtype=torch.bfloat16).attribute(x)
    assert mixed.dtype == torch.float32
    assert not torch.equal(exact, mixed)
    assert torch.corrcoef(torch.stack([exact.flatten(), mixed.flatten()]))[0, 1] > 0.8


def test_with_noise_tunnel():
    tunnel = NoiseTunnel(ExtremalFAM(HeadNet().eval(), "relu", rounds=1))
    assert tunnel.attribute(X, nt_samples=2, stdevs=0.1).shape == (2, 1, 12, 8)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 2.5}, "rounds"),
        ({"descents": 0}, "descents"),
        ({"seed": -1}, "seed"),
        ({"autocast_dtype": torch.float64}, "autocast_dtype"),
        ({"effect": "removing"}, "effect"),
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
        ({"explains": "difference", "references": images(3)}, "references"),
        ({"explains": "difference", "references": images(2, (6, 4))}, "references"),
        ({"explains": "difference", "references": torch.ones(2, 4)}, "references"),
        ({"explains": "everything"}, "explains"),
        ({"interpolate_mode": "cubic"}, "interpolate_mode"),
    ],
)
def test_wrong_data(data, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        ExtremalFAM(HeadNet(), "relu", rounds=1).attribute(**{"inputs": X} | data)


def test_a_difference_has_one_effect():
    explainer = ExtremalFAM(HeadNet(), "relu", rounds=1, effect="both")
    with pytest.raises(InputError, match="^effect"):
        explainer.attribute(X, X.flip(3), explains="difference")


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
