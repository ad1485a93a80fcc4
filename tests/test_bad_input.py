"""Bad input is answered with an InputError that names the argument, what came, what was due."""

import pytest
import torch
from nets import DictNet, HeadNet, PooledNet, images
from torch import nn
from torch.nn import functional as F

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    ExtremalFAM,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    ScoreCAM,
    ScoreFAM,
)

X = images(3)
G = images(3, seed=7)
NAN = X.clone()
NAN[1, 0, 0, 0] = float("nan")
INF = X.clone()
INF[1, 0, 0, 0] = float("inf")
EXPLAINERS = [
    GradFAM,
    ScoreFAM,
    GradCAM,
    ScoreCAM,
    ActivationMean,
    RAM,
    GradRAM,
    CGRAM,
    ExtremalFAM,
]
every_explainer = pytest.mark.parametrize("explainer", EXPLAINERS)
references = pytest.mark.parametrize("explainer", [RAM, GradRAM, CGRAM])


def explain(explainer, x=X, net=None, layer="relu", **kwargs):
    if explainer in (RAM, GradRAM, CGRAM):
        kwargs.setdefault("references", G)
    net = net or (PooledNet() if explainer is RAM else HeadNet())
    return explainer(net, layer).attribute(x, **kwargs)


def assert_raises(match, explainer, *args, **kwargs):
    with pytest.raises(InputError, match=match) as caught:
        explain(explainer, *args, **kwargs)
    assert ": got " in str(caught.value)
    assert ", expected " in str(caught.value)


def test_the_error_is_a_value_error_that_says_all_three():
    error = InputError("inputs", "(3, 4)", "(B, C, H, W)")
    assert str(error) == "inputs: got (3, 4), expected (B, C, H, W)"
    assert isinstance(error, ValueError)
    assert error.argument == "inputs"


@every_explainer
@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (X[0], r"inputs: got \(3, 12, 8\) float64"),
        (X[:0], r"inputs: got \(0, 3, 12, 8\)"),
        (X[..., :0], "inputs"),
        (X[:, None], "inputs"),
        ((X * 10).to(torch.uint8), "inputs: got .* uint8, expected a floating point"),
        (NAN, "inputs: got 1 NaN or infinite"),
        (INF, "inputs: got 1 NaN or infinite"),
        ((X, X), "inputs: got a tuple of 2.*additional_forward_args"),
        ("image.jpg", "inputs: got str"),
        (X.numpy(), "inputs: got ndarray"),
    ],
)
def test_inputs(explainer, inputs, match):
    assert_raises(match, explainer, inputs)


@every_explainer
def test_layers(explainer):
    for layer, match in [
        ("rleu", "layer: got 'rleu'.*'relu'"),
        (nn.ReLU(), "layer: got a ReLU of another model"),
        (None, "layer: got NoneType"),
    ]:
        assert_raises(match, explainer, layer=layer)
    with pytest.raises(InputError, match="layer: got the name 'relu' beside a forward_func"):
        explainer(lambda x: x, "relu")


