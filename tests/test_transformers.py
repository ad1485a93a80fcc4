"""Vision transformers: token layers become grids, class and register tokens drop out."""

import pytest
import torch
from nets import images
from torch import nn
from torch.nn import functional

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    AMDInterpreter,
    Centre,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    InputSpec,
    Random,
    ScoreCAM,
    ScoreFAM,
    blurred,
)
from reid_explain.explainers.layout import as_map, token_grid
from reid_explain.models.timm_models import TimmNet

SMALL = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
SHAPED = {"img_size": (64, 32), "patch_size": 8, **SMALL}
# Name in timm, options, size of the images, the grid, tokens before the patches.
FAMILIES = {
    "class token": ("vit_tiny_patch16_224", SHAPED, (64, 32), (8, 4), 1),
    "average": ("vit_tiny_patch16_224", {"global_pool": "avg", **SHAPED}, (64, 32), (8, 4), 1),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4, **SHAPED}, (64, 32), (8, 4), 5),
    "dinov2": (
        "vit_small_patch14_reg4_dinov2",
        {"img_size": (56, 28), **SMALL},
        (56, 28),
        (4, 2),
        5,
    ),
    "siglip": ("vit_base_patch16_siglip_224", SHAPED, (64, 32), (8, 4), 0),
    "eva": ("eva02_tiny_patch14_224", {"img_size": (56, 28), **SMALL}, (56, 28), (4, 2), 1),
}
SINGLE = [GradFAM, ScoreFAM, ActivationMean, Random, Centre]
CLASSES = [GradCAM, ScoreCAM]
REFERENCE = [GradRAM, CGRAM]


class Transformer:
    """A network of TimmNet, images for it, and what is known of its tokens."""

    def __init__(self, family):
        name, options, self.size, self.grid, self.prefix = FAMILIES[family]
        torch.manual_seed(0)
        self.net = disturbed(TimmNet(name, **options)).eval()
        self.images = images(2, self.size, dtype=torch.float32)

    def logits(self, x):
        return self.net.classify(self.net(x))

    def map_layer(self):
        return self.net.get_submodule(self.net.map_layer)


