"""Distillation: the training step of a network that learns what another one makes of an image.

Sources: the vector as in FitNets (Romero et al., ICLR 2015), through a linear layer that is not
kept; the similarities as in Tung and Mori, ICCV 2019; a vector and what is at each place as in
AM-RADIO (Ranzinger et al., CVPR 2024). No labels are used.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.vectors import cosine, unit

SIMILARITY_WEIGHT = 10.0


class DistillationStep(nn.Module):
    r"""Maps images to loss terms against what a teacher made of them.

    ``embedding`` is the mean of :math:`1 - \cos(A f(x_i), t_i)`, where the matrix A is learned and
    then left out; ``similarity`` is a weight times the mean of
    :math:`(\cos(f(x_i), f(x_j)) - \cos(t_i, t_j))^2` over the pairs of the batch.

    With maps, ``places`` is the mean square of what an affine function of the model's last patches
    lacks of them, and a random half of the images is mirrored, with their maps.

    Args:
        model: images (B, 3, H, W) to embeddings (B, D); with maps, it has the ``features`` and
            ``embed`` of an ``EmbeddingNet``, whose F is a map or tokens that end in the patches.
        width: D.
        goals: t, the teacher's embeddings (N, D') of all training images.
        maps: the teacher's maps (N, C, h, w) of them, a place for each patch of the model.
        channels: of F; by default ``model.channels``.
        weight: of the similarities.
    """

    def __init__(
        self,
        model: nn.Module,
        width: int,
        goals: Tensor,
        maps: Tensor | None = None,
        channels: int | None = None,
        weight: float = SIMILARITY_WEIGHT,
    ) -> None:
        super().__init__()
        self.model, self.weight = model, weight
        self.adapter = nn.Linear(width, goals.shape[1], bias=False)
        if maps is not None:
            own: Any = model
            self.at_place = nn.Linear(channels or own.channels, maps.shape[1])
        self._taught = (goals, maps)  # No part of what is trained and saved.

    def forward(self, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Return the terms of images (B, 3, H, W), which are those of ``indices`` (B,)."""
        goals, maps = (
            None if all_ is None else all_[indices.cpu()].to(images.device).float()
            for all_ in self._taught
        )
        if maps is None:
            return self._compared(self.model(images), goals)
        mirrored = (torch.rand(len(images), 1, 1, 1) < 0.5).to(images.device)
        model: Any = self.model
        features = model.features(images.flip(3).where(mirrored, images))
        terms = self._compared(model.embed(features), goals)
        tokens = features.flatten(2).transpose(1, 2) if features.dim() == 4 else features
        wanted = maps.flip(3).where(mirrored, maps).flatten(2).transpose(1, 2)
        with torch.autocast(images.device.type, enabled=False):
            found = self.at_place(tokens[:, -wanted.shape[1] :].float())
            return {**terms, "places": (found - wanted).square().mean()}

    def _compared(self, embedded: Tensor, goals: Any) -> dict[str, Tensor]:
        """Return the terms of embeddings (B, D) and the teacher's (B, D')."""
        with torch.autocast(embedded.device.type, enabled=False):
            embedded = embedded.float()
            missed = 1 - cosine(self.adapter(embedded), goals).mean()
            own, theirs = (rows @ rows.T for rows in (unit(embedded), unit(goals)))
            differences = (own - theirs).fill_diagonal_(0.0).square()
            pairs = max(len(goals) * (len(goals) - 1), 1)
            return {"embedding": missed, "similarity": self.weight * differences.sum() / pairs}
