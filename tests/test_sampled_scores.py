"""Scores of all channels from those of some: where they agree with the exact ones, and how far."""

import pytest
import torch
from nets import HeadNet, PooledNet, images
from torch import nn

from reid_explain import InputError, ScoreCAM, ScoreFAM
from reid_explain.datasets import SyntheticReID
from reid_explain.explainers.landmarks import (
    LENGTH,
    NUGGET,
    channel_range,
    kernel_length,
    landmarks,
    predicted,
    sampled_scores,
    weighted_sum,
)
from reid_explain.fills import unit_range
from reid_explain.inputs import InputSpec
from reid_explain.models.pretrained import load_pretrained

close = torch.testing.assert_close
X = images(3)
CHANNELS = 12
both = pytest.mark.parametrize("explainer", [ScoreFAM, ScoreCAM])


def net_with_dead_channels() -> HeadNet:
    net = HeadNet(CHANNELS).eval()
    net.conv.weight.data[1], net.conv.bias.data[1] = 0, -1
    net.conv.weight.data[3], net.conv.bias.data[3] = 0, 0.3
    return net


def counted(net: nn.Module) -> list[int]:
    """The sizes of the batches that ``net`` is given from now on."""
    seen: list[int] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@both
@pytest.mark.parametrize("count", [CHANNELS - 2, CHANNELS, 1000])
def test_as_many_scored_channels_as_live_channels_are_exact(explainer, count):
    net = net_with_dead_channels()
    exact = explainer(net, "relu").attribute(X, return_scores=True)
    ours = explainer(net, "relu", max_scored_channels=count).attribute(X, return_scores=True)
    close(ours, exact)
    assert (ours[1][:, [1, 3]] == 0).all()


@both
def test_sampled_channels_cost_one_forward_each(explainer):
    net = net_with_dead_channels()
    seen = counted(net)
    explainer(net, "relu", max_scored_channels=4).attribute(X)
    assert seen == [3, 3, 12]  # the images, their baselines, four masks of each


@both
def test_what_is_measured_is_exact_and_the_rest_is_near(explainer):
    net = net_with_dead_channels()
    _, exact = explainer(net, "relu").attribute(X, return_scores=True)
    _, ours = explainer(net, "relu", max_scored_channels=6).attribute(X, return_scores=True)
    same = (ours - exact).abs() < 1e-12
    assert (same.sum(dim=1) >= 6 + 2).all()
    assert not same.all()
    assert (ours - exact).abs().max() < exact.std() * 3


@both
@pytest.mark.parametrize(
    "settings", [{"max_scored_channels": 5}, {"tolerance": 0.02, "max_scored_channels": 2}]
)
def test_the_same_twice_alone_and_in_a_batch(explainer, settings):
    ours = explainer(net_with_dead_channels(), "relu", **settings)
    torch.manual_seed(0)
    maps = ours.attribute(X)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(ours.attribute(X), maps)
    assert torch.equal(torch.get_rng_state(), state)
    for i in range(3):
        close(ours.attribute(X[i : i + 1]), maps[i : i + 1])


def test_a_batch_where_one_image_has_few_live_channels():
    """Landmarks run out of live channels: the dead ones cost nothing and stay at 0."""
    net = PooledNet(CHANNELS).eval()
    x = X.clone()
    x[1] = 0.5  # one colour: what lives is the border
    shared = ScoreFAM(net, "relu", max_scored_channels=8).attribute(x, return_scores=True)
    for i in range(3):
        alone = ScoreFAM(net, "relu", max_scored_channels=8).attribute(
            x[i : i + 1], return_scores=True
        )
        close(alone, tuple(part[i : i + 1] for part in shared))


def test_no_live_channel_at_all():
    net = PooledNet().eval()
    net.conv.weight.data.zero_()
    net.conv.bias.data.fill_(1)
    exact = ScoreFAM(net, "relu").attribute(X)
    assert torch.equal(ScoreFAM(net, "relu", max_scored_channels=2).attribute(X), exact)
    assert torch.equal(ScoreFAM(net, "relu", tolerance=0.1).attribute(X), exact)


# The process


def random_masks(batch: int = 2, channels: int = 30, cells: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, cells, generator=generator, dtype=torch.float64)


def test_prediction_by_hand():
    masks = random_masks(1)
    measured = torch.tensor([[3, 11, 20]])
    scores = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    points = masks[0]
    pairs = (points[:, None] - points).square().sum(dim=2)
    length = LENGTH * pairs.mean().sqrt()
    close(kernel_length(masks)[0, 0, 0], length)
    reach = (3 * pairs).sqrt() / length
    covariance = (1 + reach) * torch.exp(-reach)
    own = covariance[measured[0]][:, measured[0]] + NUGGET * torch.eye(3)
    inverse = own.inverse()
    mean = (inverse @ scores[0]).sum() / inverse.sum()
    expected = mean + covariance[:, measured[0]] @ inverse @ (scores[0] - mean)
    expected[measured[0]] = scores[0]
    close(predicted(masks, measured, scores)[0], expected)


