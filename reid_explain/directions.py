"""Attributes as directions of the embedding space: which differ, and how much, by linear maps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reid_explain.checks import at_least_float32, check_choice, check_embeddings, describe
from reid_explain.errors import InputError
from reid_explain.objectives import Concept

METADATA = "attribute_directions"
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
        first, second = self._checked("query", query), self._checked("gallery", gallery)
        if len(second) not in (1, len(first)) and len(first) != 1:
            raise InputError("gallery", describe(second), f"1 or {len(first)} rows")
        count = max(len(first), len(second))
        first, second = first.expand(count, -1), second.to(first).expand(count, -1)
        one = self._values("query_labels", query_labels, first)
        other = self._values("gallery_labels", gallery_labels, second)
        difference, member = first - second, self._members(groups).to(first)
        distance = difference.norm(dim=1)
        # (B, G, D): what the attributes of each group put between the two.
        steps = torch.einsum("bm,gm,md->bgd", one - other, member, self.directions.to(first))
        left = (difference[:, None] - steps).norm(dim=2)
        scale = distance.where(distance > 0, torch.ones_like(distance))[:, None]
        shares = (distance[:, None] - left) / scale
        return DirectionExplanation(shares, 1 - shares.sum(1), distance, one, other)

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
        if fingerprint is not None:
            state["fingerprint"] = fingerprint
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        try:
            save_file(state, path, {METADATA: json.dumps(self.attributes)})
        except (OSError, SafetensorError) as error:
            raise InputError("path", f"{path} ({error})", "a file that can be written") from error

    @classmethod
    def load(cls, path: str | Path, *, fingerprint: Tensor | None = None) -> "AttributeDirections":
        """Return what ``save`` wrote.

        Args:
            path: The file.
            fingerprint: The embeddings that ``save`` was given, of the model at hand.

        Raises:
            InputError: No such file or one of another kind, or directions of another model.
        """
        try:
            with safe_open(path, "pt") as file:
                attributes = json.loads((file.metadata() or {})[METADATA])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            saved, found = (
                state.get("fingerprint"),
                cls(attributes, state["directions"], state["probe"]),
            )
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            expected = "a file of AttributeDirections.save"
            raise InputError("path", f"{path} ({error})", expected) from error
        if fingerprint is not None and saved is not None:
            own = fingerprint.cpu().to(saved)
            if own.shape != saved.shape or (own - saved).norm() > 1e-2 * saved.norm():
                raise InputError("fingerprint", "another model's embeddings", f"those of {path}")
        return found

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
        if groups is None:
            return torch.eye(len(self.attributes))
        members = torch.zeros(len(groups), len(self.attributes))
        for row, names in zip(members, groups.values(), strict=True):
            for name in names:
                check_choice("groups", name, self.attributes)
                row[self.attributes.index(name)] = 1
        return members


def _ridge(inputs: Tensor, outputs: Tensor, penalty: float) -> Tensor:
    """Return the matrix W that minimizes ‖inputs W − outputs‖² + penalty ‖W‖²."""
    gram = inputs.T @ inputs
    gram.diagonal().add_(penalty)
    solution: Tensor = torch.linalg.solve(gram, inputs.T @ outputs)
    return solution
