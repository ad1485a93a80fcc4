"""The shipped interpreter on two drawn people explains them as when it was shipped, 4706c6b."""

import json
from pathlib import Path

import pytest
import torch

from reid_explain import AMDInterpreter
from reid_explain.datasets.synthetic import SyntheticReID

GOLDEN = {
    name: torch.tensor(values)
    for name, values in json.loads(Path(__file__).with_name("golden_amd.json").read_text()).items()
}


@pytest.fixture(scope="module")
def found():
    world, interpreter = SyntheticReID(), AMDInterpreter.from_pretrained("synthetic")
    pair = (
        interpreter.spec.to_tensor(world.load(record))[None] for record in world.query[40:160:100]
    )
    query, gallery = pair
    raw = interpreter.explain(query, gallery, interpolate_mode=None)
    full = interpreter.explain(query, gallery)
    return {
        "distance": raw.distance[0],
        "reconstructed": raw.reconstructed[0],
        "distances": raw.distances[0],
        "contributions": raw.contributions[0],
        "query_means": raw.query_maps[0].mean((1, 2)),
        "gallery_means": raw.gallery_maps[0].mean((1, 2)),
        "query_highest": raw.query_maps[0].flatten(1).argmax(1),
        "gallery_highest": raw.gallery_maps[0].flatten(1).argmax(1),
        "query_maxima": raw.query_maps[0].amax((1, 2)),
        "upred": raw.query_maps[0, interpreter.index("upred"), ::5, ::3].flatten(),
        "full_std": full.query_maps[0].std((1, 2)),
    }


@pytest.mark.parametrize("name", [*GOLDEN, "contributions"])
def test_as_before(found, name):
    expected = GOLDEN.get(name, GOLDEN["distances"] / GOLDEN["distances"].sum())
    torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
