import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur
from training_runs import Interrupted, fail_at, log, make_market, run
from two_processes import run_script, two_processes
from worlds import drawn_once

from reid_explain import GradFAM, InputError
from reid_explain.benchmark import epochs, train_ssl
from reid_explain.benchmark.epochs import EpochMaps
from reid_explain.benchmark.train_ssl import BYOLTraining
from reid_explain.inputs import InputSpec
from reid_explain.metrics.localization import energy_inside
from reid_explain.models import build_model, load_trained
from reid_explain.models.network import PooledMap
from reid_explain.retrieval import Embedded
from reid_explain.training import loop
from reid_explain.training.byol import BYOL, view_by_view
from reid_explain.training.images import TrainingImages
from reid_explain.training.sampling import Draw, ShuffledBatches
from reid_explain.training.views import SeparableBlur, TwoViews, view

SCRIPT = str(Path(__file__).parents[1] / "benchmarks" / "train_ssl.py")
normalize = InputSpec().from_rgb

# Views


def pixels(number=6, size=(32, 16)):
    return np.random.default_rng(0).integers(0, 256, (number, 3, *size), dtype=np.uint8)


def views_of(draw, seed=0):
    images = TrainingImages(pixels(), range(6), seed, TwoViews(InputSpec((32, 16))))
    return images[Draw(*draw)][0]


def test_views_depend_on_seed_epoch_and_place_alone():
    torch.manual_seed(1)
    first = views_of((2, 3, 4))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert first.shape == (2, 3, 32, 16)
    assert torch.equal(first, views_of((2, 3, 4)))
    assert not torch.equal(first[0], first[1])
    others = [views_of((2, 4, 4)), views_of((2, 3, 5)), views_of((1, 3, 4)), views_of((2, 3, 4), 1)]
    assert not any(torch.equal(first[k], other[k]) for other in others for k in range(2))


@pytest.mark.slow
def test_only_the_second_view_is_solarized_in_one_case_of_five():
    """White stays above 0.6 under the jitter; inverted it lies below 0.4."""
    white = torch.full((3, 8, 4), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    pairs = torch.stack([TwoViews(InputSpec((8, 4)))(white) for _ in range(300)])
    bright = (pairs > InputSpec().from_rgb(torch.full((3, 1, 1), 0.5))).all(dim=(2, 3, 4))
    assert bright[:, 0].all()
    assert 0.13 < 1 - bright[:, 1].double().mean() < 0.27


@pytest.mark.slow
def test_the_first_view_is_always_blurred_the_second_in_one_case_of_ten(monkeypatch):
    monkeypatch.setattr(SeparableBlur, "forward", lambda self, image: torch.zeros_like(image))
    gray = torch.full((3, 8, 4), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    pairs = torch.stack([TwoViews(InputSpec((8, 4)))(gray) for _ in range(300)])
    blurred = torch.isclose(pairs, InputSpec().from_rgb(torch.zeros(3, 1, 1))).all(dim=(2, 3, 4))
    assert blurred[:, 0].all()
    assert 0.05 < blurred[:, 1].double().mean() < 0.16


@given(st.integers(8, 40), st.integers(8, 40), st.floats(0.1, 1))
def test_crops_have_the_shape_of_the_image_within_a_third(height, width, smallest):
    transform = view(InputSpec((height, width)), smallest, blur=0, solarize=0).transforms[0]
    ratio = (transform.ratio[0] * height / width, transform.ratio[1] * height / width)
    assert ratio == pytest.approx((3 / 4, 4 / 3))
    assert transform.scale == (smallest, 1)
    assert transform(torch.zeros(3, 2 * height, 2 * width)).shape == (3, height, width)


@pytest.mark.parametrize("largest", [0.05, 0.4, 2.0])
def test_the_separable_blur_is_the_square_one(largest):
    image = torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(0))
    blur = SeparableBlur(largest)
    torch.manual_seed(3)
    found = blur(image)
    torch.manual_seed(3)
    sigma = 0.1 + (max(largest, 0.1) - 0.1) * float(torch.rand(1))
    expected = gaussian_blur(image, [blur.kernel] * 2, [sigma] * 2)
    torch.testing.assert_close(found, expected)


# Batches


def test_a_batch_has_all_first_views_first():
    number = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 4, 2)
    drawn = [(10 * n + number, n) for n in (3, 5)]
    views, images = view_by_view(drawn)
    assert views.shape == (4, 3, 4, 2)
    assert views[:, 0, 0, 0].tolist() == [30, 50, 31, 51]
    assert images.tolist() == [3, 5]


