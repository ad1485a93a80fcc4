"""Contributions of places: closed forms, Jacobians by autograd, and that they add up."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from nets import images
from project_nets import trained
from test_transformers import SHAPED, disturbed
from torch import Tensor, nn
from torch.nn import functional as F

from reid_explain import InputError, PlaceToPlace, Verification
from reid_explain.explainers import pairs, place_to_place
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.explainers.place_to_place import neighborhoods
from reid_explain.models import FunctionNet, build_model
from reid_explain.models.timm_models import TimmNet
from reid_explain.objectives import Batch
from reid_explain.testing import ContractNet, pictures

close = torch.testing.assert_close
X, Y = images(2), images(2, seed=1)


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return trained(build_model(name, **options)).double()


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    return disturbed(TimmNet("vit_tiny_patch16_224", **SHAPED, **options)).double().eval()


RESNET = {"backbone": "resnet18", "width": 0.125}
NETS = {
    "average and batch norm": (lambda: small("bot", **RESNET), (64, 32), None, True),
    "plain stripes": (lambda: small("pcb", normalize=False, **RESNET), (96, 32), None, True),
    "OSNet": (lambda: small("osnet_x0_25"), (64, 32), None, False),
    "GeM": (lambda: small("resnet18", width=0.125, pooling="gem"), (64, 32), None, False),
    "PCB": (lambda: small("pcb", **RESNET), (96, 32), None, False),
    "ViT norm": (vit, (64, 32), None, False),
    "ViT block": (vit, (64, 32), "net.blocks.0", False),
    "ViT average": (lambda: vit(global_pool="avg"), (64, 32), "net.blocks.0", False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_contributions_add_up(name):
    make, size, layer, is_exact = NETS[name]
    net = make()
    x, y = (F.avg_pool2d(4 * images(2, size, seed), 5, 1, 2) for seed in (0, 1))
    found = PlaceToPlace(net, layer or net.map_layer).explain(x, y)
    similarity = F.cosine_similarity(net(x), net(y)).detach()
    close(found.similarity, similarity)
    total = found.contributions.sum(dim=(1, 2, 3, 4))
    error = (total - similarity).abs() / similarity.abs()
    assert error.max() <= (1e-12 if is_exact else 1e-2)
    close(found.error, similarity - total)


# Closed forms


class Linear(nn.Module):
    """Each pixel is a place of the layer; behind it a mean, a linear map and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.neck = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
        trained(self.double())

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.layer(x).mean(dim=(2, 3)))


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_a_linear_neck_has_a_closed_form(baseline):
    net = Linear()
    weight = torch.autograd.functional.jacobian(lambda mean: net.neck(mean[None])[0], X[0, :, 0, 0])
    of_baseline = net(torch.full_like(X[:1], baseline))[0]
    sides = []
    for image in (X, Y):
        placed = torch.einsum("dc,bchw->bhwd", weight, image - baseline) + of_baseline
        sides.append(placed / 96 / net(image).norm(dim=1)[:, None, None, None])
    expected = torch.einsum("bhwd,bijd->bhwij", *sides).detach()
    found = PlaceToPlace(net, "layer", baseline=baseline).explain(X, Y)
    close(found.contributions, expected)
    close(found.query_map[:, 0], expected.sum(dim=(3, 4)))
    close(found.gallery_map[:, 0], expected.sum(dim=(1, 2)))


def test_contributions_are_what_removals_do():
    """The inner product loses the contribution of two places when they go together, and not
    when one of them goes: its second difference, which shares nothing equally."""
    net = Linear()
    found = PlaceToPlace(net, "layer").explain(X, Y)
    lengths = net(X).norm(dim=1) * net(Y).norm(dim=1)
    both = (found.contributions * lengths[:, None, None, None, None])[:, 3, 2, 5, 1]
    x, y, none = X.clone(), Y.clone(), torch.zeros_like(X)
    x[:, :, 3, 2] = y[:, :, 5, 1] = 0
    alone = (net(X) - net(x) + net(none) / 96) * (net(Y) - net(y) + net(none) / 96)
    close(both, alone.sum(dim=1).detach())


