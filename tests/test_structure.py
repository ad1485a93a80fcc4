"""Imports point one way: capture -> explainers -> amd; nothing below knows what stands above."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "reid_explain"

MAY_NOT_IMPORT = {
    "capture.py": ("explainers", "amd", "metrics", "datasets", "models", "visualization"),
    "checks.py": ("capture", "explainers", "amd", "metrics", "datasets", "models"),
    "errors.py": ("",),
    "explainers": ("amd", "metrics", "datasets", "models", "training", "visualization"),
    "metrics": ("explainers", "amd", "models", "training", "visualization"),
    "datasets": ("explainers", "amd", "metrics", "models", "training", "visualization"),
    "models": ("explainers", "amd", "metrics", "datasets", "training", "visualization"),
    "amd": ("visualization",),
    "visualization": ("explainers", "amd", "metrics", "datasets", "models", "training"),
    "training": ("explainers", "amd", "visualization"),
}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(path: Path) -> list[str]:
    top = path.relative_to(ROOT).parts[0]
    forbidden = [f"reid_explain.{name}".rstrip(".") for name in MAY_NOT_IMPORT.get(top, ())]
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in sorted(imported_modules(path))
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
        or name.split(".")[0] in ("benchmarks", "examples", "tests")
    ]


def test_imports_point_one_way():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 10
    assert [line for path in files for line in violations(path)] == []


def test_the_rule_catches_a_violation(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "metrics").mkdir()
    bad = tmp_path / "metrics" / "bad.py"
    bad.write_text("from reid_explain import explainers\nimport benchmarks\n")
    assert len(violations(bad)) == 2
