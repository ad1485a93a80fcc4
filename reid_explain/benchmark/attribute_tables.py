"""The tables 1 to 3 of the AMD paper, for tested interpreters, beside the published rows."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from reid_explain.benchmark.tables import layout
from reid_explain.datasets.attributes import IdentityAttributes
from reid_explain.datasets.labels import WORDS

DECOMPOSITION = (
    *("%", "", "Rank-1", "Rank-5", "mAP", "X-mAP_e", "X-mAP_c", "ADRE", "bias", "attributes"),
)
REWEIGHTING = ("%", "", "Rank-1", "gain [95 %]", "mAP", "gain [95 %]")
FLOORS = {"fixed_order": "floor: one fixed order", "random_order": "floor: random order"}
WAYS = {
    "reconstructed": "  interpreter alone",
    "reweighted": "  + re-weighting",
    "oracle": "  + re-weighting, oracle: true labels",
}
"""What ranks the gallery in place of the target, and its name in table 3."""


class Test(NamedTuple):
    """The results (``measure``) of an interpreter on the test split of a data set.

    ``title`` names both in the tables; ``cross_domain``: it was trained on another data set.
    """

    title: str
    dataset: str
    cross_domain: bool
    results: dict[str, Any]


def decomposition(tests: Sequence[Test]) -> str:
    """Return distillation and decomposition, tables 1 and 2 of the paper."""
    lines: list[Sequence[str]] = [DECOMPOSITION]
    for title, _, _, found in tests:
        e, c = found["X-mAP_e"], found["X-mAP_c"]
        target, own = (
            [two(found["retrieval"][way][k]) for k in ("rank1", "rank5", "mAP")]
            for way in ("target", "reconstructed")
        )
        own += [mean(e["interpreter"]), mean(c["interpreter"]), mean(found["ADRE"])]
        own += [
            mean(found["bias"], "+"),
            f"{len(found['labelled'])} of {len(found['balanced_accuracy'])}",
        ]
        lines += [(title, "target", *target, *"-----"), ("", "interpreter", *own)]
        for name, label in FLOORS.items():
            lines.append(("", label, *"---", two(e[name]), two(c[name]), *"---"))
    seen = {(test.dataset, test.cross_domain) for test in tests}
    for name, rows in published("decomposition").items():
        if (name.rpartition(" -> ")[2], " -> " in name) in seen:
            lines += marked(name, rows, len(DECOMPOSITION))
    return layout(lines)


def label_counts(attributes: IdentityAttributes) -> str:
    """Return how many identities have each attribute, or not, or nobody knows."""
    table = np.stack([*attributes.labels.values()], axis=1)
    counts = [[str((row == label).sum()) for label in (2, 1, 0)] for row in table]
    lines = [(name, *row) for name, row in zip(attributes.names, counts, strict=True)]
    return layout([("identities", *WORDS[::-1]), *lines])


def reweighting(tests: Sequence[Test]) -> str:
    """Return re-weighted retrieval, table 3 of the paper, with gains over the target."""
    lines: list[Sequence[str]] = [REWEIGHTING]
    for title, _, _, found in tests:
        before = [two(found["retrieval"]["target"][k]) for k in ("rank1", "mAP")]
        lines.append((title, "target", before[0], "", before[1], ""))
        for way, label in WAYS.items():
            cells = [
                (two(found["retrieval"][way][k]), gained(found["gain"][way][k]))
                for k in ("rank1", "mAP")
            ]
            lines.append(("", label, *cells[0], *cells[1]))
    for name in dict.fromkeys(test.dataset for test in tests if not test.cross_domain):
        lines += marked(name, published("reweighting").get(name, []), len(REWEIGHTING))
    return layout(lines)


def published(table: str) -> dict[str, list[list[str]]]:
    """Return the rows of a table of the paper by test: M, or M -> D across domains."""
    text = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    rows: dict[str, list[list[str]]] = json.loads(text)["amd"][table]
    return rows


def marked(name: str, rows: Sequence[Sequence[str]], width: int) -> list[Sequence[str]]:
    """Return published rows with the mark that says so, filled up to ``width`` cells."""
    title = f"published, full test split: {name}"
    return [(title, *row, *"-" * (width - 1 - len(row))) for row in rows]


def two(value: float | None, sign: str = "") -> str:
    """Return a percentage as a cell."""
    return "-" if value is None else f"{value:{sign}.2f}"


def mean(value: dict[str, Any] | None, sign: str = "") -> str:
    """Return a mean without its interval as a cell."""
    return two(value["mean"] if value else None, sign)


def gained(value: dict[str, Any]) -> str:
    """Return a difference with its interval as a cell."""
    low, high = (two(bound, "+") for bound in value["interval"])
    return f"{mean(value, '+')} [{low}, {high}]"
