import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from nets import HeadNet, images
from safetensors.torch import load_file
from torch import nn
from training_runs import Interrupted, fail_at, log, make_market, run

from reid_explain import AmortizedFAM, ExtremalFAM, InputError
from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.benchmark.methods import Subject, all_methods, find_methods
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.train_amortized import FILE, TrainAmortized
from reid_explain.explainers import descent
from reid_explain.explainers.amortized import ActivationHead, ImageHead, rest
from reid_explain.inputs import InputSpec
from reid_explain.objectives import Cosine, Margin, Projection
from reid_explain.training import amortized, loop
from reid_explain.training.amortized import KeepStep

SIZE = (12, 8)


def filled(head: nn.Module, seed: int = 0) -> nn.Module:
    """Return the head with random weights: an untrained one ends in zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return head.double()


def explainer_of(net=None, head=None) -> AmortizedFAM:
    return AmortizedFAM(net or HeadNet().eval(), "relu", head or filled(ActivationHead(5)))


def in_units(map_):
    return (map_ - map_.mean()) / map_.std(correction=0)


# The head


def test_an_untrained_head_gives_the_mean_of_the_simple_maps():
    """The channel mean, RAM and Grad-RAM of the image with itself, and a blob in the center."""
    net, x = HeadNet().eval(), images(3)
    seen = {}
    net.relu.register_forward_hook(lambda module, args, output: seen.update(A=output))
    own = net(x)
    goal = (own / own.norm(dim=1, keepdim=True)).detach()
    slope = torch.autograd.grad((goal * own).sum(), seen["A"])[0]
    found = explainer_of(net, ActivationHead(5).double()).attribute(x, interpolate_mode=None)
    for n in range(3):
        activation, weights = seen["A"][n].detach(), slope[n].mean(dim=(1, 2))
        rows, columns = ((torch.arange(m) + 0.5) / m - 0.5 for m in activation.shape[1:])
        blob = torch.exp(-8 * (rows[:, None] ** 2 + columns**2)).double()
        ram = sum(channel.mean() * channel for channel in activation)
        grad_ram = sum(w * channel for w, channel in zip(weights, activation, strict=True)).relu()
        simple = [in_units(map_) for map_ in (activation.mean(dim=0), ram, grad_ram, blob)]
        torch.testing.assert_close(found[n, 0], in_units(sum(simple)), rtol=1e-4, atol=1e-4)


def test_a_head_reads_directions_and_no_lengths():
    head = filled(ActivationHead(5))
    x, activation, slope = (
        images(2),
        images(2)[:, :1].expand(-1, 5, -1, -1).abs(),
        images(2, seed=1),
    )
    slope = slope[:, :1] * torch.arange(1.0, 6)[:, None, None]
    own = images(2, seed=2)[:, :1] * torch.arange(5.0, 0, -1)[:, None, None]
    found = head(x, activation, slope, own)
    again = head(x, 7 * activation, 0.01 * slope, 3 * own)
    torch.testing.assert_close(again, found)
    assert not torch.allclose(head(x, activation, -slope, own), found)
    assert found.mean(dim=(2, 3)).abs().max() < 1e-6
    torch.testing.assert_close(found.std(dim=(2, 3), correction=0), torch.ones(2, 1).double())


def test_the_control_reads_the_image_alone():
    x = images(2, size=(32, 16))
    one, other = (AmortizedFAM(HeadNet(seed=s), "relu", filled(ImageHead(5))) for s in (0, 1))
    torch.testing.assert_close(one.attribute(x), other.attribute(x))
    assert not torch.allclose(one.attribute(x.flip(3)), one.attribute(x))
    mine = [AmortizedFAM(HeadNet(seed=s), "relu", filled(ActivationHead(5))) for s in (0, 1)]
    assert not torch.allclose(*(each.attribute(x) for each in mine))


def test_it_follows_the_reference():
    x, explainer = images(2), explainer_of()
    own = explainer.attribute(x)
    torch.testing.assert_close(explainer.attribute(x, x), own)
    torch.testing.assert_close(explainer.attribute(x, explainer.forward_func(x).detach()), own)
    assert not torch.allclose(explainer.attribute(x, images(1, seed=5)), own)


@pytest.mark.parametrize("references", [False, True])
def test_extremal_fam_starts_from_the_map_of_a_head(monkeypatch, references):
    monkeypatch.setattr(descent, "STEP_SIZE", 1e-9)  # the maps stay where they start
    net, x, head = HeadNet().eval(), images(3), filled(ActivationHead(5))
    goal = {"references": images(3, seed=1)} if references else {}
    start = explainer_of(net, head).attribute(x, interpolate_mode=None, **goal)
    warm = ExtremalFAM(net, "relu", rounds=2, descents=3, head=head)
    found = warm.attribute(x, interpolate_mode=None, **goal)
    torch.testing.assert_close(found, start, atol=1e-5, rtol=0)


# Files


def test_a_file_comes_back_to_its_model(tmp_path):
    path = tmp_path / "head.safetensors"
    for head in (filled(ActivationHead(5)), filled(ImageHead(5))):
        head.load_state_dict({k: v.half() for k, v in head.state_dict().items()})
        explainer = explainer_of(head=head.float())
        explainer.save(path, SIZE)
        again = AmortizedFAM(HeadNet().eval(), "relu", path)
        assert type(again.head) is type(head)
        assert not again.head.training
        torch.testing.assert_close(again.attribute(images()), explainer.attribute(images()))
    assert path.stat().st_size < 2**20


def test_a_file_of_another_model_or_layer_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    explainer_of().save(path, SIZE)
    for net, layer in ((HeadNet(seed=1), "relu"), (HeadNet(width=7), "relu"), (HeadNet(), "conv")):
        with pytest.raises(InputError, match="^model: "):
            AmortizedFAM(net.eval(), layer, path)
    near = HeadNet().eval()
    near.head.weight.data *= 1.0001
    AmortizedFAM(near, "relu", str(path))
    near.float()
    AmortizedFAM(lambda x: near(x), near.relu, path)
    with pytest.raises(InputError, match="path"):
        explainer_of().save(tmp_path / "none" / "x", SIZE)
    with pytest.raises(InputError, match="^path: .*AmortizedFAM.save"):
        AmortizedFAM(near, "relu", __file__)
    with pytest.raises(InputError, match="^head: got .*expected a trained head"):
        AmortizedFAM(near, "relu")


def test_a_file_with_other_parts_is_refused(tmp_path):
    path, explainer = tmp_path / "head.safetensors", explainer_of()
    del explainer.head.weight  # as before other goals had a part of their own
    explainer.save(path, SIZE)
    with pytest.raises(InputError, match="^head: got .*, which has other parts"):
        AmortizedFAM(HeadNet().eval(), "relu", path)


def test_a_head_is_a_row_of_the_benchmarks(tmp_path):
    path = tmp_path / "head.safetensors"
    net = HeadNet().float().eval()
    explainer_of(net, ActivationHead(5)).save(path, SIZE)
    target = Target(net, "relu", InputSpec(SIZE))
    text = f"AmortizedFAM(head='{path}')"
    (method,) = find_methods([text], all_methods()).values()
    assert (method.name, method.needs, method.by_default) == (text, (), False)
    x = images().float()
    expected = AmortizedFAM(net, "relu", path).attribute(x)
    torch.testing.assert_close(method.on(target)(Subject(x)), expected)
    with pytest.raises(InputError, match="^head"):
        find_methods(["AmortizedFAM"], all_methods())["AmortizedFAM"].on(target)
    for wrong, match in (
        ("AmortizedFAM(tail=1)", "settings of AmortizedFAM: head, reshape_transform"),
        ("AmortizedFAM(head=tail)", r"AmortizedFAM\(setting=literal"),
        ("AmortizedFAM('tail')", "settings of AmortizedFAM"),
        ("NoFAM(head=1)", "names among"),
    ):
        with pytest.raises(InputError, match=match):
            find_methods([wrong], all_methods())


# The step


def test_the_loss_is_that_of_a_plain_loop(monkeypatch):
    net, x = HeadNet().eval(), images(3)
    explainer = explainer_of(net)
    areas = torch.tensor([[0.1, 0.5], [0.3, 0.05], [0.7, 0.2]])
    fills = images(6, seed=3).view(3, 2, 3, *SIZE)
    monkeypatch.setattr(amortized, "drawn", lambda *args: (areas, fills))
    for way in (0.0, 1.0, 0.4):
        monkeypatch.setattr(amortized, "distances", lambda *args, way=way: torch.full((3, 1), way))
        found = KeepStep(explainer, 2, 0.5)(x, torch.zeros(3))["lost"].item()
        own, losses = [one / one.norm() for one in net(x).detach()], []
        for n in range(3):
            goal = (1 - way) * own[n] + way * own[n - 1]
            levels = in_units(explainer.attribute(x[n : n + 1], goal[None])[0, 0])
            for k in range(2):
                ordered = levels.flatten().sort(descending=True).values
                threshold = ordered[int(float(areas[n, k]) * len(ordered))]
                mask = 1 / (1 + torch.exp((threshold - levels) / 0.15))
                shown = net((mask * x[n] + (1 - mask) * fills[n, k])[None])[0].detach()
                losses.append(1 - float(shown @ goal / shown.norm() / goal.norm()))
        assert found == pytest.approx(sum(losses) / 6, abs=1e-5)


def test_other_goals_lie_between_an_image_and_another_one():
    torch.manual_seed(0)
    assert not amortized.distances(1000, 0.0).any()
    way = amortized.distances(4000, 0.5)
    assert way.shape == (4000, 1)
    assert float((way == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((way == 1).float().mean()) == pytest.approx(0.5 * 0.4, abs=0.03)
    between = way[(way > 0) & (way < 1)]
    assert float(between.mean()) == pytest.approx(0.5, abs=0.03)


def test_another_goal_turns_the_map_by_what_is_not_the_images_own():
    """The rest of the products; the map of the image itself stays, whatever a goal has taught."""
    torch.manual_seed(0)
    head, x = filled(ActivationHead(5)), images(2)
    activation, slope, own = torch.randn(3, 2, 5, 6, 4, dtype=torch.float64)
    left, share = rest(activation * slope, activation * own)
    for n in range(2):
        a, b = (activation[n] * slope[n]).flatten(), (activation[n] * own[n]).flatten()
        expected = a - (a @ b) / (b @ b) * b
        torch.testing.assert_close(left[n].flatten(), expected)
        assert float(share[n]) == pytest.approx(float(expected.norm() / a.norm()))
    before = head(x, activation, own, own)
    head(x, activation, slope, own)[0, 0, 0, 0].backward()
    taught = {name for name, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"weight", *(f"turn.{name}" for name, _ in head.turn.named_parameters())}
    head.zero_grad()
    for p in head.turn.parameters():
        nn.init.normal_(p)
    torch.testing.assert_close(head(x, activation, own, own), before, atol=1e-5, rtol=0)
    assert not torch.allclose(head(x, activation, slope, own), before, atol=0.1)


def test_a_margin_is_an_objective():
    x, explainer = images(2), explainer_of()
    a, b = images(1, seed=5), images(1, seed=6)
    found = explainer.attribute(x, objective=Margin(a, b))
    assert not torch.allclose(explainer.attribute(x, objective=Margin(b, a)), found)
    one = explainer.attribute(x, a)
    torch.testing.assert_close(explainer.attribute(x, objective=Projection(a)), one)
    torch.testing.assert_close(explainer.attribute(x, objective=Cosine(a).slope), one)
    with pytest.raises(InputError, match="^objective: got one beside references"):
        explainer.attribute(x, a, objective=Margin(a, b))


def test_areas_and_fills_are_drawn_from_the_global_state():
    torch.manual_seed(0)
    areas, fills = amortized.drawn(images(40).float(), 3, 0.0)
    assert areas.shape == (40, 3)
    assert fills.shape == (40, 3, 3, *SIZE)
    nearest = (areas[..., None] / torch.tensor(amortized.AREAS) - 1).abs().min(dim=-1)
    assert nearest.values.max() <= 0.2 + 1e-6
    assert {*nearest.indices.flatten().tolist()} == {*range(6)}
    torch.manual_seed(0)
    assert torch.equal(amortized.drawn(images(40).float(), 3, 0.0)[1], fills)


def test_another_image_of_the_batch_is_a_fill_where_it_is_asked_for():
    x = images(40, size=(24, 16)).float()  # a blur of 8 cells would leave 8 columns as they are
    for share, low, high in ((0.0, 0, 0), (0.5, 0.3, 0.7), (1.0, 1, 1)):
        fills = amortized.drawn(x, 2, share)[1]
        of_others = [(fills[n, k] == x).all(dim=(1, 2, 3)) for n in range(40) for k in range(2)]
        assert low <= sum(bool(same.any()) for same in of_others) / 80 <= high
        assert not any(of_others[2 * n + k][n] for n in range(40) for k in range(2))


@pytest.mark.slow
def test_a_head_learns_what_the_model_sees():
    """The embedding sees the pixels of one corner alone; an untrained head looks at the center."""
    torch.manual_seed(0)
    layer = nn.Identity()
    corner = partial(lambda layer, x: layer(x)[:, :, :4, :2].flatten(1), layer)
    x = torch.randn(64, 3, 8, 6)
    explainer = AmortizedFAM(corner, layer, ActivationHead(3))
    step = KeepStep(explainer, 3, 0.0)
    optimizer = torch.optim.Adam(step.parameters(), lr=3e-3)

    def inside():
        maps = explainer.attribute(x[:16])
        return maps[..., :4, :2].mean() - maps.mean()

    first = inside()
    for n in range(40):
        optimizer.zero_grad()
        step(x[16 + 8 * (n % 6) :][:8], None)["lost"].backward()
        optimizer.step()
    assert inside() > first + 0.5


def test_a_step_trains_the_head_alone():
    torch.manual_seed(0)
    net = HeadNet().eval().requires_grad_(False)
    step = KeepStep(explainer_of(net), 2, 0.5)
    before = copy.deepcopy(net.state_dict())
    step(images(12), None)["lost"].backward()
    assert {*step.state_dict()} == {f"head.{name}" for name in step.head.state_dict()}
    assert all(p.grad is not None and p.grad.any() for p in step.parameters())
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# The training


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A training on images of two colors for the shipped network at a small size."""
    root = make_market(tmp_path_factory.mktemp("market"))
    target = TargetOptions(image_size=(32, 16), layer="backbone.layer2")
    return partial(
        TrainAmortized, target=target, dataset="market1501", root=root, images=12, epochs=2, batch=4
    )


