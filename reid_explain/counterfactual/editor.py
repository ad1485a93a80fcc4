"""A network that gives a pictured person attributes of another, everything else as it was."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_explain.checks import describe
from reid_explain.errors import InputError

SIZE = (128, 64)
"""Height and width at which images are read."""
CODE, SCENE, HIDDEN = 16, 16, 64


class Reading(NamedTuple):
    """What an editor reads off B images, for G groups of attributes, T of them toggled.

    ``codes`` (B, G, 16), of the values; ``scene`` (B, 16), of camera and light; ``masks``
    (B, G, h, w), 0 to 1: where a group would change; ``paint`` (B, T, 3, h, w): what a toggled
    one would show there; ``shades`` (B, G, 3): the mean color under each mask.
    """

    codes: Tensor
    scene: Tensor
    masks: Tensor
    paint: Tensor
    shades: Tensor

    def rows(self, index: Tensor | slice) -> "Reading":
        """Return the images that ``index`` picks."""
        return Reading(*(part[index] for part in self))


class AttributeEditor(nn.Module):
    r"""Edits images X as if the person had the gallery person's value of a group of attributes.

    .. math:: X_{k \leftarrow Y} = X + m_k(X) \, (g \, X + b - X) \quad \text{or} \quad
        X + m_k(X) \, (P_k(X) - X)

    A group of several attributes is *dyed*: the colors of a garment, set to the other's by a gain
    g and an offset b of the channels, which depend on both images. A group of one is *toggled*: a
    paint P covers what the other does not have, or adds what it has. The mask m, the paint and
    codes of the values come from one U-shaped network, which reads images at 128 x 64.

    Args:
        groups: The attributes of each of the G groups, dyed ones first.

    Raises:
        InputError: No groups, or a dyed one after a toggled one.
    """

    place: Tensor

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.groups = {name: tuple(members) for name, members in groups.items()}
        sizes = [len(members) for members in self.groups.values()]
        self.dyed = sum(size > 1 for size in sizes)
        self.toggled = len(sizes) - self.dyed
        if not self.toggled or any(size != 1 for size in sizes[self.dyed :]):
            raise InputError("groups", dict(groups), "dyed groups, then toggled ones of a name")
        count, (fine, middle, coarse, out) = len(sizes), (32, 64, 128, 48)
        self.down1 = nn.Sequential(_conv(5, fine, 2), _conv(fine, fine))
        self.down2 = nn.Sequential(_conv(fine, middle, 2), _Block(middle))
        self.down3 = nn.Sequential(_conv(middle, coarse, 2), _Block(coarse), _Block(coarse))
        self.attention, self.value = nn.Conv2d(coarse, count, 1), nn.Conv2d(coarse, coarse, 1)
        self.code = nn.Parameter(torch.randn(count, 2 * coarse, CODE) / (2 * coarse) ** 0.5)
        self.code_bias = nn.Parameter(torch.zeros(count, CODE))
        self.scene = nn.Linear(coarse, SCENE)
        self.up3, self.mix2 = nn.Conv2d(coarse, middle, 1), _Block(middle)
        self.up2, self.skip1 = nn.Conv2d(middle, out, 1), nn.Conv2d(fine, out, 1)
        self.mix1 = _conv(out, out)
        self.mask = nn.Conv2d(out, 4 * count, 1)
        self.paint = nn.Conv2d(out, 12 * self.toggled, 1)
        self.classes = nn.ModuleList(
            nn.Linear(CODE, 1 if size == 1 else size + 1) for size in sizes
        )
        width = 2 * CODE + 2 * 3 + 2 * SCENE
        self.dye = nn.ModuleList(_dye(width) for _ in range(self.dyed))
        rows, columns = (torch.linspace(-1, 1, length) for length in SIZE)
        self.register_buffer("place", torch.stack(torch.meshgrid(rows, columns, indexing="ij")))
        self.mask.bias.data.fill_(-3.0)  # type: ignore[union-attr]  # Masks start empty.

    def read(self, images: Tensor) -> Reading:
        """Read RGB images (B, 3, H, W) with values from 0 to 1, of any size."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise InputError("images", describe(images), "RGB images (B, 3, H, W)")
        images = F.interpolate(images, SIZE, mode="area")
        place = self.place.to(images).expand(len(images), -1, -1, -1)
        first = self.down1(torch.cat([(images - 0.45) * 4, place], dim=1))
        second = self.down2(first)
        third = self.down3(second)
        shares = self.attention(third).flatten(2).float().softmax(-1)
        values = torch.einsum("bgp,bcp->bgc", shares, self.value(third).flatten(2).float())
        mean = third.float().mean(dim=(2, 3))
        found = torch.cat([values, mean[:, None].expand_as(values)], dim=2)
        codes = F.relu(torch.einsum("bgc,gck->bgk", found, self.code) + self.code_bias)
        upper = self.mix2(_twice(self.up3(third)) + second)
        upper = self.mix1(_twice(self.up2(upper)) + self.skip1(first))
        masks = F.pixel_shuffle(self.mask(upper).float(), 2).sigmoid()
        paint = F.pixel_shuffle(self.paint(upper).float(), 2).sigmoid()
        shades = torch.einsum("bchw,bghw->bgc", images, masks)
        shades = shades / (masks.sum(dim=(2, 3)) + 0.01)[..., None]
        paint = paint.view(len(paint), self.toggled, 3, *paint.shape[2:])
        return Reading(codes.float(), self.scene(mean).float(), masks, paint, shades)

    def logits(self, codes: Tensor) -> list[Tensor]:
        """Return the logits of the values, of codes (B, G, 16), group by group.

        (B,) that a toggled attribute is there; (B, M + 1) of the M colors and of none of them.
        """
        found = [classes(codes[:, k]) for k, classes in enumerate(self.classes)]
        return [*found[: self.dyed], *(logit[:, 0] for logit in found[self.dyed :])]

    def differs(self, query: Reading, gallery: Reading) -> Tensor:
        """Return the probability that the two people differ in a group, (B, G); 1 if dyed."""
        one, other = (
            torch.stack(self.logits(side.codes)[self.dyed :], dim=1).sigmoid()
            for side in (query, gallery)
        )
        toggled = one * (1 - other) + (1 - one) * other
        return torch.cat([torch.ones_like(toggled[:, :1]).expand(-1, self.dyed), toggled], dim=1)

    def edit(self, images: Tensor, query: Reading, gallery: Reading, group: int) -> Tensor:
        """Return images (B, 3, H, W), read as ``query``, with one group changed.

        A dyed group gets the shade of ``gallery``; a toggled one is switched, whatever the
        gallery has (``differs`` tells whether it does).
        """
        mask = _resized(query.masks[:, group : group + 1], images)
        if group < self.dyed:
            gain, offset = self.dyes(query, gallery, group)
            return images + mask * (images * (gain - 1) + offset)
        paint = _resized(query.paint[:, group - self.dyed], images)
        return images + mask * (paint - images)

    def dyes(self, query: Reading, gallery: Reading, group: int) -> tuple[Tensor, Tensor]:
        """Return gain and offset, (B, 3, 1, 1), from the query's shade to the gallery's.

        The gallery's mean color, corrected for light and camera; of equal readings 1 and 0.
        """
        own = query.codes[:, group], query.shades[:, group], query.scene

        def correction(side: Reading) -> Tensor:
            its = side.codes[:, group], side.shades[:, group], side.scene
            parts = [part for pair in zip(own, its, strict=True) for part in pair]
            out: Tensor = self.dye[group](torch.cat(parts, dim=1))
            return out

        found = correction(gallery) - correction(query)
        gain = found[:, :3].clamp(-4, 4).exp()
        offset = gallery.shades[:, group] - gain * query.shades[:, group] + found[:, 3:]
        return gain[..., None, None], offset[..., None, None]


class _Block(nn.Module):
    """Two convolutions beside the identity, and a shift by what the whole map shows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.whole = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        own = self.norm(self.second(self.first(x)))
        whole = self.whole(torch.cat([own.mean(dim=(2, 3)), own.amax(dim=(2, 3))], dim=1))
        return F.relu(x + own + whole[..., None, None])


def _conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _dye(width: int) -> nn.Sequential:
    first, second = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(HIDDEN, 6))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def _resized(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps, images.shape[2:], mode="bilinear").to(images)
