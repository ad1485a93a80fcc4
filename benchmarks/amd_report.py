"""Tables in the form of the AMD paper's tables 1, 2 and 3, the published rows beside them."""

from collections.abc import Sequence
from typing import Any

from tables import layout

from reid_explain.amd.evaluation import AttributeRanking, Evaluation
from reid_explain.metrics.retrieval import RetrievalSummary

Row = tuple[str, ...]

HEADER = ("", "Rank-1", "Rank-5", "mAP", "X-mAP_e", "X-mAP_c", "ADRE", "bias")
PUBLISHED = "published, full test split: "

TABLE_1: dict[str, list[Row]] = {
    "market1501": [
        ("SBS ResNet-34", "93.94", "97.74", "83.95", "-", "-", "-"),
        ("  interpreter", "94.21", "97.80", "84.12", "73.71", "96.39", "2.31"),
        ("SBS ResNet-50", "94.77", "98.13", "87.15", "-", "-", "-"),
        ("  interpreter", "94.74", "98.16", "87.11", "74.29", "96.59", "1.99"),
        ("SBS ResNet-101", "95.94", "98.40", "88.64", "-", "-", "-"),
        ("  interpreter", "95.55", "98.52", "88.29", "75.40", "96.73", "1.87"),
    ],
    "dukemtmc": [
        ("SBS ResNet-34", "86.67", "92.77", "71.71", "-", "-", "-"),
        ("  interpreter", "86.13", "92.91", "72.00", "69.58", "95.79", "1.93"),
        ("SBS ResNet-50", "88.24", "94.17", "75.54", "-", "-", "-"),
        ("  interpreter", "87.84", "94.34", "75.27", "70.30", "96.03", "1.73"),
        ("SBS ResNet-101", "89.33", "95.20", "78.41", "-", "-", "-"),
        ("  interpreter", "89.21", "95.15", "78.26", "70.52", "96.11", "1.74"),
    ],
}
"""AMD, table 1, by data set."""

TABLE_2: dict[str, list[Row]] = {
    "dukemtmc": [
        ("Market to Duke, SBS ResNet-50", "45.02", "61.40", "26.43", "-", "-", "-"),
        ("  interpreter", "47.08", "62.61", "28.41", "59.01", "91.47", "2.16"),
    ],
    "market1501": [
        ("Duke to Market, SBS ResNet-50", "53.15", "71.26", "24.48", "-", "-", "-"),
        ("  interpreter", "54.48", "71.59", "25.48", "59.19", "92.17", "1.56"),
    ],
}
"""AMD, table 2, by the data set of the test."""

TABLE_3: dict[str, list[Row]] = {
    "market1501": [
        ("OSNet", "94.7", "85.7"),
        ("  + re-weighting", "95.0", "86.1"),
        ("BOT ResNet-50", "93.8", "84.7"),
        ("  + re-weighting", "94.4", "86.1"),
        ("SBS ResNet-50", "94.8", "87.2"),
        ("  + re-weighting", "95.2", "87.9"),
    ],
    "dukemtmc": [
        ("OSNet", "87.9", "74.1"),
        ("  + re-weighting", "88.5", "74.9"),
        ("BOT ResNet-50", "86.9", "74.3"),
        ("  + re-weighting", "88.6", "75.6"),
        ("SBS ResNet-50", "88.2", "75.5"),
        ("  + re-weighting", "89.1", "75.6"),
    ],
}
"""AMD, table 3, by data set; the paper does not say where its exclusive attributes come from."""


def decomposition_table(evaluation: Evaluation, dataset: str, *, cross_domain: bool) -> str:
    """Return the table of distillation and decomposition, tables 1 and 2 of the paper."""
    exclusive, common = evaluation.exclusive, evaluation.common
    lines: list[Row] = [
        (f"{dataset}, %", *HEADER[1:]),
        ("target", *retrieval(evaluation.target, (1, 5)), *"----"),
        (
            "interpreter",
            *retrieval(evaluation.reconstructed, (1, 5)),
            number(exclusive.interpreter.mean),
            number(common.interpreter.mean),
            number(evaluation.adre.mean),
            f"{evaluation.bias.mean:+.2f}",
        ),
        (
            "floor: one fixed order",
            *"---",
            number(exclusive.fixed_order),
            number(common.fixed_order),
            *"--",
        ),
        (
            "floor: random order",
            *"---",
            number(exclusive.random_order),
            number(common.random_order),
            *"--",
        ),
    ]
    published = (TABLE_2 if cross_domain else TABLE_1).get(dataset, [])
    lines += [(*row, "-") for row in marked(published)]
    return layout(lines)


def reweighting_table(evaluation: Evaluation, dataset: str) -> str:
    """Return the table of re-weighted retrieval, table 3 of the paper."""
    lines: list[Row] = [
        (f"{dataset}, %", "Rank-1", "mAP"),
        ("target", *retrieval(evaluation.target, (1,))),
        ("  + re-weighting", *retrieval(evaluation.reweighted, (1,))),
        ("  + re-weighting, oracle: true labels", *retrieval(evaluation.oracle, (1,))),
    ]
    return layout(lines + marked(TABLE_3.get(dataset, [])))


def marked(rows: Sequence[Row]) -> list[Row]:
    """Return published rows with the mark that says so."""
    return [(PUBLISHED + name, *cells) for name, *cells in rows]


def retrieval(summary: RetrievalSummary, ranks: Sequence[int]) -> tuple[str, ...]:
    """Return CMC at ``ranks`` and mAP as cells."""
    return (*(number(summary.cmc[rank]) for rank in ranks), number(summary.mean_ap))


def number(value: float) -> str:
    """Return a percentage as a cell."""
    return f"{value:.2f}"


def as_json(evaluation: Evaluation, attributes: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured."""

    def retrieval_of(summary: RetrievalSummary) -> dict[str, Any]:
        cmc = {f"rank{rank}": value for rank, value in summary.cmc.items()}
        return {**cmc, "mAP": summary.mean_ap}

    def ranking_of(ranking: AttributeRanking) -> dict[str, Any]:
        return {**ranking._asdict(), "interpreter": ranking.interpreter._asdict()}

    names = ("target", "reconstructed", "reweighted", "oracle")
    accuracy = dict(zip(attributes, evaluation.accuracy.tolist(), strict=True))
    return {
        "retrieval": {name: retrieval_of(getattr(evaluation, name)) for name in names},
        "ADRE": evaluation.adre._asdict(),
        "bias": evaluation.bias._asdict(),
        "X-mAP_e": ranking_of(evaluation.exclusive),
        "X-mAP_c": ranking_of(evaluation.common),
        "pairs": evaluation.pairs,
        "balanced_accuracy": {k: None if v != v else v for k, v in accuracy.items()},
    }