def test_swapped_images_swap_the_places():
    explainer = PlaceToPlace(ContractNet().eval(), "layer")
    x, y = pictures(2), pictures(2, seed=7)
    found, swapped = explainer.explain(x, y), explainer.explain(y, x)
    close(swapped.contributions, found.contributions.permute(0, 3, 4, 1, 2))
    close(swapped.affinity, found.affinity.permute(0, 3, 4, 1, 2))


# Integrated Jacobians


def integrated(head, start: Tensor, end: Tensor, steps: int = 400) -> Tensor:
    """The integral of J(A0 + a (A - A0)) (A - A0) by autograd, (D, E), for points (E,)."""
    way = end - start
    jacobians = [
        torch.autograd.functional.jacobian(head, start + (k + 0.5) / steps * way)
        for k in range(steps)
    ]
    return sum(jacobians) / steps * way


@pytest.mark.slow
@pytest.mark.parametrize("name", ["map", "tokens", "gem"])
def test_vectors_are_integrated_jacobians(name):
    """Also where the layer has a token that is no place: it is shared equally."""
    if name == "gem":
        layer = nn.Identity()

        def net(x):
            return layer(x).clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3) + 0.3

        x, shape = images(1, (4, 2)).abs(), (1, 3, 4, 2)
        head, start, end = (lambda a: net(a.view(shape))[0]), torch.full((24,), 0.2), x.flatten()
        explainer = PlaceToPlace(net, layer, steps=64, baseline=0.2)
        vectors = integrated(head, start.double(), end).view(-1, 3, 4, 2).sum(dim=1)
        rest = head(start.double())
    else:
        net, x = ContractNet().eval(), pictures(1)
        explainer = PlaceToPlace(net, {"map": "layer", "tokens": "tokens"}[name], steps=64)
        maps = [net.layer(net.conv(image)) for image in (torch.zeros_like(x), x)]
        rows = [m.flatten(2).transpose(1, 2).detach() for m in maps]
        tokens = [torch.cat([row.mean(dim=1, keepdim=True), row], dim=1) for row in rows]
        start, end = (t.flatten() for t in (rows if name == "map" else tokens))

        def head(a):
            row = a.view(1, -1, 5)
            if name == "map":
                row = torch.cat([row.mean(dim=1, keepdim=True), row], dim=1)
            return net.head(net.norm(torch.tanh(row).square().mean(dim=1)))[0]

        vectors = integrated(head, start, end).view(4, -1, 5).sum(dim=2)
        rest = head(start)
        if name == "tokens":
            vectors, rest = vectors[:, 1:], rest + vectors[:, 0]
        vectors = vectors.view(4, 6, 4)
    places = vectors[0].numel()
    (own,) = net(x)
    expected = (vectors + rest[:, None, None] / places) / own.norm()
    for direction in torch.eye(len(own), dtype=torch.float64):
        found = explainer.attribute(x, direction[None], interpolate_mode=None)[0, 0]
        close(found, torch.einsum("dhw,d->hw", expected, direction).detach(), rtol=2e-3, atol=2e-5)


class Curved(nn.Module):
    """As exclip takes a network: ``visual.layer1`` is what lies behind the places explained."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.visual.layer = nn.Identity()
        self.visual.layer1 = nn.Sequential(nn.Tanh(), nn.Conv2d(4, 5, 2), nn.Softplus())
        trained(self.double())

    def encode_image(self, x: Tensor) -> Tensor:
        return self.visual.layer1(self.visual.layer(self.visual.conv(x))).mean(dim=(2, 3))

    forward = encode_image


def added_up(net: Curved, vectors: list[Tensor]) -> Tensor:
    """Contributions from vectors (5, h, w) of both images; the baseline's is shared equally."""
    rest = net(torch.zeros(1, 3, 8, 8, dtype=torch.float64))[0, :, None, None] / 16
    x, y = ((v + rest) / net(i).norm() for v, i in zip(vectors, squares(), strict=True))
    return torch.einsum("dhw,dij->hwij", x, y).detach()


