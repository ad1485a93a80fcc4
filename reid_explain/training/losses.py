"""Losses of the strong baseline, computed in float32 also under mixed precision."""

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import CircleLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn
from torch.nn import functional

from reid_explain.checks import check_choice


class ReIDLoss(nn.Module):
    """Identity loss, metric loss and, optionally, center loss.

    Luo et al. 2019: cross-entropy with label smoothing on the logits, batch-hard triplet loss
    (Hermans et al. 2017) on the pooled map before the neck, both averaged over the batch.

    Args:
        metric: ``"triplet"`` (margin 0.3), ``"soft-triplet"`` (softplus, no margin) or
            ``"circle"`` (Sun et al., CVPR 2020: m 0.25, gamma 128, on cosines).
        smoothing: label smoothing of the identity loss.
        centers: center loss to add, or None.

    Raises:
        InputError: another metric loss.
    """

    def __init__(
        self, metric: str = "triplet", smoothing: float = 0.1, centers: "CenterLoss | None" = None
    ) -> None:
        super().__init__()
        check_choice("metric", metric, ("triplet", "soft-triplet", "circle"))
        self.metric, self.smoothing, self.centers = metric, smoothing, centers
        if metric == "circle":
            self.pairs = CircleLoss(m=0.25, gamma=128, reducer=MeanReducer())
        else:
            soft = metric == "soft-triplet"
            distance = LpDistance(normalize_embeddings=False)
            self.miner = BatchHardMiner(distance=distance)
            self.pairs = TripletMarginLoss(
                0.0 if soft else 0.3, smooth_loss=soft, distance=distance, reducer=MeanReducer()
            )

    def forward(self, pooled: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms by name; the loss is their sum.

        Of pooled maps (B, D), before the neck, logits (B, classes) and classes (B,).
        """
        with torch.autocast(pooled.device.type, enabled=False):
            pooled, logits = pooled.float(), logits.float()
            mined = self.miner(pooled, labels) if self.metric != "circle" else None
            identity = functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
            terms = {"identity": identity, self.metric: self.pairs(pooled, labels, mined)}
            if self.centers is not None:
                terms["center"] = self.centers(pooled, labels)
        return terms


class CenterLoss(nn.Module):
    """Center loss (Wen et al., ECCV 2016, equation 2): weight · ½ mean_i ‖x_i − c_{y_i}‖².

    It has a center, of the ``width`` D of the pooled maps, for each of ``classes``; the weight is
    that of Luo et al.
    """

    def __init__(self, classes: int, width: int, weight: float = 0.0005) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, width))
        self.weight = weight

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of pooled maps (B, D) with classes (B,)."""
        squares = (pooled - self.centers[labels]).square().sum(1)
        return self.weight * squares.mean() / 2
