"""What makes the explainers fast changes no result: blocks, memory formats, precision, graphs."""

import functools
from dataclasses import replace

import pytest
import torch
from nets import HeadNet, images
from torch import nn
from torch.nn import functional

from reid_explain import CGRAM, GradCAM, GradFAM, GradRAM, InputError, ScoreCAM, ScoreFAM
from reid_explain.benchmark import Target
from reid_explain.fills import unit_range
from reid_explain.inputs import InputSpec
from reid_explain.memory_format import folded, images_per_forward

close = torch.testing.assert_close
X, G = images(3), images(3, seed=7)
scored = pytest.mark.parametrize("explainer", [ScoreFAM, ScoreCAM])


class Viewing(HeadNet):
    """Has a view that only contiguous maps have."""

    def forward(self, x):
        self.formats = getattr(self, "formats", [])
        self.formats.append(x.is_contiguous(memory_format=torch.channels_last))
        hidden = torch.tanh(self.norm(self.second(self.relu(self.conv(x)))))
        return self.head(hidden.view(len(x), -1).view(len(x), 6, -1).amax(dim=2))


@scored
def test_masked_images_have_channels_last_and_what_fails_on_it_does_without(explainer):
    net, plain, x = Viewing().float().eval(), HeadNet().float().eval(), X.float()
    close(explainer(net, "relu").attribute(x), explainer(plain, "relu").attribute(x))
    assert net.formats[0]  # it was tried with the images
    assert net.formats[2]  # and with the baselines
    assert not any(net.formats[3:])
    seen = []
    plain.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    explainer(plain, "relu").attribute(x)
    assert seen[1:] == [True, True]
    assert plain.conv.weight.is_contiguous()


@scored
def test_a_model_that_fails_fails(explainer):
    net = HeadNet().eval()
    calls = []

    def failing(x):
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("out of order")
        return net(x)

    with pytest.raises(RuntimeError, match="out of order"):
        explainer(failing, net.relu).attribute(X)


@scored
@pytest.mark.parametrize("chunk", [1, 2, 4, 7, 15, None])
def test_images_share_forwards(explainer, chunk):
    """15 masks of three images: no block is smaller than it has to be, and all agree."""
    net = HeadNet().eval()
    expected = explainer(net, "relu").attribute(X, perturbations_per_eval=5, return_scores=True)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    found = explainer(net, "relu").attribute(X, perturbations_per_eval=chunk, return_scores=True)
    close(found, expected)

    def blocks(count):
        size = chunk or count
        return [size] * (count // size) + [count % size] * (count % size > 0)

    # images, baselines, masks: no pass is larger than it may be (B7)
    assert seen == blocks(3) + blocks(3) + blocks(15)


def test_images_per_forward_fill_the_device():
    assert images_per_forward(torch.empty(2, 3, 256, 128)) == 16
    assert images_per_forward(torch.empty(2, 3, 4096, 4096)) == 1
    assert images_per_forward(torch.empty(2, 3, 256, 128, device="meta")) == 256


@scored
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_and_only_for_masked_images(explainer, dtype):
    net = HeadNet(16).float().eval()
    x = X.float()
    exact, exact_scores = explainer(net, "relu").attribute(x, return_scores=True)
    on = []
    net.register_forward_pre_hook(lambda *_: on.append(torch.is_autocast_enabled("cpu")))
    fast = explainer(net, "relu", autocast_dtype=dtype)
    maps, scores = fast.attribute(x, return_scores=True)
    assert on[0] is False
    assert all(on[1:])
    assert not torch.is_autocast_enabled("cpu")
    assert maps.dtype == scores.dtype == torch.float32
    assert (unit_range(maps) - unit_range(exact)).abs().max() <= 0.01
    assert 0 < (scores - exact_scores).abs().max() <= 0.03


@scored
@pytest.mark.parametrize("settings", [{}, {"max_scored_channels": 3}, {"tolerance": 0.5}])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_result_among_many_is_an_error(explainer, settings, bad):
    net = HeadNet().eval()
    calls = []

    def broken(x):
        calls.append(x)
        result = net(x)
        if len(calls) == 4:
            result[0, 1] = bad
        return result

    with pytest.raises(InputError, match="the result of forward_func: got 1 NaN or infinite"):
        explainer(broken, net.relu, **settings).attribute(X, perturbations_per_eval=2)


@scored
def test_a_block_whose_result_has_another_shape(explainer):
    net = HeadNet().eval()
    with pytest.raises(InputError, match=r"result of forward_func: got \(4,\)"):
        explainer(lambda x: net(x).squeeze(), net.relu).attribute(X, perturbations_per_eval=1)


# Gradient methods


@pytest.mark.parametrize(
    ("explainer", "data"),
    [(GradFAM, {}), (GradCAM, {}), (GradRAM, {"references": G}), (CGRAM, {"references": G})],
)
def test_no_graph_is_built_below_the_layer(explainer, data):
    net = HeadNet().eval()
    graphs = {}
    for name in ("conv", "relu", "second", "head"):
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: graphs.setdefault(name, []).append(out.requires_grad)
        )
    explainer(net, "relu").attribute(X, **data)
    assert not any(graphs["conv"])
    assert not any(graphs["relu"][:1])
    assert graphs["second"][-1]
    assert graphs["head"][-1]


