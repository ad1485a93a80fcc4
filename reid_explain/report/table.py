"""A table as one HTML file that sorts by the column that is clicked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reid_explain.report.page import rendered

TEMPLATE = Path(__file__).with_name("table.html")


class Cell(NamedTuple):
    """What a cell shows, and the number or text that it sorts by; None comes last."""

    text: str
    value: float | str | None


def table_html(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    note: str = "",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a table; the first cell of a row is its name.

    Args:
        title: of the page.
        heads: of the columns.
        rows: as many cells each.
        note: what the numbers are.
        facts: settings and versions, by name.
    """
    return rendered(TEMPLATE, title=title, heads=heads, rows=rows, note=note, facts=facts or {})
