"""Tables as one HTML file: a click sorts them by a column, a word filters their rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reid_explain.report.page import rendered


class Cell(NamedTuple):
    """What a cell shows, and the number or text that it sorts by; None comes last."""

    text: str
    value: float | str | None


class Table(NamedTuple):
    """A table of a page.

    Args:
        heads: of the columns; one with ↑ sorts from the largest value on, others from the least.
        rows: as many cells each; the first one is the name of the row.
        title: over the table.
        note: what its numbers are.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""


def table_html(
    title: str, tables: Sequence[Table], note: str = "", facts: Mapping[str, Any] | None = None
) -> str:
    """Return the page of tables.

    Args:
        title: of the page.
        tables: one under the other.
        note: what the numbers are.
        facts: settings and versions, by name.
    """
    return rendered("table.html", title=title, tables=tables, note=note, facts=facts or {})
