"""Training of an editor on interventions: how a picture, and what a model makes of it, change."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_explain.counterfactual.editor import SIZE, AttributeEditor, Reading

VISIBLE = 0.03
"""Change of a pixel, of 1, that a mask has to cover."""


class Interventions(NamedTuple):
    """N images of people, and R of them with one group of attributes changed.

    ``images`` (N, 3, H, W) and ``edits`` (R, 3, h, w), of the editor's size, uint8; ``values``
    (N, G): the number of a dyed group's color (that of its colors if it has none of them), 0 or 1
    of a toggled one; ``query``, ``gallery`` and ``group`` (R,): edit r is image ``query`` with the
    value of the person of image ``gallery``; ``embeddings`` (N, D) and ``moved`` (R, D), the
    model's, of the images and of the edits at full size.
    """

    images: Tensor
    edits: Tensor
    values: Tensor
    query: Tensor
    gallery: Tensor
    group: Tensor
    embeddings: Tensor
    moved: Tensor

    def some(self, rows: Tensor) -> "Interventions":
        """Return all images and the edits ``rows``."""
        names = ("edits", "query", "gallery", "group", "moved")
        return self._replace(**{name: getattr(self, name)[rows] for name in names})


def values_of(labels: Tensor, names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> Tensor:
    """Return the values (N, G) of labels (N, M), 1 or 2, of attributes by name."""
    columns = []
    for members in groups.values():
        has = labels[:, [list(names).index(name) for name in members]] == 2
        none = torch.full((len(labels),), len(members))
        value = torch.where(has.any(1), has.int().argmax(1), none)
        columns.append(value if len(members) > 1 else has[:, 0].long())
    return torch.stack(columns, dim=1)


def balanced(group: Tensor, count: int) -> Tensor:
    """Return about ``count`` random rows, as many of each group as there are."""
    kinds = torch.unique(group)
    each = max(count // len(kinds), 1)
    order = torch.randperm(len(group))
    return torch.cat([order[group[order] == kind][:each] for kind in kinds])


class Scales(NamedTuple):
    """What an intervention of each group changes on average, (G,) each.

    ``pixels``: the summed absolute change; ``embedding``: the squared distance.
    """

    pixels: Tensor
    embedding: Tensor

    @classmethod
    def of(cls, batches: Sequence[Interventions], groups: int) -> "Scales":
        """Measure batches."""
        sums, counts = torch.zeros(2, groups), torch.zeros(groups)
        for batch in batches:
            before = _small(batch.images)[batch.query]
            pixels = (batch.edits / 255 - before).abs().sum((1, 2, 3))
            moved = (batch.moved - batch.embeddings[batch.query]).square().sum(1)
            sums.index_add_(1, batch.group, torch.stack([pixels, moved]))
            counts.index_add_(0, batch.group, torch.ones_like(pixels))
        return cls(*(sums / counts.clamp(min=1)))


class EditStep(nn.Module):
    """Interventions to loss terms by name, each a sum over the groups.

    ``pixels``: the absolute difference of edit and truth; ``masks``: Dice loss and cross-entropy of
    the masks, which else stay empty where the truth is small; ``paint``: the absolute difference of
    paint and truth where a toggled group shows; ``values``: the cross-entropy of the values, also
    of edited images; ``embeddings``: the squared distance between what a model makes of edit and
    truth. Pixels and embeddings are relative to the mean of what the very intervention changes and
    of what those of its group do.

    Args:
        editor: What is trained.
        scales: Of the interventions.
        embed: RGB images (B, 3, H, W), 0 to 1, to embeddings (B, D), with gradients; None leaves
            ``embeddings`` out.
        jitter: Deviation of the random gain of an image's channels.
        read_again: Edits whose values are read as well.
    """

    def __init__(
        self,
        editor: AttributeEditor,
        scales: Scales,
        embed: Callable[[Tensor], Tensor] | None = None,
        *,
        jitter: float = 0.1,
        read_again: int = 12,
    ) -> None:
        super().__init__()
        self.editor, self.scales, self.embed = editor, scales, embed
        self.jitter, self.read_again = jitter, read_again

    def forward(self, batch: Interventions) -> dict[str, Tensor]:
        """Return the loss terms of the edits, in random light where no model looks at them."""
        small, edits = _small(batch.images), batch.edits / 255
        if self.embed is None:
            small, edits = self._relit(small, edits, batch.query)
        again = torch.randperm(len(edits))[: self.read_again]
        with torch.autocast("cpu", torch.bfloat16):
            reading = self.editor.read(torch.cat([small, edits[again]]))
        own = batch.values[batch.query[again]]
        rows, column = torch.arange(len(again)), batch.group[again]
        own[rows, column] = batch.values[batch.gallery[again], column]
        found = [
            self._edits_loss(small, edits, reading, batch, group)
            for group in torch.unique(batch.group).tolist()
        ]
        sums = (torch.stack(losses).sum() for losses in zip(*found, strict=True))
        terms = dict(zip(("pixels", "masks", "paint"), sums, strict=True))
        terms["values"] = 0.3 * self._values_loss(reading.codes, torch.cat([batch.values, own]))
        if self.embed is not None:
            terms["embeddings"] = self._embeddings_loss(reading, batch, self.embed)
        return terms

    def _relit(self, images: Tensor, edits: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and edits in other light, an edit in its image's, or all mirrored."""
        gain = 1 + self.jitter * torch.randn(len(images), 3, 1, 1)
        offset = 0.2 * self.jitter * torch.randn(len(images), 1, 1, 1)
        images, edits = images * gain + offset, edits * gain[query] + offset[query]
        return (images.flip(3), edits.flip(3)) if random.random() < 0.5 else (images, edits)

    def _values_loss(self, codes: Tensor, values: Tensor) -> Tensor:
        losses = []
        for group, logits in enumerate(self.editor.logits(codes)):
            value = values[:, group]
            if group < self.editor.dyed:
                losses.append(F.cross_entropy(logits, value))
            else:
                losses.append(F.binary_cross_entropy_with_logits(logits, value.float()))
        return torch.stack(losses).sum()

    def _edits_loss(
        self, images: Tensor, edits: Tensor, reading: Reading, batch: Interventions, group: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms of pixels, masks and paint of one group."""
        rows = batch.group == group
        query, gallery, truth = batch.query[rows], batch.gallery[rows], edits[rows]
        before = images[query]
        edited = self.editor.edit(before, reading.rows(query), reading.rows(gallery), group)
        total = (truth - before).abs().sum((1, 2, 3))
        error = (edited - truth).abs().sum((1, 2, 3)) / ((total + self.scales.pixels[group]) / 2)
        changed = ((truth - before).abs().amax(1) > VISIBLE).float()
        mask = reading.masks[query, group]
        area = changed.sum((1, 2))
        overlap = 2 * (mask * changed).sum((1, 2)) / (mask.sum((1, 2)) + area + 1)
        entropy = F.binary_cross_entropy(mask, changed, reduction="none").sum((1, 2)) / (area + 30)
        masks = (1 - overlap + entropy / 2).mean()
        if group < self.editor.dyed:
            return error.mean(), masks, torch.zeros(())
        paint = reading.paint[query, group - self.editor.dyed]
        wrong = ((paint - truth).abs().mean(1) * changed).sum((1, 2)) / (area + 3)
        return error.mean(), masks, 3 * wrong.mean()

    def _embeddings_loss(
        self, reading: Reading, batch: Interventions, embed: Callable[[Tensor], Tensor]
    ) -> Tensor:
        edited, order = [], []
        for group in torch.unique(batch.group).tolist():
            rows = (batch.group == group).nonzero()[:, 0]
            query, gallery = batch.query[rows], batch.gallery[rows]
            images = batch.images[query] / 255
            edited.append(
                self.editor.edit(images, reading.rows(query), reading.rows(gallery), group)
            )
            order.append(rows)
        rows, group = torch.cat(order), batch.group[torch.cat(order)]
        truth, own = batch.moved[rows], batch.embeddings[batch.query[rows]]
        scale = ((truth - own).square().sum(1) + self.scales.embedding[group]) / 2
        error = (embed(torch.cat(edited)) - truth).square().sum(1) / scale
        counts = torch.bincount(group)[group]
        return (error / counts).sum()


def _small(images: Tensor) -> Tensor:
    """Return uint8 images at the editor's size, with values from 0 to 1."""
    return F.interpolate(images.float(), SIZE, mode="area") / 255
