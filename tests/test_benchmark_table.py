"""The table of a benchmark as a page that sorts."""

import html
import json
import re
import subprocess

import pandas as pd
import pytest
from test_report import CHROMIUM

from reid_explain.benchmark.tables import html_table, measured, tradeoff, without_settings
from reid_explain.report import Cell, Table, table_html

METHODS = {
    "Low": {"drop": {"mean": 9.0, "interval": [8.0, 10.0], "lead_interval": [1.0, 2.0]}},
    "None": {"drop": None, "at_area": {"blur": {"mean": 2.0, "interval": [None, None]}}},
    "<High>": {"drop": {"mean": 10.0, "interval": [9.0, 11.0]}, "queries": 3},
}


def page():
    found = html_table("A & B", METHODS, ["Low"], {"model": "<b>"})
    assert found is not None
    return found


def test_means_are_found_however_deep():
    assert list(measured(METHODS["None"])) == ["at area blur"]
    assert measured(METHODS["<High>"])["drop"]["mean"] == 10


def test_the_page_has_every_mean():
    text = page()
    assert re.findall(r"<button>(.*?)</button>", text) == ["method", "drop", "at area blur"]
    assert 'data-value="9.0">9.0 [8.0, 10.0]+<' in text
    assert 'data-value="2.0">2.0 [?, ?]<' in text
    assert 'data-value="">-<' in text
    assert "Low *<" in text
    for escaped in ("<h1>A &amp; B</h1>", "&lt;High&gt;<", "<dd>&lt;b&gt;</dd>"):
        assert escaped in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_figure_names_methods_without_settings_where_that_tells_them_apart():
    names = ["A(head='x')", "B", "B(n=1)", "captum:C(n=2)"]
    assert list(without_settings(names).values()) == ["A", "B", "B(n=1)", "captum:C"]
    values = pd.Series([3.0, 5.0], pd.MultiIndex.from_arrays([[1, 2]], names=["identity"]))
    none = values * float("nan")
    draw = tradeoff({"A(head='x')": 0.1, "D": 1.0}, "s", {"A(head='x')": values, "D": none}, ())
    (axis,) = draw().axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["A"]


def test_no_means_are_no_page():
    assert html_table("Empty", {"One": {"seconds": 1.0}}, [], {}) is None


def in_browser(path, page, script):
    """Return what a script sees on a page: a function of ``all(selector)``."""
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page with")
    probe = f"""<script>addEventListener("load", () => {{
      const all = s => [...document.querySelectorAll(s)], seen = [];
      {script}
      document.title = JSON.stringify(seen);
    }});</script></body>"""
    path.write_text(page.replace("</body>", probe), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=2000", path.as_uri()]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", out, re.DOTALL)[1]))


@pytest.mark.slow
def test_columns_sort_in_the_browser(tmp_path):
    seen = in_browser(
        tmp_path / "table.html",
        page(),
        """for (const n of [1, 1, 0, 2]) {
          all("thead button")[n].click(); seen.push(all("tbody th").map(c => c.textContent));
        }
        seen.push(all("thead th").map(c => c.ariaSort));""",
    )
    assert seen[:3] == [
        ["Low *", "<High>", "None"],  # by number, not by text; what is missing last
        ["<High>", "Low *", "None"],
        ["<High>", "Low *", "None"],
    ]
    assert seen[3][0] == "None"
    assert seen[4] == [None, None, "ascending"]


@pytest.mark.slow
def test_each_table_sorts_from_its_best_and_one_word_filters_all(tmp_path):
    rows = [[Cell(name, name), Cell(str(n), n)] for name, n in zip("ABC", (9, 10, -1), strict=True)]
    tables = [Table(["name", "more ↑"], rows), Table(["name", "less ↓"], rows, "Other", "A note.")]
    seen = in_browser(
        tmp_path / "table.html",
        table_html("Two", tables),
        """const shown = () => all("tbody tr").filter(row => !row.hidden);
        const names = () => shown().map(row => row.cells[0].textContent);
        seen.push(all("h2, .note").map(e => e.textContent));
        all("thead button")[1].click(); seen.push(names());
        all("thead button")[3].click(); seen.push(names());
        const input = document.querySelector("input"); input.value = "b";
        input.dispatchEvent(new Event("input")); seen.push(names());""",
    )
    assert seen == [["Other", "A note."], [*"BACABC"], [*"BACCAB"], [*"BB"]]