def test_every_image_comes_once_in_an_order_of_seed_and_epoch():
    def order(seed, epoch):
        batches = ShuffledBatches(10, 4, seed)
        batches.epoch = epoch
        drawn = list(batches)
        assert len(drawn) == len(batches) == 2
        flat = [draw for batch in drawn for draw in batch]
        assert [draw.position for draw in flat] == list(range(8))
        assert {draw.epoch for draw in flat} == {epoch}
        return [draw.image for draw in flat]

    assert len(set(order(0, 0))) == 8
    assert set(order(0, 0)) < set(range(10))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_processes_share_each_batch():
    whole = list(ShuffledBatches(12, 6, 5))
    parts = [list(ShuffledBatches(12, 6, 5, process, 3)) for process in range(3)]
    joined = [[*a, *b, *c] for a, b, c in zip(*parts, strict=True)]
    assert joined == whole
    with pytest.raises(InputError, match="images: got 5"):
        ShuffledBatches(5, 6, 0)
    with pytest.raises(InputError, match="batch: got 6"):
        ShuffledBatches(12, 6, 0, 0, 4)


# BYOL


def small_byol(steps=4, momentum=0.9):
    torch.manual_seed(0)
    return BYOL(build_model("resnet18", width=1 / 64), steps, momentum, hidden=8).double()


def two_batches():
    return torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(1)).double()


def test_the_loss_is_the_mean_distance_of_predictions_and_targets():
    """2 - 2 cos is the squared distance of unit vectors (BYOL, equation 2)."""
    byol = small_byol()
    first, second = two_batches().chunk(2)
    oracle = deepcopy(byol)

    def distance(one, other):
        prediction = functional.normalize(oracle.predictor(oracle.online(one)))
        target = functional.normalize(oracle.target(other))
        return (prediction - target).square().sum(1).mean()

    expected = (distance(first, second) + distance(second, first)) / 4 - 1
    found = byol(torch.cat([first, second]), torch.arange(2))
    assert list(found) == ["byol"]
    torch.testing.assert_close(found["byol"], expected.float(), atol=1e-6, rtol=0)


def test_only_what_is_used_online_gets_a_gradient():
    byol = small_byol()
    byol(two_batches(), torch.arange(2))["byol"].backward()
    got = {name for name, p in byol.named_parameters() if p.grad is not None}
    names = {name for name, _ in byol.named_parameters()}
    unused = {name for name in names if name.startswith("target.") or ".neck." in name}
    assert got == names - unused


def test_the_target_follows_with_a_momentum_that_grows_to_one():
    byol = small_byol(steps=4, momentum=0.9)
    start = deepcopy(dict(byol.target.named_parameters()))
    expected = {name: value.clone() for name, value in start.items()}
    for step in range(4):
        with torch.no_grad():
            for parameter in byol.online.parameters():
                parameter += 1
        byol(two_batches(), torch.arange(2))
        if step:  # 1 - (1 - m)(cos(pi k / K) + 1) / 2 (BYOL, section 3.2)
            momentum = 1 - 0.1 * (math.cos(math.pi * (step - 1) / 3) + 1) / 2
            for name, value in byol.online.named_parameters():
                expected[name] = momentum * expected[name] + (1 - momentum) * value
        for name, value in byol.target.named_parameters():
            torch.testing.assert_close(value, expected[name].data)


def test_the_representation_is_the_pooled_map():
    model = build_model("osnet_x0_25").eval()
    images = torch.rand(2, 3, 64, 32)
    torch.testing.assert_close(PooledMap(model)(images), model.features(images).mean((2, 3)))


# Runs


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return BYOLTraining(
        dataset="market1501",
        root=make_market(tmp_path_factory.mktemp("market")),
        output=tmp_path_factory.mktemp("whole") / "run",
        backbone="tiny",
        image_size=(32, 16),
        hidden=16,
        batch=8,
        epochs=3,
        warmup_epochs=1.0,
        keep=(0, 1, 3),
        workers=0,
    )