class Odd(HeadNet):
    """Runs one layer twice, one never, one that gives no map, one that gives two tensors."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Identity()
        self.never = nn.Identity()
        self.flat = nn.Flatten()
        self.listed = Listed()

    def forward(self, x):
        x, _ = self.listed(x)
        self.flat(x)
        return super().forward(self.twice(self.twice(x)))


class Listed(nn.Module):
    def forward(self, x):
        return [x, x]


@pytest.mark.parametrize("explainer", sorted(set(EXPLAINERS) - {RAM}, key=lambda e: e.__name__))
def test_layers_that_give_no_map(explainer):
    assert_raises("layer: got a Identity that ran 2 times", explainer, net=Odd(), layer="twice")
    assert_raises("layer: got a Identity that never ran", explainer, net=Odd(), layer="never")
    assert_raises("layer: got a Listed that gives list", explainer, net=Odd(), layer="listed")
    if explainer not in (GradFAM, GradCAM, GradRAM, CGRAM, ExtremalFAM):
        assert_raises(r"layer: got output \(3, 288\)", explainer, net=Odd(), layer="flat")
    else:
        assert_raises("layer: got an output without influence", explainer, net=Odd(), layer="flat")


def test_tokens_that_are_no_grid():
    class Tokens(nn.Module):
        def __init__(self, tokens):
            super().__init__()
            self.tokens = tokens
            self.block = nn.Identity()

        def forward(self, x):
            rows = x.flatten(2).mean(2)[:, None].expand(-1, self.tokens, -1)
            return self.block(rows).mean(1)

    assert_raises(
        "layer: got 55 tokens for an image of 12 x 8", ScoreFAM, net=Tokens(55), layer="block"
    )
    model = Tokens(6 + 1).eval()
    assert ScoreFAM(model, "block").attribute(X, interpolate_mode=None).shape == (3, 1, 3, 2)


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize(
    ("result", "match"),
    [
        (lambda e: e[:, 0], "result of forward_func: got"),
        (lambda e: e[:1], r"result of forward_func: got \(1, .*B = 3"),
        (lambda e: e * float("nan"), "result of forward_func: got 12 NaN"),
        (lambda e: e / 0, "result of forward_func: got 12 NaN or infinite"),
        (lambda e: [e], "forward_func: got a result of type list"),
        (lambda e: {"f": e}, "forward_func: got a result of type dict.*lambda"),
    ],
)
def test_results(explainer, result, match):
    net = PooledNet(4) if explainer is RAM else HeadNet()
    net.eval()
    data = {"references": net(G).detach()} if explainer in (RAM, GradRAM, CGRAM) else {}
    with pytest.raises(InputError, match=match):
        explainer(lambda x: result(net(x).abs() + 1), net.relu).attribute(X, **data)


def test_a_model_that_returns_a_dict():
    with pytest.raises(InputError, match="forward_func: got a result of type dict"):
        explain(GradFAM, net=DictNet())


@pytest.mark.parametrize("explainer", [GradFAM, ScoreFAM, RAM, GradRAM, CGRAM])
def test_zero_embeddings(explainer):
    net = PooledNet().eval()
    with pytest.raises(InputError, match=r"result of forward_func: got the zero vector in rows \["):
        explainer(lambda x: net(x) * torch.tensor([[1], [0], [1]]), net.relu).attribute(
            X, **({"references": net(G)} if explainer in (RAM, GradRAM, CGRAM) else {})
        )


def test_masked_images_without_an_embedding():
    """Zero embeddings of masked images count as cosine 0; NaN is an error."""
    net = PooledNet().eval()
    net.conv.bias.data.zero_()
    maps, scores = ScoreFAM(net, "relu").attribute(X, baselines=0, return_scores=True)
    assert maps.isfinite().all()
    assert scores.isfinite().all()
    calls = []

    def broken(x):
        calls.append(x)
        return net(x) * (float("nan") if len(calls) > 2 else 1)

    with pytest.raises(InputError, match=r"the result of forward_func: got .* NaN"):
        ScoreFAM(broken, net.relu).attribute(X)


def test_no_gradient():
    net = HeadNet().eval()

    def cut(x):
        return net(x).detach()

    with pytest.raises(InputError, match="layer: got an output without influence"):
        GradFAM(cut, net.relu).attribute(X)


def test_a_function_in_inference_mode_has_no_gradient():
    net = HeadNet().eval()
    with pytest.raises(InputError, match="layer: got an output without influence"):
        GradFAM(torch.inference_mode()(net.forward), net.relu).attribute(X)


@every_explainer
def test_interpolate_mode(explainer):
    assert_raises("interpolate_mode: got 'area'", explainer, interpolate_mode="area")


@pytest.mark.slow
@references
@pytest.mark.parametrize(
    ("given", "match"),
    [
        (G[:2], "references: got .*1 or 3 rows"),
        (G[:0], "references: got"),
        (G[0], "references: got .*images .* or embeddings"),
        (torch.ones(3, 7, dtype=torch.float64), r"references: got \(3, 7\).*D = "),
        (torch.zeros(3, 5, dtype=torch.float64), "references: got the zero vector in rows"),
        (torch.full((3, 5), float("nan")), "references: got 15 NaN"),
        (NAN, "references: got 1 NaN"),
        (torch.ones(3, 5, dtype=torch.long), "references: got .*int64"),
        (None, "references: got NoneType"),
    ],
)
def test_references(explainer, given, match):
    net = HeadNet(width=5) if explainer is not RAM else PooledNet(5)
    assert_raises(match, explainer, net=net, references=given)


@references
def test_pairs(explainer):
    ram = explainer(PooledNet(), "relu")
    with pytest.raises(InputError, match=r"references: got .*1 or 3 images"):
        ram.attribute_pair(X, G[:2])
    with pytest.raises(InputError, match="references: got"):
        ram.attribute_pair(X, torch.ones(3, 5))


@pytest.mark.parametrize("explainer", [GradCAM, ScoreCAM])
@pytest.mark.parametrize(
    "target", [4, -1, [0, 1], [[0], [1], [2]], 1.0, True, "person", torch.tensor([0.0, 1.0, 2.0])]
)
def test_targets(explainer, target):
    assert_raises("target: got .*a class from 0 to 3", explainer, target=target)


@pytest.mark.parametrize("explainer", [ScoreFAM, ScoreCAM])
def test_perturbation_arguments(explainer):
    for count in (0, -3, 1.5, True):
        assert_raises("perturbations_per_eval: got", explainer, perturbations_per_eval=count)
    assert_raises(r"baselines: got \(2, 3, 12, 8\)", explainer, baselines=X[:2])
    assert_raises("baselines: got", explainer, baselines=X[..., :4])
    assert_raises("baselines: got 1 NaN", explainer, baselines=NAN)
    assert_raises("baselines: got NaN or|baselines: got", explainer, baselines="blur")


def test_score_option():
    with pytest.raises(InputError, match="score: got 'logits', expected one of 'logit'"):
        ScoreCAM(HeadNet(), "relu", score="logits")


def test_reshape_transform_that_gives_no_map():
    with pytest.raises(InputError, match=r"layer: got output \(3, 5\).*a map \(B = 3, C, h, w\)"):
        GradFAM(HeadNet(), "relu", reshape_transform=lambda y: y.mean((2, 3))).attribute(X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grad_fam_of_a_normalised_embedding_has_nothing_to_explain(dtype):
    net = HeadNet().to(dtype)
    inputs = images(3, dtype=dtype)
    with pytest.raises(InputError, match="embeddings before it"):
        GradFAM(lambda x: F.normalize(net(x)), net.relu).attribute(inputs)
    assert GradFAM(net, net.relu).attribute(inputs).isfinite().all()