def squares() -> list[Tensor]:
    return [images(1, (8, 8), seed) for seed in (0, 1)]


def test_contributions_are_products_of_integrated_jacobians():
    """The second-order attributions of Möller et al., by the full Jacobian along both paths."""
    net, vectors = Curved(), []
    start = net.visual.conv(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).flatten().detach()

    def head(a: Tensor) -> Tensor:
        return net.visual.layer1(a.view(1, 4, 4, 4)).mean(dim=(2, 3))[0]

    for image in squares():
        end = net.visual.conv(image).flatten().detach()
        vectors.append(integrated(head, start, end, steps=50).view(5, 4, 4, 4).sum(dim=1))
    found = PlaceToPlace(net, "visual.layer", steps=64).explain(*squares())
    close(found.contributions[0], added_up(net, vectors), rtol=1e-3, atol=1e-6)
    assert found.error.abs() < 1e-4


@pytest.mark.slow
def test_contributions_are_those_of_exclip():
    exclip = pytest.importorskip("exclip.explanation", reason="exclip is not installed")
    net, vectors = Curved(), []
    theirs = exclip.OpenAIExplainer(net, image_dim=8, device="cpu")
    theirs.init_image_attribution(layer=1, N_interpolations=2000)
    for image in squares():
        embeddings, _ = theirs.encode_image(image)
        features = theirs.img_intermediates[-1]
        jacobian = theirs._compute_integrated_jacobian(embeddings, features, verbose=False)
        vectors.append((jacobian * (features[0] - features[-1])).sum(dim=1).detach())
    theirs.reset_attribution()
    found = PlaceToPlace(net, "visual.layer", steps=64).explain(*squares())
    close(found.contributions[0], added_up(net, vectors), rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_more_steps_are_taken_where_few_miss_something():
    net = small("osnet_x0_25")
    x = F.avg_pool2d(8 * images(1, (64, 32)), 5, 1, 2)
    errors = [
        PlaceToPlace(net, net.map_layer, steps=steps).explain(x, x.flip(3)).error.abs().item()
        for steps in (1, 64)
    ]
    by_default = PlaceToPlace(net, net.map_layer).explain(x, x.flip(3)).error.abs().item()
    assert errors[1] < errors[0] / 10
    assert by_default < errors[0] / 3


# How models are used


class Counting(Linear):
    """Takes as many rows of the layer as there are images, and says how many came."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.strict, self.rows = strict, []

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        self.rows.append((len(x), len(out)))
        return self.neck((out.view(len(x), 3, -1) if self.strict else out.flatten(2)).mean(dim=2))


def test_one_image_stands_for_many_where_the_model_lets_it():
    plain, strict = Counting(False), Counting(True)
    expected = PlaceToPlace(Linear(), "layer").explain(X, Y).contributions
    for net in (plain, strict):
        close(PlaceToPlace(net, "layer").explain(X, Y).contributions, expected)
    assert all(images == 1 for images, rows in plain.rows if rows > 2)
    assert (384, 384) in strict.rows


class Bypassed(Linear):
    """Has a further way from the image to the embedding, beside the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.amax(dim=(2, 3)).repeat(1, 2)[:, :5]


def test_no_image_stands_for_others_where_more_of_it_is_read(monkeypatch):
    monkeypatch.setattr(place_to_place, "CORNER", 4)
    together = PlaceToPlace(Bypassed(), "layer").explain(X, Y)
    for n in range(2):
        alone = PlaceToPlace(Bypassed(), "layer").explain(X[n : n + 1], Y[n : n + 1])
        close(together.contributions[n], alone.contributions[0])
    close(together.error, torch.zeros(2, dtype=torch.float64))


def test_a_corner_stands_for_an_image_where_the_layer_is_all_that_is_read(monkeypatch):
    expected = PlaceToPlace(Linear(), "layer").explain(X, Y).contributions
    monkeypatch.setattr(place_to_place, "CORNER", 4)
    net, seen = Linear(), []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2:].numel()))
    close(PlaceToPlace(net, "layer").explain(X, Y).contributions, expected)
    assert seen.count(96) == 6  # both sides, their baselines, and whether one stands for two
    assert len(seen) > 6


