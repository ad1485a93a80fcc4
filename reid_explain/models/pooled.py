"""A network whose embedding is its pooled map."""

from torch import Tensor, nn

from reid_explain.models.network import EmbeddingNet


class PooledMap(nn.Module):
    """The pooled map (B, C') of a network: what BYOL trains, and what is then explained.

    A neck after it belongs to other trainings: it gets no gradient and stays as it was.
    """

    def __init__(self, model: EmbeddingNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled maps of images (B, 3, H, W)."""
        return self.model.pool(self.model.features(images))
