"""Faithfulness: every figure by hand, against plain loops, and its symmetries."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nets import HeadNet, images

from reid_explain import InputError, blurred
from reid_explain.fills import AREAS, FILLS, mean_color, shuffled_patches
from reid_explain.metrics.faithfulness import (
    area_under_curve,
    composite,
    deletion_curve,
    drop,
    explanation_mask,
    increase,
    insertion_curve,
    kept_area,
    pixel_ranks,
    random_phase_maps,
    top_area_masks,
)
from reid_explain.retrieval import Embedded, Gallery

NAN = float("nan")
close = torch.testing.assert_close


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(a: torch.Tensor, expected: list) -> None:
    close(a.double(), torch.tensor(expected, dtype=torch.float64), equal_nan=True)


maps_of_any_kind = arrays(np.float64, (2, 1, 5, 4), elements=st.integers(-3, 3).map(float))
smooth = images(3, (8, 6), seed=4).mean(dim=1, keepdim=True)


# Masks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_explanation_mask_by_hand(dtype):
    # Stretched: 0, .29, .3, .59, .6, 1. The thresholds belong to the upper side.
    maps = torch.tensor([[0, 29, 30], [59, 60, 100]], dtype=dtype)[None, None] - 50
    masks = explanation_mask(maps)
    assert masks.dtype == dtype
    close(masks, torch.tensor([[0, 0, 0.9], [0.9, 1, 1]], dtype=dtype)[None, None])
    assert kept_area(masks).tolist() == [pytest.approx((0.9 + 0.9 + 1 + 1) / 6)]
    other = explanation_mask(maps, high=1, low=0.6, kept=0.5)
    assert other.flatten().tolist() == [0, 0, 0, 0, 0.5, 1]


def test_a_constant_map_explains_nothing():
    for value in (0.0, 1.0, -3.0):
        assert explanation_mask(torch.full((2, 1, 3, 4), value)).eq(0).all()


def test_each_map_is_stretched_by_itself():
    both = torch.cat([smooth[:1], 100 * smooth[1:2] + 7])
    alone = torch.cat([explanation_mask(smooth[:1]), explanation_mask(smooth[1:2])])
    close(explanation_mask(both), alone)


@pytest.mark.slow
@given(maps_of_any_kind, st.permutations(range(20)))
def test_masks_do_not_care_where_pixels_are(values, order):
    maps = torch.from_numpy(values)
    moved = maps.flatten(2)[..., order].view_as(maps)
    expected = explanation_mask(maps).flatten(2)[..., order].view_as(maps)
    assert torch.equal(explanation_mask(moved), expected)
    assert torch.equal(kept_area(expected), kept_area(explanation_mask(moved)))


@pytest.mark.slow
@given(maps_of_any_kind, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_top_area_masks_keep_the_highest_pixels_and_exactly_so_many(values, fractions):
    maps = torch.from_numpy(values)
    masks = top_area_masks(maps, fractions)
    assert masks.shape == (2, len(fractions), 1, 5, 4)
    assert masks.dtype == torch.bool
    for map_, of_map in zip(maps, masks, strict=True):
        for fraction, mask in zip(fractions, of_map, strict=True):
            assert mask.sum() == round(fraction * 20)
            if 0 < mask.sum() < 20:
                assert map_[mask].min() >= map_[~mask].max()


@pytest.mark.slow
@given(maps_of_any_kind)
def test_only_the_order_of_pixels_counts(values):
    maps = torch.from_numpy(values)
    for transformed in (maps.exp(), 2 * maps - 5, maps**3):
        assert torch.equal(top_area_masks(maps), top_area_masks(transformed))


def test_top_area_masks_by_hand():
    maps = torch.tensor([[5.0, 1.0], [4.0, 9.0]])[None, None]
    same(pixel_ranks(maps), [[[[1, 3], [2, 0]]]])
    same(
        top_area_masks(maps, (0, 0.25, 0.75, 1)),
        [[[[[0, 0], [0, 0]]], [[[0, 0], [0, 1]]], [[[1, 0], [1, 1]]], [[[1, 1], [1, 1]]]]],
    )
    assert AREAS == (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    assert top_area_masks(maps).sum(dim=(2, 3, 4)).tolist() == [[0, 0, 1, 1, 2, 3]]


def test_equal_pixels_favour_no_side_and_no_map():
    constant = torch.zeros(2, 1, 64, 32)
    (first, second) = top_area_masks(constant, (0.3,))[:, 0, 0]
    assert torch.equal(first, second)
    assert first.sum() == round(0.3 * 64 * 32)
    for half in (first[:32], first[32:], first[:, :16], first[:, 16:]):
        assert half.float().mean() == pytest.approx(0.3, abs=0.05)
    half_constant = torch.zeros(1, 1, 64, 32)
    half_constant[..., :8] = torch.rand(64, 8, generator=torch.Generator().manual_seed(0)) + 1
    rest = top_area_masks(half_constant, (0.5,))[0, 0, 0][:, 8:]
    assert rest.sum() == 64 * 8
    assert rest[:32].float().mean() == pytest.approx(1 / 3, abs=0.05)


def test_ties_need_no_global_random_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = pixel_ranks(torch.zeros(1, 1, 8, 8))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, pixel_ranks(torch.zeros(1, 1, 8, 8)))


def test_bad_settings():
    maps = torch.rand(1, 1, 3, 3)
    for setting in ({"low": 0}, {"low": 0.7}, {"high": 1.1}, {"kept": 1.5}, {"kept": -0.1}):
        with pytest.raises(InputError, match="low, high: got|kept: got"):
            explanation_mask(maps, **setting)
    for fractions in ((), (0.5, 1.1), (-0.1,)):
        with pytest.raises(InputError, match="fractions: got"):
            top_area_masks(maps, fractions)
    for wrong in (torch.rand(1, 2, 3, 3), torch.rand(3, 3), torch.full((1, 1, 2, 2), NAN)):
        for function in (explanation_mask, top_area_masks, pixel_ranks):
            with pytest.raises(InputError, match="maps: got"):
                function(wrong)


# Composites and fills


def test_composite_by_hand():
    x, b = torch.full((1, 3, 1, 3), 10.0), torch.full((1, 3, 1, 3), 2.0)
    result = composite(x, torch.tensor([0, 0.9, 1.0])[None, None, None], b)
    close(result, torch.tensor([2, 9.2, 10]).expand(1, 3, 1, 3))


@given(st.integers(0, 9))
def test_complementary_masks_share_an_image(seed):
    x, fill = images(2, seed=seed), images(2, seed=seed + 1)
    mask = torch.rand(2, 1, 12, 8, generator=torch.Generator().manual_seed(seed)) > 0.4
    assert torch.equal(composite(x, mask, fill), composite(fill, ~mask, x))
    close(composite(x, mask, fill) + composite(x, ~mask, fill), x + fill)
    close(kept_area(mask) + kept_area(~mask), column(1, 1))
    assert torch.equal(composite(x, torch.ones(2, 1, 12, 8), fill), x)
    assert torch.equal(composite(x, torch.zeros(2, 1, 12, 8), fill), fill)


def test_composite_refuses_what_does_not_fit():
    x, mask = images(2), torch.ones(2, 1, 12, 8)
    with pytest.raises(InputError, match="fill: got"):
        composite(x, mask, x[:1])
    with pytest.raises(InputError, match=r"masks: got \(2, 3, 12, 8\).*\(2, 1, 12, 8\)"):
        composite(x, mask.expand(2, 3, 12, 8), x)


@pytest.mark.parametrize("name", FILLS)
def test_fills_do_not_depend_on_the_batch_or_the_random_state(name):
    x, others = images(3, (16, 9)), images(3, (16, 9), seed=1)
    state = torch.get_rng_state()
    fill = FILLS[name](x, others)
    assert torch.equal(state, torch.get_rng_state())
    assert fill.shape == x.shape
    assert fill.dtype == x.dtype
    assert fill.isfinite().all()
    close(FILLS[name](x.flip(0), others.flip(0)), fill.flip(0))
    close(FILLS[name](x[1:2], others[1:2]), fill[1:2])
    assert not torch.allclose(fill, x)


def test_what_the_fills_are():
    x, others = images(2), images(2, seed=1)
    assert set(FILLS) == {"blur", "mean", "other", "shuffle"}
    assert torch.equal(FILLS["blur"](x, others), blurred(x))
    assert torch.equal(FILLS["other"](x, others), others)
    assert torch.equal(FILLS["shuffle"](x, others), shuffled_patches(x, patch_size=16))
    for colour, image in zip(mean_color(x), x, strict=True):
        for plane, channel in zip(colour, image, strict=True):
            close(plane, torch.full_like(plane, channel.sum() / channel.numel()))
    assert torch.equal(FILLS["mean"](x, others), mean_color(x))


def patches_of(image: torch.Tensor, size: int) -> list[tuple[float, ...]]:
    _, height, width = image.shape
    return [
        tuple(image[:, y : y + size, x : x + size].flatten().tolist())
        for y in range(0, height, size)
        for x in range(0, width, size)
    ]


@pytest.mark.parametrize(("size", "patch"), [((8, 4), 2), ((6, 9), 3), ((4, 4), 2)])
def test_shuffled_patches_all_change_places_and_stay_whole(size, patch):
    x = images(2, size)
    shuffled = shuffled_patches(x, patch)
    for before, after in zip(x, shuffled, strict=True):
        before, after = patches_of(before, patch), patches_of(after, patch)
        assert sorted(before) == sorted(after)
        assert all(a != b for a, b in zip(before, after, strict=True))
    assert not torch.equal(shuffled, shuffled_patches(x, patch, seed=1))
    orders = [patches_of(x[i], patch).index(patches_of(shuffled[i], patch)[0]) for i in (0, 1)]
    assert size != (8, 4) or orders[0] != orders[1]  # each image has its own


@pytest.mark.parametrize("size", [(7, 5), (1, 5), (5, 1), (16, 9), (6, 6)])
def test_shuffled_patches_of_any_size(size):
    x = images(2, size)
    shuffled = shuffled_patches(x)
    assert shuffled.shape == x.shape
    assert torch.isin(shuffled, x).all()
    assert not torch.equal(shuffled, x)


# Random controls


@pytest.mark.parametrize("size", [(8, 6), (16, 8), (7, 5), (1, 4), (8, 3)])
def test_random_phase_maps_have_the_maps_spectrum(size):
    maps = images(3, size).mean(dim=1, keepdim=True) + 2
    control = random_phase_maps(maps, (0, 1, 2))
    for one, other in zip(maps.numpy(), control.numpy(), strict=True):
        amplitude, expected = np.abs(np.fft.fft2(other[0])), np.abs(np.fft.fft2(one[0]))
        np.testing.assert_allclose(amplitude, expected, atol=1e-9)
    close(control.mean(dim=(2, 3)), maps.mean(dim=(2, 3)))
    close(control.var(dim=(2, 3)), maps.var(dim=(2, 3)))
    assert not torch.allclose(control, maps, atol=1e-3)


def test_random_phase_maps_have_the_maps_autocorrelation_and_lie_elsewhere():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(8.0), indexing="ij")
    blob = torch.exp(-((y - 4) ** 2 + (x - 2) ** 2) / 6)[None, None].expand(200, -1, -1, -1)
    control = random_phase_maps(blob, range(200))
    for shift in ((1, 0), (0, 1), (3, 2)):
        moved = control.roll(shift, dims=(2, 3))
        expected = (blob * blob.roll(shift, dims=(2, 3))).mean()
        close((control * moved).mean(dim=(1, 2, 3)), expected.expand(200))
    # On average over the seeds nothing is anywhere.
    assert control.mean(dim=0).std() < 0.15 * blob[0].std()
    correlation = torch.corrcoef(torch.stack([control.mean(dim=0), blob[0]]).flatten(1))[0, 1]
    assert abs(correlation) < 0.5


def test_random_phase_maps_depend_on_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    control = random_phase_maps(smooth, (5, 6, 5))
    assert torch.equal(state, torch.get_rng_state())
    close(random_phase_maps(smooth[1:], (6, 5)), control[1:])
    assert not torch.allclose(random_phase_maps(smooth, (6, 6, 5))[0], control[0])
    # Methods meet the same chance: the phases do not depend on the map.
    close(random_phase_maps(3 * smooth + 1, (5, 6, 5)), 3 * control + 1)
    constant = torch.full((1, 1, 4, 3), 2.5)
    close(random_phase_maps(constant, (0,)), constant)
    assert random_phase_maps(smooth.float(), (0, 1, 2)).dtype == torch.float32
    with pytest.raises(InputError, match="seeds: got 2 seeds, expected one for each of 3"):
        random_phase_maps(smooth, (1, 2))


# Drops


def test_drop_by_hand():
    original = column(0.8, 0.8, 0.8, 0.5)
    explained = column(0.6, 0.9, 0.3, 0.5)
    baseline = column(0.4, 0.4, 0.4, 0.25)
    # The masked image better than the image: 0. Worse than the fill: above 1.
    same(drop(original, explained, baseline), [0.5, 0, 1.25, 0])
    several = torch.stack([explained, original, baseline], dim=1)
    same(drop(original, several, baseline), [[0.5, 0, 1], [0, 0, 1], [1.25, 0, 1], [0, 0, 1]])
    same(drop(original, several, baseline).mean(dim=1), [0.5, 1 / 3, 0.75, 1 / 3])


def test_a_fill_that_does_no_harm_leaves_the_query_out():
    same(drop(column(0.5, 0.5, 0.5), column(0.1, 0.1, 0.1), column(0.5, 0.6, 0.3)), [NAN, NAN, 2])
    curves = torch.full((2, 3), 0.1).double()
    same(drop(column(0.5, 0.5), curves, column(0.5, 0.3)).mean(dim=1), [NAN, 2])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_query_without_a_match_is_left_out(missing):
    figures = [column(0.8, 0.8), column(0.6, 0.6), column(0.4, 0.4)]
    figures[missing][0] = NAN
    same(drop(*figures), [NAN, 0.5])
    if missing < 2:
        same(increase(figures[0], figures[1]), [NAN, 0])


def test_increase_by_hand():
    same(increase(column(0.5, 0.5, 0.5, NAN), column(0.6, 0.5, 0.4, 0.5)), [1, 0, 0, NAN])
    both = torch.stack([column(0.6, 0.2), column(0.1, 0.7)], dim=1)
    same(increase(column(0.5, 0.5), both), [[1, 0], [0, 1]])


def test_figures_must_belong_together():
    q = column(0.1, 0.2)
    for figures in ((q, q[:1], q), (q, q, q[:1]), (q[:, None], q, q), (q, q[None], q)):
        with pytest.raises(InputError, match="original, explained, baseline: got"):
            drop(*figures)
    with pytest.raises(InputError, match="original, explained, baseline: got"):
        increase(q, q[:1])


def test_the_whole_image_loses_nothing_and_the_fill_everything():
    """AS Drop and AP Drop through masks, fill and model: 0 for mask 1, 1 for mask 0."""
    net = HeadNet().eval()
    x = images(6, seed=3)
    fill = torch.zeros_like(x)
    labels = torch.tensor([1, 1, 1, 2, 2, 2]), torch.tensor([1, 2, 3, 1, 2, 3])
    gallery = Gallery(Embedded(net(x).detach(), *labels))
    full, empty = torch.ones(6, 1, 12, 8), torch.zeros(6, 1, 12, 8)

    def query(mask: torch.Tensor) -> Embedded:
        return Embedded(net(composite(x, mask, fill)).detach(), *labels)

    scores = [gallery.scores(query(mask)) for mask in (full, empty)]
    for original, baseline in zip(*scores, strict=True):
        counted = original > baseline
        assert counted.any()
        assert drop(original, original, baseline)[counted].eq(0).all()
        assert drop(original, baseline, baseline)[counted].eq(1).all()


@given(st.permutations(range(4)))
def test_queries_do_not_know_each_other(order):
    figures = [column(0.9, 0.8, 0.7, 0.2), column(0.5, 0.9, 0.1, 0.1), column(0.4, 0.3, 0.2, 0.6)]
    close(drop(*(f[order] for f in figures)), drop(*figures)[order], equal_nan=True)


# Curves


def test_area_under_curve_by_hand():
    # Trapezoids .1 x 3/2 and .3 x 5/2 over a range of .4.
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]).double()
    fractions = column(0.1, 0.2, 0.5)
    same(area_under_curve(fractions, values), [(0.15 + 0.75) / 0.4, 4])
    same(area_under_curve(fractions, values[0]), (0.15 + 0.75) / 0.4)
    wrong = [(fractions[:2], values), (fractions[:1], values[:, :1]), (fractions.flip(0), values)]
    for arguments in wrong:
        with pytest.raises(InputError, match="fractions: got"):
            area_under_curve(*arguments)


def plain_curve(net, image, map_, fill, steps, insertion) -> list[float]:
    """RISE's loop: one pixel after the other, the highest first (all values differ)."""
    highest_first = sorted(
        ((y, x) for y in range(map_.shape[0]) for x in range(map_.shape[1])),
        key=lambda place: -float(map_[place]),
    )
    start, finish = (fill, image) if insertion else (image, fill)
    own = net(image[None])[0].detach().numpy()
    curve = []
    for step in range(steps + 1):
        partial = start.clone()
        for y, x in highest_first[: round(step * len(highest_first) / steps)]:
            partial[:, y, x] = finish[:, y, x]
        other = net(partial[None])[0].detach().numpy()
        curve.append(own @ other / np.linalg.norm(own) / np.linalg.norm(other))
    return curve


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize(("curve", "insertion"), [(insertion_curve, True), (deletion_curve, False)])
def test_curves_agree_with_a_plain_loop(curve, insertion, batch_size):
    net, x = HeadNet().eval(), images(3)
    maps, fill = images(3, seed=8).mean(dim=1, keepdim=True), images(3, seed=9)
    result = curve(net, x, maps, fill, steps=5, batch_size=batch_size)
    expected = [
        plain_curve(net, *row, 5, insertion) for row in zip(x, maps[:, 0], fill, strict=True)
    ]
    same(result, expected)
    close(result[:, -1 if insertion else 0], column(1, 1, 1))


