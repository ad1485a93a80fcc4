"""Amortized FAM: a head learns once per model which areas keep an embedding; a map is one pass.

Sources: Dabkowski and Gal, Real Time Image Saliency for Black Box Classifiers, NeurIPS 2017, and
Jethani et al., FastSHAP, ICLR 2022: explanations learned once for a classifier, without a teacher.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, capture, model_of
from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import Images, logged
from reid_explain.explainers.descent import simple_maps, standardized
from reid_explain.explainers.gradient import GradientExplainer, own_slope
from reid_explain.explainers.ram import ReferenceExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.fingerprints import check_fingerprint, probe_images
from reid_explain.objectives import Objective, Projection
from reid_explain.tensor_files import read_tensors, write_tensors
from reid_explain.vectors import unit

KIND = "amortized_fam"
FINGERPRINT = "target_fingerprint"
WIDTH = 64
"""Channels of a head."""
BLOCKS = 2
TURNED = 1e-3
"""The share of a rest above which what is explained is not the image itself."""


class MapHead(nn.Module):
    """Reads a map off what a model makes of an image; subclasses give ``_read``."""

    sees: ClassVar[str]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.blocks = nn.ModuleList(_Block(WIDTH) for _ in range(BLOCKS))
        self.map = nn.Conv2d(WIDTH, 1, 1)
        nn.init.zeros_(self.map.weight)

    def forward(self, images: Tensor, activation: Tensor, slope: Tensor, own: Tensor) -> Tensor:
        """Return maps (B, 1, h, w) of mean 0 and standard deviation 1.

        Args:
            images: (B, 3, H, W), as the model takes them.
            activation: The layer's map (B, C, h, w).
            slope: The gradient there of what is explained, (B, C, h, w).
            own: That of the projection on the image's own embedding.
        """
        images, activation, slope, own = (
            each.to(self.map.weight) for each in (images, activation, slope, own)
        )
        simple = standardized(simple_maps(activation, own))
        x, start = self._read(images, activation, own, simple)
        for block in self.blocks:
            x = block(x)
        return self._turned(standardized(start + self.map(x)), activation, slope, own)

    def _turned(self, maps: Tensor, activation: Tensor, slope: Tensor, own: Tensor) -> Tensor:
        """Return what maps (B, 1, h, w) of the image's own embedding are for another goal."""
        return maps

    def _read(
        self, images: Tensor, activation: Tensor, slope: Tensor, simple: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return features (B, 64, h, w), and the map (B, 1, h, w) that is to be improved."""
        raise NotImplementedError


class ActivationHead(MapHead):
    """Reads the layer's map A, its product with the gradient, and simple maps.

    A and the product, what each channel of each place adds, come at a mean square of 1. The
    :func:`.simple_maps` are what Extremal FAM starts from; the head improves their mean. All that
    is for the image's own embedding. What another goal changes is read from the part of its
    product that is orthogonal to this one (:func:`rest`): none for the image itself, so that such
    a goal teaches this part of the head alone.

    Args:
        channels: C.
    """

    sees = "activation"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.enter = nn.Conv2d(2 * channels + 4, WIDTH, 1)
        last = nn.Conv2d(WIDTH, 1, 1)
        nn.init.zeros_(last.weight)
        self.turn = nn.Sequential(
            nn.Conv2d(2 * channels + 2, WIDTH, 1), nn.ReLU(), _Block(WIDTH), last
        )
        self.weight = nn.Parameter(torch.zeros(()))
        """Of the sum of the rest over the channels."""

    def _turned(self, maps: Tensor, activation: Tensor, slope: Tensor, own: Tensor) -> Tensor:
        left, share = rest(activation * slope, activation * own)
        maps = torch.where(share > TURNED, maps.detach(), maps)
        summed = standardized(left.sum(dim=1, keepdim=True))
        seen = (scaled(activation), share * scaled(left), share * summed, maps)
        change = self.weight * summed + self.turn(torch.cat(seen, dim=1))
        return standardized(maps + share * change)

    def _read(
        self, images: Tensor, activation: Tensor, slope: Tensor, simple: Tensor
    ) -> tuple[Tensor, Tensor]:
        parts = (scaled(activation), scaled(activation * slope), simple)
        return F.relu(self.enter(torch.cat(parts, dim=1))), simple.mean(dim=1, keepdim=True)


class ImageHead(MapHead):
    """The control: it reads the image alone, and improves a blob in the center."""

    sees = "image"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        sizes = (3, WIDTH // 4, WIDTH // 2, WIDTH, WIDTH)
        convs = (nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sizes))
        self.enter = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))

    def _read(
        self, images: Tensor, activation: Tensor, slope: Tensor, simple: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = F.adaptive_avg_pool2d(self.enter(images), (simple.shape[2], simple.shape[3]))
        place = F.pad(simple[:, 3:], (0, 0, 0, 0, 0, WIDTH - 1))
        return found + place, simple[:, 3:]


HEADS = {kind.sees: kind for kind in (ActivationHead, ImageHead)}


class _Block(nn.Module):
    """Two convolutions beside the identity, and a shift by the mean of all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.whole = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        inner = self.first(x) + self.whole(x.mean(dim=(2, 3)))[..., None, None]
        out: Tensor = F.relu(x + self.second(F.relu(inner)))
        return out


@EXPLAINERS.register
class AmortizedFAM(ReferenceExplainer, GradientExplainer):
    r"""Amortized FAM: the map of :class:`.ExtremalFAM`'s question, by a head that has learned it.

    The head reads the layer's map A and the gradients there of the projections on the image's own
    embedding and on the goal g, that or its reference's. It is trained once per model, without
    labels and without a teacher (``benchmarks/train_amortized.py``), so that what its highest
    pixels keep of any image at any area and under random fills stays near the goal:

    .. math:: \max \; \cos(f(X \circ M_a + R \circ (1 - M_a)), g)

    A map costs one forward pass and two backward passes to the layer.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        head: The file of :meth:`save`, or a head; one from a file has to be of this model and
            layer.

    Raises:
        InputError: No head, no such file, one of another model or layer; or the layer is not in
            the model.

    Example:
        >>> import torch
        >>> from reid_explain import AmortizedFAM
        >>> from reid_explain.explainers.amortized import ActivationHead
        >>> layer = torch.nn.Identity()
        >>> mean_color = lambda images: layer(images).mean(dim=(2, 3))
        >>> untrained = ActivationHead(channels=3)  # gives the mean of four simple maps
        >>> AmortizedFAM(mean_color, layer, untrained).attribute(torch.rand(2, 3, 8, 4)).shape
        torch.Size([2, 1, 8, 4])
    """

    needs: ClassVar[tuple[str, ...]] = ()
    on_request = True
    objective = Projection

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        head: MapHead | str | Path | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        self.head = head if isinstance(head, MapHead) else self._load(head)

    @logged
    def attribute(
        self,
        inputs: Images,
        references: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        reference_forward_args: Any = None,
        objective: Objective | None = None,
    ) -> Images:
        """Explain each image by itself, its similarity to a reference, or another objective.

        Args:
            inputs: As in :meth:`.ReferenceExplainer.attribute`, and so are those not described.
            references: None for the image's own embedding, or as there.
            additional_forward_args: As there.
            interpolate_mode: As there.
            reference_forward_args: As there.
            objective: What is explained in the place of references, from
                :mod:`reid_explain.objectives`, such as ``Margin(a, b)``.

        Returns:
            Maps (B, 1, H, W), signed: at the layer's resolution of mean 0 and standard deviation
            1. Their order has a meaning, their scale has none.
        """
        if objective is None:
            objective = self._objective(references, reference_forward_args)
        elif references is not None:
            raise InputError("objective", "one beside references", "one of the two")
        return self._explain(inputs, objective.slope, additional_forward_args, interpolate_mode)

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        score = objective.prepare(self._batch(images, args))
        maps = []
        with torch.enable_grad():
            for part in self._captures(images, args):
                own = self._as_map(own_slope(part.result, part.activation), part.images)
                seen = self._activation_and_slope(part, objective, score)
                with torch.no_grad():
                    maps.append(self.head(part.images, *seen, own))
                del part
        return torch.cat(maps)

    def save(self, path: str | Path, size: tuple[int, int]) -> None:
        """Write the head with the model's fingerprint, in float16; ``head=path`` reads it.

        ``size`` is the height and width of the model's images. A file that cannot be written raises
        ``InputError``.
        """
        state = {FINGERPRINT: self._fingerprint(size)[0], **self.head.state_dict()}
        about = {"sees": self.head.sees, "channels": self.head.channels, "size": [*size]}
        write_tensors(path, state, KIND, about, dtype=torch.float16, whole=(FINGERPRINT,))

    def _load(self, path: Any) -> MapHead:
        expected = "a trained head: a file of AmortizedFAM.save, as train_amortized.py writes it"
        if not isinstance(path, str | Path):
            raise InputError("head", describe(path), expected)
        state, about = read_tensors(path, KIND, expected)
        found, dtype = self._fingerprint(tuple(about["size"]))
        check_fingerprint(path, state.pop(FINGERPRINT), found, dtype)
        head = HEADS[about["sees"]](about["channels"])
        if state.keys() != head.state_dict().keys():
            raise InputError("head", f"{path}, which has other parts", expected)
        head.load_state_dict(state)
        return head.to(next(iter(self.layer.parameters()), found).device).eval()

    def _fingerprint(self, size: tuple[int, int]) -> tuple[Tensor, torch.dtype]:
        """Return the mean activation and the embedding of two images, each of length 1, (2, C + D).

        Also the precision that they were made in.
        """
        model = model_of(self.forward_func)
        like = next(model.parameters(), torch.empty(0)) if model else torch.empty(0)
        probes = probe_images(size, like.detach())
        with self._evaluation():
            activation, output = capture(self.forward_func, self.layer, probes, ())
            pooled = self._as_map(activation, probes).mean(dim=(2, 3))
            result = self._result(output, probes)
        both = torch.cat([unit(pooled), unit(result)], dim=1).float().cpu()
        return both, max(activation.dtype, output.dtype, key=lambda dtype: torch.finfo(dtype).eps)


def rest(products: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of maps (B, C, h, w) orthogonal to others, and its share (B, 1, 1, 1).

    A share, of the lengths, is in [0, 1].
    """
    dims = (1, 2, 3)
    tiny = torch.finfo(own.dtype).tiny
    along = (products * own).sum(dim=dims, keepdim=True)
    length = own.square().sum(dim=dims, keepdim=True).clamp_min(tiny)
    left = products - along / length * own
    lengths = [each.square().sum(dim=dims, keepdim=True).sqrt() for each in (left, products)]
    return left, lengths[0] / lengths[1].clamp_min(tiny)


def scaled(maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) at a mean square of 1 in each image; zero maps stay zero."""
    square = maps.square().mean(dim=(1, 2, 3), keepdim=True)
    return maps / (square + torch.finfo(maps.dtype).tiny).sqrt()
