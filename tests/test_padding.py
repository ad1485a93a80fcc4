"""Maps that know no border, and whose cells see little beyond themselves."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reid_explain.errors import InputError
from reid_explain.models import build_model
from reid_explain.models.resnet import PartialConv2d


@pytest.mark.parametrize("size", [(8, 4), (7, 9), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 2, 3)])
def test_a_result_is_scaled_by_the_kernels_share_inside_the_image(kernel, stride, padding, size):
    torch.manual_seed(0)
    conv = PartialConv2d(2, 3, kernel, stride, padding).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    ones = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
    inside = functional.conv2d(torch.ones_like(x[:1, :1]), ones, stride=stride, padding=padding)
    zeros = functional.conv2d(x, conv.weight, stride=stride, padding=padding)
    bias = conv.bias[:, None, None]
    assert torch.allclose(conv(x), zeros * kernel**2 / inside + bias)


def test_the_mean_of_a_constant_image_is_itself_up_to_the_border():
    conv = PartialConv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(conv.weight, 1 / 9)
    assert torch.allclose(conv(torch.full((1, 1, 5, 6), 7.0)), torch.tensor(7.0))


def test_partial_padding_has_the_same_weights_and_changes_the_border_alone():
    torch.manual_seed(0)
    zeros = build_model("resnet18", num_classes=3, width=0.125).eval()
    partial = build_model("resnet18", num_classes=3, width=0.125, padding="partial").eval()
    partial.load_state_dict(zeros.state_dict())
    x = torch.randn(1, 3, 64, 48)
    stems = [model.backbone.bn1(model.backbone.conv1(x)) for model in (zeros, partial)]
    same = (stems[0] - stems[1]).abs().amax((0, 1)) < 1e-5
    assert same[2:-2, 2:-2].all()
    assert not same[0].any()
    assert not same[:, -1].any()


def test_half_precision_stays_and_gradients_flow():
    conv = PartialConv2d(2, 3, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(torch.randn(1, 2, 6, 5, requires_grad=True))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert conv.weight.grad is not None


def test_a_local_network_has_a_finer_map_and_a_last_stage_of_single_cells():
    model = build_model("resnet18", width=0.125, local=True).eval()
    images = torch.randn(1, 3, 64, 32)
    assert model.features(images).shape == (1, 64, 8, 4)
    x = torch.randn(1, 32, 8, 4, requires_grad=True)
    model.backbone.layer4(x)[0, :, 3, 2].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum(1)[0].nonzero().tolist() == [[3, 2]]


def test_another_padding_is_named():
    with pytest.raises(InputError, match="padding: got 'mirror', expected"):
        build_model("resnet18", width=0.125, padding="mirror")
