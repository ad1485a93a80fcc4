"""What flows from the patches to the embedding of a vision transformer, by its attention.

Sources: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020; Chefer et al.,
Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers,
ICCV 2021; Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature
Formation Sensitivity, ICCV 2025.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from captum.attr import GradientAttribution, LayerAttribution
from torch import Tensor, nn

from reid_explain.attention import Attentions
from reid_explain.capture import ForwardFunc, model_of, unwrapped
from reid_explain.checks import at_least_float32, check_finite, describe
from reid_explain.errors import InputError
from reid_explain.explainers.base import Explainer, Images, logged, parts_of, rows_of
from reid_explain.explainers.ram import ReferenceExplainer
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.objectives import RESULT, Norm, Objective, Score

EXPECTED = (
    "a vision transformer whose attention, of all tokens of an image, runs in this thread by "
    "F.scaled_dot_product_attention, nn.MultiheadAttention or a softmax of (B, heads, T, T)"
)


class Attended(NamedTuple):
    """One part of a batch: its rows (n,), matrices (n, heads, T, T) and the result (n, D)."""

    rows: Tensor
    matrices: list[Tensor]
    result: Tensor


class AttentionExplainer(Explainer, GradientAttribution):
    """Explains by the attention matrices of all blocks of a vision transformer.

    Subclasses give ``_relevance``, the formula, and ``attribute``. No layer is needed. Maps have
    the resolution of the patches; class, register and distillation tokens drop out, and
    ``reshape_transform`` takes relevances (B, T, 1) to (B, 1, h, w) where patches overlap and the
    model does not tell its ``token_grid``.

    Raises:
        InputError: If the layer is not in the model.
    """

    looks_inside = True
    images_per_pass: int | None = None

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if layer is None:
            LayerAttribution.__init__(self, forward_func, nn.Identity())
            self.reshape_transform = reshape_transform
        else:
            super().__init__(forward_func, layer, reshape_transform)

    def _relevance(self, part: Attended, objective: Objective, score: Score) -> Tensor:
        """Return what each token counts for, (n, T)."""
        raise NotImplementedError

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        score = objective.prepare(self._batch(images, args))
        maps = []
        with torch.enable_grad():
            for rows in parts_of(images, self.images_per_pass):
                part = self._attended(images, rows, args)
                relevance = self._relevance(part, objective, score).detach()
                maps.append(self._as_map(relevance[:, :, None], images[rows]))
                del part
        return torch.cat(maps)

    def _attended(self, images: Tensor, rows: Tensor, args: tuple[Any, ...]) -> Attended:
        """Run the model on some rows of the images and keep its attention."""
        with Attentions() as seen:
            output = unwrapped(self.forward_func)(images[rows], *rows_of(args, rows, len(images)))
        result = self._result(output, rows)
        check_finite(RESULT, result)
        return Attended(rows, check_matrices(seen.matrices, len(rows)), result)


def check_matrices(matrices: list[Tensor], images: int) -> list[Tensor]:
    """Return the matrices of a pass if they join all tokens of ``images`` images.

    The last one may have fewer rows, where attention reads the tokens out.
    """
    if not matrices:
        raise InputError("forward_func", "a model without attention", EXPECTED)
    tokens = matrices[0].shape[-1]
    for matrix in matrices:
        square = matrix.shape[-2] == tokens or matrix is matrices[-1]
        if matrix.dim() != 4 or len(matrix) != images or matrix.shape[-1] != tokens or not square:
            came = f"attention {describe(matrix)} of {images} images"
            raise InputError("forward_func", came, f"{EXPECTED}; GradFAM takes any layer")
    return matrices


def slopes(scores: Tensor, matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the scores (n,), at the matrices of their rows.

    Raises:
        InputError: If the scores do not depend on the matrices differentiably.
    """
    if not scores.requires_grad:
        came = "a result that gradients do not follow to the attention"
        raise InputError("forward_func", came, EXPECTED)
    return torch.autograd.grad(scores.sum(), [*matrices], retain_graph=True, materialize_grads=True)


