"""The page of equations names what exists."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"


def named_in_first_columns(text: str) -> list[str]:
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]


def resolved(name: str) -> object:
    module, _, attribute = f"reid_explain.{name}".rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", named_in_first_columns(PAGE.read_text()))
def test_every_name_of_the_page_is_importable(name):
    assert callable(resolved(name))


def test_the_equations_that_the_page_refers_to_are_on_it():
    text = PAGE.read_text()
    labels = re.findall(r"^\$\$ \((\w+)\)$", text, flags=re.MULTILINE)
    assert len(labels) == len(set(labels)) == text.count("\n$$\n")
    assert set(re.findall(r"\{eq\}`(\w+)`", text)) == set(labels)


def test_the_page_is_read():
    assert len(named_in_first_columns(PAGE.read_text())) > 40
    with pytest.raises(AttributeError):
        resolved("GradNothing")
