"""The examples that measure maps, at a small setting: what holds for any number of images."""

import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(example, output, *arguments):
    """Run an example; return the numbers of each printed line, by the line's first words."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments, "--output", output],
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    rows = (re.match(r"\W*(\w+)(.*)", line) for line in result.stdout.splitlines())
    return [(row[1], [float(n) for n in re.findall(r"-?\d+\.\d+", row[2])]) for row in rows]


def pictures(folder):
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 400
    return {path.stem for path in folder.iterdir()}


def test_attribute_maps(tmp_path):
    rows = run("plot_attribute_maps.py", tmp_path, "--images", "4")[1:]
    assert pictures(tmp_path) == {"attribute_maps"}
    assert {"up", "gender"} & {name for name, _ in rows}
    halves = [figures[0] for _, figures in rows]
    assert halves == sorted(halves)
    assert 0 < halves[0] < halves[-1] <= 50
    for _, (_, inside, chance, lead) in rows:
        assert abs(inside - chance - lead) < 0.11


def test_area_against_drop(tmp_path):
    rows = run("plot_area_against_drop.py", tmp_path, "--queries", "2")[1:]
    assert pictures(tmp_path) == {"area_against_drop", "drop_at_equal_areas", "ahead_of_chance"}
    methods = ["GradFAM", "GradRAM", "ScoreFAM", "ActivationMean", "Centre"]
    assert [name for name, _ in rows] == [name for name in methods for _ in range(2)]
    assert all(low <= mean <= high for _, (mean, low, high) in rows)


def test_masks_against_maps(tmp_path):
    rows = run("plot_masks_against_maps.py", tmp_path, "--pairs", "2")
    assert pictures(tmp_path) == {"masks", "maps_on_person", "maps_on_change"}
    uniform = [figures for name, figures in rows if name == "uniform"]
    assert len(uniform) == 2
    assert all(figures[:3] == figures[3:] for figures in uniform)
    person, change = (dict(rows[1:8]), dict(rows[9:]))
    assert change["Centre"] == change["uniform"]
    assert person["GradCAM"][0] > person["uniform"][0]
