import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from reid_explain.models.osnet import osnet_x0_25

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*arguments, example="plot_explain_embedding.py"):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, EXAMPLES / example, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture
def files(tmp_path):
    """Two pictures that are not 256x128, and a checkpoint as torchreid writes it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 128, 64, 3), generator=generator, dtype=torch.uint8)
    for name, picture in zip(("a.png", "b.jpg"), pixels, strict=True):
        Image.fromarray(picture.numpy()).save(tmp_path / name)
    state = {f"module.{key}": value for key, value in osnet_x0_25(5).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "osnet.pth")
    return tmp_path


def test_runs_without_files(tmp_path):
    result = run("--method", "GradFAM", "GradRAM", "--output", tmp_path / "figures")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "explanation.png",
        "explanation_ranks.png",
    }


def test_draws_the_synthetic_world(tmp_path):
    result = run("--output", tmp_path, example="plot_synthetic_world.py")
    assert result.returncode == 0, result.stderr
    width, height = size(tmp_path / "synthetic_sheet.png")
    assert width > 8 * 100
    assert height > 6 * 200
    assert size(tmp_path / "synthetic_toggles.png")


def test_draws_the_chosen_methods_for_own_files(files):
    result = run(
        *("--image", files / "a.png", files / "b.jpg", "--reference", files / "b.jpg"),
        *("--method", "RAM", "CGRAM", "GradRAM", "GradFAM"),
        *("--weights", files / "osnet.pth", "--output", files / "figure.png"),
    )
    assert result.returncode == 0, result.stderr
    width, height = size(files / "figure.png")
    assert 5 * 240 < width < 6 * 300
    assert 2 * 480 < height < 3 * 520
    assert size(files / "figure_ranks.png")


def test_without_a_reference_all_methods_are_those_that_need_none(files):
    picture, figure = files / "a.png", files / "figure.pdf"
    result = run("--image", picture, "--weights", files / "osnet.pth", "--output", figure)
    assert result.returncode == 0, result.stderr
    assert figure.read_bytes().startswith(b"%PDF-")
    assert not (files / "figure_ranks.pdf").exists()


def test_a_checkpoint_of_another_network_is_named(files):
    torch.save({"conv1.weight": torch.zeros(1)}, files / "other.pth")
    result = run("--weights", files / "other.pth")
    assert result.returncode == 2
    assert "other.pth with conv1.weight, ..., expected OSNet, resnet18" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "a.png", "--method", "RAM"], "give --reference"),
        (["--reference", "a.png"], "--reference goes with --image"),
        (["--method", "LIME"], "invalid choice: 'LIME'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_wrong_command_line_says_why(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.real_data
def test_draws_figure_4_of_the_paper(market_root, osnet_weights, tmp_path):
    query, match = sorted((market_root / "query").glob("0001_*.jpg"))[:2]
    result = run(
        *("--image", query, "--reference", match, "--weights", osnet_weights),
        *("--output", tmp_path / "figure.png"),
    )
    assert result.returncode == 0, result.stderr
    width, _ = size(tmp_path / "figure.png")
    assert width > 9 * 240
    assert size(tmp_path / "figure_ranks.png")


def test_explains_a_difference(tmp_path):
    result = run("--output", tmp_path, example="plot_explain_difference.py")
    assert result.returncode == 0, result.stderr
    assert size(tmp_path / "difference.png")[0] > 600
    distance, total = (float(word.strip(",")) for word in result.stdout.split()[1:4:2])
    assert abs(total / distance - 1) < 0.1
    assert result.stdout.endswith("(1, 1, 256, 128)\n")


def test_draws_maps_over_the_epochs_of_a_training(tmp_path):
    result = run("--images", 8, "--output", tmp_path, example="plot_ssl_training.py")
    assert result.returncode == 0, result.stderr
    names = {"ssl_backbone.layer2.png", "ssl_backbone.layer4.png", "ssl_energy.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    width, height = size(tmp_path / "ssl_backbone.layer4.png")
    assert width > 6 * 200
    assert height > 4 * 400
    assert result.stdout.startswith("epochs [0, 2, 5, 10, 20, 40], ")


def test_a_run_without_checkpoints_is_named(tmp_path):
    result = run("--run", tmp_path, example="plot_ssl_training.py")
    assert result.returncode == 2
    assert f"{tmp_path} has no epoch_*.json" in result.stderr
