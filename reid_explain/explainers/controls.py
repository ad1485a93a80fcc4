"""Controls: maps that any explainer has to beat. They know nothing of the embedding."""

from typing import Any

import torch
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc
from reid_explain.checks import check_at_least
from reid_explain.explainers.base import Explainer, Images, logged
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.fills import content_generator
from reid_explain.objectives import Norm, Objective

CENTER_SIGMA = 0.25
"""Width of the center blob, as a share of the image's height and width."""


class Control(Explainer):
    """A map from the layer's output, (B, C, h, w), and the images alone."""

    is_control = True

    @logged
    def attribute(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        objective: Objective | None = None,
    ) -> Images:
        """Return the control's map of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            objective: Ignored: a control explains nothing.

        Returns:
            Maps (B, 1, H, W).

        Raises:
            InputError: If an argument does not fit or the layer gives no map.
        """
        return self._explain(inputs, objective or Norm(), additional_forward_args, interpolate_mode)

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        maps = [
            self._control(self._as_map(part.activation, part.images), part.images)
            for part in self._captures(images, args)
        ]
        return torch.cat(maps)

    def _control(self, activation: Tensor, images: Tensor) -> Tensor:
        """Return the maps (B, 1, h, w)."""
        raise NotImplementedError


@EXPLAINERS.register
class ActivationMean(Control):
    r"""The plain mean of the layer's channels, :math:`L = \frac{1}{K}\sum_k A^k`; signed.

    Score-FAM comes close to it wherever its weights are close to uniform.

    Example:
        >>> import torch
        >>> from reid_explain import ActivationMean
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = 1  # a red upper half
        >>> ActivationMean(mean_color, layer).attribute(image)[0, 0, :, 0]
        tensor([0.3333, 0.3333, 0.0000, 0.0000])
    """

    def _control(self, activation: Tensor, images: Tensor) -> Tensor:
        return activation.mean(dim=1, keepdim=True)


@EXPLAINERS.register
class Random(Control):
    """Uniform noise in [0, 1) at the layer's resolution.

    The noise depends on the seed and the image's values alone, neither on the batch nor on the
    global random state.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        seed: Another seed, another noise.

    Example:
        >>> import torch
        >>> from reid_explain import Random
        >>> layer = torch.nn.Identity()
        >>> control = Random(lambda images: layer(images).mean(dim=(2, 3)), layer)
        >>> images = torch.rand(2, 3, 8, 4)
        >>> maps = control.attribute(images)
        >>> torch.equal(maps[1:], control.attribute(images[1:]))  # whatever else is in the batch
        True
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Any = None,
        seed: int = 0,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        check_at_least("seed", seed, 0)
        self.seed = seed

    def _control(self, activation: Tensor, images: Tensor) -> Tensor:
        generators = (content_generator(image, self.seed) for image in images)
        noise = [torch.rand(1, *activation.shape[2:], generator=each) for each in generators]
        return torch.stack(noise).to(activation)


@EXPLAINERS.register
class Centre(Control):
    """A fixed Gaussian blob in the middle of the image, a quarter of its size wide; in (0, 1].

    Example:
        >>> import torch
        >>> from reid_explain import Centre
        >>> layer = torch.nn.Identity()
        >>> control = Centre(lambda images: layer(images).mean(dim=(2, 3)), layer)
        >>> control.attribute(torch.rand(1, 3, 3, 4))[0, 0]
        tensor([[0.1335, 0.3628, 0.3628, 0.1335],
                [0.3247, 0.8825, 0.8825, 0.3247],
                [0.1335, 0.3628, 0.3628, 0.1335]])
    """

    def _control(self, activation: Tensor, images: Tensor) -> Tensor:
        return center_blob(activation)


def center_blob(activation: Tensor) -> Tensor:
    """Return the blob (B, 1, h, w) at the resolution of an activation (B, C, h, w)."""
    y, x = (
        (torch.arange(n, dtype=activation.dtype, device=activation.device) + 0.5) / n - 0.5
        for n in activation.shape[2:]
    )
    blob = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * CENTER_SIGMA**2))
    return blob.expand(len(activation), 1, -1, -1)
