"""Ranking activation mapping: which parts of an image make it similar to another image.

Sources: Yang et al., Towards Rich Feature Discovery with Class Activation Maps Augmentation for
Person Re-Identification, CVPR 2019 (RAM); Shen et al., ES-Net, IEEE TIP 2021 (CG-RAM); Wu et al.,
FAM, CVPR 2022 (Grad-RAM).
"""

from typing import Any

from torch import Tensor

from reid_explain.checks import (
    check_embeddings,
    check_finite,
    check_images,
    check_nonzero,
    described,
)
from reid_explain.errors import InputError
from reid_explain.explainers.base import (
    Explainer,
    GradientExplainer,
    Images,
    at_least_float32,
    logged,
    only_tensor,
    per_image,
)
from reid_explain.explainers.similarity import cosine, unit


class ReferenceExplainer(Explainer):
    """Explains the similarity of an image to a reference, which is an image or its embedding."""

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Tensor,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain what in each image makes it similar to its reference.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            references: Images (N, C, H, W) or embeddings (N, D), with N = B, 1, or a divisor of
                B: then each reference serves B / N images in a row, as Captum repeats its inputs.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple. The
                reference images are embedded with those of the images that they serve.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.

        Returns:
            Maps (B, 1, H, W), without a fixed scale.

        Raises:
            InputError: If an argument does not fit, the layer gives no map, or an embedding is
                zero, NaN or infinite.
        """
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        with self._evaluation():
            embeddings = self._embedded(references, images, args)
            maps = self._map(images, args, given=embeddings)
        return self._finish(maps, inputs, interpolate_mode)

    def attribute_pair(
        self,
        inputs: Images,
        references: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> tuple[Images, Images]:
        """Explain both sides of each pair: what makes either image similar to the other.

        Args:
            inputs: Images (B, C, H, W).
            references: Images (B or 1, C, H', W').
            additional_forward_args: As in :meth:`attribute`, for both sides.
            interpolate_mode: As in :meth:`attribute`.

        Returns:
            Maps (B, 1, H, W) of the inputs and (B, 1, H', W') of the references. Swapping the
            images swaps the maps.
        """
        images = check_images("inputs", only_tensor("inputs", inputs))
        others = check_images("references", only_tensor("references", references))
        if len(others) not in (1, len(images)):
            raise InputError("references", described(others), f"1 or {len(images)} images")
        others = others.expand(len(images), -1, -1, -1)
        swapped = (others,) if isinstance(references, tuple) else others
        return (
            self.attribute(inputs, others, additional_forward_args, interpolate_mode),
            self.attribute(swapped, images, additional_forward_args, interpolate_mode),
        )

    def _embedded(self, references: Any, images: Tensor, args: tuple[Any, ...]) -> Tensor:
        """Return the embeddings (N or B, D) of references that are images or embeddings."""
        references = only_tensor("references", references)
        if not isinstance(references, Tensor) or references.dim() not in (2, 4):
            raise InputError(
                "references", described(references), "images (N, C, H, W) or embeddings (N, D)"
            )
        check_finite("references", references)
        if len(references) == 0 or len(images) % len(references):
            raise InputError(
                "references",
                described(references),
                f"1 or {len(images)} rows, or a number that divides {len(images)}",
            )
        if references.dim() == 2:
            return references.to(images.device)
        pictures = check_images("references", references).to(images)
        if any(per_image(arg, len(images)) for arg in args):
            pictures = repeated(pictures, len(images))
        return self._forward(pictures, args)


def repeated(references: Tensor, rows: int) -> Tensor:
    """Repeat each of N references for ``rows`` / N images in a row."""
    return references.repeat_interleave(rows // len(references), dim=0)


def paired(references: Tensor, output: Tensor) -> Tensor:
    """Return the reference (B, D) of each embedding in ``output`` (B, D), in its dtype."""
    check_embeddings("references", references, width=output.shape[1])
    check_nonzero("references", references)
    references = at_least_float32(references.detach()).to(output)
    return repeated(references, len(output))


class RAM(ReferenceExplainer):
    r"""RAM: channels weighted by the reference's pooled activation; signed.

    .. math:: L = \sum_k \frac{v_g^k}{\|v_g\|} A^k, \quad v = \mathrm{GAP}(A)

    For models whose embedding is the pooled output of the layer (or has its direction), so that
    the map adds up to the similarity. Source: FAM, equations 4 and 5.

    Example:
        >>> import torch
        >>> from reid_explain import RAM
        >>> layer = torch.nn.Identity()
        >>> mean_colour = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> red = torch.tensor([[3.0, 0.0, 0.0]])  # the reference's embedding
        >>> RAM(mean_colour, layer).attribute(image, references=red)[0, 0, :, 0]
        tensor([1., 1., 0., 0.])
    """

    def _map(self, images: Tensor, args: tuple[Any, ...], given: Any) -> Tensor:
        activation, output = self._capture(images, args)
        activation = self._as_map(activation, images)
        check_nonzero("the result of forward_func", output)
        check_pooled(activation, output)
        weights = unit(paired(given, output))[:, :, None, None]
        return (weights * activation).sum(dim=1, keepdim=True)


def check_pooled(activation: Tensor, output: Tensor) -> None:
    """Raise unless the embeddings (B, D) point where the mean activations (B, C) do."""
    pooled = activation.mean(dim=(2, 3))
    fits = pooled.shape == output.shape
    if fits:
        distance = (unit(pooled.to(output)) - unit(output)).norm(dim=1).max()
        fits = bool(distance <= 1e-2)
    if not fits:
        raise InputError(
            "forward_func",
            f"embeddings {described(output)} that are not the mean of the layer's output "
            f"{described(activation)}",
            "the pooled layer for RAM; GradRAM takes any other model",
        )


class GradRAM(ReferenceExplainer, GradientExplainer):
    r"""Grad-RAM: channels weighted by the mean gradient of the projection on the reference.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij} \frac{\partial}{\partial A^k_{ij}}
        \frac{\langle f(X_g), f(X)\rangle}{\|f(X_g)\|} \cdot A^k\right)

    Source: FAM, equation 6.

    Example:
        >>> import torch
        >>> from reid_explain import GradRAM
        >>> layer = torch.nn.Identity()
        >>> mean_colour = lambda images: layer(images).mean(dim=(2, 3))
        >>> query, gallery = torch.zeros(2, 1, 3, 4, 4)
        >>> query[0, 0, :2] = query[0, 1, 2:] = 1  # red above, green below
        >>> gallery[0, 0, 2:] = 1  # red below
        >>> query_map, gallery_map = GradRAM(mean_colour, layer).attribute_pair(query, gallery)
        >>> query_map[0, 0, :, 0], gallery_map[0, 0, :, 0]  # red is what they share
        (tensor([0.0625, 0.0625, 0.0000, 0.0000]), tensor([0.0000, 0.0000, 0.0442, 0.0442]))
    """

    def _score(self, output: Tensor, given: Any) -> Tensor:
        check_nonzero("the result of forward_func", output)
        return (unit(paired(given, output)) * output).sum(dim=1)


class CGRAM(ReferenceExplainer, GradientExplainer):
    r"""CG-RAM: channels weighted by the mean gradient of the cosine with the reference.

    .. math:: L = \mathrm{ReLU}\left(\sum_k \frac{1}{Z}\sum_{ij} \frac{\partial}{\partial A^k_{ij}}
        \cos(f(X), f(X_g)) \cdot A^k\right)

    The gradient vanishes as the two images become equal. Source: FAM, section 3.1 and equation 7.

    Example:
        >>> import torch
        >>> from reid_explain import CGRAM
        >>> layer = torch.nn.Identity()
        >>> mean_colour = lambda images: layer(images).mean(dim=(2, 3))
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> image[0, 0, :2] = image[0, 1, 2:] = 1  # red above, green below
        >>> red = torch.tensor([[3.0, 0.0, 0.0]])
        >>> CGRAM(mean_colour, layer).attribute(image, references=red)[0, 0, :, 0]
        tensor([0.0442, 0.0442, 0.0000, 0.0000])
        >>> CGRAM(mean_colour, layer).attribute(image, references=image).max() < 1e-6
        tensor(True)
    """

    def _score(self, output: Tensor, given: Any) -> Tensor:
        check_nonzero("the result of forward_func", output)
        return cosine(output, paired(given, output))
