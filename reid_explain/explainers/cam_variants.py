"""Variants of class activation mapping for embeddings: one formula each, on any objective.

Sources: Draelos and Carin, HiResCAM, 2020; Jiang et al., LayerCAM, IEEE TIP 2021; Fu et al.,
XGrad-CAM, BMVC 2020; Muhammad and Yeasin, Eigen-CAM, IJCNN 2020.
"""

import torch
from torch import Tensor

from reid_explain.explainers.controls import Control
from reid_explain.explainers.gradient import GradientWeighting
from reid_explain.explainers.registry import EXPLAINERS


@EXPLAINERS.register
class HiResCAM(GradientWeighting):
    r"""HiResCAM: each place of a channel weighted by its own gradient.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{\partial s}{\partial A^k} \circ A^k\right)

    :class:`GradientWeighting` with ``weights="elementwise"``; s is the embedding's length where no
    objective is given. Source: HiResCAM, equation 5, for any score.

    Example:
        >>> import torch
        >>> from reid_explain import HiResCAM
        >>> layer = torch.nn.Identity()
        >>> upper = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None]  # the model reads the upper half
        >>> mean_color = lambda images: (layer(images) * upper).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0] = 1  # all red
        >>> HiResCAM(mean_color, layer).attribute(image)[0, 0, :, 0]
        tensor([0.0625, 0.0625, 0.0000, 0.0000])
    """

    weights = "elementwise"


@EXPLAINERS.register
class LayerCAM(GradientWeighting):
    r"""LayerCAM: each place of a channel weighted by its own gradient where that is positive.

    .. math:: L = \mathrm{ReLU}\left(\sum_k
        \mathrm{ReLU}\left(\frac{\partial s}{\partial A^k}\right) \circ A^k\right)

    :class:`GradientWeighting` with ``weights="positive"``; s is the embedding's length where no
    objective is given. Source: LayerCAM, equations 5 to 7, for any score.
    """

    weights = "positive"


@EXPLAINERS.register
class XGradCAM(GradientWeighting):
    r"""XGrad-CAM: channels weighted by their gradient where they are active.

    .. math:: L = \mathrm{ReLU}\left(\sum_k w^k A^k\right), \quad
        w^k = \frac{\sum_{ij} A^k_{ij} \, \partial s / \partial A^k_{ij}}{\sum_{ij} A^k_{ij}}

    :class:`GradientWeighting` with ``weights="activation"``; s is the embedding's length where no
    objective is given. A channel that sums to 0 has weight 0. Source: XGrad-CAM, equation 8, for
    any score.
    """

    weights = "activation"


@EXPLAINERS.register
class EigenCAM(Control):
    r"""Eigen-CAM: the activation along its first principal direction; signed.

    .. math:: L = A v_1, \quad A = U \Sigma V^T \in \mathbb{R}^{Z \times K}

    with the sign that makes the sum of L at least 0; where no activation is negative, no place is.
    It looks at the layer alone: a control, as the channel mean is.

    Source: Eigen-CAM, section III; nothing is centered.

    Example:
        >>> import torch
        >>> from reid_explain import EigenCAM
        >>> layer = torch.nn.Identity()
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 3:] = 1  # red above, a green line below
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> EigenCAM(mean_color, layer).attribute(image)[0, 0, :, 0] > 0  # red is most of it
        tensor([ True,  True, False, False])
    """

    def _control(self, activation: Tensor, images: Tensor) -> Tensor:
        places = activation.flatten(2).mT  # (B, Z, K)
        directions = torch.linalg.svd(places, full_matrices=False).Vh
        along = places @ directions[:, 0, :, None]
        sign = along.sum(dim=1, keepdim=True).sign()
        maps: Tensor = along * torch.where(sign == 0, 1, sign)
        return maps.view(len(maps), 1, *activation.shape[2:])