def disturbed(model):
    """Give every norm, bias and token values that do something, as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += (0.3 if parameter.dim() == 1 else 0.1) * noise
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return Transformer(request.param)


# Oracles


def tokens_of(model, layer):
    """Return the embedding and the tokens at a layer, with history, by a hook of our own."""
    kept = []

    def keep(_module, _inputs, output):
        kept.append(output)
        output.retain_grad()

    handle = layer.register_forward_hook(keep)
    embedding = model.net(model.images)
    handle.remove()
    return embedding, kept[0]


def patches(model, tokens):
    """Return the tokens of the patches as maps, place by place."""
    rows, columns = model.grid
    assert tokens.shape[1] == model.prefix + rows * columns
    maps = torch.empty(len(tokens), tokens.shape[2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            maps[:, :, row, column] = tokens[:, model.prefix + row * columns + column]
    return maps


def test_gradient_explainers_by_hand(model):
    with torch.no_grad():
        references = model.net(model.images.flip(0))
    unit = functional.normalize(references)
    scores = {
        GradFAM: lambda f: f.norm(dim=1),
        GradRAM: lambda f: (f * unit).sum(1),
        CGRAM: lambda f: functional.cosine_similarity(f, references),
        GradCAM: lambda f: model.net.classify(f).amax(1),
    }
    for explainer, score in scores.items():
        embedding, tokens = tokens_of(model, model.map_layer())
        score(embedding).sum().backward()
        weights = patches(model, tokens.grad).mean((2, 3), keepdim=True)
        by_hand = (weights * patches(model, tokens.detach())).sum(1, keepdim=True).relu()
        net = model.logits if explainer is GradCAM else model.net
        data = {"references": references} if explainer in REFERENCE else {}
        maps = explainer(net, model.map_layer()).attribute(
            model.images, interpolate_mode=None, **data
        )
        torch.testing.assert_close(maps, by_hand, rtol=1e-3, atol=1e-6 * by_hand.amax().item())
        assert by_hand.amax() > 0
    model.net.zero_grad()


def test_score_explainers_by_hand(model):
    with torch.no_grad():
        embedding, tokens = model.net(model.images), None
    _, tokens = tokens_of(model, model.map_layer())
    maps = patches(model, tokens.detach())
    masks = functional.interpolate(maps, size=model.size, mode="bilinear", align_corners=False)
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    masks = (masks - low) / (high - low)
    baseline = blurred(model.images)
    channels = maps.shape[1]
    mine, theirs = torch.zeros(2, channels), torch.zeros(2, channels)
    top = model.net.classify(embedding).argmax(1)
    with torch.no_grad():
        for k in range(channels):
            mask = masks[:, k : k + 1]
            masked = model.net(mask * model.images + (1 - mask) * baseline)
            mine[:, k] = functional.cosine_similarity(masked, embedding)
            logits = model.net.classify(masked)
            theirs[:, k] = logits[torch.arange(2), top]
    for explainer, net, scores in (
        (ScoreFAM, model.net, mine),
        (ScoreCAM, model.logits, theirs),
    ):
        weights = scores.softmax(1)[:, :, None, None]
        by_hand = (weights * maps).sum(1, keepdim=True).relu()
        found = explainer(net, model.map_layer()).attribute(model.images, interpolate_mode=None)
        torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4 * maps.std().item())
        assert by_hand.amax() > 0
        every = explainer(net, model.map_layer(), max_scored_channels=channels)
        torch.testing.assert_close(every.attribute(model.images, interpolate_mode=None), found)


def test_controls_by_hand(model):
    _, tokens = tokens_of(model, model.map_layer())
    mean = patches(model, tokens.detach()).mean(1, keepdim=True)
    layer = model.map_layer()
    found = ActivationMean(model.net, layer).attribute(model.images, interpolate_mode=None)
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-5)
    noise = Random(model.net, layer).attribute(model.images, interpolate_mode=None)
    assert noise.shape == mean.shape
    assert noise.std() > 0.1
    centre = Centre(model.net, layer).attribute(model.images, interpolate_mode=None)
    torch.testing.assert_close(centre, centre.flip(2, 3))


# Every explainer, at the default layer


@pytest.mark.parametrize("explainer", [*SINGLE, *CLASSES, *REFERENCE])
def test_maps_of_every_explainer(model, explainer):
    net = model.logits if explainer in CLASSES else model.net
    data = {"references": model.images.flip(0)} if explainer in REFERENCE else {}
    explain = explainer(net, model.map_layer()).attribute
    maps = explain(model.images, **data)
    assert maps.shape == (2, 1, *model.size)
    assert maps.isfinite().all()
    assert maps.any()
    own = explain(model.images, interpolate_mode=None, **data)
    assert own.shape == (2, 1, *model.grid)
    if explainer not in CLASSES:
        named = explainer(model.net, model.net.map_layer).attribute(model.images, **data)
        torch.testing.assert_close(named, maps)


@pytest.mark.parametrize("explainer", [ScoreFAM, ScoreCAM])
def test_clusters(model, explainer):
    net = model.logits if explainer is ScoreCAM else model.net
    exact = explainer(net, model.map_layer()).attribute(model.images, interpolate_mode=None)
    sampled = explainer(net, model.map_layer(), max_scored_channels=16)
    maps = sampled.attribute(model.images, interpolate_mode=None)
    assert (maps - exact).abs().max() < 0.2 * exact.max()
    assert not torch.equal(maps, exact)


@pytest.mark.parametrize("explainer", REFERENCE)
def test_both_sides_of_a_pair(model, explainer):
    explain = explainer(model.net, model.net.map_layer)
    one, other = model.images[:1], model.images[1:]
    first, second = explain.attribute_pair(one, other)
    torch.testing.assert_close(first, explain.attribute(one, other))
    torch.testing.assert_close(second, explain.attribute(other, one))
    swapped = explain.attribute_pair(other, one)
    torch.testing.assert_close(swapped, (second, first))


def test_ram_wants_the_pooled_layer(model):
    with pytest.raises(InputError, match="the pooled layer for RAM; GradRAM takes any other"):
        RAM(model.net, model.net.map_layer).attribute(model.images, model.images.flip(0))


def test_ram_where_the_embedding_is_the_mean_of_the_patches():
    torch.manual_seed(0)
    options = {**SHAPED, "global_pool": "avg", "final_norm": False}
    net = disturbed(TimmNet("vit_tiny_patch16_224", **options)).eval()
    x = images(2, (64, 32), dtype=torch.float32)
    references = net(x.flip(0))
    maps = RAM(net, "last_map").attribute(x, references, interpolate_mode=None)
    tokens = net.features(x)[:, 1:]
    by_hand = torch.einsum("btk,bk->bt", tokens, functional.normalize(references)).view(2, 1, 8, 4)
    torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-5)
    similarity = (net(x) * functional.normalize(references)).sum(1)
    torch.testing.assert_close(maps.mean((1, 2, 3)), similarity)


def test_interpreters_need_maps(model):
    with pytest.raises(InputError, match="target: got a .*, which gives tokens, expected"):
        AMDInterpreter(model.net, ["hat"], spec=InputSpec(model.size))


# Why not the last block


@pytest.mark.parametrize("family", ["class token", "registers", "dinov2"])
@pytest.mark.parametrize("explainer", [GradFAM, GradRAM])
def test_behind_the_last_block_the_patches_of_a_class_token_have_no_gradient(family, explainer):
    model = Transformer(family)
    data = {"references": model.images.flip(0)} if explainer is GradRAM else {}
    with pytest.raises(InputError, match=r"layer: got tokens .* an earlier layer, such as 'net.bl"):
        explainer(model.net, "net.blocks.1").attribute(model.images, **data)
    assert explainer(model.net, model.net.map_layer).attribute(model.images, **data).any()


# Layouts


X = images(2, (64, 32), dtype=torch.float32)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_the_last_tokens_are_the_patches_in_row_order(prefix):
    grid = torch.arange(2 * 3 * 8 * 4.0).view(2, 3, 8, 4)
    tokens = grid.flatten(2).transpose(1, 2)
    tokens = torch.cat([torch.full((2, prefix, 3), -1.0), tokens], dim=1)
    assert torch.equal(as_map(tokens, (64, 32)), grid)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (197, (224, 224), (14, 14)),
        (196, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (129, (256, 128), (16, 8)),
        (261, (224, 224), (16, 16)),
        (1 + 18 * 9, (252, 126), (18, 9)),
        (7, (12, 8), (3, 2)),
    ],
)
def test_token_grids_of_known_models(tokens, size, grid):
    assert token_grid(tokens, size) == grid


def test_other_layouts_go_through_reshape_transform():
    class Swin(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, stride=4)
            self.last = nn.Identity()

        def forward(self, x):
            return self.last(self.conv(x).permute(0, 2, 3, 1)).tanh().mean((1, 2))

    model = Swin()
    channels_last = GradFAM(model, "last", reshape_transform=lambda y: y.permute(0, 3, 1, 2))
    plain = GradFAM(model, "conv")
    torch.testing.assert_close(channels_last.attribute(X), plain.attribute(X))


def test_layers_that_give_a_tuple_of_one():
    class Block(nn.Module):
        def forward(self, x):
            return (x * 2,)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 4, stride=4)
            self.block = Block()

        def forward(self, x):
            return self.block(self.conv(x))[0].tanh().mean((2, 3))

    model = Model()
    a, b = GradFAM(model, "block"), GradFAM(model, "conv")
    torch.testing.assert_close(a.attribute(X), b.attribute(X))
