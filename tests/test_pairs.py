"""Explainers of pairs of places beside ours, and the benchmark that knows which parts they join."""

import numpy as np
import pytest
import torch
from nets import PooledNet, images
from tiny_world import TinyWorld, tiny_target
from torch import nn
from torch.nn import functional as F
from worlds import drawn_once

from reid_explain import InputError
from reid_explain.benchmark import PartToPart, Target
from reid_explain.benchmark.part_to_part import FeatureCosine, FeatureProduct, Truth, View
from reid_explain.benchmark.run import Group
from reid_explain.benchmark.task import Bench
from reid_explain.datasets import SyntheticReID
from reid_explain.datasets.synthetic.truth import PARTS
from reid_explain.explainers.pair_x import PairX
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.inputs import InputSpec
from reid_explain.testing import ContractNet, pictures

close = torch.testing.assert_close
X, Y = images(2), images(2, seed=1)


# Peers


def test_pair_x_by_hand():
    net = PooledNet()
    maps = [net.relu(net.conv(x)).detach() for x in (X, Y)]
    embeddings = [m.mean(dim=(2, 3)) for m in maps]
    own, other = (e.norm(dim=1)[:, None, None] for e in embeddings)
    scale = 24 * own * other
    relevance = [
        torch.einsum("bchw,bc->bhw", m, e) / scale
        for m, e in zip(maps, reversed(embeddings), strict=True)
    ]
    found = PairX(net, "relu").explain(X, Y)
    close(found.contributions, torch.einsum("bhw,bij->bhwij", *(r.relu() for r in relevance)))
    alike = torch.einsum("bchw,bcij->bhwij", *(F.normalize(m, dim=1) for m in maps))
    close(found.affinity, alike)
    close(PairX(net, "relu").attribute(X, Y, interpolate_mode=None)[:, 0], relevance[0])
    close(found.similarity, F.cosine_similarity(*embeddings))


@pytest.mark.parametrize("explainer", [PairX, FeatureProduct, FeatureCosine])
def test_one_query_serves_many(explainer):
    method = explainer(ContractNet().eval(), "layer")
    query, gallery = pictures(1), pictures(3, seed=7)
    shifts = torch.tensor([0.4], dtype=torch.float64), torch.tensor([0.1, -0.3, 0.2]).double()
    for one, many, own, theirs in ((query, gallery, *shifts), (gallery, query, *shifts[::-1])):
        together = method.explain(one, many, own, gallery_forward_args=theirs)
        for n in range(3):
            a, b, c, d = (v[n : n + 1] if len(v) > 1 else v for v in (one, many, own, theirs))
            alone = method.explain(a, b, c, gallery_forward_args=d)
            close(together.contributions[n], alone.contributions[0])
            close(together.affinity[n], alone.affinity[0])


def test_a_rank_list_shows_how_many_pairs_are_done(capsys):
    net = PooledNet()
    PairX(net, "relu").explain(X[:1], Y[:1].expand(18, -1, -1, -1), show_progress=True)
    assert "18/18" in capsys.readouterr().err
    PairX(net, "relu").explain(X[:1], Y[:1])
    assert not capsys.readouterr().err


def test_plain_products_are_the_similarity_of_means():
    net = PooledNet()
    found = FeatureProduct(net, "relu").explain(X, Y)
    close(found.similarity, F.cosine_similarity(net(X), net(Y)).detach())
    close(found.error, torch.zeros(2, dtype=torch.float64))
    maps = FeatureProduct(net, "relu").attribute(X, Y[:1], interpolate_mode=None)
    close(maps[1], FeatureProduct(net, "relu").explain(X[1:], Y[:1]).query_map[0])
    with pytest.raises(InputError, match="references"):
        FeatureProduct(net, "relu").attribute(X, images(3))


# Truth


@pytest.fixture(scope="module")
def world() -> SyntheticReID:
    return drawn_once(train_identities=0, test_identities=3, distractors=0)


