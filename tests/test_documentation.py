"""The Python of the README and of the pages runs, and every command that is printed parses."""

import argparse
import ast
import functools
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from nets import small_reid_net
from PIL import Image

from reid_explain.benchmark import METRICS
from reid_explain.cli.__main__ import main
from reid_explain.datasets import DATASETS
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.models import osnet_x0_25

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python3?|reid-explain) [^`]+)`")
LAUNCHERS = ("python", "torchrun", "accelerate")


def blocks(page):
    return PYTHON.findall(page.read_text(encoding="utf-8"))


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def write_image(path, generator, size=(128, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(256, size=(*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """What the pages say their reader has: a model, images, folders, a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for registry in (EXPLAINERS, DATASETS, METRICS):  # what a page registers stays on the page
        monkeypatch.setattr(registry, "_items", {**registry})
    generator = np.random.default_rng(0)
    people = ("anna/cam1_0001", "anna/cam2_0007", "ben/cam1_0002", "ben/cam3_0011")
    people_of_ltcc = ("train/001_1_c1", "query/002_1_c2", "test/002_2_c3")
    names = ["query", "gallery", *(f"people/{path}" for path in people)]
    files = [f"{name}.jpg" for name in names]
    for name in (*files, *(f"LTCC_ReID/{path}_015833.png" for path in people_of_ltcc)):
        write_image(Path(name), generator)
    Path("examples").symlink_to(ROOT / "examples")
    torch.save({"state_dict": osnet_x0_25(4).state_dict()}, "osnet_x0_25_market1501.pth")
    images = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    model = small_reid_net()
    layer = model.get_submodule(model.map_layer)
    pair = {"query": images[:1], "gallery": images[1:]}
    return {"torch": torch, "model": model, "layer": layer, "images": images, **pair}


@pytest.mark.slow
@pytest.mark.parametrize("page", [*filter(blocks, PAGES)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, reader):
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), reader)


@pytest.mark.parametrize(
    ("page", "lines"),
    [("own_explainer.md", 12), ("own_metric.md", 20), ("own_dataset.md", 12)],
)
def test_a_plug_in_is_one_short_file(page, lines):
    first = blocks(ROOT / "docs" / page)[0]
    assert "import" in first
    assert ".register" in first
    assert len(first.strip().splitlines()) <= lines


def commands(text):
    """Return the commands of a shell text that run a script of this repository."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        if words[:1] == ["reid-explain"]:
            found.append(words)
        for place, word in enumerate(words):
            if word.endswith(".py") and word.startswith(("benchmarks/", "examples/")):
                launcher = words[0].rpartition("/")[2] if words[0] != "python3" else "python"
                if launcher in LAUNCHERS and not re.search(r"\.\.\.|[|]|--help", line):
                    found.append(words[place:])
                break
    return found


def printed():
    """Yield where a command is printed, and the command."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in [*SHELL.findall(text), *INLINE.findall(text)]:
            yield from ((page.name, command) for command in commands(block))
    folders = ("benchmarks", "examples", "reid_explain/benchmark", "reid_explain/training")
    for path in sorted(path for folder in folders for path in (ROOT / folder).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        indented = "\n".join(
            line for line in text.splitlines() if line.startswith("    ") or line.startswith("   $")
        )
        yield from ((path.name, command) for command in commands(indented))


PRINTED = list(printed())


class ParsedError(Exception):
    """A command line was read."""


@pytest.mark.parametrize(
    "command", [command for _, command in PRINTED], ids=[f"{a}: {' '.join(b)}" for a, b in PRINTED]
)
def test_a_printed_command_parses(command, monkeypatch):
    def parsed(*args, **kwargs):
        raise ParsedError

    def reads(parser):
        def read(*args, **kwargs):
            if args and inspect.isfunction(args[0]):  # tyro would run it
                args = (functools.wraps(args[0])(parsed), *args[1:])
            parser(*args, **kwargs)
            raise ParsedError

        return read

    script, *arguments = command
    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", reads(parse))
    monkeypatch.setattr(tyro, "cli", reads(tyro.cli))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    installed = {"reid-explain": main}
    run = installed.get(
        script, functools.partial(runpy.run_path, str(ROOT / script), run_name="__main__")
    )
    with pytest.raises(ParsedError):
        run()


def test_commands_are_found():
    text = "$ .venv/bin/python examples/a.py --x \\\n  'b c'  # why\npip install x\n"
    text += "torchrun -n 2 benchmarks/b.py\nreid-explain demo\n"
    expected = [["examples/a.py", "--x", "b c"], ["benchmarks/b.py"], ["reid-explain", "demo"]]
    assert commands(text) == expected
    assert len({page for page, _ in PRINTED}) > 12
