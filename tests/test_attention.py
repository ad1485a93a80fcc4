"""Attention matrices with gradients, and what explainers of vision transformers make of them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from nets import HeadNet, images
from test_transformers import FAMILIES, Transformer
from torch import nn
from torchvision.models import VisionTransformer

from reid_explain import (
    AttentionRelevance,
    AttentionRollout,
    Cosine,
    InputError,
    LeGrad,
    Logit,
    PairLeGrad,
    PairRelevance,
    Projection,
)
from reid_explain.attention import Attentions
from reid_explain.testing import AttentionNet, pictures

close = torch.testing.assert_close
EVERY = [AttentionRollout, AttentionRelevance, LeGrad]
X = pictures(3)
SIZE = (64, 32)


class Toy(nn.Module):
    """A class token, 3 x 2 patches, one block, one head: f = x_0 + sum_j A_0j v_j."""

    def __init__(self, kind="fused", blocks=1):
        super().__init__()
        self.kind = kind
        self.embed = nn.Conv2d(3, 4, 4, stride=4)
        self.first = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.ModuleList(
            nn.MultiheadAttention(4, 1, batch_first=kind != "sequence first") for _ in range(blocks)
        )
        self.double()
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7, generator=generator)
        for block in self.blocks:  # what attention gives is added as it is
            nn.init.eye_(block.out_proj.weight)
            nn.init.zeros_(block.out_proj.bias)
            block.register_forward_hook(self.add)

    @staticmethod
    def add(_block, inputs, output):
        return inputs[0] + output[0]

    def tokens(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1)

    def parts(self, tokens, block):
        return F.linear(tokens, block.in_proj_weight, block.in_proj_bias).chunk(3, dim=-1)

    def forward(self, x):
        tokens = self.tokens(x)
        if self.kind == "sequence first":
            tokens = tokens.transpose(0, 1)
            for block in self.blocks:
                tokens = block(tokens, tokens, tokens, need_weights=False)
            return tokens[0]
        for block in self.blocks:
            if self.kind == "module":
                tokens = block(tokens, tokens, tokens, need_weights=False)
                continue
            query, key, value = (part[:, None] for part in self.parts(tokens, block))
            if self.kind == "fused":
                tokens = tokens + F.scaled_dot_product_attention(query, key, value)[:, 0]
            else:
                logits = query @ key.transpose(-2, -1) / 2
                tokens = tokens + (logits.softmax(dim=-1) @ value)[:, 0]
        return tokens[:, 0]


KINDS = ["fused", "softmax", "module", "sequence first"]


def by_hand(toy, reference):
    """Matrix (B, 7, 7) of the toy, and what each value gives the projection, (B, 7)."""
    query, key, value = toy.parts(toy.tokens(X), toy.blocks[0])
    matrix = (query @ key.transpose(1, 2) / 2).softmax(dim=2)
    return matrix.detach(), (value @ F.normalize(reference, dim=1)[0]).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms(kind):
    toy, reference = Toy(kind), torch.tensor([[1.0, -2.0, 0.5, 1.0]], dtype=torch.float64)
    matrix, gives = by_hand(toy, reference)
    data = {"objective": Projection(reference), "interpolate_mode": None}

    found = AttentionRelevance(toy).attribute(X, **data)
    close(found.flatten(1), (matrix[:, 0] * gives).relu()[:, 1:])
    found = AttentionRollout(toy).attribute(X, **data)
    close(found.flatten(1), matrix[:, 0, 1:] / 2)
    if kind in ("module", "sequence first"):
        found = LeGrad(toy).attribute(X, **data)
        close(found.flatten(1), gives.relu()[:, 1:] / 7)


def test_batch_first_or_not_is_the_same():
    for explainer in EVERY:
        maps = [explainer(Toy(kind, blocks=3)).attribute(X) for kind in ("module", KINDS[-1])]
        close(*maps)


# Every family of timm, against loops over matrices that hooks keep


def matrices_of(model):
    """Matrices with history and the tokens behind each block, where timm does not fuse them."""
    matrices, tokens, handles = [], [], []
    for block in model.net.net.blocks:
        block.attn.fused_attn = False
        keep = block.attn.attn_drop.register_forward_hook(lambda _m, _i, o: matrices.append(o))
        behind = block.register_forward_hook(lambda _m, _i, o: tokens.append(o))
        handles += [keep, behind]
    embedding = model.net(model.images)
    for handle in handles:
        handle.remove()
    for block in model.net.net.blocks:
        block.attn.fused_attn = True
    return embedding, matrices, tokens


@pytest.fixture(scope="module", params=["class token", "average", "registers", "dinov2", "eva"])
def model(request):
    return Transformer(request.param)


def read_rows(model):
    tokens = model.prefix + model.grid[0] * model.grid[1]
    patches = model.net.net.global_pool == "avg"
    return range(model.prefix, tokens) if patches else range(1)


def test_relevance_by_loops(model):
    reference = model.net(model.images.flip(0)).detach()
    embedding, matrices, _ = matrices_of(model)
    score = (embedding * F.normalize(reference, dim=1)).sum()
    slopes = torch.autograd.grad(score, matrices)
    expected = torch.zeros(2, *model.grid)
    for image in range(2):
        size = matrices[0].shape[-1]
        flow = torch.eye(size)
        for matrix, slope in zip(matrices, slopes, strict=True):
            heads = [(g * a).clamp(min=0) for a, g in zip(matrix[image], slope[image], strict=True)]
            flow = flow + sum(heads) / len(heads) @ flow
        rows = [flow[row] for row in read_rows(model)]
        expected[image] = (sum(rows) / len(rows))[model.prefix :].view(model.grid)
    maps = PairRelevance(model.net).attribute(model.images, reference, interpolate_mode=None)
    close(maps[:, 0], expected.detach(), rtol=1e-3, atol=1e-6)
    same = AttentionRelevance(model.net, model.net.map_layer)
    close(same.attribute(model.images, Projection(reference), interpolate_mode=None), maps)


def test_rollout_by_loops(model):
    _, matrices, _ = matrices_of(model)
    for image in range(2):
        flow = torch.eye(matrices[0].shape[-1])
        for matrix in matrices:
            flow = (matrix[image].mean(0) / 2 + torch.eye(len(flow)) / 2) @ flow
        expected = torch.stack([flow[row] for row in read_rows(model)]).mean(0)[model.prefix :]
        maps = AttentionRollout(model.net).attribute(model.images, interpolate_mode=None)
        close(maps[image, 0], expected.view(model.grid).detach(), rtol=1e-3, atol=1e-6)


def test_legrad_by_loops(model):
    reference = model.net(model.images.flip(0)).detach()
    _, matrices, tokens = matrices_of(model)
    expected = 0
    for matrix, behind in zip(matrices, tokens, strict=True):
        mean = behind.mean(dim=1, keepdim=True).expand_as(behind)
        read = model.net.net.forward_head(model.net.net.norm(mean), pre_logits=True)
        score = (read * F.normalize(reference, dim=1)).sum()
        (slope,) = torch.autograd.grad(score, [matrix], retain_graph=True)
        layer = slope.clamp(min=0).mean(1).mean(1)[:, model.prefix :]
        expected = expected + layer.view(2, 1, *model.grid) / len(matrices)
    maps = PairLeGrad(model.net).attribute(model.images, reference, interpolate_mode=None)
    close(maps, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_is_the_models_own(family):
    model = Transformer(family)
    with torch.no_grad():
        plain = model.net(model.images)
        with Attentions() as seen:
            found = model.net(model.images)
    close(found, plain, rtol=1e-4, atol=1e-5)
    assert len(seen.matrices) >= 2
    for matrix in seen.matrices:
        close(matrix.sum(dim=-1), torch.ones(matrix.shape[:-1]))


def test_tokens_that_attention_reads_out():
    """SigLIP's pooling has one row: the flow ends in it."""
    model = Transformer("siglip")
    with Attentions() as seen:
        score = model.net(model.images).norm(dim=1).sum()
    slopes = torch.autograd.grad(score, seen.matrices)
    steps = [(a * g).clamp(min=0).mean(1) for a, g in zip(seen.matrices, slopes, strict=True)]
    assert steps[-1].shape[1] == 1
    one, two = (torch.eye(32) + step for step in steps[:2])
    maps = AttentionRelevance(model.net).attribute(model.images, interpolate_mode=None)
    close(maps.flatten(1), (steps[-1] @ two @ one)[:, 0].detach(), rtol=1e-4, atol=1e-7)


