"""Counterfactual explanations: what is left of a distance with one attribute of the other."""

from reid_explain.counterfactual.editor import AttributeEditor, Reading
from reid_explain.counterfactual.interpreter import (
    CounterfactualInterpreter,
    CounterfactualPair,
    load_editor,
    save_editor,
)

__all__ = [
    "AttributeEditor",
    "CounterfactualInterpreter",
    "CounterfactualPair",
    "Reading",
    "load_editor",
    "save_editor",
]
