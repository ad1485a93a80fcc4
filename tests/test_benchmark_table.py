"""The table of a benchmark as a page that sorts."""

import json
import re
import subprocess

import pytest
from test_report import CHROMIUM

from reid_explain.benchmark.tables import html_table, measured

METHODS = {
    "Low": {"drop": {"mean": 9.0, "interval": [8.0, 10.0], "lead_interval": [1.0, 2.0]}},
    "None": {"drop": None, "at_area": {"blur": {"mean": 2.0, "interval": [None, None]}}},
    "<High>": {"drop": {"mean": 10.0, "interval": [9.0, 11.0]}, "queries": 3},
}
CLICKS = """<script>addEventListener("load", () => {
  const head = document.querySelectorAll("thead button"), seen = [];
  const all = s => [...document.querySelectorAll(s)];
  for (const n of [1, 1, 0, 2]) {
    head[n].click(); seen.push(all("tbody th").map(c => c.textContent));
  }
  seen.push(all("thead th").map(c => c.ariaSort));
  document.title = JSON.stringify(seen);
});</script></body>"""


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


def test_no_means_are_no_page():
    assert html_table("Empty", {"One": {"seconds": 1.0}}, [], {}) is None


@pytest.mark.slow
def test_columns_sort_in_the_browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page with")
    path = tmp_path / "table.html"
    path.write_text(page().replace("</body>", CLICKS), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=2000", path.as_uri()]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", out, re.DOTALL)[1]
    seen = json.loads(title.replace("&lt;", "<").replace("&gt;", ">"))
    assert seen[:3] == [
        ["Low *", "<High>", "None"],  # by number, not by text; what is missing last
        ["<High>", "Low *", "None"],
        ["<High>", "Low *", "None"],
    ]
    assert seen[3][0] == "None"
    assert seen[4] == [None, None, "ascending"]
