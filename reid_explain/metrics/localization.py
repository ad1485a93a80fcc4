"""How much of each map (B, 1, H, W) lies in its region (B, 1, H, W), bool; one value per map.

Shapes that differ and maps that are not finite raise ``InputError``.

Sources: Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018 (pointing
game); Wang et al., Score-CAM, CVPR workshops 2020, section 4.3 (energy-based pointing game).
"""

import torch
from torch import Tensor

from reid_explain.checks import check_maps, describe
from reid_explain.errors import InputError


def area(regions: Tensor) -> Tensor:
    """Return the share (B,) of the image that each region covers: chance for both scores below.

    Example:
        >>> area(torch.tensor([[[[True, False], [False, False]]]]))
        tensor([0.2500], dtype=torch.float64)
    """
    return check_regions(regions).double().mean(dim=(1, 2, 3))


def energy_inside(maps: Tensor, regions: Tensor) -> Tensor:
    """Return the share (B,) of each map's positive mass that lies in its region, in [0, 1].

    Negative values count as 0; a map without positive mass scores the region's area.

    Example:
        >>> maps = torch.tensor([[[[3.0, 1.0], [0.0, -2.0]]]])
        >>> energy_inside(maps, torch.tensor([[[[True, False], [False, False]]]]))  # chance: 0.25
        tensor([0.7500], dtype=torch.float64)
    """
    maps = _check(maps, regions).clamp_min(0)
    total = maps.sum(dim=(1, 2, 3))
    inside = (maps * regions).sum(dim=(1, 2, 3))
    return torch.where(total > 0, inside / total.where(total > 0, 1), area(regions))


def pointing_game(maps: Tensor, regions: Tensor) -> Tensor:
    """Return whether (B,) each map's highest pixel lies in its region: 0 or 1.

    Where several pixels are highest, it is the share of them that lies in the region.

    Example:
        >>> maps = torch.tensor([[[[3.0, 1.0], [0.0, 3.0]]]])  # two places are highest
        >>> pointing_game(maps, torch.tensor([[[[True, False], [False, False]]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    maps = _check(maps, regions)
    highest = (maps == maps.amax(dim=(1, 2, 3), keepdim=True)).double()
    return (highest * regions).sum(dim=(1, 2, 3)) / highest.sum(dim=(1, 2, 3))


def check_regions(regions: Tensor) -> Tensor:
    """Return ``regions`` if it is a bool tensor (B, 1, H, W)."""
    if regions.dim() != 4 or regions.shape[1] != 1 or regions.dtype != torch.bool:
        raise InputError("regions", describe(regions), "(B, 1, H, W) bool")
    return regions


def _check(maps: Tensor, regions: Tensor) -> Tensor:
    """Return maps in double precision, if they fit the regions."""
    maps = check_maps("maps", maps).double()
    if maps.shape != check_regions(regions).shape:
        raise InputError("maps", describe(maps), f"the shape of regions, {tuple(regions.shape)}")
    return maps
