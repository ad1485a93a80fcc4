"""Explanations as one HTML file: no network, no server, nothing beside it."""

from reid_explain.report.page import Entry, Link, Report, as_html, write_report
from reid_explain.report.table import Cell, Table, table_html

__all__ = ["Cell", "Entry", "Link", "Report", "Table", "as_html", "table_html", "write_report"]
