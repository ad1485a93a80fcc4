"""The Python of the README and of the pages runs, each page from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import small_reid_net
from PIL import Image

from reid_explain.models import osnet_x0_25

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    return PYTHON.findall(page.read_text(encoding="utf-8"))


PAGES = [
    page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if blocks(page)
]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """What the pages say their reader has: a model, images, a folder of people, a checkpoint."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    people = ("anna/cam1_0001", "anna/cam2_0007", "ben/cam1_0002", "ben/cam3_0011")
    for name in ("query", "gallery", *(f"people/{path}" for path in people)):
        path = Path(f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(128, 64, 3), dtype=np.uint8)).save(path)
    Path("examples").symlink_to(ROOT / "examples")
    torch.save({"state_dict": osnet_x0_25(4).state_dict()}, "osnet_x0_25_market1501.pth")
    images = torch.randn(2, 3, 256, 128, generator=torch.Generator().manual_seed(0))
    model = small_reid_net()
    layer = model.get_submodule(model.map_layer)
    pair = {"query": images[:1], "gallery": images[1:]}
    return {"torch": torch, "model": model, "layer": layer, "images": images, **pair}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, reader):
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), reader)