def test_deletion_is_insertion_of_the_map_upside_down_read_backwards():
    net, x, fill = HeadNet().eval(), images(2), images(2, seed=9)
    maps = images(2, seed=8).mean(dim=1, keepdim=True)
    deleted = deletion_curve(net, x, maps, fill, steps=6)
    close(deleted, insertion_curve(net, x, -maps, fill, steps=6).flip(1))


def test_curves_bound_the_batch_and_leave_no_graph():
    sizes = []
    net = HeadNet().eval()

    def forward(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        assert not torch.is_grad_enabled()
        return net(batch)

    curve = insertion_curve(forward, images(5), smooth_maps(5), images(5), steps=3, batch_size=2)
    assert max(sizes) == 2
    assert sum(sizes) == 5 + 5 * 4
    assert not curve.requires_grad
    assert torch.is_grad_enabled()


def smooth_maps(batch: int) -> torch.Tensor:
    return images(batch, seed=2).mean(dim=1, keepdim=True)


@pytest.mark.slow
@given(st.floats(-30, 3))
def test_curves_do_not_depend_on_the_scale_of_embeddings(exponent):
    x, fill, maps = images(1), images(1, seed=9), smooth_maps(1)
    net = HeadNet().eval()
    assume(exponent != 0)
    scaled = insertion_curve(lambda b: net(b) * 10**exponent, x, maps, fill, steps=3)
    close(scaled, insertion_curve(net, x, maps, fill, steps=3))


def test_a_partial_image_without_an_embedding_has_cosine_0():
    x, fill = images(1).abs() + 1, torch.zeros(1, 3, 12, 8).double()
    curve = insertion_curve(lambda b: b.mean(dim=(2, 3)), x, smooth_maps(1), fill, steps=2)
    assert curve[0, 0] == 0
    assert curve[0, -1] == pytest.approx(1)


def test_curves_refuse_what_does_not_fit():
    net, x, maps = HeadNet().eval(), images(2), smooth_maps(2)
    for curve in (insertion_curve, deletion_curve):
        with pytest.raises(InputError, match="fill: got"):
            curve(net, x, maps, x[:1])
        with pytest.raises(InputError, match="maps: got"):
            curve(net, x, maps[:1], x)
        with pytest.raises(InputError, match="steps: got 0"):
            curve(net, x, maps, x, steps=0)
        with pytest.raises(InputError, match="batch_size: got 0"):
            curve(net, x, maps, x, batch_size=0)
        with pytest.raises(InputError, match="forward_func: got the zero vector"):
            curve(lambda b: b.mean(dim=(2, 3)) * 0, x, maps, x)
        with pytest.raises(InputError, match="forward_func: got .* NaN"):
            curve(lambda b: b.mean(dim=(2, 3)) * NAN, x, maps, x)