def weights(output):
    return (output / "epoch_0003.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(settings):
    """The folder of a run that was not interrupted."""
    return run(settings)


@pytest.mark.slow
def test_a_run_leaves_what_it_promises(whole):
    assert [row["epoch"] for row in log(whole)] == ["1", "2", "3"]
    assert all(-1 <= float(row["loss"]) <= 1 for row in log(whole))
    cards = sorted(whole.glob("epoch_*.json"))
    assert [card.stem for card in cards] == ["epoch_0000", "epoch_0001", "epoch_0003"]
    networks = [load_trained(card) for card in cards]
    start, end = (networks[k].maps[0].weight for k in (0, 2))
    assert not torch.equal(start, end)
    assert networks[0].maps[1].num_batches_tracked == 0
    card = json.loads(cards[-1].read_text())
    assert (card["epoch"], card["recipe"]["keep"]) == (3, [0, 1, 3])
    assert networks[0].input_spec.size == (32, 16)
    # The neck is as it started: the whole network gives the pooled map, but for BatchNorm's eps.
    images = torch.rand(2, 3, 32, 16)
    pooled = networks[2].pool(networks[2].features(images))
    torch.testing.assert_close(networks[2](images), pooled, rtol=1e-4, atol=1e-6)


INTERRUPTIONS = {
    "before anything is kept": (BYOLTraining, "save", 1),
    "in the second epoch": (loop.TrainingLoop, "_train_batch", 6),
    "before the first epoch is kept": (BYOLTraining, "save", 2),
    "after it was kept, before the checkpoint": (Accelerator, "save_state", 1),
    "after the last checkpoint": (loop.TrainingLoop, "_write_log", 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_an_interruption_leaves_no_trace(where, settings, whole, tmp_path, monkeypatch):
    own = replace(settings, output=tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, *INTERRUPTIONS[where])
        with pytest.raises(Interrupted):
            run(own)
    torch.manual_seed(99)
    run(replace(own, resume=True))
    for path in sorted(whole.glob("epoch_*")):
        assert path.read_bytes() == (own.output / path.name).read_bytes(), path.name
    assert log(own.output) == log(whole)


@pytest.mark.slow
def test_workers_do_not_change_the_result(settings, whole, tmp_path):
    assert weights(run(replace(settings, output=tmp_path / "run", workers=2))) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"seed": 1}, {"smallest_crop": 0.5}, {"momentum": 0.5}])
def test_settings_do(more, settings, whole, tmp_path):
    assert weights(run(replace(settings, output=tmp_path / "run", **more))) != weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layer"),
    [
        ({"backbone": "osnet_x0_25", "precision": "bfloat16", "stored_dtype": "float16"}, "conv5"),
        ({"backbone": "timm/test_resnet"}, "last_map"),
    ],
)
def test_other_networks(network, layer, settings, tmp_path):
    output = run(replace(settings, output=tmp_path / "run", epochs=1, keep=(1,), **network))
    assert load_trained(output / "epoch_0001.json").map_layer == layer
    assert (output / "epoch_0001.safetensors").stat().st_size < 2e6


@pytest.mark.slow
def test_two_processes_train_one_network(settings, tmp_path):
    arguments = f"""train --dataset market1501 --root {settings.root} --output {tmp_path / "run"}
        --backbone resnet18 --width 0.0625 --image-size 32 16 --hidden 16 --batch 8 --epochs 1
        --keep 1 --workers 0"""
    two_processes(tmp_path, run_script, SCRIPT, arguments.split())
    card = json.loads((tmp_path / "run" / "epoch_0001.json").read_text())
    assert card["recipe"]["processes"] == 2
    model = load_trained(tmp_path / "run" / "epoch_0001.json")
    assert torch.equal(model.neck.weight, torch.ones_like(model.neck.weight))


