"""Vision transformers: token layers become grids, class and register tokens drop out."""

import pytest
import timm
import torch
from nets import images
from torch import nn

from reid_explain import CGRAM, ActivationMean, GradCAM, GradFAM, GradRAM, ScoreCAM, ScoreFAM
from reid_explain.explainers.layout import as_map, token_grid

X = images(2, (64, 32), dtype=torch.float32)


def vit(registers: int) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=(64, 32),
        patch_size=8,
        depth=2,
        reg_tokens=registers,
        num_classes=5,
    ).eval()


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    "explainer", [GradFAM, ScoreFAM, GradCAM, ScoreCAM, GradRAM, CGRAM, ActivationMean]
)
def test_rectangular_grids_with_and_without_registers(explainer, registers):
    model = vit(registers)
    data = {"references": X.flip(0)} if explainer in (GradRAM, CGRAM) else {}
    maps = explainer(model, "blocks.0").attribute(X, interpolate_mode=None, **data)
    assert maps.shape == (2, 1, 8, 4)
    assert maps.isfinite().all()
    assert (maps != 0).any()
    assert explainer(model, model.blocks[0]).attribute(X, **data).shape == (2, 1, 64, 32)


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