@pytest.mark.slow
def test_pieces_make_the_parts_and_the_person(world):
    record = world.query[0]
    pieces = world.pieces(record)
    assert np.array_equal(np.any([*pieces.values()], axis=0), world.render(record).person)
    for name, group in PARTS.items():
        together = np.any([pieces[piece.name.lower()] for piece in group], axis=0)
        assert np.array_equal(together, world.remove(record, name).shape)
    assert sum(len(group) for group in PARTS.values()) == len(pieces)


class Grid(nn.Module):
    """The colors of 8 x 4 blocks of an image."""

    map_layer = "pool"
    input_spec = InputSpec((256, 128))

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x).mean(dim=(2, 3))


def test_places_show_what_covers_them(world):
    record = world.query[0]
    truth = Truth.of(Bench(Target(Grid()), world, Group()), record, (8, 4))
    pieces, person = world.pieces(record), world.render(record).person
    for number in range(32):
        y, x = 32 * (number // 4), 32 * (number % 4)
        shares = [mask[y : y + 32, x : x + 32].mean() for mask in pieces.values()]
        assert truth.shows[number].tolist() == [share >= 0.25 for share in shares]
        on_person = person[y : y + 32, x : x + 32].mean() >= 0.5
        assert int(truth.main[number]) == (int(np.argmax(shares)) if on_person else -1)


def test_matches_are_counted_by_hand():
    """Three places by two: the query shows a, a and b, nothing; the gallery a and b."""
    query = Truth(torch.tensor([[1, 0], [1, 1], [0, 0]]).bool(), torch.tensor([0, 1, -1]))
    gallery = Truth(torch.tensor([[1, 0], [0, 1]]).bool(), torch.tensor([0, 1]))
    contributions = torch.tensor([[4.0, 2.0], [-9.0, 3.0], [5.0, 0.0]])
    affinity = torch.tensor([[1.0, 3.0], [0.5, 0.2], [4.0, 0.1]])
    shape = (1, 3, 1, 2, 1)
    explanation = PairExplanation(contributions.view(shape), affinity.view(shape), torch.ones(1))
    view = View(explanation, query, gallery, k=4)  # matches: 2 with 0, 0 with 1
    assert view.same_part() == 0
    assert view.on_person() == 1 / 4
    assert view.main_part() == 0
    assert view.nearest() == 1 / 2  # place 0 goes with b, place 1 with a
    assert view.mass() == (4 + 3) / (4 + 2 + 3)
    assert view.chance() == 3 / 4
    assert view.main_chance() == 2 / 4
    right = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]).view(shape)
    explanation = PairExplanation(explanation.contributions, right, torch.ones(1))
    for k, share in ((1, 1), (2, 1), (4, 1 / 2)):  # 0 with 0 contributes most, then 1 with 1
        view = View(explanation, query, gallery, k)
        assert view.same_part() == view.main_part() == view.on_person() == share
    assert view.nearest() == 1


class Lookup(nn.Module):
    """Sees the mean color of each place, far from gray: a person of its own world would match."""

    map_layer = "layer"
    input_spec = InputSpec((256, 128))

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((16, 8))
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.pool(x)).mean(dim=(2, 3))


@pytest.mark.slow
def test_a_run_from_end_to_end(world, tmp_path, capsys):
    frame = PartToPart(pairs=2, k=3).run(Target(Lookup()), world, output=tmp_path, show=True)
    assert {*frame["method"]} == {"FeatureCosine", "FeatureProduct", "PairX", "PlaceToPlace"}
    assert frame["value"].between(0, 100).all()
    table = capsys.readouterr().out
    assert table.splitlines()[0].startswith("in %")
    assert "FeatureCosine *" in table
    assert (tmp_path / "part_to_part.png").is_file()


def test_wrong_worlds_and_methods(world):
    with pytest.raises(InputError, match="dataset: got tiny"):
        PartToPart().run(tiny_target(), TinyWorld())
    with pytest.raises(InputError, match="GradFAM"):
        PartToPart().run(Target(Grid()), world, methods=["GradFAM"])
    with pytest.raises(InputError, match="k: got 0"):
        PartToPart(k=0).run(Target(Grid()), world)