def refused(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(SystemExit) as caught:
        train_ssl.main([*map(str, arguments)])
    return str(caught.value)


@pytest.mark.slow
def test_wrong_input_ends_with_one_line(settings, whole, tmp_path):
    new = tmp_path / "new"
    train = f"train --dataset market1501 --root {settings.root} --workers 0 --output".split()
    assert "output: got" in refused(*train, whole, "--batch", 8)
    assert "epochs: got" in refused(*train, new, "--epochs", 0)
    assert "images: got" in refused(*train, new, "--batch", 1000)
    assert "root: got nothing" in refused("train", "--dataset", "market1501", "--output", new)
    assert "name: got 'alexnet'" in refused(*train, new, "--backbone", "alexnet")
    assert "without epoch_*.json" in refused("evaluate", "--run", tmp_path, "--output", new)
    chosen = ("evaluate", "--run", whole, "--output", new)
    assert "methods: got LIME" in refused(*chosen, "--methods", "LIME")
    assert "images: got 0" in refused(*chosen, "--images", 0)
    assert "layer: got" in refused(*chosen, "--layer", "nowhere")
    assert not new.exists()  # A mistake leaves nothing behind.


# Evaluation


def test_spread_by_hand():
    maps = torch.zeros(4, 1, 4, 2)
    maps[0] = 3.0
    maps[1, 0, :2] = 0.5
    maps[2, 0, 0, 0] = 7.0
    maps[3] = -1.0
    assert epochs.spread(maps).tolist() == pytest.approx([1, 1 / 2, 1 / 8, 1])


def small_world():
    return drawn_once(train_identities=2, test_identities=5, distractors=6)


def test_quality_of_a_collapsed_and_of_a_perfect_embedding():
    world = small_world()
    records = [*world.query, *world.gallery]

    def quality(embeddings):
        parts = embeddings.split([len(world.query), len(world.gallery)])
        both = zip(parts, (world.query, world.gallery), strict=True)
        return epochs.quality(*(Embedded.of(part, own) for part, own in both))

    collapsed = quality(torch.ones(len(records), 4))
    assert collapsed["deviation"] == pytest.approx(0, abs=1e-6)
    names = sorted({record.identity for record in records})
    perfect = torch.stack([torch.eye(len(names))[names.index(r.identity)] for r in records])
    found = quality(perfect)
    assert (found["mAP"], found["rank1"]) == (100, 100)
    assert found["deviation"] > 0.5
    cameras = torch.stack([torch.eye(6)[record.camera - 1] for record in records])
    assert quality(cameras)["camera"] == 100
    # The same person from another camera is nearer, and does not count.
    known = torch.cat([cameras, torch.zeros(len(records), 1)], dim=1)
    person, camera = world.query[0].identity, world.query[0].camera
    match = next(r for r in world.gallery if r.identity == person and r.camera != camera)
    known[[0, records.index(match)], -1] = 2
    assert quality(known)["camera"] == 100


@pytest.fixture(scope="module")
def evaluated(whole, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "evaluation"
    methods = ("GradFAM,Random", "Centre")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "SyntheticReID", small_world)
        EpochMaps(run=whole, output=output, images=6, methods=methods).evaluate()
    return output


@pytest.mark.slow
def test_evaluation_says_what_one_computes_by_hand(whole, evaluated):
    results = json.loads((evaluated / "results.json").read_text())
    assert [row["epoch"] for row in results["epochs"]] == [0, 1, 3]
    world = small_world()
    model = load_trained(whole / "epoch_0003.json")
    explainer = GradFAM(lambda x: model.features(x).mean((2, 3)), model.maps)
    rows = pd.read_csv(evaluated / "epoch_0003" / "rows.csv")
    assert len(rows) == 3 * 6
    energies = []
    for _, row in rows[rows["method"] == "GradFAM"].iterrows():
        record = next(r for r in world.query if r.path.name == row["case"])
        image = model.input_spec.to_tensor(world.load(record))[None]
        coarse = explainer.attribute(image, interpolate_mode=None)
        map_ = functional.interpolate(coarse, size=(256, 128), mode="bilinear")
        person = torch.from_numpy(world.render(record).person)[None, None]
        energies.append(100 * energy_inside(map_, person).item())
        assert row["person_energy"] == pytest.approx(energies[-1], rel=1e-4)
        assert row["person_area"] == pytest.approx(100 * person.double().mean().item())
    first, last = (results["epochs"][k]["methods"]["GradFAM"] for k in (0, 2))
    assert last["person_energy"]["mean"] == pytest.approx(np.mean(energies), rel=1e-4)
    gain = last["person_energy"]["mean"] - first["person_energy"]["mean"]
    assert last["gain"]["mean"] == pytest.approx(gain)
    # What knows nothing of the network does not change with it.
    assert results["epochs"][2]["methods"]["Centre"]["gain"]["mean"] == 0


@pytest.mark.slow
def test_evaluation_resumes_and_prints_a_row_per_epoch(
    whole, evaluated, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(epochs, "SyntheticReID", small_world)
    output = copytree(evaluated, tmp_path / "evaluation")
    shard = next((output / "epoch_0001").glob("rows-*"))
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:10]))
    (output / "results.json").unlink()
    command = f"evaluate --run {whole} --images 6 --methods GradFAM,Random Centre --output {output}"
    assert "output: got" in refused(*command.split())
    train_ssl.main([*command.split(), "--resume"])
    assert (output / "results.json").read_text() == (evaluated / "results.json").read_text()
    table = capsys.readouterr().out.splitlines()[-7:]
    assert [line.split()[0] for line in table[:4]] == ["epoch", "0", "1", "3"]