def read_out(part: Attended, flow: Tensor) -> Tensor:
    """Return the mean (n, T) of those rows of the flow (n, rows, T) that the result reads.

    These are the class token's, or all patches' where they are pooled. Rows of the last block
    that the result does not read have a gradient of exactly 0.
    """
    weights = torch.linspace(1, 2, part.result.shape[1]).to(part.result)
    (slope,) = slopes(part.result @ weights, part.matrices[-1:])
    read = (slope != 0).any(dim=3).any(dim=1).to(flow)
    if not read.any(dim=1).all():
        came = "a result that does not depend on the last attention"
        raise InputError("forward_func", came, EXPECTED)
    return torch.einsum("nr,nrt->nt", read, flow) / read.sum(dim=1, keepdim=True)


@EXPLAINERS.register
class AttentionRollout(AttentionExplainer):
    r"""Attention rollout, with heads averaged: a control, which knows nothing of the embedding.

    .. math:: R = \tilde A_L \cdots \tilde A_1, \quad
        \tilde A = \tfrac12 \, \mathrm{mean}_h A + \tfrac12 I

    The map is the row of R that the embedding is read from, or the mean of several.

    Source: Abnar and Zuidema, section 3.
    """

    is_control = True

    @logged
    def attribute(
        self,
        inputs: Images,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        objective: Objective | None = None,
    ) -> Images:
        """Return the rollout of each image; as :meth:`.ActivationMean.attribute`."""
        return self._explain(inputs, objective or Norm(), additional_forward_args, interpolate_mode)

    def _relevance(self, part: Attended, objective: Objective, score: Score) -> Tensor:
        flow = identity(part)
        for matrix in part.matrices:
            mean = at_least_float32(matrix.detach()).mean(dim=1)
            flow = (mean @ flow + flow) / 2 if square(mean) else mean @ flow
        return read_out(part, flow)


class AttentionRelevanceExplainer(AttentionExplainer):
    """The algorithm of :class:`AttentionRelevance`; subclasses give ``attribute``."""

    def _relevance(self, part: Attended, objective: Objective, score: Score) -> Tensor:
        own = objective.check(part.result.detach())
        scores = score(part.result, own, part.rows)
        flow, reaction = identity(part), 0.0
        for matrix, slope in zip(part.matrices, slopes(scores, part.matrices), strict=True):
            weighted = at_least_float32(slope * matrix.detach())
            reaction += float(weighted.abs().sum())
            mean = weighted.relu().mean(dim=1)
            flow = flow + mean @ flow if square(mean) else mean @ flow
        objective.check_reaction(reaction, float(scores.detach().sum()))
        return read_out(part, flow)


class ObjectiveAttention(AttentionExplainer):
    """Explains any objective."""

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Images:
        """Explain the objective of each image; as :meth:`.GradientWeighting.attribute`.

        Raises:
            InputError: As there, or if the model runs no attention that can be seen.
        """
        return self._explain(inputs, objective or Norm(), additional_forward_args, interpolate_mode)


@EXPLAINERS.register
class AttentionRelevance(ObjectiveAttention, AttentionRelevanceExplainer):
    r"""Attention relevance of a score s: attention where it serves the score, block by block.

    .. math:: R \leftarrow R + \bar A R, \quad
        \bar A = \mathrm{mean}_h\left(\frac{\partial s}{\partial A} \circ A\right)^+,
        \quad R_0 = I

    The map is the row of R that the embedding is read from: the class token's; where patches are
    pooled the mean of their rows; where attention reads the tokens out, that of
    :math:`\bar A R`. One forward and one backward pass for each image.

    Source: Chefer et al., ICCV 2021, equations 5 and 6 and section 3.2.
    """


@EXPLAINERS.register
class PairRelevance(ReferenceExplainer, AttentionRelevanceExplainer):
    """Attention relevance of the projection on a reference, ``Projection(references)``."""


