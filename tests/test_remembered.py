"""A model that passes no batch twice, and the rows that stay as they are."""

import pandas as pd
import pytest
import torch
from nets import small_reid_net
from torch import nn
from worlds import drawn_once

from reid_explain.attention import Attentions
from reid_explain.benchmark import Causal, Target
from reid_explain.benchmark.remembered import remembered
from reid_explain.inputs import InputSpec

X = torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))


class Counted(nn.Module):
    """The channels' means, and how many images have passed."""

    def __init__(self):
        super().__init__()
        self.layer, self.passed = nn.Conv2d(3, 3, 1), 0

    def forward(self, images):
        self.passed += len(images)
        return self.layer(images).mean(dim=(2, 3))


def test_a_batch_passes_once_and_gives_the_same():
    model = Counted().eval()
    with torch.no_grad(), remembered(model):
        first = model(X)
        first_values = first.clone()
        first.zero_()  # Whoever has it may change it.
        assert torch.equal(model(X), first_values)
        assert model.passed == 2
        model(X + 1)
        model(X[:1])
        assert model.passed == 5
        close = X.clone()
        close[1, 2, 3, 4] += 1e-6
        model(close)
        assert model.passed == 7
    with torch.no_grad():
        model(X)
    assert model.passed == 9
    assert "forward" not in vars(model)


def test_precisions_differ():
    model = Counted().eval()
    with torch.no_grad(), remembered(model):
        exact = model(X)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(X).dtype == torch.bfloat16
        assert torch.equal(model(X), exact)
    assert model.passed == 4


def test_gradients_and_hooks_need_a_pass_of_their_own():
    model, seen = Counted().eval(), []
    with remembered(model):
        model(X).sum().backward()
        assert model.layer.weight.grad is not None
        with torch.no_grad():
            model(X)
            handle = model.layer.register_forward_hook(lambda *_: seen.append(1))
            model(X)
            handle.remove()
            model(X)
    assert (model.passed, seen) == (6, [1])


class Attending(nn.Module):
    """Attention over the pixels, pooled."""

    def forward(self, images):
        tokens = images.flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(dim=1)


def test_attention_is_seen_of_a_batch_that_has_passed():
    model = Attending().eval()
    with torch.no_grad(), remembered(model):
        model(X)
        with Attentions() as seen:
            model(X)
    assert [matrix.shape for matrix in seen.matrices] == [(2, 128, 128)]


def test_a_forward_of_the_instance_comes_back():
    model = Counted().eval()
    model.forward = own = lambda images: images.mean(dim=(2, 3))
    with torch.no_grad(), remembered(model):
        assert torch.equal(model(X), X.mean(dim=(2, 3)))
    assert model.forward is own


@pytest.mark.slow
def test_rows_of_a_task_that_remembers_are_the_same(monkeypatch):
    model, methods = small_reid_net(), ["CorrRISE(masks=16)", "GradFAM", "PlaceToPlace"]
    world = drawn_once(train_identities=0, test_identities=4, distractors=0)
    forward, passed = type(model).forward, []
    monkeypatch.setattr(
        type(model), "forward", lambda self, x: passed.append(len(x)) or forward(self, x)
    )
    found = {}
    for remembers in (True, False):
        monkeypatch.setattr(Causal, "remembers", remembers)
        target = Target(model, spec=InputSpec((64, 32)))
        frame = Causal(images=1).run(target, world, methods=methods)
        found[remembers] = frame, sum(passed)
        passed.clear()
    (frame, fewer), (same, more) = found.values()
    pd.testing.assert_frame_equal(frame, same)
    assert fewer < 0.7 * more