def test_each_landmark_is_where_importance_times_deviation_is_largest():
    masks = random_masks(cells=1)  # so near to each other that the nugget counts
    importance = 0.5 + random_masks()[:, :, 0]
    chosen = landmarks(masks, importance, 10)
    length = kernel_length(masks)
    for image in range(2):
        reach = 3**0.5 * torch.cdist(masks[image], masks[image]) / length[image]
        covariance = (1 + reach) * torch.exp(-reach)
        for step in range(10):
            known = chosen[image, :step]
            own = covariance[known][:, known] + NUGGET * torch.eye(step)
            cross = covariance[:, known]
            variance = 1 - (cross @ own.inverse() * cross).sum(dim=1)
            gain = importance[image] ** 2 * variance
            gain[known] = -1
            assert chosen[image, step] == gain.argmax()


def test_landmarks_take_live_channels_first_each_once():
    masks, importance = random_masks(2), torch.ones(2, 30, dtype=torch.float64)
    importance[:, ::2] = 0
    chosen = landmarks(masks, importance, 30)
    assert (chosen[:, :15] % 2 == 1).all()
    assert (chosen.sort(dim=1).values == torch.arange(30)).all()
    assert torch.equal(landmarks(masks, importance, 7), chosen[:, :7])
    assert torch.equal(landmarks(masks, importance * 1e-200, 15) % 2, torch.ones(2, 15).long())


def test_masks_that_are_all_the_same():
    masks = torch.full((1, 6, 8), 0.5)
    guess = predicted(masks, torch.tensor([[0, 4]]), torch.tensor([[1.0, 3.0]]))
    close(guess, torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0, 2.0]]))


# The tolerance


@pytest.fixture(scope="module")
def trained():
    """The shipped network's channels of two queries, with all exact scores."""
    model = load_pretrained("synthetic")
    world = SyntheticReID()
    x = torch.stack([InputSpec().to_tensor(world.load(world.query[i])) for i in (0, 100)])
    with torch.no_grad():
        activation = model.features(x)
    explainer = ScoreFAM(model, model.map_layer)
    exact, scores = explainer.attribute(x, interpolate_mode=None, return_scores=True)
    return activation, scores, exact


def error(trained, **settings) -> tuple[torch.Tensor, int]:
    """Error (B,) of the stretched map, and how many scores were looked up."""
    activation, scores, exact = trained
    asked = []

    def measure(wanted):
        asked.append(int(wanted.sum()))
        return scores * wanted

    guess = sampled_scores(measure, activation, **settings)
    map_ = unit_range(weighted_sum(guess, activation).relu())
    return (map_ - unit_range(exact)).abs().amax(dim=(1, 2, 3)), sum(asked)


@pytest.mark.slow
@pytest.mark.parametrize(("tolerance", "most"), [(0.05, 128), (0.02, 256), (0.01, 512)])
def test_the_tolerance_is_met_on_a_trained_network(trained, tolerance, most):
    worst, asked = error(trained, count=16, tolerance=tolerance)
    assert (worst <= tolerance).all()
    assert asked <= most


@pytest.mark.slow
def test_64_scored_channels_are_close_on_a_trained_network(trained):
    worst, asked = error(trained, count=64)
    assert asked == 2 * 64
    assert (worst <= 0.02).all()


@pytest.mark.slow
def test_refinement_measures_nothing_twice(trained):
    activation, scores, _ = trained
    seen = torch.zeros_like(scores)

    def measure(wanted):
        seen.add_(wanted)
        return scores * wanted

    guess = sampled_scores(measure, activation, 4, 1e-9)
    assert (seen == (channel_range(activation) > 0)).all()
    close(guess, scores)


# Settings


@both
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"max_scored_channels": 0}, "max_scored_channels: got 0"),
        ({"max_scored_channels": 2.0}, r"max_scored_channels: got 2\.0"),
        ({"max_scored_channels": True}, "max_scored_channels: got True"),
        ({"tolerance": 0}, "tolerance: got 0"),
        ({"tolerance": 1.5}, r"tolerance: got 1\.5"),
        ({"tolerance": "low"}, "tolerance: got 'low'"),
        ({"tolerance": float("nan")}, "tolerance: got nan"),
        ({"autocast_dtype": torch.float32}, r"autocast_dtype: got torch\.float32"),
        ({"autocast_dtype": "bfloat16"}, "autocast_dtype: got 'bfloat16'"),
    ],
)
def test_settings_out_of_range(explainer, settings, match):
    with pytest.raises(InputError, match=match):
        explainer(HeadNet(), "relu", **settings)
