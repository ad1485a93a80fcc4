"""Place to place: the similarity of two images as a sum over pairs of their places."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, replace
from reid_explain.checks import at_least_float32, check_at_least, check_images
from reid_explain.errors import InputError
from reid_explain.explainers.base import per_image, rows_of
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
BLOCK = 2**25
"""Bytes of layer outputs in one pass."""
ROUNDING = 10
"""Differences below this many units of the last place are rounding."""
SPREAD = 1.0
"""Width in places of the neighborhood that has to match along with two places."""


class Path(NamedTuple):
    """The way from the layer's output for the baseline to that for the image.

    ``behind`` maps points (n, E) to results (n, D); ``start`` and ``end`` are points (E,);
    ``parts`` maps places (n,) of ``total`` to their parts of the way (n, E).
    """

    behind: Callable[[Tensor], Tensor]
    start: Tensor
    end: Tensor
    parts: Callable[[Tensor], Tensor]
    places: int
    total: int
    dtype: torch.dtype


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
    :attr:`.PairExplanation.error` says what it misses. No gradients are needed.

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
        places = self._places(Side(images, args))
        own = objective.check(places.embeddings)
        rows = torch.arange(len(images), device=images.device)
        with torch.enable_grad():
            leaf = own.clone().requires_grad_()
            (direction,) = torch.autograd.grad(score(leaf, own, rows).sum(), leaf)
        return torch.einsum("bhwd,bd->bhw", places.vectors, direction)[:, None]

    def _pairs(self, query: Side, gallery: Side) -> PairExplanation:
        first, second = self._places(query), self._places(gallery)
        similarity = cosine(first.embeddings, second.embeddings)
        lengths = first.embeddings.norm(dim=1) * second.embeddings.norm(dim=1)
        products = inner_products(first.vectors, second.vectors)
        alike = inner_products(*(_directions(side.vectors) for side in (first, second)))
        return PairExplanation(
            products / lengths[:, None, None, None, None], neighborhoods(alike, SPREAD), similarity
        )

    def _places(self, side: Side) -> Places:
        """Return what each place of B images adds to their embeddings."""
        images, args = side
        starts = self._starts(images, args)
        reads_mean: bool | None = None
        vectors, embeddings = [], []
        for part in self._captures(images, args):
            Verification().check(part.result)
            for row, own, result in zip(part.rows, part.activation, part.result, strict=True):
                image = images[row : row + 1]
                behind = partial(self._behind, image, rows_of(args, row[None], len(images)))
                if reads_mean is None:
                    reads_mean = self.reshape_transform is None and _reads_mean(behind, own)
                start = starts[row if len(starts) > 1 else 0]
                cells = self._as_map(_numbered(own), image)[0].long()
                path_of = _path_of_means if reads_mean else _path
                found = _vectors(path_of(behind, start, own, cells.flatten(1)), self.steps)
                vectors.append(found.view(*cells.shape[1:], -1))
                embeddings.append(result)
        return Places(torch.stack(vectors), torch.stack(embeddings))

    def _starts(self, images: Tensor, args: tuple[Any, ...]) -> Tensor:
        """Return the layer's output for the baseline, one for all images if they share it."""
        blank = torch.zeros_like(images[:1]) + torch.as_tensor(self.baseline).to(images)
        check_images("baseline", blank)
        if any(per_image(arg, len(images)) for arg in args):
            blank = blank.expand_as(images)
        return torch.cat([part.activation for part in self._captures(blank, args)])

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


def _reads_mean(behind: Callable[[Tensor], Tensor], output: Tensor) -> bool:
    """Tell whether the results follow from the mean of the layer's output over its places."""
    if output.dim() != 3:
        return False
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, *output.shape, generator=generator).to(output)
    try:
        found, of_mean = behind(noise), behind(noise.mean(dim=(2, 3), keepdim=True))
    except (RuntimeError, ValueError):
        return False
    return _same(found, of_mean, output.dtype)


def _same(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether results (n, D) that were computed in this precision differ by rounding alone."""
    return bool((a - b).norm() <= ROUNDING * torch.finfo(dtype).eps * (a.norm() + b.norm()))


def _path(behind: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, cells: Tensor) -> Path:
    """Return the path through all values of the layer, of which ``cells`` (C, Z) are the places'.

    What is in no place (class and register tokens) is a part of its own, the last.
    """
    way = at_least_float32(end - start).flatten()
    outside = way.scatter(0, cells.flatten(), 0)
    size = cells.shape[1]

    def parts(places: Tensor) -> Tensor:
        own = cells.T[places.clamp(max=size - 1)]
        rows = way.new_zeros(len(places), len(way)).scatter(1, own, way[own])
        rows[places == size] = outside
        return rows

    return Path(
        lambda points: behind(points.view(-1, *end.shape).to(end.dtype)),
        at_least_float32(start).flatten(),
        at_least_float32(end).flatten(),
        parts,
        size,
        size + bool(outside.any()),
        end.dtype,
    )


def _path_of_means(
    behind: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, cells: Tensor
) -> Path:
    """Return the path through the mean of the layer's output, a map of one place."""
    first, last = (at_least_float32(output).flatten(1) for output in (start, end))
    return Path(
        lambda points: behind(points[:, :, None, None].to(end.dtype)),
        first.mean(dim=1),
        last.mean(dim=1),
        lambda places: (last - first).T[places] / cells.shape[1],
        cells.shape[1],
        cells.shape[1],
        end.dtype,
    )


def _vectors(path: Path, steps: int | None) -> Tensor:
    """Return what each place adds to the embedding, (Z, D)."""
    way = path.end - path.start
    mixed = torch.rand(len(way), generator=torch.Generator().manual_seed(0)).to(way) * way
    points = [path.start, path.end, path.start + mixed, path.end - mixed]
    first, last, *between = path.behind(torch.stack(points))
    if way.any() and all(torch.equal(first, other) for other in (last, *between)):
        raise InputError("layer", "an output that the result does not follow", WITHOUT_INFLUENCE)
    linear = _same(first + last, between[0] + between[1], path.dtype)
    count = steps or (1 if linear else STEPS)
    vectors = _integrated(path, count, linear, first)
    while steps is None and not linear and count < MOST_STEPS:
        missed = (last - first - vectors.sum(dim=0)).norm()
        if missed <= TOLERANCE * (last - first).norm():
            break
        count *= 2
        vectors = _integrated(path, count, linear, first)
    rest = first + vectors[path.places :].sum(dim=0)
    placed: Tensor = vectors[: path.places] + rest / path.places
    return placed


def _integrated(path: Path, steps: int, linear: bool, width: Tensor) -> Tensor:
    """Return what each part of the way adds to the results along it, (total, D).

    That is the sum over the steps of the difference that the place's part of a step makes around
    the middle of it. Where the results are linear, the difference is taken over a part Z times as
    long, as if all places were this one, and divided by Z: less of it is rounding.
    """
    way = path.end - path.start
    stretch = path.places if linear else 1
    added = width.new_zeros(path.total, len(width))
    block = max(1, BLOCK // (2 * (len(way) + len(width)) * way.element_size()))
    for start in range(0, steps * path.total, block):
        rows = torch.arange(start, min(start + block, steps * path.total), device=way.device)
        step, place = rows // path.total, rows % path.total
        middles = torch.lerp(path.start, path.end, ((step[:, None] + 0.5) / steps).to(way))
        moves = path.parts(place) * (stretch / (2 * steps))
        ahead, back = path.behind(torch.cat([middles + moves, middles - moves])).chunk(2)
        added.index_add_(0, place, ahead - back)
    return added / stretch


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
