"""BYOL on any backbone: the training step without labels.

Source: Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, section 3.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from reid_explain.models.network import EmbeddingNet, PooledMap

PROJECTION = 256


class BYOL(nn.Module):
    """The training step: two views of each image to the loss of the online network.

    The target network follows before each step but the first, θ' ← m θ' + (1 − m) θ, where m goes
    from ``momentum`` to 1 along a cosine over ``steps``. The count of steps is a buffer: an
    interrupted run continues exactly.

    Args:
        model: network to train; its pooled map is the representation.
        steps: optimizer steps of the whole run.
        momentum: m at the start.
        hidden: width of the hidden layers of projector and predictor.
    """

    step: Tensor

    def __init__(self, model: EmbeddingNet, steps: int, momentum: float, hidden: int) -> None:
        super().__init__()
        self.steps, self.momentum = steps, momentum
        projector = BYOLProjectionHead(model.channels, hidden, PROJECTION)
        self.online = nn.Sequential(PooledMap(model), projector)
        self.predictor = BYOLPredictionHead(PROJECTION, hidden, PROJECTION)
        self.target = deepcopy(self.online).requires_grad_(False)
        self.loss = NegativeCosineSimilarity()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, views: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the loss, in [-1, 1], of each view predicting the other's target.

        Args:
            views: (2B, 3, H, W), all first views before all second ones.
            images: (B,) indices of the images, not used.
        """
        self._follow()
        pairs = views.chunk(2)
        # Batch norm sees one view at a time, as the views differ in their statistics.
        predicted = [self.predictor(self.online(view)) for view in pairs]
        with torch.no_grad():
            targets = [self.target(view) for view in pairs]
        with torch.autocast(views.device.type, enabled=False):
            crossed = zip(predicted, reversed(targets), strict=True)
            first, second = (self.loss(one.float(), other.float()) for one, other in crossed)
        return {"byol": (first + second) / 2}

    @torch.no_grad()
    def _follow(self) -> None:
        step = int(self.step)
        if step:
            momentum = cosine_schedule(step - 1, self.steps, self.momentum, 1.0)
            update_momentum(self.online, self.target, momentum)
        self.step += 1


def view_by_view(drawn: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return B pairs of views (2, 3, H, W) as one batch (2B, 3, H, W), all first views first."""
    pairs, images = zip(*drawn, strict=True)
    return torch.stack(pairs, dim=1).flatten(0, 1), torch.tensor(images)