def test_means_of_rows_stand_for_a_map_of_stripes():
    """As whole maps, which a reshape_transform keeps; the head gets maps an eighth as large."""
    layer, seen = nn.Identity(), []

    def net(x: Tensor) -> Tensor:
        out = layer(x)
        seen.append(out[0].numel())
        return F.adaptive_avg_pool2d(out, (2, 1)).flatten(1).tanh() + 0.2

    plain = PlaceToPlace(net, layer, lambda out: out).explain(X, Y)
    assert min(seen) == 3 * 12 * 8
    seen.clear()
    close(PlaceToPlace(net, layer).explain(X, Y).contributions, plain.contributions)
    assert seen[-1] == 3 * 12


class PerChannel(nn.Module):
    """Each pixel is a place of the layer; GeM and a batch norm read its channels one by one."""

    def __init__(self, mixes: bool = False) -> None:
        super().__init__()
        self.layer, self.norm, self.seen = nn.Identity(), nn.BatchNorm1d(3), []
        trained(self.double())
        self.mixes = mixes

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        self.seen.append(len(out))
        mean = self.norm(out.abs().clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3))
        return mean + 0.1 * mean[:, [0, 2, 1]].square() if self.mixes else mean


@pytest.mark.slow
@pytest.mark.parametrize("mixes", [False, True])
def test_one_gradient_is_enough_where_results_read_a_channel_each(mixes):
    """As place by place, which a reshape_transform keeps; mixed channels are told from others."""
    found, calls = [], []
    for reshape_transform in (None, lambda out: out):
        net = PerChannel(mixes)
        explainer = PlaceToPlace(net, "layer", reshape_transform, steps=64, baseline=1.0)
        found.append(explainer.explain(X.abs(), Y.abs()).contributions)
        calls.append(sum(net.seen))
    close(*found, rtol=1e-4, atol=1e-8)
    assert (calls[0] < calls[1] / 10) == (not mixes)


@pytest.mark.slow
@pytest.mark.parametrize("leave", [Tensor.detach, lambda out: torch.from_numpy(out.numpy())])
def test_gradients_are_not_needed(leave):
    """Behind a graph of ONNX there are none."""
    net, cut = PerChannel(), PerChannel()
    cut.norm.register_forward_hook(lambda _module, _inputs, output: leave(output))
    one, other = (
        PlaceToPlace(each, "layer", steps=64, baseline=1.0).explain(X.abs(), Y.abs()).contributions
        for each in (net, cut)
    )
    close(one, other, rtol=1e-4, atol=1e-8)


def test_one_query_serves_many():
    explainer = PlaceToPlace(ContractNet().eval(), "layer")
    query, gallery = pictures(1), pictures(3, seed=7)
    together = explainer.explain(query, gallery)
    assert together.contributions.shape == (3, 6, 4, 6, 4)
    for n in range(3):
        alone = explainer.explain(query, gallery[n : n + 1])
        close(together.contributions[n], alone.contributions[0])
        close(together.affinity[n], alone.affinity[0])
        (ours,), (theirs,) = alone.top(3), [together.top(3)[n]]
        assert all(torch.equal(a, b) for a, b in zip(ours[:2], theirs[:2], strict=True))
    close(explainer.explain(gallery, query).query_map, together.gallery_map)


def test_a_hundred_gallery_images_take_few_passes(monkeypatch):
    """What all images share stays shared where they are few, and the query is passed once."""
    monkeypatch.setattr(pairs, "PAIRS", 3)
    net, seen = Linear(), []

    def shifted(x: Tensor, shift: Tensor) -> Tensor:
        seen.append(len(x))
        return net(x + shift.sum())

    explainer, shift = PlaceToPlace(shifted, net.layer), torch.tensor([0.1, 0.4, -0.2])
    query, gallery = images(1), images(100, seed=3)
    found = explainer.explain(query, gallery, shift)
    assert found.contributions.shape == (100, 12, 8, 12, 8)
    assert sum(seen) < 100 + 34 * 8
    alone = explainer.explain(query, gallery[98:99], shift)
    close(found.contributions[98], alone.contributions[0])


