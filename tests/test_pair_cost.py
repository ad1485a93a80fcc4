"""What the explanation of a pair costs: what is measured, and ratios by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_world import TinyWorld, tiny_target

from reid_explain import InputError
from reid_explain.benchmark import PairCost
from reid_explain.benchmark.pair_cost import one_pass
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.task import Case


def test_one_query_is_explained_with_all_gallery_images(tmp_path, capsys):
    seen = []

    class Told:
        def __init__(self, forward_func, layer):
            pass

        def attribute(self, inputs):
            return inputs[:, :1]

        def explain(self, query, gallery):
            seen.append((len(query), len(gallery)))

    frame = PairCost(pairs=1, gallery=3).run(
        tiny_target(), TinyWorld(), methods=[Told, "PlaceToPlace"], output=tmp_path, show=True
    )
    assert seen == [(1, 3)] * 2
    assert (by_method(frame)["PlaceToPlace"][["seconds", "pass_seconds"]] > 0).all(axis=None)
    assert "1 queries with 3 gallery images" in capsys.readouterr().out


def test_the_report_by_hand():
    """The first case warms up; ratios are within a turn."""
    values = {"a": (9.0, 1.0, 90.0), "b": (3.0, 1.0, 5.0), "c": (4.0, 2.0, 7.0), "d": (8, 8, 6)}
    rows = [
        ("pair_cost", case, 1, "PairX", metric, value)
        for case, found in values.items()
        for metric, value in zip(PairCost.gives, found, strict=True)
    ]
    columns = ["task", "case", "identity", "method", "metric", "value"]
    bench = SimpleNamespace(target=SimpleNamespace(device=torch.device("cpu"), label="net"))
    cases = [Case(name, 1) for name in values]
    report = PairCost().report(bench, cases, pd.DataFrame(rows, columns=columns))
    assert report.results["methods"]["PairX"] == {"seconds": 4, "passes": 2, "mib": 7}


def test_a_pass_reaches_every_pixel_and_no_weight():
    target = tiny_target()
    images = torch.randn(3, 3, 32, 16)
    one_pass(target, images)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in target.model.parameters())


def test_more_images_than_there_are():
    tasks = {"pairs": PairCost(pairs=9), "gallery": PairCost(pairs=1, gallery=99)}
    for argument, task in tasks.items():
        with pytest.raises(InputError, match=f"{argument}: got .* images, expected at most"):
            task.run(tiny_target(), TinyWorld())
