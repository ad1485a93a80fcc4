"""The part of an interpreter that is trained: stages, head, PePU (AMD, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reid_explain.checks import check_at_least

TAU = 0.5
REDUCTION = 8


def pepu(x: Tensor, kappa: float, tau: float = TAU) -> Tensor:
    r"""Return the Positive Exponential Power Unit of ``x``, in its shape (AMD, equation 2).

    .. math:: \delta(x) = \begin{cases} \kappa (x + 1)^\tau & x > 0 \\
        \kappa e^x & x \le 0 \end{cases}

    Positive everywhere, and of the slope of a root for large x: no map can shut off or take
    over all of the distance as with a sigmoid.

    Args:
        x: of any shape.
        kappa: the value at 0; AMD uses 1/M.
        tau: the power, in (0, 1].

    Example:
        >>> pepu(torch.tensor([-1.0, 0.0, 3.0]), kappa=0.5)
        tensor([0.1839, 0.5000, 1.0000])
    """
    # Each branch sees only its own side, so that neither can overflow in the gradient.
    positive = x > 0
    power = (x.masked_fill(~positive, 0) + 1).pow(tau)
    return kappa * torch.where(positive, power, x.masked_fill(positive, 0).exp())


class AttributeHead(nn.Module):
    """The attribute decomposition head: 3x3 convolution, 1x1 convolution, PePU with κ = 1/M.

    As in the authors' released code, nothing stands between the two convolutions.

    Args:
        channels: C of the interpreter's last map.
        attributes: M.
        hidden: channels between the convolutions; C/8 in the paper.

    Raises:
        InputError: a number below 1.
    """

    def __init__(self, channels: int, attributes: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 1) if hidden is None else hidden
        for name, value in (("channels", channels), ("attributes", attributes), ("hidden", hidden)):
            check_at_least(name, value, 1)
        self.kappa = 1 / attributes
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, attributes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the attribute maps A, (B, M, h, w), positive, of maps (B, C, h, w)."""
        return pepu(self.conv2(self.conv1(features)), self.kappa)


class AttributeNetwork(nn.Module):
    """Stages and head, from the target's shared features to attribute maps.

    ``prototypes``, (2, M, D), holds the mean f^k of the training images without and with each
    attribute, ``frequencies``, (M,), the share of the training identities that have it; both are
    NaN until training has ended.

    Args:
        stages: The target's last stages, copied.
        head: The attribute decomposition head.
        width: D of the target's embeddings.
    """

    prototypes: Tensor
    frequencies: Tensor

    def __init__(self, stages: Sequence[nn.Module], head: AttributeHead, width: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.head = head
        attributes = head.conv2.out_channels
        self.register_buffer("prototypes", torch.full((2, attributes, width), torch.nan))
        self.register_buffer("frequencies", torch.full((attributes,), torch.nan))

    def forward(self, shared: Tensor) -> Tensor:
        """Return the attribute maps A, (B, M, h, w), of what the first stage takes."""
        maps: Tensor = self.head(self.stages(shared))
        return maps
