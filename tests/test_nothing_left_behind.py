"""No explainer changes the model, the caller's tensors or the random state."""

import copy
import threading

import pytest
import torch
from nets import HeadNet, PooledNet, images
from torch import nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    ExtremalFAM,
    GradCAM,
    GradFAM,
    GradRAM,
    ScoreCAM,
    ScoreFAM,
)

X = images(2)
REFERENCE = {"references": images(2, seed=7)}
EXPLAINERS = [
    (GradFAM, {}),
    (ScoreFAM, {}),
    (GradCAM, {}),
    (ScoreCAM, {}),
    (ActivationMean, {}),
    (RAM, REFERENCE),
    (GradRAM, REFERENCE),
    (CGRAM, REFERENCE),
    (ExtremalFAM, {}),
]
every_explainer = pytest.mark.parametrize(
    ("explainer", "data"), EXPLAINERS, ids=[e.__name__ for e, _ in EXPLAINERS]
)


def model_for(explainer: type) -> nn.Module:
    """A model with modes, gradients and flags of all kinds."""
    net = PooledNet() if explainer is RAM else HeadNet()
    net.train()
    net.relu.eval()
    net.conv.bias.requires_grad_(False)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    if isinstance(net, HeadNet):
        net.norm.eval()
    return net


def state_of(net: nn.Module) -> dict[str, object]:
    return {
        "modes": [module.training for module in net.modules()],
        "hooks": [
            len(hooks)
            for module in net.modules()
            for hooks in (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
        ],
        "flags": [p.requires_grad for p in net.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "values": {name: value.clone() for name, value in net.state_dict().items()},
    }


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    for key in ("modes", "hooks", "flags"):
        assert before[key] == after[key], key
    for a, b in zip(before["grads"], after["grads"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name


@every_explainer
@pytest.mark.parametrize("wrapped", [False, True])
def test_after_success(explainer, data, wrapped):
    net = model_for(explainer)
    if wrapped:
        net.eval()  # a function runs in the mode that its caller chose
    before, rng = state_of(net), torch.get_rng_state()
    x = X.clone().requires_grad_()
    explainer((lambda x: net(x)) if wrapped else net, net.relu).attribute(x, **data)
    assert_same(before, state_of(net))
    assert torch.equal(rng, torch.get_rng_state())
    assert x.grad is None
    assert torch.equal(x.detach(), X)
    assert torch.is_grad_enabled()


class BoomError(RuntimeError):
    pass


@every_explainer
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_after_an_exception_in_the_model(explainer, data, calls):
    """The model fails on its first, second or third forward pass."""
    net = model_for(explainer)
    before = state_of(net)
    seen = []

    def forward(x):
        result = net(x)
        seen.append(x)
        if len(seen) > calls:
            raise BoomError
        return result

    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.net_forward = forward

        def forward(self, x):
            return self.net_forward(x)

    failing = Failing()
    try:
        explainer(failing, net.relu).attribute(X, **data, **chunked(explainer))
    except BoomError:
        assert len(seen) == calls + 1
    else:
        assert len(seen) <= calls  # it needs no more passes than that
    assert_same(before, state_of(net))
    assert torch.is_grad_enabled()


def chunked(explainer: type) -> dict[str, int]:
    return {"perturbations_per_eval": 1} if explainer in (ScoreFAM, ScoreCAM) else {}


@every_explainer
def test_a_module_is_explained_in_eval_mode(explainer, data):
    net = model_for(explainer)
    evaluated = copy.deepcopy(net).eval()
    trained = explainer(net, net.relu).attribute(X, **data)
    assert torch.equal(trained, explainer(evaluated, evaluated.relu).attribute(X, **data))
    assert torch.equal(trained, explainer(net.forward, net.relu).attribute(X, **data))


def test_a_function_in_training_mode_is_warned_of():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Flatten()).double()
    with pytest.warns(UserWarning, match="training mode"):
        GradFAM(lambda x: net(x), net[0]).attribute(X)


@pytest.mark.parametrize("explainer", [ScoreFAM, ScoreCAM])
def test_masked_forwards_are_bare(explainer):
    """No hook and no gradient while masks are scored; dead channels cost no forward."""
    net = HeadNet()
    net.conv.weight.data[1], net.conv.bias.data[1] = 0, -1  # dead
    net.conv.weight.data[2], net.conv.bias.data[2] = 0, 1  # constant
    seen = []

    def record(module, inputs):
        seen.append((len(inputs[0]), len(net.relu._forward_hooks), torch.is_grad_enabled()))

    net.register_forward_pre_hook(record)
    explainer(net, net.relu).attribute(X, perturbations_per_eval=4)
    capture, baseline, *masked = seen
    assert capture == (2, 1, False)
    assert baseline == (2, 0, False)
    assert masked == [(4, 0, False), (2, 0, False)]  # 2 images x 3 live channels


def test_two_threads_on_two_models():
    nets = [HeadNet(seed=0), HeadNet(seed=5)]
    pictures = [images(2, seed=1), images(2, seed=2)]
    alone = [ScoreFAM(n, "relu").attribute(x) for n, x in zip(nets, pictures, strict=True)]
    results: list[list[torch.Tensor]] = [[], []]
    barrier = threading.Barrier(2)

    def work(i: int) -> None:
        barrier.wait()
        for _ in range(10):
            results[i].append(
                ScoreFAM(nets[i], "relu").attribute(pictures[i], perturbations_per_eval=1)
            )
            GradFAM(nets[i], "relu").attribute(pictures[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(results[i]) == 10
        for maps in results[i]:
            torch.testing.assert_close(maps, alone[i])
        assert nets[i].training
        assert not nets[i].relu._forward_hooks


def test_a_thread_that_runs_the_model_meanwhile_is_not_captured():
    net = HeadNet().eval()
    expected = GradFAM(net, "relu").attribute(X)
    running, done = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            running.set()
            done.wait(10)
            return self.net(x)

    def other() -> None:
        running.wait(10)
        net(images(5, seed=3))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    maps = GradFAM(Slow(), net.relu).attribute(X)
    thread.join()
    assert torch.equal(maps, expected)
