"""Programs of TorchScript read as graphs: layers by name, with gradients."""

import zipfile

import pytest
import torch
from nets import TWIN, images
from torch import nn

from reid_explain import CGRAM, GradFAM, InputError, ScoreFAM
from reid_explain.inputs import InputSpec
from reid_explain.models import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated; its files are there.
X = images(2, (12, 8), dtype=torch.float32)
SPEC = InputSpec((12, 8))


def traced(model, folder, *more):
    torch.jit.trace(model.eval(), (X[:1], *more)).save(folder / "net.pt")
    return folder / "net.pt"


def scripted(model, folder):
    torch.jit.script(model.eval()).save(folder / "net.pt")
    return folder / "net.pt"


@pytest.mark.parametrize("saved", [traced, scripted])
def test_a_program_is_its_twin(tmp_path, saved):
    net = open_checkpoint(saved(TWIN, tmp_path), input_spec=SPEC)
    torch.testing.assert_close(net(X), TWIN(X))
    torch.testing.assert_close(net.embed(net.features(X)), TWIN(X))
    assert net.maps == {"conv": (5, 6, 4), "conv/relu": (5, 6, 4)}
    assert net.map_layer == "conv/relu"
    assert sorted(p.dim() for p in net.parameters()) == [1, 1, 2, 4]
    for explainer in (ScoreFAM, GradFAM, CGRAM):
        data = {"references": X.flip(0)} if explainer is CGRAM else {}
        expected = explainer(TWIN, "conv").attribute(X, **data)
        torch.testing.assert_close(explainer(net, "conv").attribute(X, **data), expected)


class Block(nn.Module):
    """A residual block in a list, changed in place, with a module that evaluation skips."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        y = x * 1
        for layer in self.layers:
            y = layer(y)
        y = nn.functional.relu_(y)
        y += x
        first, second = torch.chunk(self.drop(y), 2, dim=2)
        return torch.cat([first, second.sigmoid()], dim=1).mean(dim=[2, 3]).view(y.size(0), -1), y


@pytest.mark.parametrize("saved", [traced, scripted])
def test_blocks_in_place_and_results(tmp_path, saved):
    model = Block().eval()
    model.layers[1].running_var.uniform_(0.5, 2)
    net = open_checkpoint(saved(model, tmp_path), input_spec=SPEC)
    given = X.clone()
    torch.testing.assert_close(net(given), model(X)[0])
    torch.testing.assert_close(given, X, rtol=0, atol=0)
    assert {"layers/0", "layers/1", "layers/1/relu", "layers/1/add"} <= {*net.maps}
    features = net.features(X)
    before = features.clone()
    torch.testing.assert_close(net.embed(features), model(X)[0])
    torch.testing.assert_close(features, before, rtol=0, atol=0)


class Choice(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        return x.mean(dim=[2, 3])


class Reading(nn.Module):
    def forward(self, x):
        return x.mean(dim=[2, 3]) + torch.from_file("weights", size=3)


class Two(nn.Module):
    def forward(self, x, y):
        return (x + y).mean(dim=[2, 3])


def test_programs_that_are_not_read(tmp_path):
    with pytest.raises(InputError, match="path: got .* with the operator prim::If"):
        open_checkpoint(scripted(Choice(), tmp_path), input_spec=SPEC)
    with pytest.raises(InputError, match="which uses files .aten::from_file"):
        open_checkpoint(scripted(Reading(), tmp_path), input_spec=SPEC)
    with pytest.raises(InputError, match="with 2 inputs, expected a program of one input"):
        open_checkpoint(traced(Two(), tmp_path, X[:1]), input_spec=SPEC)


def test_damaged_programs_and_checkpoints_of_the_same_suffix(tmp_path):
    path = traced(TWIN, tmp_path)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(InputError, match="path: got .*net.pt .*, expected a readable checkpoint"):
        open_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", "nothing")
    with pytest.raises(
        InputError, match="path: got .*net.pt .*, expected a program of TorchScript"
    ):
        open_checkpoint(path)
    torch.save(TWIN.state_dict(), path)
    with pytest.raises(InputError, match="conv.weight"):
        open_checkpoint(path)
