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


# CLIP-ReID


class CLIPReIDFile:
    """A file of CLIP-ReID with its transformer, and its two vectors."""

    def __init__(
        self, grid=(5, 2), stride=12, cameras=0, depth=2, d=128, projected=24, classes=5
    ) -> None:
        self.grid, self.stride, self.depth = grid, stride, depth
        shapes = {
            "image_encoder.class_embedding": (d,),
            "image_encoder.positional_embedding": (grid[0] * grid[1] + 1, d),
            "image_encoder.proj": (d, projected),
            "image_encoder.conv1.weight": (d, 3, 16, 16),
            **norm_of("image_encoder.ln_pre", d),
            **norm_of("image_encoder.ln_post", d),
        }
        for i in range(depth):
            name = f"image_encoder.transformer.resblocks.{i}"
            shapes |= norm_of(f"{name}.ln_1", d) | norm_of(f"{name}.ln_2", d)
            shapes |= {f"{name}.attn.in_proj_weight": (3 * d, d)}
            shapes |= {f"{name}.attn.in_proj_bias": (3 * d,)}
            shapes |= layer(f"{name}.attn.out_proj", d, d)
            shapes |= layer(f"{name}.mlp.c_fc", 4 * d, d) | layer(f"{name}.mlp.c_proj", d, 4 * d)
        if cameras:
            shapes["cv_embed"] = (cameras, d)
        self.weights = drawn(shapes | clip_head(d, projected, classes))

    def vectors(self, x: Tensor, cameras: list[int] | None = None, factor: float = 1) -> list:
        w = self.weights
        patches = functional.conv2d(x, w["image_encoder.conv1.weight"], stride=self.stride)
        start = w["image_encoder.class_embedding"].expand(len(x), -1)
        if cameras is not None:
            start = start + factor * w["cv_embed"][cameras]
        x = torch.cat([start[:, None], patches.flatten(2).transpose(1, 2)], 1)
        x = x + w["image_encoder.positional_embedding"]
        x = layer_norm(w, "image_encoder.ln_pre", x, 1e-5)
        for i in range(self.depth):
            name = f"image_encoder.transformer.resblocks.{i}"
            y = layer_norm(w, f"{name}.ln_1", x, 1e-5) @ w[f"{name}.attn.in_proj_weight"].T
            q, k, v = (y + w[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
            x = x + linear(w, f"{name}.attn.out_proj", attention(q, k, v, x.shape[-1] // 64))
            y = linear(w, f"{name}.mlp.c_fc", layer_norm(w, f"{name}.ln_2", x, 1e-5))
            x = x + linear(w, f"{name}.mlp.c_proj", y / (1 + (-1.702 * y).exp()))
        vector = layer_norm(w, "image_encoder.ln_post", x, 1e-5)[:, 0]
        return [vector, vector @ w["image_encoder.proj"]]


class CLIPReIDResNetFile:
    """A file of CLIP-ReID with its ResNet, and its two vectors."""

    def __init__(self, grid=(4, 2), width=16, depths=(1, 2, 1, 1), projected=24, classes=5) -> None:
        self.depths, self.heads = depths, width // 2
        c, start = 32 * width, "image_encoder"
        shapes = {f"{start}.attnpool.positional_embedding": (grid[0] * grid[1] + 1, c)}
        for name in "qkv":
            shapes |= layer(f"{start}.attnpool.{name}_proj", c, c)
        shapes |= layer(f"{start}.attnpool.c_proj", projected, c)
        half = width // 2
        for i, (inputs, outputs) in enumerate(((3, half), (half, half), (half, width)), start=1):
            shapes[f"{start}.conv{i}.weight"] = (outputs, inputs, 3, 3)
            shapes |= norm_of(f"{start}.bn{i}", outputs, batch=True)
        inputs = width
        for i, depth in enumerate(depths):
            planes = width * 2**i
            for j in range(depth):
                name = f"{start}.layer{i + 1}.{j}"
                shapes[f"{name}.conv1.weight"] = (planes, inputs, 1, 1)
                shapes[f"{name}.conv2.weight"] = (planes, planes, 3, 3)
                shapes[f"{name}.conv3.weight"] = (4 * planes, planes, 1, 1)
                for k, channels in ((1, planes), (2, planes), (3, 4 * planes)):
                    shapes |= norm_of(f"{name}.bn{k}", channels, batch=True)
                if j == 0:
                    shapes[f"{name}.downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                    shapes |= norm_of(f"{name}.downsample.1", 4 * planes, batch=True)
                inputs = 4 * planes
        self.weights = drawn(shapes | clip_head(c, projected, classes))

    def vectors(self, x: Tensor) -> list:
        w, start = self.weights, "image_encoder"

        def unit(x: Tensor, conv: str, norm: str, **options) -> Tensor:
            return batch_norm(w, norm, functional.conv2d(x, w[f"{conv}.weight"], **options))

        for i in (1, 2, 3):
            stride = 2 if i == 1 else 1
            x = unit(x, f"{start}.conv{i}", f"{start}.bn{i}", padding=1, stride=stride).relu()
        x = functional.avg_pool2d(x, 2)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                name, side = f"{start}.layer{i + 1}.{j}", 2 if j == 0 and i in (1, 2) else 1
                y = unit(x, f"{name}.conv1", f"{name}.bn1").relu()
                y = unit(y, f"{name}.conv2", f"{name}.bn2", padding=1).relu()
                y = unit(functional.avg_pool2d(y, side), f"{name}.conv3", f"{name}.bn3")
                if j == 0:
                    x = functional.avg_pool2d(x, side)
                    x = unit(x, f"{name}.downsample.0", f"{name}.downsample.1")
                x = (x + y).relu()
        places = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([places.mean(1, keepdim=True), places], 1)
        tokens = tokens + w[f"{start}.attnpool.positional_embedding"]
        q, k, v = (linear(w, f"{start}.attnpool.{name}_proj", tokens) for name in "qkv")
        made = linear(w, f"{start}.attnpool.c_proj", attention(q, k, v, self.heads))
        return [x.mean((2, 3)), made[:, 0]]


def clip_head(d: int, projected: int, classes: int) -> dict[str, tuple[int, ...]]:
    """What both have behind the encoder, and what of the texts lies in the file."""
    return {
        **norm_of("bottleneck", d, batch=True),
        **norm_of("bottleneck_proj", projected, batch=True),
        **layer("classifier", classes, d, bias=False),
        **layer("classifier_proj", classes, projected, bias=False),
        "prompt_learner.cls_ctx": (classes, 4, 8),
        "text_encoder.positional_embedding": (7, 8),
        **layer("text_encoder.transformer.resblocks.0.attn.out_proj", 8, 8),
    }


def clip_normed(file, vectors: list) -> list:
    names = ("bottleneck", "bottleneck_proj")
    return [batch_norm(file.weights, n, v) for n, v in zip(names, vectors, strict=True)]


def clip_logits(file, vectors: list) -> Tensor:
    first, second = clip_normed(file, vectors)
    w = file.weights
    return (first @ w["classifier.weight"].T + second @ w["classifier_proj.weight"].T) / 2


# SOLIDER


class SoliderFile:
    """A file of SOLIDER-REID, and its vector: attention over all places, with a mask."""

    def __init__(self, d=32, depths=(2, 2, 1, 2), window=3, semantic=True, classes=5) -> None:
        self.depths, self.window, self.semantic = depths, window, semantic
        shapes = {"base.patch_embed.projection.weight": (d, 3, 4, 4)}
        shapes |= {"base.patch_embed.projection.bias": (d,)} | norm_of("base.patch_embed.norm", d)
        for i, depth in enumerate(depths):
            c = d * 2**i
            shapes |= norm_of(f"base.norm{i}", c)
            for j in range(depth):
                name = f"base.stages.{i}.blocks.{j}"
                shapes |= norm_of(f"{name}.norm1", c) | norm_of(f"{name}.norm2", c)
                msa, places = f"{name}.attn.w_msa", window**2
                shapes[f"{msa}.relative_position_bias_table"] = ((2 * window - 1) ** 2, c // 32)
                shapes[f"{msa}.relative_position_index"] = (places, places)
                shapes |= layer(f"{msa}.qkv", 3 * c, c) | layer(f"{msa}.proj", c, c)
                shapes |= layer(f"{name}.ffn.layers.0.0", 4 * c, c)
                shapes |= layer(f"{name}.ffn.layers.1", c, 4 * c)
            if i < 3:
                name = f"base.stages.{i}.downsample"
                shapes |= norm_of(f"{name}.norm", 4 * c)
                shapes |= layer(f"{name}.reduction", 2 * c, 4 * c, bias=False)
            for kind in "wb" if semantic else "":
                shapes |= layer(f"base.semantic_embed_{kind}.{i}", d * 2 ** min(i + 1, 3), 2)
        shapes |= norm_of("bottleneck", 8 * d, batch=True)
        self.weights = drawn(shapes | layer("classifier", classes, 8 * d, bias=False))

    def attended(self, name: str, x: Tensor, shift: int) -> Tensor:
        """Of maps (B, h, w, C): places attend to those of their window, if they were neighbors."""
        side, (batch, rows, columns, c) = self.window, x.shape
        high, wide = (-(-n // side) * side for n in (rows, columns))
        whole = x.new_zeros(batch, high, wide, c)
        whole[:, :rows, :columns] = x
        y, x0 = (
            axis.flatten()
            for axis in torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        )
        # Where a place lies after the shift, and in which part of the image it then is.
        spots = [(axis - shift) % n for axis, n in ((y, high), (x0, wide))]
        windows = [spot // side for spot in spots]
        wrapped = [
            (spot >= n - shift) if shift else torch.zeros_like(spot, dtype=torch.bool)
            for spot, n in zip(spots, (high, wide), strict=True)
        ]
        apart = torch.zeros(high * wide, high * wide, dtype=torch.bool)
        for label in (*windows, *wrapped):
            apart |= label[:, None] != label[None, :]
        steps = [spot[:, None] - spot[None, :] + side - 1 for spot in spots]
        row = (steps[0] * (2 * side - 1) + steps[1]).clamp(0, (2 * side - 1) ** 2 - 1)
        bias = self.weights[f"{name}.relative_position_bias_table"][row].permute(2, 0, 1)
        bias = bias.masked_fill(apart, float("-inf"))
        q, k, v = linear(self.weights, f"{name}.qkv", whole.flatten(1, 2)).chunk(3, -1)
        made = linear(self.weights, f"{name}.proj", attention(q, k, v, c // 32, bias))
        return made.view(whole.shape)[:, :rows, :columns]

    def vector(self, x: Tensor, semantic_weight: float = 0.2) -> Tensor:
        w, embed = self.weights, "base.patch_embed"
        x = functional.conv2d(
            x, w[f"{embed}.projection.weight"], w[f"{embed}.projection.bias"], stride=4
        )
        x = layer_norm(w, f"{embed}.norm", x.permute(0, 2, 3, 1), 1e-5)
        for i, depth in enumerate(self.depths):
            for j in range(depth):
                name, shift = f"base.stages.{i}.blocks.{j}", self.window // 2 if j % 2 else 0
                y = layer_norm(w, f"{name}.norm1", x, 1e-5)
                x = x + self.attended(f"{name}.attn.w_msa", y, shift)
                y = linear(w, f"{name}.ffn.layers.0.0", layer_norm(w, f"{name}.norm2", x, 1e-5))
                x = x + linear(w, f"{name}.ffn.layers.1", functional.gelu(y))
            if i == 3:
                break
            name = f"base.stages.{i}.downsample"
            batch, rows, columns, c = x.shape
            whole = x.new_zeros(batch, rows + rows % 2, columns + columns % 2, c)
            whole[:, :rows, :columns] = x
            unfolded = functional.unfold(whole.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
            x = linear(w, f"{name}.reduction", layer_norm(w, f"{name}.norm", unfolded, 1e-5))
            x = x.view(batch, whole.shape[1] // 2, whole.shape[2] // 2, 2 * c)
            if self.semantic:
                asked = x.new_tensor([semantic_weight, 1 - semantic_weight])
                scale = linear(w, f"base.semantic_embed_w.{i}", asked)
                x = x * (1 + scale.exp()).log() + linear(w, f"base.semantic_embed_b.{i}", asked)
        return layer_norm(w, "base.norm3", x, 1e-5).mean((1, 2))
