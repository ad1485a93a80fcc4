"""Localization: hand-computed values and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reid_explain import InputError
from reid_explain.metrics.localization import area, energy_inside, pointing_game

REGION = torch.tensor([[True, False, False], [True, True, False]])[None, None]


def as_map(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


@pytest.mark.parametrize(
    ("map_", "energy", "hit"),
    [
        (as_map([1, 2, 3], [4, 5, 5]), 10 / 20, 0.5),  # two highest pixels, one inside
        (as_map([0, 0, 0], [9, 0, 1]), 0.9, 1),
        (as_map([0, 0, 9], [0, 0, 0]), 0, 0),
        (as_map([-5, 1, -5], [3, -5, -5]), 0.75, 1),  # negative values count as 0
        (as_map([0, 0, 0], [0, 0, 0]), 0.5, 0.5),  # nothing explained: chance
        (as_map([-1, -1, -1], [-1, -1, -1]), 0.5, 0.5),
    ],
)
def test_values_by_hand(map_, energy, hit):
    assert energy_inside(map_, REGION).tolist() == [pytest.approx(energy)]
    assert pointing_game(map_, REGION).tolist() == [pytest.approx(hit)]
    assert area(REGION).tolist() == [0.5]


@pytest.mark.slow
@given(arrays(np.float32, (3, 1, 4, 5), elements=st.floats(-1, 1, width=32)), st.floats(0.5, 4))
def test_scale_does_not_matter_and_complements_add_up(values, scale):
    maps = torch.from_numpy(values)
    region = torch.arange(20).view(1, 1, 4, 5).expand(3, -1, -1, -1) % 3 == 0
    for figure in (energy_inside, pointing_game):
        value = figure(maps, region)
        torch.testing.assert_close(value + figure(maps, ~region), torch.ones(3).double())
        torch.testing.assert_close(value, figure(maps * 2, region))
        assert ((value >= 0) & (value <= 1)).all()


def test_random_maps_score_the_area():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4000, 1, 2, 3, generator=generator)
    regions = REGION.expand(4000, -1, -1, -1)
    assert energy_inside(maps, regions).mean() == pytest.approx(0.5, abs=0.01)
    assert pointing_game(maps, regions).mean() == pytest.approx(0.5, abs=0.03)


def test_errors():
    maps = torch.rand(2, 1, 2, 3)
    with pytest.raises(InputError, match=r"maps: got \(2, 1, 2, 3\).*shape of regions"):
        energy_inside(maps, REGION)
    with pytest.raises(InputError, match="regions: got"):
        pointing_game(maps, maps)
    with pytest.raises(InputError, match="maps: got 6 NaN"):
        pointing_game(torch.full((1, 1, 2, 3), float("nan")), REGION)