def test_two_tokens_that_are_read():
    options = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": SIZE, "patch_size": 8}
    timm = pytest.importorskip("timm")
    net = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, **options).eval()
    x = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Attentions() as seen:
        net(x)
    one, two = ((matrix.mean(1) + torch.eye(34)) / 2 for matrix in seen.matrices)
    expected = (two @ one)[:, :2].mean(1)[:, 2:]
    found = AttentionRollout(net).attribute(x, interpolate_mode=None)
    assert found.shape == (2, 1, 8, 4)
    close(found.flatten(1), expected)


# Whoever computes it


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.7},
        {"attn_mask": torch.linspace(-1, 1, 30).view(5, 6)},
        {"enable_gqa": True},
    ],
    ids=str,
)
def test_dot_products(options):
    generator = torch.Generator().manual_seed(1)
    heads = 2 if "enable_gqa" in options else 4
    query = torch.randn(2, 4, 5, 3, generator=generator)
    key, value = (torch.randn(2, heads, 6, 3, generator=generator) for _ in range(2))
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    with Attentions() as seen:
        close(F.scaled_dot_product_attention(query, key, value=value, **options), expected)
    (matrix,) = seen.matrices
    assert matrix.shape == (2, 4, 5, 6)
    assert matrix.requires_grad


@pytest.mark.parametrize(
    ("made", "called"),
    [
        ({}, {}),
        ({"bias": False}, {"need_weights": False}),
        ({"kdim": 3, "vdim": 2}, {"average_attn_weights": False}),
        ({"batch_first": True}, {"attn_mask": torch.ones(5, 5).triu(1).bool()}),
        ({"batch_first": True}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 2)}),
    ],
)
def test_multi_head_attention(made, called):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(4, 2, **made).eval()
    shape = (2, 5) if "batch_first" in made else (5, 2)
    given = [torch.randn(*shape, made.get(name, 4)) for name in ("", "kdim", "vdim")]
    expected = module(*given, **called)
    with Attentions() as seen:
        close(module(*given, **called), expected)
    asked = {**called, "need_weights": True, "average_attn_weights": False}
    close(seen.matrices, [module(*given, **asked)[1]])


