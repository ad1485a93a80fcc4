"""The trained part of an interpreter: copied stages, head, PePU (AMD, section 3.2)."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reid_explain.amd.decomposition import attribute_features, embed
from reid_explain.amd.seam import check_chain, inputs_of, stage_of
from reid_explain.capture import evaluation
from reid_explain.checks import at_least_float32, check_at_least, check_embeddings, describe
from reid_explain.errors import InputError
from reid_explain.fingerprints import probe_images


class Decomposed(NamedTuple):
    """B images decomposed into M attributes, in at least float32.

    ``embeddings`` f of the model, (B, D); ``parts`` f^k, the attribute-guided features,
    (B, M, D); ``maps`` A^k, (B, M, h, w), positive.
    """

    embeddings: Tensor
    parts: Tensor
    maps: Tensor


def pepu(x: Tensor, kappa: float, tau: float = 0.5) -> Tensor:
    r"""Return the Positive Exponential Power Unit of ``x``, in its shape (AMD, equation 2).

    .. math:: \delta(x) = \begin{cases} \kappa (x + 1)^\tau & x > 0 \\
        \kappa e^x & x \le 0 \end{cases}

    Positive everywhere, with the slope of a root for large x: no map can switch off or take over
    all of the distance, as with a sigmoid. ``kappa``, the value at 0, is 1/M in AMD, and the power
    ``tau`` lies in (0, 1].

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

    Nothing stands between the two convolutions, as in the authors' released code. Of C
    ``channels`` it makes M ``attributes``, with ``hidden`` channels between the convolutions, C/8
    by default as in the paper; a number below 1 raises ``InputError``.
    """

    def __init__(self, channels: int, attributes: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = max(channels // 8, 1) if hidden is None else hidden
        for name, value in (("channels", channels), ("attributes", attributes), ("hidden", hidden)):
            check_at_least(name, value, 1)
        self.kappa = 1 / attributes
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, attributes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the attribute maps A, (B, M, h, w), positive, of maps (B, C, h, w)."""
        return pepu(self.conv2(self.conv1(features)), self.kappa)


class AMDNetwork(nn.Module):
    """The trainable network of an interpreter, which decomposes images.

    The model is no submodule: ``parameters``, ``state_dict``, ``to`` and ``train`` reach only
    what is trained, and the model runs in eval mode and gets its modes back. In eval mode all f^k
    are multiplied by the buffer ``scale``, 1 until ``calibrate`` sets it. Two buffers are NaN
    before training: ``prototypes``, (2, M, D), the mean f^k, at scale 1, of the training images
    without and with each attribute; ``frequencies``, (M,), the share of the training identities
    that have it. ``fingerprint``, (2, D), holds the model's embeddings of two fixed images.

    Args:
        model, stages, hidden: as of :class:`~reid_explain.amd.AMDInterpreter`.
        attributes: M.
        image_size: height and width of the model's images.
    """

    model: Any
    prototypes: Tensor
    frequencies: Tensor
    scale: Tensor

    def __init__(
        self,
        model: Any,
        stages: Sequence[str],
        attributes: int,
        hidden: int | None = None,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        self.__dict__["model"] = model
        self.first_stage = stages[0]
        like = next(model.parameters())
        with torch.no_grad(), evaluation(model, model):
            features, shared = self.target_features(probe_images(image_size, like))
            if features.dim() != 4:
                raise InputError("model", f"features {describe(features)}", "maps (B, C, h, w)")
            embeddings = check_embeddings("model", embed(model, features), rows=len(features))
            copies = [copy.deepcopy(stage_of(model, name)) for name in stages]
            check_chain(stages, copies, shared, features)
        self.fingerprint = embeddings.float().cpu()
        self.stages = nn.Sequential(*copies)
        self.head = AttributeHead(features.shape[1], attributes, hidden).to(like)
        width = embeddings.shape[1]
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("prototypes", torch.full((2, attributes, width), torch.nan))
        self.register_buffer("frequencies", torch.full((attributes,), torch.nan))
        self.to(like.device).eval().requires_grad_(True)

    def forward(self, images: Tensor, *args: Any) -> Decomposed:
        """Decompose images (B, 3, H, W); ``args`` are further arguments of ``model.features``.

        Gradients reach the stages and the head, and what of the model requires them after F:
        freeze the model to train.
        """
        with evaluation(self.model, self.model):
            features, shared = self.target_features(images, *args)
            maps: Tensor = self.head(self.stages(shared))
            if maps.shape[2:] != features.shape[2:]:
                expected = f"of {tuple(features.shape[2:])}"
                raise InputError("stages", f"maps of {tuple(maps.shape[2:])}", expected)
            with torch.autocast(images.device.type, enabled=False):
                features, maps = at_least_float32(features), at_least_float32(maps)
                parts = attribute_features(self.model, features, maps)
                if not self.training:
                    parts = self.scale * parts
                with torch.no_grad():
                    embeddings = embed(self.model, features)
        return Decomposed(embeddings, parts, maps)

    def target_features(self, images: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """Return the model's map F and the input of its first copied stage, without gradients."""
        with torch.no_grad(), inputs_of(stage_of(self.model, self.first_stage)) as inputs:
            features: Tensor = self.model.features(images, *args)
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            expected = "a stage that runs once, on a tensor, in model.features"
            raise InputError("stages", repr(self.first_stage), expected)
        return features, inputs[0]
