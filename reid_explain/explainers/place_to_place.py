"""Place to place: the similarity of two images as a sum over pairs of their places."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, replace
from reid_explain.checks import at_least_float32, check_at_least, check_images
from reid_explain.errors import InputError
from reid_explain.explainers.base import Captured, per_image, rows_of
from reid_explain.explainers.pairs import (
    PairExplainer,
    PairExplanation,
    Places,
    Side,
    inner_products,
)
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.objectives import Objective, Verification
from reid_explain.vectors import cosine, unit

STEPS, MOST_STEPS = 8, 64
"""Steps of the path where what lies behind the layer is not linear, at first and at most."""
TOLERANCE = 0.015
"""What the sum over all places may miss of the way, as a share of it, before steps are doubled."""
WITHOUT_INFLUENCE = "a layer from which forward_func computes the result, in torch"
CORNER = 32
"""Side of the image in pixels that is passed where nothing but the layer's output is read."""
BLOCK = 2**25
"""Bytes of layer outputs in one pass."""
ROUNDING = 10
"""Differences below this many units of the last place are rounding."""
SPREAD = 1.0
"""Width in places of the neighborhood that has to match along with two places."""


class Paths(NamedTuple):
    """The ways from the layer's output for the baseline to those for N images.

    ``behind`` maps points (n, E) to results (n, D); ``start`` and ``end`` are points (N, E);
    ``parts`` maps images (n,) of N and places (n,) of ``total`` to their parts of the way (n, E).
    ``by_channel`` tells that result d reads channel d of the map, and no other.
    """

    behind: Callable[[Tensor], Tensor]
    start: Tensor
    end: Tensor
    parts: Callable[[Tensor, Tensor], Tensor]
    places: int
    total: int
    dtype: torch.dtype
    by_channel: bool = False


