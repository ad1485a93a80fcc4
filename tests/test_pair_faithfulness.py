"""What is left of matches without what their explanations mark: by loops, and from end to end."""

import math

import pytest
import torch
from tiny_world import TinyWorld, tiny_target
from torch.nn import functional as F

from reid_explain import CGRAM, AMDInterpreter, InputError, Margin, ScoreWeighting
from reid_explain.benchmark import PairFaithfulness
from reid_explain.benchmark.methods import Method
from reid_explain.benchmark.pair_faithfulness import (
    REMOVED,
    Retrieved,
    View,
    alike,
    equally_similar,
    first_ten,
    focus,
    heights,
    lead,
)
from reid_explain.benchmark.run import Group
from reid_explain.benchmark.task import Bench
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.fills import FILLS
from reid_explain.metrics.faithfulness import top_area_masks

close = pytest.approx


@pytest.fixture(scope="module")
def bench() -> Bench:
    bench = Bench(tiny_target(), TinyWorld(), Group())
    known = PairFaithfulness().known()
    for name in ("PlaceToPlace", "CGRAM", "GradRAM", "ScorePair", "Centre", "Random"):
        method = known[name]
        bench.methods[name], bench.explain[name] = method, method.on(bench.target)
    return bench


@pytest.fixture(scope="module")
def retrieved(bench) -> Retrieved:
    return next(found for n in range(4) if (found := Retrieved(bench, n, seed=0)).is_right)


def test_who_is_retrieved(bench):
    for number, record in enumerate(bench.dataset.query):
        own = bench.target.embed(bench.image(record))
        cosines = {
            other: float(F.cosine_similarity(own, bench.target.embed(bench.image(other))))
            for other in bench.dataset.gallery
        }
        found = Retrieved(bench, number, seed=0)
        _, right, wrong = found.records
        same = [r for r in cosines if r.identity == record.identity]
        others = [r for r in cosines if r.identity != record.identity]
        assert right == max(same, key=cosines.__getitem__)
        assert wrong == max(others, key=cosines.__getitem__)
        assert found.similarity == close(cosines[right], abs=1e-5)
        assert found.is_right == (cosines[right] > cosines[wrong])


def test_equal_similarities():
    right, wrong = torch.tensor([0.9, 0.7, 0.5]), torch.tensor([0.501, 0.705, 0.3])
    assert equally_similar(right, wrong) == (1, 1)
    assert equally_similar(right[[0, 2]], wrong) == (1, 0)
    assert equally_similar(right[:1], wrong) is None


