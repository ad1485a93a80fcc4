"""Explanations as one HTML file: no network, no server, nothing beside it."""

from reid_explain.report.page import Entry, Link, Report, write_report

__all__ = ["Entry", "Link", "Report", "write_report"]
