"""Tables in the form of the AMD paper's tables 1, 2 and 3, the published rows beside them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tables import interval, layout
from torch import Tensor

from reid_explain.amd.evaluation import AttributeRanking, Evaluation
from reid_explain.retrieval import RetrievalSummary, average_precision, cumulative_matches

Row = tuple[str, ...]

TABLE_1_HEADER: Row = (
    *("%", "", "Rank-1", "Rank-5", "mAP", "X-mAP_e", "X-mAP_c", "ADRE", "bias", "attributes"),
)
TABLE_3_HEADER: Row = ("%", "", "Rank-1", "gain [95 %]", "mAP", "gain [95 %]")
PUBLISHED = "published, full test split: "

TABLES_1_AND_2: dict[tuple[str, str], list[Row]] = {
    ("market1501", "market1501"): [
        ("SBS ResNet-34", "93.94", "97.74", "83.95"),
        ("  interpreter", "94.21", "97.80", "84.12", "73.71", "96.39", "2.31"),
        ("SBS ResNet-50", "94.77", "98.13", "87.15"),
        ("  interpreter", "94.74", "98.16", "87.11", "74.29", "96.59", "1.99"),
        ("SBS ResNet-101", "95.94", "98.40", "88.64"),
        ("  interpreter", "95.55", "98.52", "88.29", "75.40", "96.73", "1.87"),
    ],
    ("dukemtmc", "dukemtmc"): [
        ("SBS ResNet-34", "86.67", "92.77", "71.71"),
        ("  interpreter", "86.13", "92.91", "72.00", "69.58", "95.79", "1.93"),
        ("SBS ResNet-50", "88.24", "94.17", "75.54"),
        ("  interpreter", "87.84", "94.34", "75.27", "70.30", "96.03", "1.73"),
        ("SBS ResNet-101", "89.33", "95.20", "78.41"),
        ("  interpreter", "89.21", "95.15", "78.26", "70.52", "96.11", "1.74"),
    ],
    ("market1501", "dukemtmc"): [
        ("SBS ResNet-50", "45.02", "61.40", "26.43"),
        ("  interpreter", "47.08", "62.61", "28.41", "59.01", "91.47", "2.16"),
    ],
    ("dukemtmc", "market1501"): [
        ("SBS ResNet-50", "53.15", "71.26", "24.48"),
        ("  interpreter", "54.48", "71.59", "25.48", "59.19", "92.17", "1.56"),
    ],
}
"""AMD, tables 1 and 2, by the data sets of the training and of the test."""

TABLE_3: dict[str, list[Row]] = {
    "market1501": [
        ("OSNet", "94.7", "", "85.7", ""),
        ("  + re-weighting", "95.0", "+0.3", "86.1", "+0.4"),
        ("BOT ResNet-50", "93.8", "", "84.7", ""),
        ("  + re-weighting", "94.4", "+0.6", "86.1", "+1.4"),
        ("CL ResNet-50", "94.9", "", "85.7", ""),
        ("  + re-weighting", "95.2", "+0.3", "86.4", "+0.7"),
        ("SBS ResNet-50", "94.8", "", "87.2", ""),
        ("  + re-weighting", "95.2", "+0.4", "87.9", "+0.7"),
        ("SBS ResNet-101", "95.9", "", "88.6", ""),
        ("  + re-weighting", "96.1", "+0.2", "88.8", "+0.2"),
    ],
    "dukemtmc": [
        ("OSNet", "87.9", "", "74.1", ""),
        ("  + re-weighting", "88.5", "+0.6", "74.9", "+0.8"),
        ("BOT ResNet-50", "86.9", "", "74.3", ""),
        ("  + re-weighting", "88.6", "+1.7", "75.6", "+1.3"),
        ("CL ResNet-50", "87.1", "", "71.9", ""),
        ("  + re-weighting", "88.3", "+1.2", "73.1", "+1.2"),
        ("SBS ResNet-50", "88.2", "", "75.5", ""),
        ("  + re-weighting", "89.1", "+0.9", "75.6", "+0.1"),
        ("SBS ResNet-101", "89.3", "", "78.4", ""),
        ("  + re-weighting", "90.2", "+0.9", "79.1", "+0.7"),
    ],
}
"""AMD, table 3, by data set; the paper does not say where its exclusive attributes come from."""

FLOORS = {"fixed_order": "floor: one fixed order", "random_order": "floor: random order"}
GAINS = {
    "reconstructed": "  interpreter alone",
    "reweighted": "  + re-weighting",
    "oracle": "  + re-weighting, oracle: true labels",
}
"""What ranks the gallery in place of the target, and its name in table 3."""


class Measured(NamedTuple):
    """What ``as_json`` says of an interpreter on the test split of a data set.

    ``title`` names the interpreter and the data set in the tables.
    """

    title: str
    dataset: str
    cross_domain: bool
    results: dict[str, Any]


def decomposition_table(measured: Sequence[Measured]) -> str:
    """Return the table of distillation and decomposition, tables 1 and 2 of the paper."""
    lines = [TABLE_1_HEADER, *(row for one in measured for row in decomposition_rows(one))]
    tests = {(one.dataset, one.cross_domain) for one in measured}
    for (trained, tested), rows in TABLES_1_AND_2.items():
        if (tested, trained != tested) in tests:
            lines += published(arrow(trained, tested), rows, TABLE_1_HEADER)
    return layout(lines)


def decomposition_rows(measured: Measured) -> list[Row]:
    """Return target, interpreter and floors."""
    found = measured.results
    rankings = [found[name] for name in ("X-mAP_e", "X-mAP_c")]

    def accuracy(name: str) -> Row:
        return tuple(number(found["retrieval"][name][k]) for k in ("rank1", "rank5", "mAP"))

    interpreter = (
        *accuracy("reconstructed"),
        *(number(ranking["interpreter"]["mean"]) for ranking in rankings),
        number(found["ADRE"]["mean"]),
        signed(found["bias"]["mean"]),
        f"{len(found['labelled'])} of {len(found['balanced_accuracy'])}",
    )
    floors = [
        ("", label, *"---", *(number(ranking[name]) for ranking in rankings), *"---")
        for name, label in FLOORS.items()
    ]
    return [
        (measured.title, "target", *accuracy("target"), *"-----"),
        ("", "interpreter", *interpreter),
        *floors,
    ]


def reweighting_table(measured: Sequence[Measured]) -> str:
    """Return the table of re-weighted retrieval, table 3 of the paper, with what is gained."""
    lines = [TABLE_3_HEADER, *(row for one in measured for row in reweighting_rows(one))]
    for dataset in dict.fromkeys(one.dataset for one in measured if not one.cross_domain):
        lines += published(dataset, TABLE_3.get(dataset, []), TABLE_3_HEADER)
    return layout(lines)


def reweighting_rows(measured: Measured) -> list[Row]:
    """Return what each way to rank the gallery reaches, and how much more than the target."""
    found, gain = measured.results["retrieval"], measured.results["gain"]
    before = [number(found["target"][figure]) for figure in ("rank1", "mAP")]
    rows: list[Row] = [(measured.title, "target", before[0], "", before[1], "")]
    for name, label in GAINS.items():
        after = [
            (number(found[name][figure]), gained(gain[name][figure])) for figure in ("rank1", "mAP")
        ]
        rows.append(("", label, *after[0], *after[1]))
    return rows


def arrow(trained: str, tested: str) -> str:
    """Return the name of a test: M -> D, or M where it is the data set of the training."""
    return tested if trained == tested else f"{trained} -> {tested}"


def published(title: str, rows: Sequence[Row], header: Row) -> list[Row]:
    """Return published rows with the mark that says so, as long as the header."""
    marked = [(PUBLISHED + title, *cells) for cells in rows]
    return [(*row, *"-" * (len(header) - len(row))) for row in marked]


def number(value: float) -> str:
    """Return a percentage as a cell."""
    return f"{value:.2f}"


def signed(value: float) -> str:
    """Return a difference in percent as a cell."""
    return f"{value:+.2f}"


def gained(value: dict[str, Any]) -> str:
    """Return a difference with its interval as a cell."""
    low, high = map(signed, value["interval"])
    return f"{signed(value['mean'])} [{low}, {high}]"


def as_json(
    evaluation: Evaluation, attributes: Sequence[str], labelled: Sequence[str]
) -> dict[str, Any]:
    """Return everything that was measured, in percent.

    What a query or an attribute has no figure of is null. ``gain`` holds the mean
    differences to the target with paired bootstrap intervals over the queries with a match.

    Args:
        evaluation: What was measured.
        attributes: Those of the interpreter.
        labelled: Those of the data set; the X-mAP are about the attributes that both have.
    """

    def ranking_of(ranking: AttributeRanking) -> dict[str, Any]:
        return {**ranking._asdict(), "interpreter": ranking.interpreter._asdict()}

    queries = {name: per_query(ranks) for name, ranks in evaluation.ranks.items()}
    accuracy = dict(zip(attributes, evaluation.accuracy.tolist(), strict=True))
    return {
        "retrieval": {name: retrieval_of(evaluation.retrieval[name]) for name in queries},
        "gain": {name: gain(queries[name], queries["target"]) for name in GAINS},
        "ADRE": evaluation.adre._asdict(),
        "bias": evaluation.bias._asdict(),
        "X-mAP_e": ranking_of(evaluation.exclusive),
        "X-mAP_c": ranking_of(evaluation.common),
        "pairs": evaluation.pairs,
        "labelled": [name for name in attributes if name in labelled],
        "balanced_accuracy": {name: or_null(value) for name, value in accuracy.items()},
        "per_query": {
            name: {figure: [*map(or_null, values.tolist())] for figure, values in figures.items()}
            for name, figures in queries.items()
        },
    }


def retrieval_of(summary: RetrievalSummary) -> dict[str, float]:
    """Return CMC and mAP by name."""
    return {**{f"rank{k}": value for k, value in summary.cmc.items()}, "mAP": summary.mean_ap}


def per_query(ranks: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the figures whose means are Rank-1 and mAP, each (Q,); NaN without a match."""
    return {
        "rank1": 100 * cumulative_matches(ranks, (1,))[:, 0],
        "mAP": 100 * average_precision(ranks),
    }


def gain(figures: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Any]:
    """Return how much higher each figure is, over the queries with a match, paired."""
    differences = {name: values - reference[name] for name, values in figures.items()}
    return {name: interval(values[~values.isnan()]) for name, values in differences.items()}


def or_null(value: float) -> float | None:
    """Return a figure, or None for one that is not defined."""
    return None if value != value else value