def test_torchvision():
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7).eval()
    nn.init.normal_(net.heads.head.weight)
    x = images(2, (32, 32)).float()
    kept = []
    for layer in net.encoder.layers:
        asks = {"need_weights": True, "average_attn_weights": False}
        module, plain = layer.self_attention, layer.self_attention.forward

        def forward(*given, plain=plain, asks=asks, **options):
            out, weights = plain(*given, **{**options, **asks})
            kept.append(weights.detach())
            return out, None

        module.forward = forward
    logits = net(x)
    for layer in net.encoder.layers:
        del layer.self_attention.forward
    with torch.no_grad(), Attentions() as seen:
        close(net(x), logits.detach())
    close(seen.matrices, kept)
    for explainer in EVERY:
        maps = explainer(net).attribute(x, objective=Logit(3), interpolate_mode=None)
        assert maps.shape == (2, 1, 4, 4)
        assert maps.min() >= 0
        assert maps.std() > 0


def test_legrad_of_torchcam():
    peer = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7).eval()
    nn.init.normal_(net.heads.head.weight)
    x = images(2, (32, 32)).float()
    with peer.LeGrad(net, [*net.encoder.layers]) as cam:
        net(x)
        (theirs,) = cam(3, normalized=False)
    close(LeGrad(net).attribute(x, Logit(3), interpolate_mode=None)[:, 0], theirs)