def test_the_marginal_is_the_map():
    explainer = PlaceToPlace(ContractNet().eval(), "layer")
    x, y = pictures(2), pictures(2, seed=7)
    found = explainer.explain(x, y)
    close(explainer.attribute(x, y, interpolate_mode=None), found.query_map, rtol=1e-2, atol=1e-4)
    first, second = explainer.attribute_pair(x, y, interpolate_mode=None)
    close(second, found.gallery_map, rtol=1e-2, atol=1e-4)
    close(first.sum(dim=(1, 2, 3)), found.similarity, rtol=1e-2, atol=0)


def test_arguments_of_the_model_follow_their_image():
    net = ContractNet().eval()
    x, y = pictures(2), pictures(2, seed=7)
    own, theirs = (torch.tensor(v, dtype=torch.float64) for v in ((0.3, -0.2), (0.7, 0.1)))
    explainer = PlaceToPlace(net, "layer")
    found = explainer.explain(x, y, own, gallery_forward_args=theirs)
    close(found.similarity, F.cosine_similarity(net(x, own), net(y, theirs)).detach())
    assert found.error.abs().max() < 1e-2
    alone = explainer.explain(x[1:], y[1:], own[1:], gallery_forward_args=theirs[1:])
    close(alone.contributions[0], found.contributions[1])


def test_the_baseline_has_the_arguments_of_the_image():
    net = ContractNet().eval()
    explainer = PlaceToPlace(lambda x, shift: net(x + shift[:, None, None, None]), net.layer)
    x, y, shift = pictures(2), pictures(2, seed=7), torch.tensor([0.5, -2.0], dtype=torch.float64)
    together = explainer.explain(x, y, shift).contributions
    for n in range(2):
        alone = explainer.explain(x[n : n + 1], y[n : n + 1], shift[n : n + 1]).contributions
        close(together[n : n + 1], alone)


@pytest.mark.slow
def test_eight_threads_share_a_model():
    net = ContractNet().eval()
    explainer = PlaceToPlace(net, "layer")
    sides = [(pictures(1, seed), pictures(1, seed + 20)) for seed in range(8)]
    expected = [explainer.explain(*side) for side in sides]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda pair: explainer.explain(*pair), sides * 4)
        for alone, found in zip(expected * 4, results, strict=True):
            assert torch.equal(found.contributions, alone.contributions)


def test_bad_input():
    net = ContractNet().eval()
    explainer = PlaceToPlace(net, "layer")
    x = pictures(3)
    for argument, call in {
        "query": lambda: explainer.explain(x[0], x),
        "gallery": lambda: explainer.explain(x, x[:2]),
        "steps": lambda: PlaceToPlace(net, "layer", steps=0),
        "threshold": lambda: PlaceToPlace(net, "layer", threshold=2).attribute(x, x),
        "baseline": lambda: PlaceToPlace(net, "layer", baseline=float("nan")).explain(x, x),
        "k": lambda: explainer.explain(x, x).top(0),
        "layer": lambda: PlaceToPlace(
            lambda y: y.mean((2, 3)) + 0 * net(y)[:, :1], net.layer
        ).explain(x, x),
        "result": lambda: PlaceToPlace(lambda y: 0 * net(y), net.layer).explain(x, x),
    }.items():
        with pytest.raises(InputError, match=argument):
            call()


# Matches


def test_affinity_is_the_cosine_of_what_is_particular():
    net = Linear()
    net.neck = nn.Identity()
    found = PlaceToPlace(net, "layer").explain(X, Y).affinity
    x, y = (F.normalize(side - side.mean(dim=(2, 3), keepdim=True), dim=1) for side in (X, Y))
    close(found, neighborhoods(torch.einsum("bchw,bcij->bhwij", x, y), 1.0))