def test_a_function_without_gradients_of_its_own_is_explained_all_the_same():
    net = HeadNet().eval()
    frozen = torch.no_grad()(net.forward)
    close(GradFAM(frozen, net.relu).attribute(X), GradFAM(net, "relu").attribute(X))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("grad", [True, False])
def test_the_callers_gradient_mode_comes_back(grad):
    net = HeadNet().eval()
    with torch.set_grad_enabled(grad):
        GradFAM(net, "relu").attribute(X)
        assert torch.is_grad_enabled() is grad

        def failing(x):
            net(x)
            raise RuntimeError("late")

        with pytest.raises(RuntimeError, match="late"):
            GradFAM(failing, net.relu).attribute(X)
        assert torch.is_grad_enabled() is grad


@pytest.mark.slow
def test_embeddings_in_batches_whatever_the_format(tmp_path):
    from reid_explain.datasets import SyntheticReID
    from reid_explain.inputs import InputSpec
    from reid_explain.retrieval import embed_records

    embed = functools.partial(embed_records, spec=InputSpec(), show_progress=False)

    world = SyntheticReID(train_identities=2, test_identities=3, distractors=2)
    net = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Flatten()).eval()
    plain = embed(net, world, world.query).embeddings

    def viewing(x):
        hidden = net[:2](x)
        return hidden.view(len(x), -1)

    viewed = embed(viewing, world, world.query, batch_size=2)
    close(viewed.embeddings, plain)
    half = embed(net, world, world.query, workers=1, autocast_dtype=torch.bfloat16).embeddings
    assert half.dtype == torch.float32
    assert 0 < (half - plain).abs().max() <= 0.02 * plain.abs().max()


@pytest.mark.parametrize("explainer", [GradFAM, GradCAM, GradRAM, CGRAM])
def test_a_batch_goes_through_in_parts_that_fill_the_device(explainer, monkeypatch):
    net, x = HeadNet().eval(), images(7)
    given = {GradCAM: {"target": torch.tensor([0, 1, 0, 1, 1, 0, 2])}}.get(explainer, {})
    if explainer in (GradRAM, CGRAM):
        given = {"references": torch.cat([G, G, G[:1]])}
    whole = explainer(net, "relu").attribute(x, **given)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr("reid_explain.explainers.base.images_per_forward", lambda _: 3)
    close(explainer(net, "relu").attribute(x, **given), whole)
    assert seen[-3:] == [3, 3, 1]


# Passes that only embed


class Branches(nn.Module):
    """Batch norms behind convolutions and a linear layer, ReLUs of what is read once and twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.twice, self.neck = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
        self.last = nn.BatchNorm1d(4)
        for norm in (self.first, self.last):
            for values in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        x = functional.relu(self.first(self.stem(x)))
        x = self.twice(x)
        return self.last(self.neck((functional.relu(x) - x).amax(dim=(2, 3))))


def test_a_folded_model_gives_the_same_without_batch_norms():
    net, x = Branches().eval(), X.float()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    copy = folded(net, x[:1])
    assert copy is not net
    assert not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in copy.modules())
    close(copy(x), net(x))
    assert [node.kwargs["inplace"] for node in copy.graph.nodes if "relu" in node.name] == [1, 0]
    close(net.state_dict(), before)


def test_a_target_embeds_the_same_folded_but_in_bfloat16_as_it_is():
    net, x = Branches().eval(), X.float()
    target = Target(net, "stem", InputSpec((12, 8)))
    close(target.folded(x).embed(x), target.embed(x))
    assert target.folded(x).model is not net
    lower = replace(target, precision="bfloat16")
    assert lower.folded(x) is lower


class Branching(Branches):
    def forward(self, x):
        return super().forward(x) if x.isfinite().all() else x


class Drawing(Branches):
    def forward(self, x):
        return super().forward(x) * torch.rand(())


@pytest.mark.parametrize("kind", [Branching, Drawing])
def test_a_model_that_tracing_misreads_is_left_as_it_is(kind):
    net = kind().eval()
    assert folded(net, X.float()) is net
