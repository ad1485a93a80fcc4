"""Tables in the form of the AMD paper's tables 1, 2 and 3, the published rows beside them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tables import interval, layout

from reid_explain.amd.evaluation import AttributeRanking, Evaluation
from reid_explain.metrics.retrieval import average_precision, cumulative_matches

Row = tuple[str, ...]

PUBLISHED = "published, full test split: "
NO_RANKING = ("-", "-", "-", "-")

TABLES_1_AND_2: dict[tuple[str, str], list[Row]] = {
    ("market1501", "market1501"): [
        ("SBS ResNet-34", "93.94", "97.74", "83.95", *NO_RANKING),
        ("  interpreter", "94.21", "97.80", "84.12", "73.71", "96.39", "2.31", "-"),
        ("SBS ResNet-50", "94.77", "98.13", "87.15", *NO_RANKING),
        ("  interpreter", "94.74", "98.16", "87.11", "74.29", "96.59", "1.99", "-"),
        ("SBS ResNet-101", "95.94", "98.40", "88.64", *NO_RANKING),
        ("  interpreter", "95.55", "98.52", "88.29", "75.40", "96.73", "1.87", "-"),
    ],
    ("dukemtmc", "dukemtmc"): [
        ("SBS ResNet-34", "86.67", "92.77", "71.71", *NO_RANKING),
        ("  interpreter", "86.13", "92.91", "72.00", "69.58", "95.79", "1.93", "-"),
        ("SBS ResNet-50", "88.24", "94.17", "75.54", *NO_RANKING),
        ("  interpreter", "87.84", "94.34", "75.27", "70.30", "96.03", "1.73", "-"),
        ("SBS ResNet-101", "89.33", "95.20", "78.41", *NO_RANKING),
        ("  interpreter", "89.21", "95.15", "78.26", "70.52", "96.11", "1.74", "-"),
    ],
    ("market1501", "dukemtmc"): [
        ("SBS ResNet-50", "45.02", "61.40", "26.43", *NO_RANKING),
        ("  interpreter", "47.08", "62.61", "28.41", "59.01", "91.47", "2.16", "-"),
    ],
    ("dukemtmc", "market1501"): [
        ("SBS ResNet-50", "53.15", "71.26", "24.48", *NO_RANKING),
        ("  interpreter", "54.48", "71.59", "25.48", "59.19", "92.17", "1.56", "-"),
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

RETRIEVALS = {
    "target": "target",
    "reconstructed": "reconstructed distance alone",
    "reweighted": "  + re-weighting",
    "oracle": "  + re-weighting, oracle: true labels",
}
"""What ranks the gallery, and its name in table 3."""


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
    lines: list[Row] = [
        ("%", "", "Rank-1", "Rank-5", "mAP", "X-mAP_e", "X-mAP_c", "ADRE", "bias"),
    ]
    for one in measured:
        found, rankings = one.results, [one.results[name] for name in ("X-mAP_e", "X-mAP_c")]
        accuracy = {
            name: [number(row[k]) for k in ("rank1", "rank5", "mAP")]
            for name, row in found["retrieval"].items()
        }
        precision = [number(row["interpreter"]["mean"]) for row in rankings]
        error, bias = number(found["ADRE"]["mean"]), f"{found['bias']['mean']:+.2f}"
        lines += [
            (one.title, "target", *accuracy["target"], *NO_RANKING),
            ("", "interpreter", *accuracy["reconstructed"], *precision, error, bias),
        ]
        for floor in ("fixed_order", "random_order"):
            name = "floor: " + {"fixed_order": "one fixed order"}.get(floor, "random order")
            lines.append(("", name, *"---", *(number(row[floor]) for row in rankings), *"--"))
    tests = dict.fromkeys((one.dataset, one.cross_domain) for one in measured)
    for (trained, tested), rows in TABLES_1_AND_2.items():
        if (tested, trained != tested) in tests:
            lines += published(arrow(trained, tested), rows)
    return layout(lines)


def reweighting_table(measured: Sequence[Measured]) -> str:
    """Return the table of re-weighted retrieval, table 3 of the paper, with what is gained."""
    lines: list[Row] = [("%", "", "Rank-1", "gain [95 %]", "mAP", "gain [95 %]")]
    for one in measured:
        for name, label in RETRIEVALS.items():
            cells = [
                cell
                for figure in ("rank1", "mAP")
                for cell in (
                    number(one.results["retrieval"][name][figure]),
                    gained(one.results["gain"][name][figure]) if name != "target" else "",
                )
            ]
            lines.append((one.title if name == "target" else "", label, *cells))
    for dataset in dict.fromkeys(one.dataset for one in measured if not one.cross_domain):
        lines += published(dataset, TABLE_3.get(dataset, []))
    return layout(lines)


def arrow(trained: str, tested: str) -> str:
    """Return the name of a test: M -> D, or M where it is the data set of the training."""
    return tested if trained == tested else f"{trained} -> {tested}"


def published(title: str, rows: Sequence[Row]) -> list[Row]:
    """Return published rows with the mark that says so."""
    return [(title, PUBLISHED + name, *cells) for name, *cells in rows]


def number(value: float) -> str:
    """Return a percentage as a cell."""
    return f"{value:.2f}"


def gained(value: dict[str, Any]) -> str:
    """Return a difference with its interval as a cell."""
    low, high = value["interval"]
    return f"{value['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def as_json(evaluation: Evaluation, attributes: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured, in percent; what a query has no figure of is null.

    ``gain`` holds the mean differences to the target with paired bootstrap intervals over the
    queries that have a match.
    """

    def retrieval_of(name: str) -> dict[str, Any]:
        summary = getattr(evaluation, name)
        cmc = {f"rank{rank}": value for rank, value in summary.cmc.items()}
        return {**cmc, "mAP": summary.mean_ap}

    def ranking_of(ranking: AttributeRanking) -> dict[str, Any]:
        return {**ranking._asdict(), "interpreter": ranking.interpreter._asdict()}

    accuracy = dict(zip(attributes, evaluation.accuracy.tolist(), strict=True))
    queries = {
        name: {
            "rank1": 100 * cumulative_matches(ranks, (1,))[:, 0],
            "mAP": 100 * average_precision(ranks),
        }
        for name, ranks in evaluation.ranks.items()
    }
    return {
        "retrieval": {name: retrieval_of(name) for name in RETRIEVALS},
        "gain": {
            name: {
                figure: interval((values - queries["target"][figure])[~values.isnan()])
                for figure, values in figures.items()
            }
            for name, figures in queries.items()
            if name != "target"
        },
        "ADRE": evaluation.adre._asdict(),
        "bias": evaluation.bias._asdict(),
        "X-mAP_e": ranking_of(evaluation.exclusive),
        "X-mAP_c": ranking_of(evaluation.common),
        "pairs": evaluation.pairs,
        "balanced_accuracy": {name: or_null(value) for name, value in accuracy.items()},
        "per_query": {
            name: {figure: [*map(or_null, values.tolist())] for figure, values in figures.items()}
            for name, figures in queries.items()
        },
    }


def or_null(value: float) -> float | None:
    """Return a figure, or None for one that is not defined."""
    return None if value != value else value
