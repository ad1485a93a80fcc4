"""Controls: maps that any explainer has to beat."""

from typing import Any

from torch import Tensor

from reid_explain.explainers.base import Explainer, Images, logged


class ActivationMean(Explainer):
    r"""The plain mean of the layer's channels, :math:`L = \frac{1}{K}\sum_k A^k`; signed.

    It knows nothing of the embedding. Score-FAM comes close to it wherever its weights are close
    to uniform.
    """

    @logged
    def attribute(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Return the mean activation of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them.
            additional_forward_args: Further arguments of ``forward_func``; one or a tuple.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the layer's own h x w.

        Returns:
            Maps (B, 1, H, W), within the range of the activations.

        Raises:
            InputError: If an argument does not fit or the layer gives no map.
        """
        return self._explain(inputs, additional_forward_args, interpolate_mode)

    def _map(self, images: Tensor, args: tuple[Any, ...], given: Any) -> Tensor:
        activation, _ = self._capture(images, args)
        return self._as_map(activation, images).mean(dim=1, keepdim=True)