class LeGradExplainer(AttentionExplainer):
    """The algorithm of :class:`LeGrad`; subclasses give ``attribute``."""

    images_per_pass = 8  # What reads the tokens out sees each image once for every block.

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        blocks: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__(forward_func, layer, reshape_transform)
        self.blocks = find_blocks(forward_func) if blocks is None else blocks

    def _attended(self, images: Tensor, rows: Tensor, args: tuple[Any, ...]) -> Attended:
        """Return the matrices, and the results ((L + 1) n, D) of all blocks and of the model."""
        own, count = rows_of(args, rows, len(images)), len(self.blocks)
        with stacked(self.blocks, len(rows)), Attentions(cut=True) as seen:
            output = unwrapped(self.forward_func)(images[rows], *own)
        matrices = check_matrices(seen.matrices, len(rows))
        if len(matrices) != count:
            came = f"{count} blocks with {len(matrices)} attentions"
            raise InputError("blocks", came, "the blocks in their order, each with one attention")
        result = self._result(output, rows.repeat(count + 1))
        check_finite(RESULT, result)
        return Attended(rows, matrices, result)

    def _relevance(self, part: Attended, objective: Objective, score: Score) -> Tensor:
        own = objective.check(part.result[-len(part.rows) :].detach())
        read, count = part.result[: -len(part.rows)], len(part.matrices)
        scores = score(read, own.repeat(count, 1), part.rows.repeat(count))
        found = slopes(scores, part.matrices)
        pairs = zip(found, part.matrices, strict=True)
        reaction = sum(float((slope * matrix.detach()).abs().sum()) for slope, matrix in pairs)
        objective.check_reaction(reaction, float(scores.detach().sum()))
        layers = [at_least_float32(slope).relu().mean(dim=(1, 2)) for slope in found]
        return torch.stack(layers).mean(dim=0)


@EXPLAINERS.register
class LeGrad(ObjectiveAttention, LeGradExplainer):
    r"""LeGrad: how sensitive to its attention is what each block has made of the tokens so far.

    .. math:: L = \frac1{|B|} \sum_l \mathrm{mean}_{h, i}
        \left(\frac{\partial s^l}{\partial A^l_{h, i}}\right)^+

    with :math:`s^l` the score of what the rest of the model makes of the mean token behind block l,
    and i the rows of the attention. One forward and one backward pass for each image.

    Args:
        forward_func, layer, reshape_transform: As for every :class:`.Explainer`.
        blocks: The blocks in their order, each with one attention; by default the longest
            sequence of modules of one class in the model.

    Source: Bousselham et al., ICCV 2025, without its stretch to [0, 1]; the mean token as in
    the authors' code.
    """


@EXPLAINERS.register
class PairLeGrad(ReferenceExplainer, LeGradExplainer):
    """LeGrad of the projection on a reference, ``Projection(references)``."""


def identity(part: Attended) -> Tensor:
    """Return the flow (n, T, T) before the first block."""
    first = at_least_float32(part.matrices[0].detach())
    tokens = first.shape[-1]
    return torch.eye(tokens, dtype=first.dtype, device=first.device).expand(len(first), -1, -1)


def square(matrix: Tensor) -> bool:
    """Tell whether a matrix (n, T, S) joins tokens, and does not read them out."""
    return matrix.shape[1] == matrix.shape[2]


def find_blocks(forward_func: ForwardFunc) -> Sequence[nn.Module]:
    """Return the longest sequence of modules of one class in the model.

    Raises:
        InputError: If there is none, or the function hides the model.
    """
    model = model_of(forward_func)
    found: list[Sequence[nn.Module]] = [
        [*module]
        for module in ([] if model is None else model.modules())
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({*map(type, module)}) == 1
    ]
    if not found:
        came = "a function that hides its model" if model is None else type(model).__name__
        raise InputError("blocks", came, "a model with a sequence of blocks, or blocks=")
    return max(found, key=len)


@contextmanager
def stacked(blocks: Sequence[nn.Module], images: int) -> Iterator[None]:
    """Give the rest of the model the mean tokens behind each of the blocks, and its own tokens.

    The rows are those of the first block, of the second, ..., of the model itself. The graph of a
    block begins with it.
    """
    kept: list[Tensor] = []
    thread = threading.get_ident()

    def behind(_block: nn.Module, _inputs: Any, output: Any) -> Any:
        if thread != threading.get_ident():
            return None
        tokens = output[0] if isinstance(output, tuple) else output
        batch = 0 if len(tokens) == images else 1  # CLIP has (T, B, C)
        kept.append(tokens.mean(dim=1 - batch, keepdim=True).expand_as(tokens))
        last = len(kept) == len(blocks)
        goes_on = torch.cat([*kept, tokens], dim=batch) if last else tokens.detach()
        return (goes_on, *output[1:]) if isinstance(output, tuple) else goes_on

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(behind).remove)
        yield