@pytest.mark.slow
def test_an_interrupted_training_ends_the_same(settings, tmp_path, monkeypatch):
    whole = run(settings(output=tmp_path / "whole"))
    assert [row["epoch"] for row in log(whole)] == ["1", "2"]
    part = settings(output=tmp_path / "part")
    with monkeypatch.context() as patch:
        fail_at(patch, loop.TrainingLoop, "_train_batch", 5)
        with pytest.raises(Interrupted):
            run(part)
    assert not (tmp_path / "part" / FILE).exists()
    with pytest.raises(InputError, match="settings|learning_rate"):
        run(replace(part, resume=True, learning_rate=1.0))
    again = run(replace(part, resume=True))
    assert log(again) == log(whole)
    ends = [load_file(folder / FILE) for folder in (whole, again)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    target = part.target.open()
    explainer = AmortizedFAM(target.embedding, target.layer, whole / FILE)
    assert explainer.head.map.weight.any()
    assert explainer.attribute(torch.randn(1, 3, 32, 16)).isfinite().all()


@pytest.mark.slow
def test_the_control_is_an_option(settings, tmp_path):
    output = run(settings(output=tmp_path / "it", sees="image", epochs=1))
    target = settings(output=output).target.open()
    assert isinstance(AmortizedFAM(target.embedding, target.layer, output / FILE).head, ImageHead)


def test_too_few_images_are_refused_before_a_folder_is_claimed(settings, tmp_path):
    with pytest.raises(InputError, match="root: got 32 training images"):
        settings(output=tmp_path / "it", batch=40).run()
    for masks in (0, 7):
        with pytest.raises(InputError, match="masks"):
            settings(output=tmp_path / "it", masks=masks).run()
    assert not (tmp_path / "it").exists()