def test_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=8,
    )  # fmt: skip
    x = images(2, (32, 32)).float()
    for kind in ("sdpa", "eager"):
        torch.manual_seed(0)
        net = transformers.ViTModel._from_config(config, attn_implementation=kind).eval()

        class Embedding(nn.Module):
            def __init__(self, net=net):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net(x).last_hidden_state[:, 0]

        for explainer in EVERY:
            maps = explainer(Embedding()).attribute(x, objective=Logit(3), interpolate_mode=None)
            assert maps.shape == (2, 1, 4, 4)
            assert maps.min() >= 0
            assert maps.std() > 0


def test_gradients_begin_with_the_first_attention():
    net = Toy(blocks=2).requires_grad_(False)
    with Attentions() as seen:
        result = net(X)
    first, second = seen.matrices
    assert first.is_leaf
    assert not second.is_leaf
    assert result.requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad(), Attentions() as seen:
        net(X)
    assert not any(matrix.requires_grad for matrix in seen.matrices)
    assert not torch.autograd.grad(result.sum(), [first])[0].isnan().any()


# Pairs


@pytest.mark.parametrize("explainer", [PairRelevance, PairLeGrad])
def test_both_sides_of_a_pair(explainer):
    toy, one, other = Toy("module", blocks=2), X[:1], X[1:2]
    first, second = explainer(toy).attribute_pair(one, other)
    close(explainer(toy).attribute_pair(other, one), (second, first))
    with torch.no_grad():
        close(explainer(toy).attribute(one, toy(other)), first)


def test_legrad_of_a_cosine_is_not_of_the_image_itself():
    """The own embedding is the model's, not that of the mean token."""
    toy = Toy("module", blocks=2)
    own = toy(X).detach()
    maps = [LeGrad(toy).attribute(X, Cosine(given)) for given in (None, own)]
    close(*maps)
    assert maps[0].any()


# Errors


@pytest.mark.parametrize("explainer", EVERY)
def test_models_without_attention(explainer):
    given = {"blocks": [nn.Identity()]} if explainer is LeGrad else {}
    with pytest.raises(InputError, match="forward_func: got a model without attention"):
        explainer(HeadNet(), **given).attribute(X)


@pytest.mark.parametrize("explainer", EVERY)
def test_attention_in_windows(explainer):
    class Windows(AttentionNet):
        def mixed(self, tokens):
            return super().mixed(tokens[:, 1:].reshape(-1, 8, 5)).reshape(len(tokens), -1, 5)

    match = r"got attention \(9, 1, 8, 8\).* of 3 images"
    with pytest.raises(InputError, match=match):
        explainer(Windows().eval()).attribute(X)


@pytest.mark.parametrize("explainer", EVERY)
def test_attention_that_cannot_be_seen(explainer):
    net = AttentionNet().eval()

    def elsewhere(x):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(net, x).result()

    def detached(x):
        return net(x).detach()

    given = {"blocks": net.blocks} if explainer is LeGrad else {}
    with pytest.raises(InputError, match="without attention.*in this thread"):
        explainer(elsewhere, **given).attribute(X)
    with pytest.raises(InputError, match="a result that gradients do not follow"):
        explainer(detached, **given).attribute(X)


def test_blocks():
    net = AttentionNet().eval()
    expected = LeGrad(net).attribute(X)
    close(LeGrad(lambda x: net(x), blocks=net.blocks).attribute(X), expected)
    with pytest.raises(InputError, match="blocks: got a function that hides its model"):
        LeGrad(lambda x: net(x))
    with pytest.raises(InputError, match="blocks: got HeadNet"):
        LeGrad(HeadNet())
    with pytest.raises(InputError, match="blocks: got 1 blocks with 2 attentions"):
        LeGrad(net, blocks=[net.blocks]).attribute(X)
