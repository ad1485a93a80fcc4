"""The attention matrices of one forward pass, whoever computes them, with their gradients."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


class Attentions(TorchFunctionMode):
    """Within it, the calling thread's model computes attention explicitly, and it is kept.

    ``matrices`` are those of ``F.scaled_dot_product_attention``, of ``nn.MultiheadAttention`` and
    of any softmax over the last dimension of (B, heads, T, T), in the order of their computation,
    (B, heads, T, S); rows add up to 1. The model's results are the same but for rounding. Nothing
    is changed in the model, nor seen of other threads.

    Gradients are recorded from the first attention on, if they are enabled, and nothing before it
    has a graph: ``torch.autograd.grad`` reaches every matrix.

    Args:
        cut: Whether each matrix is a leaf: gradients of one reach no earlier one through it.

    Example:
        >>> model = torch.nn.MultiheadAttention(4, 2, batch_first=True)
        >>> tokens = torch.rand(1, 5, 4)
        >>> with Attentions() as seen:
        ...     result, _ = model(tokens, tokens, tokens, need_weights=False)
        >>> [tuple(matrix.shape) for matrix in seen.matrices]
        [(1, 2, 5, 5)]
    """

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.matrices: list[Tensor] = []
        self._with_gradients = torch.is_grad_enabled()

    def __enter__(self) -> "Attentions":
        self._with_gradients = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.set_grad_enabled(self._with_gradients)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``; the matrix of an attention is kept on the way."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._dot_product(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            return self._multi_head(given.arguments)
        result = func(*args, **kwargs)
        if func in SOFTMAX and result.dim() == 4 and result.shape[2] == result.shape[3]:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            return self._kept(result) if dim in (-1, 3) else result
        return result

    def _dot_product(
        self, query: Tensor, key: Tensor, value: Tensor, *options: Any, **more: Any
    ) -> Tensor:
        """Compute the attention of the identity, which is the matrix, and then the value's."""
        identity = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
        identity = identity.expand(*key.shape[:-1], -1)
        matrix = self._kept(F.scaled_dot_product_attention(query, key, identity, *options, **more))
        repeats = matrix.shape[-3] // value.shape[-3]  # groups of queries share a value
        return matrix @ value.repeat_interleave(repeats, dim=-3)

    def _multi_head(self, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Compute the matrix as torch does, and with it the result."""
        wanted = {"need_weights": True, "average_attn_weights": False}
        weights: Any = F.multi_head_attention_forward(**{**given, **wanted})[1]
        matrix = self._kept(weights)
        separate, bias = given["use_separate_proj_weight"], given["in_proj_bias"]
        project = given["v_proj_weight"] if separate else given["in_proj_weight"].chunk(3)[2]
        value = F.linear(given["value"], project, None if bias is None else bias.chunk(3)[2])
        value = value.view(*value.shape[:2], given["num_heads"], -1)  # (S, B, heads, d)
        joined = torch.einsum("bhts,sbhd->tbhd", matrix, value).flatten(2)
        result = F.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
        if given["average_attn_weights"]:
            weights = weights.mean(dim=1)
        return result, weights if given["need_weights"] else None

    def _kept(self, matrix: Tensor) -> Tensor:
        """Keep a matrix; return what the model goes on with."""
        torch.set_grad_enabled(self._with_gradients)
        if self.cut or not matrix.requires_grad:
            matrix = matrix.detach().requires_grad_(self._with_gradients)
        self.matrices.append(matrix)
        return matrix.clone()
