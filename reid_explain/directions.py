"""Attributes as directions of the embedding space: which differ, and how much, by linear maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from reid_explain.checks import at_least_float32, check_choice, check_embeddings, describe
from reid_explain.errors import InputError
from reid_explain.objectives import Concept
from reid_explain.tensor_files import read_tensors, write_tensors

KIND = "names"
Groups = Mapping[str, Sequence[str]]
"""Attributes that change together, such as the colors of a garment, by a common name."""


class DirectionExplanation(NamedTuple):
    """How much of the distance of each of B pairs lies along each of M attributes (or groups).

    ``contributions`` (B, M), shares of the distance, negative where the attribute brings the two
    together; ``remainder`` (B,), what no attribute explains: the contributions and it sum to 1.
    ``distance`` (B,); ``query_values`` and ``gallery_values`` (B, M'), the values of all M'
    attributes, 0 (no) to 1 (yes).
    """

    contributions: Tensor
    remainder: Tensor
    distance: Tensor
    query_values: Tensor
    gallery_values: Tensor


class AttributeDirections:
    r"""Explains the distance of two embeddings by one direction :math:`w_k` for each attribute.

    .. math:: f(X) \approx \mu + \sum_k a_k(X) w_k, \qquad
        c_k = \frac{\|\Delta\| - \|\Delta - (a_k(X) - a_k(Y)) w_k\|}{\|\Delta\|}, \quad
        \Delta = f(X) - f(Y)

    The contribution :math:`c_k` estimates an intervention: how much nearer X would be to Y if it
    had Y's value of attribute k and nothing else changed. Two ridge regressions give the
    directions from labels, and the values a of images without labels from their embeddings. It
    needs no gradients and no access to the model; ``concept`` hands a direction to any explainer.

    Args:
        attributes: The M names.
        directions: w, (M, D).
        probe: (D + 1, M): from embeddings to values; the last row is the intercept.

    Raises:
        InputError: Names that repeat, or matrices of other shapes.

    Example:
        >>> import torch
        >>> from reid_explain import AttributeDirections
        >>> labels = torch.tensor([[1, 1], [1, 2], [2, 1], [2, 2]])  # 1: no, 2: yes
        >>> embeddings = (labels - 1.0) @ torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> directions = AttributeDirections.fit(embeddings, labels, ["hat", "bag"], ridge=1e-6)
        >>> found = directions.explain(embeddings[:1], embeddings[3:])  # neither, and both
        >>> found.contributions, found.remainder
        (tensor([[0.2000, 0.4000]]), tensor([0.4000]))
    """

    def __init__(self, attributes: Sequence[str], directions: Tensor, probe: Tensor) -> None:
        self.attributes = tuple(attributes)
        if not self.attributes or len({*self.attributes}) < len(self.attributes):
            raise InputError("attributes", repr(attributes), "different names, at least one")
        count = len(self.attributes)
        self.directions = check_embeddings("directions", directions, rows=count)
        width = self.directions.shape[1]
        self.probe = check_embeddings("probe", probe, rows=width + 1, width=count)

    @classmethod
    def fit(
        cls,
        embeddings: Tensor,
        labels: Tensor,
        attributes: Sequence[str],
        *,
        ridge: float = 1.0,
    ) -> "AttributeDirections":
        """Fit directions and probe, in seconds.

        Args:
            embeddings: (N, D), of images as the model retrieves with.
            labels: (N, M): 1 (no) or 2 (yes), 0 where unknown: there the mean stands in.
            attributes: The M names.
            ridge: Penalty on the squared norms, in units of one image; above 0.

        Raises:
            InputError: Matrices that do not belong together, or a penalty of 0 or less.
        """
        vectors = check_embeddings("embeddings", embeddings).double()
        if (
            labels.shape != (len(vectors), len(attributes))
            or not ((labels >= 0) & (labels <= 2)).all()
        ):
            expected = f"0, 1 or 2, ({len(vectors)}, {len(attributes)})"
            raise InputError("labels", describe(labels), expected)
        if not ridge > 0:
            raise InputError("ridge", ridge, "a penalty above 0")
        known = (labels > 0).double()
        values = (labels == 2).double()
        mean = (values * known).sum(0) / known.sum(0).clamp(min=1)
        values = values.where(known > 0, mean) - mean
        center = vectors.mean(0)
        vectors = vectors - center
        scale = vectors.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        directions = _ridge(values, vectors, ridge)
        weights = _ridge(vectors / scale, values, ridge) / scale
        probe = torch.cat([weights, (mean - center @ weights)[None]])
        return cls(attributes, directions.float(), probe.float())

    def values(self, embeddings: Tensor) -> Tensor:
        """Return the values (B, M) of attributes, 0 (no) to 1 (yes), read from (B, D)."""
        vectors = self._checked("embeddings", embeddings)
        probe = self.probe.to(vectors)
        return (vectors @ probe[:-1] + probe[-1]).clamp(0, 1)

    def explain(
        self,
        query: Tensor,
        gallery: Tensor,
        *,
        query_labels: Tensor | None = None,
        gallery_labels: Tensor | None = None,
        groups: Groups | None = None,
    ) -> DirectionExplanation:
        """Explain the distance of each query to its gallery embedding.

        Args:
            query: Embeddings (B, D), or (1, D) for all.
            gallery: As ``query``.
            query_labels: (B, M), 1 (no) or 2 (yes); by default ``values`` of the embeddings.
            gallery_labels: As ``query_labels``.
            groups: Attributes that change together; by default each by itself.

        Raises:
            InputError: Embeddings or labels of other shapes, or a group of unknown attributes.
        """
        first, second = _paired(query, gallery, self.directions.shape[1])
        one = self._values("query_labels", query_labels, first)
        other = self._values("gallery_labels", gallery_labels, second)
        difference, member = first - second, self._members(groups).to(first)
        # (B, G, D): what the attributes of each group put between the two.
        steps = torch.einsum("bm,gm,md->bgd", one - other, member, self.directions.to(first))
        return DirectionExplanation(*decomposed(difference, -steps), one, other)

    def concept(self, attribute: str) -> Concept:
        """Return the objective of an attribute: any explainer shows where it is read from.

        Raises:
            InputError: There is no such attribute.
        """
        check_choice("attribute", attribute, self.attributes)
        return Concept(self.directions[self.attributes.index(attribute)])

    def save(self, path: str | Path, *, fingerprint: Tensor | None = None) -> None:
        """Write a safetensors file that ``load`` reads.

        Args:
            path: The file.
            fingerprint: Embeddings (N, D) of fixed images, which tell the model from others.

        Raises:
            InputError: The file cannot be written.
        """
        state = {"directions": self.directions, "probe": self.probe}
        _write(path, state, self.attributes, fingerprint)

    @classmethod
    def load(cls, path: str | Path, *, fingerprint: Tensor | None = None) -> "AttributeDirections":
        """Return what ``save`` wrote.

        Args:
            path: The file.
            fingerprint: The embeddings that ``save`` was given, of the model at hand.

        Raises:
            InputError: No such file or one of another kind, or directions of another model.
        """
        state, attributes = _read(path, ("directions", "probe"), fingerprint)
        return cls(attributes, state["directions"], state["probe"])

    def _checked(self, argument: str, embeddings: Tensor) -> Tensor:
        width = self.directions.shape[1]
        return at_least_float32(check_embeddings(argument, embeddings, width=width))

    def _values(self, argument: str, labels: Tensor | None, embeddings: Tensor) -> Tensor:
        if labels is None:
            return self.values(embeddings)
        if labels.shape[1:] != (len(self.attributes),) or len(labels) not in (1, len(embeddings)):
            expected = f"({len(embeddings)}, {len(self.attributes)})"
            raise InputError(argument, describe(labels), expected)
        known = (labels > 0).to(embeddings.device).expand(len(embeddings), -1)
        return (labels == 2).to(embeddings).where(known, self.values(embeddings))

    def _members(self, groups: Groups | None) -> Tensor:
        """Return which attribute is in which group, (G, M) of 0 and 1."""
        groups = {name: (name,) for name in self.attributes} if groups is None else groups
        for names in groups.values():
            for name in names:
                check_choice("groups", name, self.attributes)
        return membership(self.attributes, groups)


def membership(attributes: Sequence[str], groups: Groups) -> Tensor:
    """Return which of M attributes is in which of G groups, (G, M) of 0 and 1."""
    rows = [[float(name in members) for name in attributes] for members in groups.values()]
    return torch.tensor(rows)


class CounterfactualExplanation(NamedTuple):
    """How much nearer each of B pairs comes by each of G groups of attributes.

    ``contributions`` (B, G), shares of the distance, negative where the two move apart;
    ``remainder`` (B,), what no group explains: with the contributions it sums to 1; ``distance``
    (B,).
    """

    contributions: Tensor
    remainder: Tensor
    distance: Tensor


class CounterfactualDirections:
    r"""Explains the distance of two embeddings by what interventions on attributes were seen to do.

    .. math:: f(X_{k \leftarrow Y}) - f(X) \approx s_k(X, Y) = W_k \, [f(X), f(Y), 1], \qquad
        c_k = \frac{\|\Delta\| - \|\Delta + s_k(X, Y)\|}{\|\Delta\|}, \quad
        \Delta = f(X) - f(Y)

    with :math:`X_{k \leftarrow Y}` the image X with Y's value of attribute k, all else equal. One
    ridge regression for each group of attributes gives :math:`W_k` from such images. Where nobody
    can intervene, :class:`AttributeDirections` is fitted to labels alone.

    Args:
        groups: The G names.
        maps: W, (G, 2 D + 1, D).

    Raises:
        InputError: Names that repeat, or maps of another shape.

    Example:
        >>> import torch
        >>> from reid_explain import CounterfactualDirections
        >>> query, gallery = torch.eye(3)[:2], torch.tensor([[3.0, 4.0, 0.0]])
        >>> changed = query.clone()
        >>> changed[:, 0] = gallery[:, 0]  # the intervention sets the first number
        >>> found = CounterfactualDirections.fit(
        ...     query, gallery.expand(2, -1), changed, torch.tensor([0, 0]), ["hat"], ridge=1e-6
        ... )
        >>> found.explain(query[:1], gallery).contributions
        tensor([[0.1056]])
    """

    def __init__(self, groups: Sequence[str], maps: Tensor) -> None:
        self.groups = tuple(groups)
        if not self.groups or len({*self.groups}) < len(self.groups):
            raise InputError("groups", repr(groups), "different names, at least one")
        width = maps.shape[-1] if maps.dim() == 3 else 0
        if maps.shape != (len(self.groups), 2 * width + 1, width) or not width:
            raise InputError("maps", describe(maps), f"({len(self.groups)}, 2 D + 1, D)")
        self.maps = maps

    @classmethod
    def fit(
        cls,
        query: Tensor,
        gallery: Tensor,
        changed: Tensor,
        group: Tensor,
        groups: Sequence[str],
        *,
        ridge: float = 300.0,
    ) -> "CounterfactualDirections":
        """Fit the maps to interventions.

        Args:
            query: Embeddings (N, D) of images.
            gallery: (N, D), of the images that gave their value.
            changed: (N, D), of the first images with that value.
            group: (N,), which group of attributes was changed, from 0.
            groups: The G names.
            ridge: Penalty on the squared norms, for embeddings of unit variance; above 0.

        Raises:
            InputError: Embeddings that do not belong together, or a group without interventions.
        """
        count, width = check_embeddings("query", query).shape
        inputs = torch.cat(
            [query, check_embeddings("gallery", gallery, rows=count, width=width)], 1
        )
        steps = check_embeddings("changed", changed, rows=count, width=width) - query
        if missing := [name for n, name in enumerate(groups) if not (group == n).any()]:
            raise InputError("group", f"no intervention on {missing[0]}", "some of every group")
        if not ridge > 0:
            raise InputError("ridge", ridge, "a penalty above 0")
        inputs, steps = inputs.double(), steps.double()
        center = inputs.mean(0)
        scale = (inputs - center).square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        scaled = torch.cat([(inputs - center) / scale, inputs.new_ones(count, 1)], 1)
        maps = []
        for number in range(len(groups)):
            own = group == number
            weights = _ridge(scaled[own], steps[own], ridge)
            slope = weights[:-1] / scale
            maps.append(torch.cat([slope, (weights[-1] - center @ slope)[None]]))
        return cls(groups, torch.stack(maps).float())

    def explain(self, query: Tensor, gallery: Tensor) -> CounterfactualExplanation:
        """Explain the distance of each query to its gallery embedding.

        Args:
            query: Embeddings (B, D), or (1, D) for all.
            gallery: As ``query``.

        Raises:
            InputError: Embeddings of other shapes.
        """
        first, second = _paired(query, gallery, self.maps.shape[2])
        steps = self.displacements(first, second)
        return CounterfactualExplanation(*decomposed(first - second, steps))

    def displacements(self, query: Tensor, gallery: Tensor) -> Tensor:
        """Return s_k, (B, G, D): where each group of attributes would move the query's (B, D)."""
        first, second = _paired(query, gallery, self.maps.shape[2])
        inputs = torch.cat([first, second, torch.ones_like(first[:, :1])], dim=1)
        return torch.einsum("bi,gid->bgd", inputs, self.maps.to(inputs))

    def save(self, path: str | Path, *, fingerprint: Tensor | None = None) -> None:
        """Write a safetensors file in float16; as :meth:`AttributeDirections.save`."""
        _write(path, {"maps": self.maps.half()}, self.groups, fingerprint)

    @classmethod
    def load(
        cls, path: str | Path, *, fingerprint: Tensor | None = None
    ) -> "CounterfactualDirections":
        """Return what ``save`` wrote; as :meth:`AttributeDirections.load`."""
        state, groups = _read(path, ("maps",), fingerprint)
        return cls(groups, state["maps"].float())


def _paired(query: Tensor, gallery: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return both sides of B pairs, (B, D) each; one of them may be (1, D)."""
    first, second = (
        at_least_float32(check_embeddings(name, given, width=width))
        for name, given in (("query", query), ("gallery", gallery))
    )
    if len(second) not in (1, len(first)) and len(first) != 1:
        raise InputError("gallery", describe(second), f"1 or {len(first)} rows")
    count = max(len(first), len(second))
    return first.expand(count, -1), second.to(first).expand(count, -1)


def decomposed(difference: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shares (B, K), remainder and distance (B,) of differences (B, D), steps (B, K, D)."""
    distance = difference.norm(dim=1)
    left = (difference[:, None] + steps).norm(dim=2)
    scale = distance.where(distance > 0, torch.ones_like(distance))[:, None]
    shares = (distance[:, None] - left) / scale
    return shares, 1 - shares.sum(1), distance


def _write(
    path: str | Path, state: dict[str, Tensor], names: Sequence[str], fingerprint: Tensor | None
) -> None:
    if fingerprint is not None:
        state = {**state, "fingerprint": fingerprint}
    write_tensors(path, state, KIND, list(names))


def _read(
    path: str | Path, tensors: Sequence[str], fingerprint: Tensor | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors and names of a file, if it has those and is of the model at hand."""
    state, names = read_tensors(path, KIND, "a file of save of this class")
    if missing := [name for name in tensors if name not in state]:
        raise InputError("path", f"{path} without {missing}", "a file of save of this class")
    if fingerprint is not None and (saved := state.get("fingerprint")) is not None:
        own = fingerprint.cpu().to(saved)
        if own.shape != saved.shape or (own - saved).norm() > 1e-2 * saved.norm():
            raise InputError("fingerprint", "another model's embeddings", f"those of {path}")
    return state, names


def _ridge(inputs: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """Return the matrix W that minimizes ‖inputs W − outputs‖² + penalty ‖W‖²."""
    gram = inputs.T @ inputs
    gram.diagonal().add_(penalty)
    solution: Tensor = torch.linalg.solve(gram, inputs.T @ outputs)
    return solution
