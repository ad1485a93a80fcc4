"""Keeping, removal, insertion, deletion and ROAD, against plain loops."""

import numpy as np
import pytest
import torch
from tiny_world import SPEC, Brightness, TinyWorld, tiny_target

from reid_explain import InputError
from reid_explain.benchmark import METRICS, Faithfulness
from reid_explain.benchmark.metrics import find_metrics
from reid_explain.explainers.layout import upsample
from reid_explain.fills import AREAS, FILLS
from reid_explain.metrics.faithfulness import pixel_ranks
from reid_explain.metrics.imputation import NEIGHBORS, imputed

NAMES = ("keeping", "removal", "insertion_auc", "deletion_auc", "road")


@pytest.fixture(scope="module")
def measured():
    """The data set, the name of the query, and its figures by name."""
    task, world = Faithfulness(queries=1, metrics=NAMES), TinyWorld()
    frame = task.run(tiny_target(), world, methods=[Brightness])
    return world, frame["case"].iloc[0], frame.set_index("metric")["value"]


@pytest.fixture(scope="module")
def by_hand(measured):
    """The mean cosine of an image with the matches, the query, its pixels' ranks, its record."""
    world, case, _ = measured
    target = tiny_target()
    (record,) = (r for r in world.query if r.path.name == case)
    image = SPEC.to_tensor(world.load(record))[None]
    matches = [
        target.embed(SPEC.to_tensor(world.load(r))[None])[0]
        for r in world.gallery
        if r.identity == record.identity and r.camera != record.camera
    ]

    def similarity(picture):
        embedded = target.embed(picture)[0]
        return float(np.mean([float(torch.cosine_similarity(embedded, m, 0)) for m in matches]))

    map_ = upsample(Brightness(None, None).attribute(image), SPEC.size)
    return similarity, image, pixel_ranks(map_)[0, 0], record


def replaced(image, fill, ranks, count, removed):
    """The image with its ``count`` highest pixels replaced, or all others."""
    result = image.clone()
    for y in range(ranks.shape[0]):
        for x in range(ranks.shape[1]):
            if (ranks[y, x] < count) == removed:
                result[0, :, y, x] = fill[0, :, y, x]
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("name", "removed"), [("keeping", False), ("removal", True)])
def test_drops_are_means_over_areas_and_fills(measured, by_hand, name, removed):
    world, _, values = measured
    similarity, image, ranks, record = by_hand
    others = [r for r in world.gallery if r.identity != record.identity]
    number = world.query.index(record)
    generator = torch.Generator().manual_seed(number)
    other = others[int(torch.randint(len(others), (), generator=generator))]
    pixels = SPEC.to_tensor(world.load(other))[None]
    whole, drops = similarity(image), []
    for make in FILLS.values():
        fill = make(image, pixels)
        blank = similarity(fill)
        for share in AREAS:
            picture = replaced(image, fill, ranks, round(share * ranks.numel()), removed)
            lost = max(0, whole - similarity(picture)) / (whole - blank)
            drops.append(100 * lost if whole > blank else float("nan"))
    assert values[name] == pytest.approx(np.mean(drops), abs=1e-3, nan_ok=True)
    assert not np.isnan(values[name])
    assert not np.isnan(values[f"random_{name}"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "removed"), [("insertion_auc", False), ("deletion_auc", True)])
def test_insertion_and_deletion_are_areas_under_the_similarity(measured, by_hand, name, removed):
    *_, values = measured
    similarity, image, ranks, _ = by_hand
    fill = FILLS["blur"](image, image)
    curve = [
        similarity(replaced(image, fill, ranks, round(step / 8 * ranks.numel()), removed))
        for step in range(9)
    ]
    blank, whole = similarity(fill), similarity(image)
    area = (sum(curve) - (curve[0] + curve[-1]) / 2) / 8
    assert values[name] == pytest.approx(100 * (area - blank) / (whole - blank), abs=1e-3)


@pytest.mark.slow
def test_road_replaces_the_top_by_imputation(measured, by_hand):
    *_, values = measured
    similarity, image, ranks, record = by_hand
    whole, blank = similarity(image), similarity(FILLS["blur"](image, image))
    drops = []
    for share in (0.05, 0.1, 0.2, 0.3):
        kept = (ranks >= round(share * ranks.numel()))[None, None]
        picture = imputed(image, kept, seed=TinyWorld().query.index(record))
        drops.append(100 * max(0, whole - similarity(picture)) / (whole - blank))
    assert values["road"] == pytest.approx(np.mean(drops), abs=1e-3)


def test_metrics_of_many_passes_are_measured_by_name_only():
    offers = ("map", "matches", "fills", "mask", "seconds")
    assert not {*NAMES} & {metric.name for metric in find_metrics((), offers)}
    assert [metric.name for metric in find_metrics(NAMES, offers)] == [*NAMES]
    assert {name for name, metric in METRICS.items() if metric.by_name} >= {*NAMES}


def test_an_imputed_pixel_is_the_mean_of_its_neighbors():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 7, 5, generator=generator, dtype=torch.float64)
    kept = torch.rand(2, 1, 7, 5, generator=generator) > 0.6
    kept[:, :, 3, 2] = True
    found = imputed(image, kept, noise=0)
    assert torch.equal(found.where(kept, 0 * image), image.where(kept, 0 * image))
    for b, y, x in (~kept[:, 0]).nonzero().tolist():
        total = weighted = 0.0
        for (down, across), weight in NEIGHBORS.items():
            if 0 <= y + down < 7 and 0 <= x + across < 5:
                total += weight
                weighted = weighted + weight * found[b, :, y + down, x + across]
        torch.testing.assert_close(found[b, :, y, x], weighted / total)


def test_imputation_is_that_of_grad_cam():
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    image = torch.rand(1, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    kept = torch.ones(1, 1, 12, 9, dtype=torch.bool)
    kept[..., 2:9, 1:7] = False
    expected = road.NoisyLinearImputer(noise=0.0)(image[0], kept[0, 0].float())
    torch.testing.assert_close(imputed(image, kept, noise=0)[0], expected)


def test_imputation_adds_noise_where_it_imputes():
    image, kept = torch.rand(1, 3, 40, 40), torch.ones(1, 1, 40, 40, dtype=torch.bool)
    kept[..., 5:35, 5:35] = False
    noise = (imputed(image, kept, noise=0.5) - imputed(image, kept, noise=0))[
        ~kept.expand(image.shape)
    ]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
    assert torch.equal(imputed(image, kept, seed=1), imputed(image, kept, seed=1))
    assert not torch.equal(imputed(image, kept, seed=1), imputed(image, kept, seed=2))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(1, 1, 4, 4, dtype=torch.bool), "a mask without a pixel"),
        (torch.ones(1, 1, 4, 4), "masks: got"),
        (torch.ones(1, 1, 4, 5, dtype=torch.bool), "masks: got"),
    ],
)
def test_masks_that_leave_nothing_to_impute_from(masks, message):
    with pytest.raises(InputError, match=message):
        imputed(torch.zeros(1, 3, 4, 4), masks)
