"""Imports point one way, and importing the package is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "reid_explain"

LAYERS = (
    ("errors.py",),
    ("checks.py", "registry.py"),
    (
        "attention.py",
        "capture.py",
        "files.py",
        "fills.py",
        "fingerprints.py",
        "memory_format.py",
        "vectors.py",
        "inputs.py",
        "tensor_files.py",
    ),
    ("objectives.py", "statistics.py", "visualization"),
    ("directions.py", "explainers", "datasets", "models"),
    ("retrieval", "testing.py"),
    ("metrics",),
    ("training", "report"),
    ("amd", "counterfactual"),
    ("benchmark",),
    ("cli",),
)
"""Each imports from itself and from what stands before its own line: none beside it."""


def rank(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    """The file or folder of the package that a dotted name is in; None for what is outside."""
    names = module.split(".")
    if names[0] != ROOT.name or len(names) < 2:
        return None
    return names[1] if (ROOT / names[1]).is_dir() else f"{names[1]}.py"


def violations(path: Path) -> list[str]:
    own = path.relative_to(ROOT).parts[0]
    if own == "__init__.py":
        return []
    found = []
    for name in sorted(imported_modules(path)):
        part = part_of(name)
        known = part is not None and any(part in layer for layer in LAYERS)
        up = known and part != own and rank(part) >= rank(own)
        if up or name.split(".")[0] in ("benchmarks", "examples", "tests"):
            found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


@pytest.mark.slow
def test_imports_point_one_way():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 10
    assert [line for path in files for line in violations(path)] == []


def test_every_part_has_a_layer():
    parts = {path.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.py")} - {"__init__.py"}
    assert parts <= {part for layer in LAYERS for part in layer}


def test_the_rule_catches_a_violation(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path / "reid_explain")
    for folder in ("metrics", "amd"):
        (tmp_path / "reid_explain" / folder).mkdir(parents=True)
    bad = tmp_path / "reid_explain" / "metrics" / "bad.py"
    bad.write_text("from reid_explain.amd import interpreter\nimport benchmarks\n")
    assert len(violations(bad)) == 3


STATEMENTS = (
    "import reid_explain",
    "from reid_explain import GradFAM, ScoreFAM, RAM, ExtremalFAM, Cosine",
    "import reid_explain.datasets, reid_explain.models",
    "import reid_explain.cli.__main__",
)


@pytest.fixture(scope="module")
def loaded():
    """Modules after each statement, in one process: what an earlier one loads is there later."""
    lines = [f"{statement}\nprint(*sys.modules)" for statement in STATEMENTS]
    program = "\n".join(["import sys", *lines])
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    modules = (set(line.split()) for line in run.stdout.splitlines())
    return dict(zip(STATEMENTS, modules, strict=True))


@pytest.mark.slow
def test_importing_the_package_loads_no_world_and_no_zoo(loaded):
    package, names, *_ = loaded.values()
    assert {n for n in package if n.startswith("reid_explain.")} == set()
    heavy = ("datasets", "models", "benchmark", "training", "visualization", "retrieval", "amd")
    assert not [n for n in names if n.startswith(tuple(f"reid_explain.{part}" for part in heavy))]
    assert not names & {"torchvision", "pandas", "tyro", "timm", "accelerate"}


@pytest.mark.slow
def test_the_data_sets_and_models_load_no_world(loaded):
    modules = loaded["import reid_explain.datasets, reid_explain.models"]
    assert not [n for n in modules if n.startswith("reid_explain.datasets.synthetic.")]
    assert not modules & {"pandas", "tyro", "timm", "accelerate"}


@pytest.mark.slow
def test_the_command_line_loads_no_benchmark(loaded):
    modules = loaded["import reid_explain.cli.__main__"]
    assert not modules & {"pandas", "scipy.stats", "timm", "accelerate", "gradio"}
    assert "reid_explain.benchmark.task" not in modules
