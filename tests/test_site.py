"""The build of the documentation fails when an example, a link or an equation of it is broken."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx_gallery")
DOCS = Path(__file__).parents[1] / "docs"
EXAMPLE = '''"""
An example
==========
"""

{code}
'''
PAGE = """# A site

{text}

```{{toctree}}
gallery/index
```
"""


def build(folder, code="print(123 * 456)", text="[A page](gallery/index), $x^2$."):
    """Build a site of one page and one example with the settings of the real one."""
    (folder / "docs").mkdir()
    (folder / "examples").mkdir()
    for name in ("conf.py", "_extensions", "_static"):
        copy = shutil.copytree if (DOCS / name).is_dir() else shutil.copy
        copy(DOCS / name, folder / "docs" / name)
    (folder / "docs/index.md").write_text(PAGE.format(text=text))
    (folder / "examples/GALLERY_HEADER.rst").write_text("Gallery\n=======\n")
    (folder / "examples/plot_rank_list.py").write_text(EXAMPLE.format(code=code))
    command = ["-W", "--keep-going", folder / "docs", folder / "site"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_site_without_faults_is_built(tmp_path):
    result = build(tmp_path)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site/index.html").read_text()
    assert "<math" in page
    assert "https://cdn" not in page
    assert "56088" in (tmp_path / "site/gallery/plot_rank_list.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"code": "raise ValueError('broken example')"}, "broken example"),
        (
            {"text": "<a href='gallery/nowhere.html'>Nowhere</a>"},
            "WARNING: broken link: index.html",
        ),
        ({"text": "<a href='gallery/index.html#nowhere'>Nowhere</a>"}, "index.html#nowhere"),
        ({"text": r"An equation, $\nosuchcommand$."}, "WARNING: no MathML"),
    ],
    ids=["example", "link", "anchor", "equation"],
)
def test_a_fault_fails_the_build(fault, message, tmp_path):
    result = build(tmp_path, **fault)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout


def test_every_example_has_a_place_in_the_gallery():
    order = runpy.run_path(str(DOCS / "_extensions" / "reading_order.py"))["ORDER"]
    examples = {
        path.stem.removeprefix("plot_") for path in (DOCS.parent / "examples").glob("plot_*.py")
    }
    assert sorted(order) == sorted(examples)