def test_either_image_loses_what_its_map_marks(bench, retrieved):
    """By loops over areas, fills and sides, from maps that are known."""
    target = bench.target
    images = [side.image for side in (retrieved.query, retrieved.right)]
    maps = [torch.rand(1, 1, 32, 16, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    bench.explain["GradRAM"] = lambda subject, **_: maps[not subject.images.equal(images[0])]
    found = View(retrieved, "GradRAM").deletion()
    reach = []
    for fill in FILLS:
        lost, kept = [], []
        for side, map_, other in zip(
            (retrieved.query, retrieved.right), maps, reversed(images), strict=True
        ):
            image, filled = side.image, side.fills[fill].expand_as(side.image)

            def to_other(changed, other=other):
                return float(F.cosine_similarity(target.embed(changed), target.embed(other)))

            reach.append(to_other(image) - to_other(filled))
            for area in REMOVED:
                least = map_.flatten().sort(descending=True).values[round(area * 512) - 1]
                highest = (map_ >= least).expand_as(image)
                lost.append(to_other(image) - to_other(torch.where(highest, filled, image)))
                kept.append(to_other(torch.where(highest, image, filled)) - to_other(filled))
        assert found[f"deletion:{fill}"] == close(100 * sum(lost) / 6, abs=1e-3)
        assert found[f"keeping:{fill}"] == close(100 * sum(kept) / 6, abs=1e-3)
    assert found["all"] == close(100 * sum(reach) / 8, abs=1e-3)
    means = [found[f"deletion:{fill}"] for fill in FILLS]
    assert found["deletion"] == close(sum(means) / 4, abs=1e-3)
    assert found["random_deletion"] != close(found["deletion"], abs=1e-2)


def test_maps_for_a_stranger_say_less(bench, retrieved):
    """What is lost by maps of the pair, less what by those for the stranger; by known maps."""
    images = retrieved.image, retrieved.right.image
    maps = {
        id_: torch.rand(1, 1, 32, 16, generator=torch.Generator().manual_seed(n))
        for n, id_ in enumerate(("pair", "stranger"))
    }

    def explain(subject, **_):
        return maps["stranger" if subject.references is retrieved.stranger else "pair"]

    bench.explain["Centre"] = explain
    found = View(retrieved, "Centre").reference()
    sides = retrieved.query, retrieved.right
    for fill in FILLS:
        lost = {}
        for name, map_ in maps.items():
            left = [
                F.cosine_similarity(
                    bench.target.embed(torch.where(mask, side.fills[fill], side.image)),
                    bench.target.embed(other),
                ).item()
                for mask in top_area_masks(map_, REMOVED)[0]
                for side, other in zip(sides, reversed(images), strict=True)
            ]
            lost[name] = -sum(left) / len(left)
        expected = 100 * (lost["pair"] - lost["stranger"])
        assert found[f"specific:{fill}"] == close(expected, abs=1e-3)
    assert found["specific"] != close(0, abs=1e-2)
    bench.explain["Centre"] = lambda subject, **_: maps["pair"]
    assert View(retrieved, "Centre").reference()["specific"] == 0


def test_an_order_flips_where_the_wrong_image_overtakes(bench, retrieved):
    target, side = bench.target, retrieved.query
    map_ = torch.rand(1, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    bench.explain["Centre"] = lambda subject, **_: map_
    right, wrong = (target.embed(bench.image(record)) for record in retrieved.records[1:])
    found = View(retrieved, "Centre").flips()
    for fill in FILLS:
        flips = []
        for area in REMOVED:
            least = map_.flatten().sort(descending=True).values[round(area * 512) - 1]
            own = target.embed(torch.where(map_ >= least, side.fills[fill], side.image))
            flips.append(bool(F.cosine_similarity(own, wrong) > F.cosine_similarity(own, right)))
        assert found[f"flips:{fill}"] == close(100 * sum(flips) / 3)
    retrieved.is_right = False
    assert all(math.isnan(value) for value in View(retrieved, "Centre").flips().values())
    retrieved.is_right = True


def test_margins(bench, retrieved):
    """A difference of maps, or the method's own word for it."""
    images = retrieved.image, retrieved.right.image, retrieved.wrong
    bench.explain["CGRAM"] = lambda subject, **_: subject.references[:, :1]
    assert View(retrieved, "CGRAM").margin().equal((images[1] - images[2])[:, :1])
    layer = bench.target.layer
    asked = ScoreWeighting(bench.target.embedding, layer).attribute(
        images[0], Margin(*images[1:]), interpolate_mode=None
    )
    assert View(retrieved, "ScorePair").margin().equal(asked)
    assert (
        View(retrieved, "Random")
        .margin()
        .equal(bench.explain["Random"](type("S", (), {"images": images[0]}), interpolate_mode=None))
    )


def test_maps_of_a_distance_mark_what_keeps_images_apart(bench, retrieved):
    class Apart(CGRAM):
        of_distance = True

    for name, explainer in (("Near", CGRAM), ("Apart", Apart)):
        bench.methods[name] = method = Method(name, explainer)
        bench.explain[name] = method.on(bench.target)
    near, far = View(retrieved, "Near"), View(retrieved, "Apart")
    images = retrieved.image, retrieved.right.image
    assert far.map(*images).equal(-near.map(*images))
    assert far.margin().equal(-near.margin())
    assert AMDInterpreter.of_distance
    assert not CGRAM.of_distance


def test_scalars_of_explanations():
    one = torch.tensor([[[[1.0, 1.0], [0.0, -5.0]]]])
    other = torch.tensor([[[[0.0, 3.0], [0.0, 4.0]]]])
    assert heights(one, one) == close(1)
    assert heights(one, other) == close(3 / 5)
    assert focus(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)) == close(0)
    assert focus(one, other.where(other == 3, 0)) == close(1 - 0.5 / 2)
    assert focus(-one.abs(), -one.abs()) == 1  # nothing is positive
    table = torch.tensor([[3.0, 2.0], [-1.0, 1.0]]).view(1, 2, 1, 2, 1)
    affinity = torch.eye(2).view(1, 2, 1, 2, 1)
    assert first_ten(PairExplanation(table, affinity, torch.ones(1))) == close(4 / 6)
    assert alike(PairExplanation(table, 3 * affinity, torch.ones(1))) == close(3)


def test_the_right_image_of_two_has_more(bench, retrieved):
    retrieved.equal = [(retrieved.right.image, 0.5), (retrieved.wrong, 0.5)]
    view = View(retrieved, "PlaceToPlace")
    right, wrong = (view.scalars(*each) for each in retrieved.equal)
    found = view.auc()
    assert found["auc:similarity"] == 50
    assert found["auc:heights"] == 100 * (right["heights"] > wrong["heights"])
    retrieved.equal = []
    assert all(math.isnan(value) for value in view.auc().values())


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path, capsys):
    task = PairFaithfulness(queries=3)
    target, world = tiny_target(), TinyWorld()
    methods = ["PlaceToPlace", "GradRAM", "ScorePair", "Centre"]
    frame = task.run(target, world, methods=methods, output=tmp_path, show=True)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:5]] == methods
    assert " leads " in said
    assert "deletion and keeping of all pixels: " in said
    assert (
        frame[(frame["method"] == "Centre") & (frame["metric"] == "specific")]["value"].eq(0).all()
    )
    again = PairFaithfulness(queries=3, parts=("flips",)).run(
        target, world, methods=methods, output=tmp_path, resume=True
    )
    assert len(again) == len(frame)


def test_defaults_and_wrong_input():
    known = PairFaithfulness().known()
    assert {"PlaceToPlace", "PairX", "FeatureProduct", "CorrRISE", "Centre"} <= {*known}
    assert "GradFAM" not in known
    assert not any(PairFaithfulness().runs(known[f"ExtremalPair{both}"]) for both in ("", "Both"))
    assert PairFaithfulness().runs(known["PairX"])
    with pytest.raises(InputError, match="parts: got 'margins'"):
        PairFaithfulness(parts=("margins",)).run(tiny_target(), TinyWorld(), methods=["Centre"])
    with pytest.raises(InputError, match="queries: got 0"):
        PairFaithfulness(queries=0).run(tiny_target(), TinyWorld(), methods=["Centre"])


def test_who_leads():
    import pandas as pd

    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["case", "identity"])
    rows = {"one": pd.Series([1.0, 2.0], index), "two": pd.Series([3.0, 5.0], index)}
    said = lead({"none": rows["one"] - 1, **rows})
    assert said.startswith("two leads one by 2.5 [")
    assert "], none by 3.5 [" in said
    assert lead({"one": rows["one"]}) == ""
