"""The explainers by name: what benchmarks compare and contract tests run over."""

from typing import Any

from reid_explain.registry import Registry

EXPLAINERS: Registry[Any] = Registry("reid_explain.explainers", "reid_explain.explainers")
"""Name -> explainer class, or function of ``(forward_func, layer)`` with the class's facts.

A module of ``reid_explain.explainers``, or of another package by an entry point of the group of
the same name, joins with ``@EXPLAINERS.register``.
"""
