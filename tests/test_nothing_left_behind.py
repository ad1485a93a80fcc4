"""What the contract does not see: training functions, bare passes, threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from nets import HeadNet, images
from torch import nn

from reid_explain import CGRAM, GradFAM, GradRAM, ScoreCAM, ScoreFAM, Shared

X = images(2)


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


@pytest.mark.slow
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


def test_a_function_that_runs_the_model_in_another_thread():
    """As data parallelism does; the explanation of another thread is left alone (REVIEW 1)."""
    net = HeadNet().eval()

    def elsewhere(x):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(net, x).result()

    torch.testing.assert_close(
        GradFAM(elsewhere, net.relu).attribute(X), GradFAM(net, "relu").attribute(X)
    )
    parallel = nn.DataParallel(net, device_ids=[])
    torch.testing.assert_close(
        GradFAM(parallel, "relu").attribute(X), GradFAM(net, "relu").attribute(X)
    )


def test_a_model_of_length_zero_is_put_in_eval_mode():
    """A container without children is falsy: its batch statistics moved (B2)."""

    class Empty(HeadNet):
        def __len__(self):
            return 0

    net = Empty().train()
    mean = net.norm.running_mean.clone()
    GradFAM(net, "relu").attribute(X)
    assert torch.equal(net.norm.running_mean, mean)
    assert net.training


def test_a_shared_argument_stays_whole_whatever_its_length():
    class Prototypes(HeadNet):
        def forward(self, x, prototypes):
            return super().forward(x) @ prototypes.T

    net = Prototypes().eval()
    table = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = GradFAM(net, "relu").attribute(X, additional_forward_args=Shared(table))
    for row in range(2):
        alone = GradFAM(net, "relu").attribute(X[row : row + 1], (Shared(table),))
        torch.testing.assert_close(alone, maps[row : row + 1])


@pytest.mark.parametrize("explainer", [GradRAM, CGRAM])
def test_references_have_arguments_of_their_own(explainer):
    """Each side of a pair has its camera."""
    net = HeadNet().eval()
    others = images(2, seed=7)
    own = torch.tensor([0.5, -1.0], dtype=torch.float64)
    theirs = torch.tensor([2.0, 3.0], dtype=torch.float64)
    one, other = explainer(net, "relu").attribute_pair(
        X, others, own, reference_forward_args=theirs
    )
    embedded = net(others, theirs).detach(), net(X, own).detach()
    torch.testing.assert_close(one, explainer(net, "relu").attribute(X, embedded[0], own))
    torch.testing.assert_close(other, explainer(net, "relu").attribute(others, embedded[1], theirs))
    assert not torch.allclose(one, explainer(net, "relu").attribute(X, others, own))