def test_neighborhoods_move_both_places():
    table = torch.zeros(1, 4, 3, 4, 3)
    table[0, 1, 1, 2, 0] = 1
    found = neighborhoods(table, 1.0)[0]
    weight = torch.exp(torch.tensor(-0.5))
    close(found[1, 1, 2, 0], torch.tensor(1.0))
    close(found[2, 1, 3, 0], weight)
    close(found[0, 2, 1, 1], weight.square())
    close(found[1, 1, 2, 1], torch.tensor(0.0))  # one place moved, the other not
    close(found.sum(), (1 + 2 * weight) * (1 + weight))


def test_mutual_matches_by_contribution():
    affinity = torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 5.0], [0, 2, 0]])
    contributions = torch.arange(12.0).view(4, 3)
    found = PairExplanation(
        contributions.view(1, 2, 2, 1, 3), affinity.view(1, 2, 2, 1, 3), torch.ones(1)
    )
    (matches,) = found.top(2)
    assert matches.query.tolist() == [[1, 1], [1, 0]]  # place 1 prefers a gallery place of place 0
    assert matches.gallery.tolist() == [[0, 1], [0, 2]]
    assert matches.contributions.tolist() == [10, 8]
    assert len(found.top(9)[0].query) == 3


def test_matches_beside_stronger_ones_are_left_out():
    """Places of a column each go with themselves, the lower the stronger, but 0 with 3."""
    affinity = torch.eye(6)
    affinity[[0, 3]] = affinity[[3, 0]]
    shape = (1, 6, 1, 6, 1)
    table = torch.arange(6.0)[:, None].expand(6, 6)
    found = PairExplanation(table.reshape(shape), affinity.view(shape), torch.ones(1))
    for apart, query, gallery in (
        (0, [5, 4, 3, 2, 1, 0], [5, 4, 0, 2, 1, 3]),
        (1, [5, 3, 0], [5, 0, 3]),  # 4 is beside 5, 2 beside 3, and 1 meets a neighbor of 0
        (5, [5], [5]),
    ):
        (matches,) = found.top(9, apart=apart)
        assert matches.query[:, 0].tolist() == query
        assert matches.gallery[:, 0].tolist() == gallery
        assert matches.contributions.tolist() == query
    assert len(found.top(2)[0].query) == 2


# Verification


def test_a_threshold_splits_a_pair_into_for_and_against():
    net = Linear()
    maps = PlaceToPlace(net, "layer", threshold=0.6).attribute(X, Y)
    similarity = F.cosine_similarity(net(X), net(Y)).detach()
    close(maps.sum(dim=(1, 2, 3)), similarity - 0.6)
    own = PlaceToPlace(net, "layer").attribute(X, X)
    close(maps, PlaceToPlace(net, "layer").attribute(X, Y) - 0.6 * own)


def test_verification_scores_the_excess():
    own, other = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    score = Verification(other, threshold=0.3).prepare(Batch(torch.zeros(3, 3, 2, 2), None))
    rows = torch.arange(3)
    excess = F.cosine_similarity(own, other) - 0.3
    close(score(own, own, rows), excess)
    close(score(2 * own, own, rows), 2 * excess)  # linear, the image's own length is held fixed
    with pytest.raises(InputError, match="threshold"):
        Verification(other, threshold=3).prepare(Batch(torch.zeros(3, 3, 2, 2), None))


# Networks outside torch


class Halves(nn.Module):
    """Backbone and head as functions of arrays, as two graphs of ONNX are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layer(torch.from_numpy(2 * x.numpy() + 1))
        return torch.from_numpy(maps.numpy().mean(axis=(2, 3)))


def test_a_head_outside_torch_is_explained_and_one_without_a_seam_refused():
    found = PlaceToPlace(Halves(), "layer").explain(X, Y)
    close(found.error, torch.zeros(2, dtype=torch.float64))
    close(found.contributions.sum(dim=(1, 2, 3, 4)), found.similarity)
    net = FunctionNet(lambda x: (x, x.mean(axis=(2, 3))))
    with pytest.raises(InputError, match="layer: got an output that the result does not follow"):
        PlaceToPlace(net, net.map_layer).explain(X, Y)
