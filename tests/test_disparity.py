"""Places of a real scene that show the same point: by hand, and from end to end."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reid_explain.benchmark import disparity
from reid_explain.benchmark.disparity import Scene, View
from reid_explain.explainers.pairs import PairExplanation

NAN = np.nan


def scene(rows) -> Scene:
    moved = np.array(rows, dtype=np.float32)
    pixels = np.zeros((*moved.shape, 3), dtype=np.uint8)
    return Scene(pixels, pixels, moved)


def test_where_pixels_land():
    """Pixels move left: off the image, by parts of a pixel, or nobody knows where."""
    found = scene([[1, 1, 0, 2.4], [NAN, np.inf, 2, 0]]).landing((2, 4), (2, 4))
    expected = torch.zeros(8, 8)
    expected[1, 0] = 1  # pixel 0 leaves the image, 3 lands at 1.1
    expected[3, 1] = expected[2, 2] = 1
    expected[6, 4] = expected[7, 7] = 1
    assert torch.equal(found.float(), expected)
    assert scene([[0.0, 1], [0, 0]]).landing((2, 2), (2, 2))[0, 0] == 0  # the next one hides it
    halves = scene([[0.0] * 4] * 2).landing((1, 1), (1, 2))
    assert halves.tolist() == [[0.5, 0.5]]


@pytest.fixture
def view() -> View:
    """Four columns that move by one: the first is lost, and the third matches a wrong one."""
    best = torch.tensor([[0, 0, 0, 9.0], [5, 0, 1, 0], [0, 1, 0, 3], [0, 0, 4, 0]])
    shape = (1, 1, 4, 1, 4)
    explanation = PairExplanation(best.view(shape), best.view(shape), torch.ones(1))
    return View(explanation, scene([[1.0] * 4] * 2), k=2)


def test_places_are_judged_by_where_they_went(view):
    assert view.judged.tolist() == [False, True, True, True]
    found = view.of(view.best())
    assert found["nearest"].tolist() == [100, 0, 100]
    assert found["off"].tolist() == [0, 2, 0]
    assert found["nearest"].index.tolist() == [0, 0, 0]
    assert view.chance() == {"nearest": 25, "off": pytest.approx((6 + 4 + 4) / 12)}
    assert view.of(torch.arange(4))["off"].tolist() == [1, 1, 1]


def test_lines_are_mutual_and_of_judged_places(view):
    assert view.lines().tolist() == [100, 100]
    view.k = 1
    assert view.lines().tolist() == [100]
    view.right[1] = 0
    assert view.lines().tolist() == [0]


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (8, 16, 3)).astype(np.uint8))
    left = np.asarray(small.resize((128, 64)))
    moved = np.full((64, 128), 8, dtype=np.float32)
    monkeypatch.setattr(Scene, "motorcycle", lambda: Scene(left, np.roll(left, -8, axis=1), moved))
    methods = ["--methods", "PlaceToPlace", "FeatureCosine", "--k", "3"]
    disparity.main([*methods, "--output", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1:5]] == [
        "PlaceToPlace",
        "FeatureCosine",
        "same",
        "chance",
    ]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["size"] == [64, 128]
    own, chance = (found["methods"][name]["nearest"]["mean"] for name in ("PlaceToPlace", "chance"))
    assert own > 3 * chance
    assert (tmp_path / "PlaceToPlace.png").is_file()
    with pytest.raises(SystemExit, match="k: got 0"):
        disparity.main(["--k", "0", "--output", str(tmp_path)])
