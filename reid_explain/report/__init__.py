"""Explanations as one HTML file: no network, no server, nothing beside it."""

from reid_explain.report.page import Entry, Link, Report, as_html, write_report

__all__ = ["Entry", "Link", "Report", "as_html", "write_report"]
