"""Ranking activation mapping: what makes an image similar to a reference.

Sources: Yang et al., RAM, 2019, as FAM (Wu et al., CVPR 2022), section 3.1, has it and extends it.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from reid_explain.checks import check_images, describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import Explainer, Images, logged, only_tensor
from reid_explain.explainers.gradient import GradientExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.objectives import Cosine, Objective, Projection
from reid_explain.vectors import unit


class ReferenceExplainer(Explainer):
    """Explains the similarity of an image to a reference, which is an image or its embedding."""

    needs: ClassVar[tuple[str, ...]] = ("references",)
    objective: ClassVar[type[Projection | Cosine]] = Projection
    """What is explained, of references and their forward arguments."""

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Any,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        reference_forward_args: Any = None,
    ) -> Images:
        """Explain what in each image makes it similar to its reference.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            references: Images (N, C, H, W) or embeddings (N, D), with N = B, 1, or a divisor of
                B: then each reference serves B / N images in a row, as Captum repeats its inputs.
            additional_forward_args: Further arguments of ``forward_func``, one or a tuple. A
                tensor with B rows follows its images; :class:`.Shared` passes it whole.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.
            reference_forward_args: Further arguments for the N reference images (their camera);
                None for those of the images that they serve.

        Returns:
            Maps (B, 1, H, W), without a fixed scale.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        objective = self._given(references, reference_forward_args)
        return self._explain(inputs, objective, additional_forward_args, interpolate_mode)

    def _given(self, references: Any, forward_args: Any) -> Objective:
        """Return what is explained, of references that are there."""
        if only_tensor("references", references) is None:
            raise InputError("references", "NoneType", "images (N, C, H, W) or embeddings (N, D)")
        return self._objective(references, forward_args)

    def _objective(self, references: Any, forward_args: Any) -> Objective:
        """Return what is explained."""
        return self.objective(references, forward_args)

    def attribute_pair(
        self,
        inputs: Images,
        references: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        reference_forward_args: Any = None,
        **options: Any,
    ) -> tuple[Images, Images]:
        """Explain both sides of each pair: what makes either image similar to the other.

        Args:
            inputs: Images (B, C, H, W).
            references: Images (B or 1, C, H', W').
            additional_forward_args: As in :meth:`attribute`, for both sides.
            interpolate_mode: As in :meth:`attribute`.
            reference_forward_args: For the B references, where theirs differ.
            options: Further options of :meth:`attribute`, for both sides.

        Returns:
            Maps (B, 1, H, W) of the inputs and (B, 1, H', W') of the references. Swapping the
            images swaps the maps.
        """
        images = check_images("inputs", only_tensor("inputs", inputs))
        others = check_images("references", only_tensor("references", references))
        if len(others) not in (1, len(images)):
            raise InputError("references", describe(others), f"1 or {len(images)} images")
        others = others.expand(len(images), -1, -1, -1)
        swapped: Any = (others,) if isinstance(references, tuple) else others
        own, theirs = additional_forward_args, reference_forward_args
        swapped_args = (own, None) if theirs is None else (theirs, own)  # None: own serve both
        first, second = (
            self.attribute(
                side, other, args, interpolate_mode, reference_forward_args=their_args, **options
            )
            for side, other, (args, their_args) in (
                (inputs, others, (own, theirs)),
                (swapped, images, swapped_args),
            )
        )
        return first, second


@EXPLAINERS.register
class RAM(ReferenceExplainer):
    r"""RAM: channels weighted by the reference's pooled activation; signed.

    .. math:: L = \sum_k \frac{v_g^k}{\|v_g\|} A^k, \quad v = \mathrm{GAP}(A)

    For models whose embedding is the pooled output of the layer (or has its direction), so that
    the map adds up to the similarity. Source: FAM, equations 4 and 5.

    Example:
        >>> import torch
        >>> from reid_explain import RAM
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> red = torch.tensor([[3.0, 0.0, 0.0]])  # the reference's embedding
        >>> RAM(mean_color, layer).attribute(image, references=red)[0, 0, :, 0]
        tensor([1., 1., 0., 0.])
    """

    explains = "pooled"

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        assert isinstance(objective, Projection)
        goals = self._batch(images, args).goals(
            "references", objective.references, objective.forward_args
        )
        maps = []
        for part in self._captures(images, args):
            own = objective.check(part.result)
            activation = self._as_map(part.activation, part.images)
            check_pooled(activation, own)
            weights = unit(goals(own, part.rows))[:, :, None, None]
            maps.append((weights * activation).sum(dim=1, keepdim=True))
        return torch.cat(maps)


def check_pooled(activation: Tensor, output: Tensor) -> None:
    """Raise unless the embeddings (B, D) point where the mean activations (B, C) do."""
    pooled = activation.mean(dim=(2, 3)).to(output)
    same = pooled.shape == output.shape
    if not (same and bool((unit(pooled) - unit(output)).norm(dim=1).max() <= 1e-2)):
        raise InputError(
            "forward_func",
            f"embeddings {describe(output)} that are not the mean of the layer's output "
            f"{describe(activation)}",
            "the pooled layer for RAM; GradRAM takes any other model",
        )


@EXPLAINERS.register
class GradRAM(ReferenceExplainer, GradientExplainer):
    r"""Grad-RAM: gradient weighting of the projection, ``Projection(references)``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij} \frac{\partial}{\partial A^k_{ij}}
        \frac{\langle f(X_g), f(X)\rangle}{\|f(X_g)\|} \cdot A^k\right)

    Source: FAM, equation 6.

    Example:
        >>> import torch
        >>> from reid_explain import GradRAM
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> query, gallery = torch.zeros(2, 1, 3, 4, 4)
        >>> query[0, 0, :2] = query[0, 1, 2:] = 1  # red above, green below
        >>> gallery[0, 0, 2:] = 1  # red below
        >>> query_map, gallery_map = GradRAM(mean_color, layer).attribute_pair(query, gallery)
        >>> query_map[0, 0, :, 0], gallery_map[0, 0, :, 0]  # red is what they share
        (tensor([0.0625, 0.0625, 0.0000, 0.0000]), tensor([0.0000, 0.0000, 0.0442, 0.0442]))
    """


@EXPLAINERS.register
class CGRAM(ReferenceExplainer, GradientExplainer):
    r"""CG-RAM: gradient weighting of the cosine, ``Cosine(references)``.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij} \frac{\partial}{\partial A^k_{ij}}
        \cos(f(X), f(X_g)) \cdot A^k\right)

    The gradient vanishes as the two images become equal. Source: FAM, section 3.1 and equation 7.

    Example:
        >>> import torch
        >>> from reid_explain import CGRAM
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> red = torch.tensor([[3.0, 0.0, 0.0]])
        >>> CGRAM(mean_color, layer).attribute(image, references=red)[0, 0, :, 0]
        tensor([0.0442, 0.0442, 0.0000, 0.0000])
    """

    objective = Cosine
