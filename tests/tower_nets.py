"""The image towers of other projects by their equations: names and shapes of their files, and
what they compute, from the weights alone and without a module.

Independent of ``reid_explain.models`` and of timm on purpose, see ``project_nets``.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Weights far from a new network's; statistics of batch norms, and buffers, by their names."""
    generator = torch.Generator().manual_seed(4)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            value = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 1 and name.endswith("weight"):
            value = torch.rand(shape, generator=generator) * 0.8 + 0.6
        else:
            scale = 0.3 if len(shape) < 2 else 1.4 * math.prod(shape[1:]) ** -0.5
            value = scale * torch.randn(shape, generator=generator)
        weights[name] = value.double()
    return weights


def layer(name: str, out: int, into: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm_of(name: str, c: int, batch: bool = False) -> dict[str, tuple[int, ...]]:
    kept = ("weight", "bias", "running_mean", "running_var") if batch else ("weight", "bias")
    return {f"{name}.{key}": (c,) for key in kept}


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    spread = (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    return centered / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def batch_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Of vectors (B, C) or maps (B, C, h, w)."""
    mean, var, weight, bias = (
        w[f"{name}.{key}"].view(-1, *[1] * (x.dim() - 2))
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0) -> Tensor:
    """Of tokens (B, T, D), head by head; ``bias`` (heads, T, T) is added to the products."""
    made = []
    for head, (a, b, c) in enumerate(zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True)):
        products = a @ b.transpose(1, 2) / a.shape[-1] ** 0.5
        products = products + (bias[head] if isinstance(bias, Tensor) else bias)
        made.append(products.softmax(-1) @ c)
    return torch.cat(made, -1)


# TransReID


def block_shapes(name: str, d: int) -> dict[str, tuple[int, ...]]:
    return {
        **norm_of(f"{name}.norm1", d),
        **layer(f"{name}.attn.qkv", 3 * d, d),
        **layer(f"{name}.attn.proj", d, d),
        **norm_of(f"{name}.norm2", d),
        **layer(f"{name}.mlp.fc1", 4 * d, d),
        **layer(f"{name}.mlp.fc2", d, 4 * d),
    }


def block(w: Weights, name: str, x: Tensor) -> Tensor:
    q, k, v = linear(w, f"{name}.attn.qkv", layer_norm(w, f"{name}.norm1", x, 1e-6)).chunk(3, -1)
    x = x + linear(w, f"{name}.attn.proj", attention(q, k, v, x.shape[-1] // 64))
    hidden = linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, 1e-6))
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return x + linear(w, f"{name}.mlp.fc2", hidden)


def half_instance_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    first = functional.instance_norm(x[:, :half]) * w[f"{name}.IN.weight"].view(-1, 1, 1)
    first = first + w[f"{name}.IN.bias"].view(-1, 1, 1)
    return torch.cat([first, batch_norm(w, f"{name}.BN", x[:, half:])], dim=1)


class TransReIDFile:
    """A file of TransReID, and its embedding for images and cameras counted from 0."""

    def __init__(
        self,
        grid: tuple[int, int] = (5, 2),
        stride: int = 12,
        cameras: int = 0,
        jpm: bool = False,
        stem: bool = False,
        depth: int = 3,
        d: int = 128,
        classes: int = 5,
    ) -> None:
        self.grid, self.stride, self.jpm, self.stem, self.depth = grid, stride, jpm, stem, depth
        suffixes = ("", "_1", "_2", "_3", "_4") if jpm else ("",)
        embed = "base.patch_embed"
        shapes = {
            "base.cls_token": (1, 1, d),
            "base.pos_embed": (1, grid[0] * grid[1] + 1, d),
            f"{embed}.proj.weight": (d, 64, 8, 8) if stem else (d, 3, 16, 16),
            f"{embed}.proj.bias": (d,),
        }
        if cameras:
            shapes["base.sie_embed"] = (cameras, 1, d)
        if stem:
            for i, inputs, kernel in ((0, 3, 7), (3, 64, 3), (6, 64, 3)):
                shapes[f"{embed}.conv.{i}.weight"] = (64, inputs, kernel, kernel)
            for i in (1, 4):
                shapes |= norm_of(f"{embed}.conv.{i}.IN", 32)
                shapes |= norm_of(f"{embed}.conv.{i}.BN", 32, batch=True)
            shapes |= norm_of(f"{embed}.conv.7", 64, batch=True)
        for i in range(depth):
            shapes |= block_shapes(f"base.blocks.{i}", d)
        shapes |= norm_of("base.norm", d) | layer("base.fc", 11, d)
        for branch in ("b1", "b2") if jpm else ():
            shapes |= block_shapes(f"{branch}.0", d) | norm_of(f"{branch}.1", d)
        for suffix in suffixes:
            shapes |= norm_of(f"bottleneck{suffix}", d, batch=True)
            shapes |= layer(f"classifier{suffix}", classes, d, bias=False)
        self.weights = drawn(shapes)

    def tokens(self, x: Tensor, cameras: list[int] | None, factor: float) -> Tensor:
        w = self.weights
        if self.stem:
            conv = "base.patch_embed.conv"
            x = functional.conv2d(x, w[f"{conv}.0.weight"], stride=2, padding=3)
            x = half_instance_norm(w, f"{conv}.1", x).relu()
            x = functional.conv2d(x, w[f"{conv}.3.weight"], padding=1)
            x = half_instance_norm(w, f"{conv}.4", x).relu()
            x = functional.conv2d(x, w[f"{conv}.6.weight"], padding=1)
            x = batch_norm(w, f"{conv}.7", x).relu()
        kernel = w["base.patch_embed.proj.weight"]
        side, step = kernel.shape[-1], self.stride // 2 if self.stem else self.stride
        rows, columns = self.grid
        patches = [
            torch.einsum("dcij,bcij->bd", kernel, x[:, :, i : i + side, j : j + side])
            for i in range(0, rows * step, step)
            for j in range(0, columns * step, step)
        ]
        tokens = torch.stack(patches, 1) + w["base.patch_embed.proj.bias"]
        tokens = torch.cat([w["base.cls_token"].expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + w["base.pos_embed"]
        if cameras is not None:
            tokens = tokens + factor * torch.stack([w["base.sie_embed"][c] for c in cameras])
        return tokens

    def vectors(self, x: Tensor, cameras: list[int] | None = None, factor: float = 3) -> list:
        """The vectors before their batch norms: one, or five."""
        w, tokens = self.weights, self.tokens(x, cameras, factor)
        for i in range(self.depth - self.jpm):
            tokens = block(w, f"base.blocks.{i}", tokens)
        if not self.jpm:
            return [layer_norm(w, "base.norm", tokens, 1e-6)[:, 0]]
        found = [layer_norm(w, "b1.1", block(w, "b1.0", tokens), 1e-6)[:, 0]]
        count = self.grid[0] * self.grid[1]
        order = [*range(4, count), *range(4)]  # Shifted by five tokens, of which one is the class.
        order += [order[-2]] * (count % 2)
        half = len(order) // 2
        order = [order[i + g * half] for i in range(half) for g in (0, 1)]
        for part in range(4):
            own = order[part * (count // 4) : (part + 1) * (count // 4)]
            local = torch.cat([tokens[:, :1], *(tokens[:, 1 + i : 2 + i] for i in own)], 1)
            found.append(layer_norm(w, "b2.1", block(w, "b2.0", local), 1e-6)[:, 0])
        return found

    def normed(self, vectors: list) -> list:
        names = ("bottleneck", *(f"bottleneck_{i}" for i in (1, 2, 3, 4)))
        return [batch_norm(self.weights, n, v) for n, v in zip(names, vectors, strict=False)]

    def logits(self, vectors: list) -> Tensor:
        names = ("classifier", *(f"classifier_{i}" for i in (1, 2, 3, 4)))
        each = zip(names, self.normed(vectors), strict=False)
        return torch.stack([v @ self.weights[f"{n}.weight"].T for n, v in each]).mean(0)


def joined(vectors: list) -> Tensor:
    return torch.cat([vectors[0], *(v / 4 for v in vectors[1:])], 1)