@EXPLAINERS.register
class PlaceToPlace(PairExplainer):
    r"""Contributions of pairs of places that add up to the cosine similarity of two images.

    The embedding is a sum of one vector for each place p of the layer's map, and so the cosine is
    a sum over pairs of places:

    .. math:: f(X) = \sum_p g_p, \quad
        g_p = \int_0^1 J(A^0 + \alpha (A - A^0)) (A - A^0)_p \, d\alpha + \frac{1}{Z} r, \quad
        \cos(f(X), f(Y)) = \sum_{pq} \frac{\langle g_p, g'_q \rangle}{\|f(X)\| \|f(Y)\|}

    with J the Jacobian of the embedding at the layer and :math:`A^0` the layer's output for the
    baseline. The rest r belongs to no place and is shared equally: the baseline's embedding (a
    bias, say), and what class and register tokens add. Where the model is linear behind the layer
    (average pooling and a batch norm or linear neck), which is measured, J is constant and the sum
    exact; else the integral is a sum of ``steps`` central differences, and
    :attr:`.PairExplanation.error` says what it misses. No gradients are needed; where each number
    of the embedding reads one channel (GeM and a batch norm), one gradient of a step does for all
    places.

    Two places go together if, up to rounding, their vectors and those of the places around them
    do: the affinity is the sum of :math:`\cos(g_{p+d}, g'_{q+d})` over shifts d with Gaussian
    weights, of vectors without their mean over the image.

    ``attribute`` returns the query's marginal: signed maps that add up to the cosine, or with a
    threshold to what it exceeds that by. Then each place has to bring its share of the threshold:
    what speaks for accepting the pair is positive, what speaks against it negative
    (:class:`.Verification`).

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`. For a vision
            transformer take the output of a block: behind it the embedding depends on nothing
            else.
        steps: Steps along the path; None for one where the model is linear behind the layer, and
            elsewhere as many as the sum needs, from 8 on.
        baseline: The image without content, where the path starts: a number, or an image
            (C, H, W). 0 is the mean color of normalized images.
        threshold: Cosine above which a pair is accepted; 0 for maps that add up to the cosine.

    Raises:
        InputError: If a setting is out of its range or the layer is not in the model.

    Sources: Stylianou et al., Visualizing deep similarity networks, WACV 2019, for average
    pooling; Möller et al., Approximate attributions for off-the-shelf Siamese transformers, EACL
    2024, for integrated Jacobians.

    Example:
        >>> import torch
        >>> from reid_explain import PlaceToPlace
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> query, gallery = torch.zeros(2, 1, 3, 2, 1)
        >>> query[0, 0, 0] = query[0, 1, 1] = 1  # red above, green below
        >>> gallery[0, 2, 0] = gallery[0, 0, 1] = 1  # blue above, red below
        >>> found = PlaceToPlace(mean_color, layer).explain(query, gallery)
        >>> found.contributions[0, :, 0, :, 0]  # red goes with red
        tensor([[0.0000, 0.5000],
                [0.0000, 0.0000]])
        >>> found.similarity, bool(found.error.abs() < 1e-6)
        (tensor([0.5000]), True)
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        steps: int | None = None,
        baseline: float | Tensor = 0.0,
        threshold: float = 0.0,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        if steps is not None:
            check_at_least("steps", steps, 1)
        self.steps = steps
        self.baseline = baseline
        self.threshold = threshold

    def _objective(self, references: Any, forward_args: Any) -> Objective:
        return Verification(references, forward_args, self.threshold)

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        score = objective.prepare(self._batch(images, args))
        maps = []
        for rows, places in self._places(Side(images, args)):
            own = objective.check(places.embeddings)
            with torch.enable_grad():
                leaf = own.clone().requires_grad_()
                (direction,) = torch.autograd.grad(score(leaf, own, rows).sum(), leaf)
            maps.append(torch.einsum("bhwd,bd->bhw", places.vectors, direction)[:, None])
        return torch.cat(maps)

    def _features(self, side: Side) -> Places:
        found = (places for _, places in self._places(side))
        return Places(*map(torch.cat, zip(*found, strict=True)))

    def _pairs(self, _sides: Sequence[Side], places: Sequence[Places]) -> PairExplanation:
        first, second = places
        similarity = cosine(first.embeddings, second.embeddings)
        lengths = first.embeddings.norm(dim=1) * second.embeddings.norm(dim=1)
        products = inner_products(first.vectors, second.vectors)
        alike = inner_products(*(_directions(side.vectors) for side in (first, second)))
        return PairExplanation(
            products / lengths[:, None, None, None, None], neighborhoods(alike, SPREAD), similarity
        )

    def _places(self, side: Side) -> Iterator[tuple[Tensor, Places]]:
        """Yield rows of B images, and what each of their places adds to their embeddings."""
        images, args = side
        starts = self._starts(images, args)
        paths_of: Callable[..., Paths] | None = None
        by_channel = False
        for part in self._captures(images, args):
            Verification().check(part.result)
            for group in self._groups(part, args, len(images)):
                rows, ends = part.rows[group], part.activation[group]
                image, own = images[rows[:1]], rows_of(args, rows[:1], len(images))
                behind = self._quickly_behind(image, own, ends[:1], part.result[group[:1]])
                if paths_of is None:
                    as_it_is = self.reshape_transform is None
                    dims = _pooled(behind, ends[0]) if as_it_is else None
                    paths_of = partial(_paths_of_means, dims) if dims else _paths
                    by_channel = as_it_is and not dims and _by_channel(behind, ends[0])
                cells = self._as_map(_numbered(ends[0]), image)[0].long()
                begin = starts[rows] if len(starts) > 1 else starts.expand_as(ends)
                paths = paths_of(behind, begin, ends, cells.flatten(1))
                found = _vectors(paths._replace(by_channel=by_channel), self.steps)
                yield rows, Places(found.view(len(rows), *cells.shape[1:], -1), part.result[group])

    def _groups(self, part: Captured, args: tuple[Any, ...], count: int) -> Sequence[Tensor]:
        """Return the images of a part in groups (n,) of which the first can stand for all.

        That is so where the results follow from the layer's outputs alone.
        """
        numbers = torch.arange(len(part.rows), device=part.rows.device)
        alone = torch.split(numbers, 1)
        if len(alone) == 1 or any(per_image(arg, count) for arg in args):
            return alone
        first = rows_of(args, part.rows[:1], count)
        results = self._behind(part.images[:1], first, part.activation)
        if not _same(results, part.result, part.activation.dtype).all():
            return alone
        output = part.activation[0]
        return torch.split(numbers, max(1, BLOCK // (4 * output.numel() * output.element_size())))

    def _starts(self, images: Tensor, args: tuple[Any, ...]) -> Tensor:
        """Return the layer's output for the baseline, one for all images if they share it."""
        blank = torch.zeros_like(images[:1]) + torch.as_tensor(self.baseline).to(images)
        check_images("baseline", blank)
        if any(per_image(arg, len(images)) for arg in args):
            blank = blank.expand_as(images)
        return torch.cat([part.activation for part in self._captures(blank, args)])

    def _quickly_behind(
        self, image: Tensor, args: tuple[Any, ...], output: Tensor, result: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return ``_behind`` of a corner of the image if that gives its result, else of all of it.

        What lies before the layer then costs little, and most results follow from its output.
        """
        quick = partial(self._behind, image[:, :, :CORNER, :CORNER], args)
        with suppress(RuntimeError, ValueError, AssertionError):
            if _same(quick(output), result, output.dtype).all():
                return quick
        return partial(self._behind, image, args)

    def _behind(self, image: Tensor, args: tuple[Any, ...], outputs: Tensor) -> Tensor:
        """Return the results (M, D) of outputs (M, ...) of the layer in the place of the image's.

        One image serves all where the model lets it, and is repeated where not.
        """
        run = partial(replace, self.forward_func, self.layer)
        try:
            result = run(image, args, outputs)
            if len(result) == len(outputs):
                return self._result(result, outputs)
        except (RuntimeError, ValueError):
            pass
        rows = torch.zeros(len(outputs), dtype=torch.long, device=image.device)
        return self._result(run(image[rows], rows_of(args, rows, 1), outputs), outputs)


def _numbered(output: Tensor) -> Tensor:
    """Return a batch of one output with the numbers of its values."""
    return torch.arange(output.numel(), dtype=torch.float64, device=output.device).view(
        1, *output.shape
    )


def _pooled(behind: Callable[[Tensor], Tensor], output: Tensor) -> tuple[int, ...] | None:
    """Return along which dimensions the results read means of maps: both, rows (stripes), none."""
    if output.dim() == 3:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(2, *output.shape, generator=generator).to(output)
        found = behind(noise)
        for dims in ((2, 3), (3,)):
            with suppress(RuntimeError, ValueError):
                of_means = behind(noise.mean(dim=dims, keepdim=True))
                if _same(found, of_means, output.dtype).all():
                    return dims
    return None


def _by_channel(behind: Callable[[Tensor], Tensor], output: Tensor) -> bool:
    """Tell whether each result reads the channel of its own number alone, and has a gradient.

    Channels come from two images of noise; any two are from different ones at least once.
    """
    if output.dim() != 3:
        return False
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, *output.shape, generator=generator).to(output)
    numbers, bits = torch.arange(len(output)), torch.arange(len(output).bit_length())
    second = (numbers >> bits[:, None] & 1).bool().to(output.device)
    found = noise
    with suppress(RuntimeError), torch.enable_grad():  # of what leaves torch
        found = behind(noise.clone().requires_grad_())
    if not found.requires_grad or found.shape[1] != len(output):
        return False
    mixed = behind(torch.where(second[:, :, None, None], noise[1], noise[0]))
    return bool(_same(mixed, torch.where(second, found[1], found[0]), output.dtype).all())


def _same(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell which results (n, D) computed in this precision differ by rounding alone, (n,)."""
    rounding = ROUNDING * torch.finfo(dtype).eps * (a.norm(dim=1) + b.norm(dim=1))
    same: Tensor = (a - b).norm(dim=1) <= rounding
    return same


def _paths(
    behind: Callable[[Tensor], Tensor], starts: Tensor, ends: Tensor, cells: Tensor
) -> Paths:
    """Return the paths through all values of the layer, of which ``cells`` (C, Z) are the places'.

    What is in no place (class and register tokens) is a part of its own, the last.
    """
    first, last = (at_least_float32(outputs).flatten(1) for outputs in (starts, ends))
    way = last - first
    outside = way.index_fill(1, cells.flatten(), 0)
    size = cells.shape[1]

    def parts(images: Tensor, places: Tensor) -> Tensor:
        own = cells.T[places.clamp(max=size - 1)]
        moves = way.new_zeros(len(places), way.shape[1]).scatter(1, own, way[images[:, None], own])
        rest = places == size
        moves[rest] = outside[images[rest]]
        return moves

    return Paths(
        lambda points: behind(points.view(-1, *ends.shape[1:]).to(ends.dtype)),
        first,
        last,
        parts,
        size,
        size + bool(outside.any()),
        ends.dtype,
    )


def _paths_of_means(
    dims: tuple[int, ...],
    behind: Callable[[Tensor], Tensor],
    starts: Tensor,
    ends: Tensor,
    cells: Tensor,
) -> Paths:
    """Return the paths through the means of the layer's maps along ``dims``, smaller maps."""
    first, last = (at_least_float32(outputs) for outputs in (starts, ends))
    pooled, size = first.mean(dim=dims, keepdim=True), cells.shape[1]
    means = pooled[0, 0].numel()
    way = (last - first).flatten(2) * (means / size)

    def parts(images: Tensor, places: Tensor) -> Tensor:
        moves = way.new_zeros(len(places), way.shape[1], means)
        rows = torch.arange(len(places), device=way.device)
        moves[rows, :, places * means // size] = way[images, :, places]
        return moves.flatten(1)

    return Paths(
        lambda points: behind(points.view(-1, *pooled.shape[1:]).to(ends.dtype)),
        pooled.flatten(1),
        last.mean(dim=dims).flatten(1),
        parts,
        size,
        size,
        ends.dtype,
    )


def _vectors(paths: Paths, steps: int | None) -> Tensor:
    """Return what each place adds to the embeddings, (N, Z, D)."""
    way = paths.end - paths.start
    mixed = torch.rand(way.shape[1], generator=torch.Generator().manual_seed(0)).to(way) * way
    corners = torch.cat([paths.start, paths.end, paths.start + mixed, paths.end - mixed])
    first, last, *between = found = paths.behind(corners).chunk(4)
    stays = torch.stack([(result == first).all(dim=1) for result in found]).all(dim=0)
    if (stays & way.any(dim=1)).any():
        raise InputError("layer", "an output that the result does not follow", WITHOUT_INFLUENCE)
    linear = _same(first + last, between[0] + between[1], paths.dtype)
    added = first.new_zeros(len(first), paths.total, first.shape[1])
    for is_linear in (True, False):
        images = (linear == is_linear).nonzero()[:, 0]
        count = steps or (1 if is_linear else STEPS)
        while len(images):
            added[images] = (
                _channel_by_channel(paths, images, count)
                if paths.by_channel
                else _integrated(paths, images, count, is_linear, added[images])
            )
            change = (last - first)[images]
            missed = (change - added[images].sum(dim=1)).norm(dim=1)
            images = images[missed > TOLERANCE * change.norm(dim=1)]
            if steps is not None or is_linear or count >= MOST_STEPS:
                break
            count *= 2
    rest = first + added[:, paths.places :].sum(dim=1)
    return added[:, : paths.places] + rest[:, None] / paths.places


def _integrated(paths: Paths, images: Tensor, steps: int, is_linear: bool, like: Tensor) -> Tensor:
    """Return what each part of the way adds to the results along it, (n, total, D), as ``like``.

    That is the sum over the steps of the difference that the place's part of a step makes around
    the middle of it. Where the results are linear, the difference is taken over a part Z times as
    long, as if all places were this one, and divided by Z: less of it is rounding.
    """
    stretch = paths.places if is_linear else 1
    added = torch.zeros_like(like).flatten(0, 1)
    values = paths.start.shape[1] + like.shape[2]
    block = max(1, BLOCK // (2 * values * paths.start.element_size()))
    for numbers in torch.split(torch.arange(len(added) * steps, device=added.device), block):
        part, step = numbers // steps, numbers % steps
        image, place = images[part // paths.total], part % paths.total
        share = ((step[:, None] + 0.5) / steps).to(paths.start)
        middles = torch.lerp(paths.start[image], paths.end[image], share)
        moves = paths.parts(image, place) * (stretch / (2 * steps))
        ahead, back = paths.behind(torch.cat([middles + moves, middles - moves])).chunk(2)
        added.index_add_(0, part, ahead - back)
    return added.view_as(like) / stretch


def _channel_by_channel(paths: Paths, images: Tensor, steps: int) -> Tensor:
    """Return the same where each result reads its own channel: one gradient for each step.

    The gradient of the sum of the results is then the whole of their Jacobian.
    """
    start, end = paths.start[images], paths.end[images]
    slope = torch.zeros_like(start)
    for step in range(steps):
        with torch.enable_grad():
            point = torch.lerp(start, end, (step + 0.5) / steps).requires_grad_()
            (own,) = torch.autograd.grad(paths.behind(point.clone()).sum(), point)
        slope += own / steps
    return ((end - start) * slope).view(len(images), -1, paths.places).transpose(1, 2)


def _directions(vectors: Tensor) -> Tensor:
    """Return vectors (B, h, w, D) without their mean over the places, at unit length."""
    return unit(vectors - vectors.mean(dim=(1, 2), keepdim=True))


def neighborhoods(table: Tensor, width: float) -> Tensor:
    """Return sums of a table (B, h, w, h', w') over shifts of both places alike.

    Shifts have Gaussian weights of this ``width`` in places, up to twice that.
    """
    for dims in ((1, 3), (2, 4)):
        summed = torch.zeros_like(table)
        for shift in range(-round(2 * width), round(2 * width) + 1):
            lengths = [table.shape[dim] - abs(shift) for dim in dims]
            if min(lengths) > 0:
                here, there = summed, table
                for dim, length in zip(dims, lengths, strict=True):
                    here = here.narrow(dim, max(0, -shift), length)
                    there = there.narrow(dim, max(0, shift), length)
                here.add_(there, alpha=math.exp(-(shift**2) / (2 * width**2)))
        table = summed
    return table
