"""BYOL on any backbone: an online network that predicts what its moving average makes.

Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, section 3.
"""

from copy import deepcopy
from typing import cast

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from reid_explain.models.network import EmbeddingNet

PROJECTION = 256


class Representation(nn.Module):
    """The pooled map (B, C) of a network: what BYOL learns, and what is explained.

    A neck after it belongs to other ways of training: it gets no gradient and stays as it was.
    """

    def __init__(self, model: EmbeddingNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled maps of images (B, 3, H, W)."""
        return self.model.pool(self.model.features(images))


class BYOL(nn.Module):
    """The training step: two views of each image to the loss of the online network.

    The target network follows before each step but the first, by θ' ← m θ' + (1 − m) θ, where m
    goes from ``momentum`` to 1 along a cosine over ``steps``. The count of steps is a buffer: with
    the state of this module an interrupted run goes on as if it had not been interrupted.

    Args:
        model: the network to train; its ``pool(features(images))`` is the representation.
        steps: optimiser steps of the whole run.
        momentum: m at the start.
        hidden: width of the hidden layers of projector and predictor.
    """

    def __init__(self, model: EmbeddingNet, steps: int, momentum: float, hidden: int) -> None:
        super().__init__()
        self.steps = steps
        self.momentum = momentum
        self.online = nn.Sequential(
            Representation(model), BYOLProjectionHead(model.channels, hidden, PROJECTION)
        )
        self.predictor = BYOLPredictionHead(PROJECTION, hidden, PROJECTION)
        self.target = deepcopy(self.online).requires_grad_(False)
        self.loss = NegativeCosineSimilarity()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def model(self) -> EmbeddingNet:
        """The online network without its heads."""
        return cast(Representation, self.online[0]).model

    def forward(self, views: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the loss, in [-1, 1], of both views each predicting the other's target.

        Args:
            views: (2B, 3, H, W), the first views and then the second ones.
            images: (B,) which images these are; not needed.
        """
        self._follow()
        pairs = views.chunk(2)
        # Batch norm sees one view at a time, as the views differ in their statistics.
        predicted = [self.predictor(self.online(view)) for view in pairs]
        with torch.no_grad():
            targets = [self.target(view) for view in pairs]
        with torch.autocast(views.device.type, enabled=False):
            first = self.loss(predicted[0].float(), targets[1].float())
            second = self.loss(predicted[1].float(), targets[0].float())
        return {"byol": (first + second) / 2}

    @torch.no_grad()
    def _follow(self) -> None:
        step = int(self.step)
        if step:
            momentum = cosine_schedule(step - 1, self.steps, self.momentum, 1.0)
            update_momentum(self.online, self.target, momentum)
        self.step += 1
