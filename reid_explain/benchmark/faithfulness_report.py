"""What the rows of the faithfulness benchmark say: results, tables, figures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from reid_explain.benchmark.metrics import Metric
from reid_explain.benchmark.metrics.faithfulness import DROPS, PREFIXES, curve_columns
from reid_explain.benchmark.run import by_method
from reid_explain.benchmark.tables import (
    interval,
    layout,
    metric_figure,
    metric_table,
    named,
    summary,
    tradeoff,
)
from reid_explain.benchmark.task import Bench, Report
from reid_explain.fills import AREAS, FILLS
from reid_explain.retrieval import summarize
from reid_explain.visualization import (
    Curve,
    curves_figure,
    overlay,
    picture_figure,
)

if TYPE_CHECKING:
    from reid_explain.benchmark.faithfulness import Query

REFERENCE_CONTROL = "ActivationMean"
"""The control that every method is compared with, query by query."""
PUBLISHED = files(__package__).joinpath("published.json")
DROP_CURVES = [column for fill in FILLS for column in curve_columns("as_drop", fill)]
SHARES = [100 * fraction for fraction in AREAS]


def report(
    bench: Bench, metrics: Sequence[Metric], frame: pd.DataFrame, examples: Iterable["Query"]
) -> Report:
    """Return results, tables and figures; percentages from 0 to 100."""
    tables = by_method(frame)
    scalars = [m for m in metrics if m.name in m.columns and m.unit != "s"]
    retrieval = summarize(bench.gallery.ranks(bench.queries), at=(1, 5))
    one = next(iter(tables.values()))
    results: dict[str, Any] = {
        "retrieval": {
            "rank1": retrieval.cmc[1],
            "rank5": retrieval.cmc[5],
            "mAP": retrieval.mean_ap,
        },
        "queries": len(one),
        "excluded": {
            "queries_without_match": retrieval.excluded,
            **{drop: int(one[drop].isna().sum()) for drop in DROPS if drop in one},
        },
        "methods": {
            name: {m.name: summary(own, m) for m in scalars} for name, own in tables.items()
        },
    }
    methods, chosen = results["methods"], {metric.name for metric in metrics}
    parts = [_paper_table(bench, results, scalars)]
    figures = {"table": metric_figure(methods, scalars, bench.controls)}
    if "area_matched" in chosen:
        for name, own in tables.items():
            methods[name]["area_matched"] = {
                fill: _area_matched(own, tables.get(REFERENCE_CONTROL), fill) for fill in FILLS
            }
        parts += [_area_table(methods, bench.controls), *_verdicts(methods)]
        figures["area"] = lambda: _areas(methods, bench.controls)
    if "seconds" in chosen:
        for name, own in tables.items():
            methods[name]["seconds_per_image"] = float(own["seconds"].mean())
        lines = [[name, f"{m['seconds_per_image']:.3f}"] for name, m in methods.items()]
        parts.append(layout([["seconds per image", ""], *lines]))
    if chosen >= {"seconds", "area_matched"}:
        losses = {name: own[DROP_CURVES].mean(axis=1, skipna=False) for name, own in tables.items()}
        seconds = {name: own["seconds"].median() for name, own in tables.items()}
        figures["tradeoff"] = tradeoff(seconds, "seconds for a map", losses, bench.controls)
    if shown := [*examples]:
        figures["examples"] = lambda: _examples(bench, shown)
    return Report(results, "\n\n".join(parts), figures)


def _area_matched(own: pd.DataFrame, control: pd.DataFrame | None, fill: str) -> dict[str, Any]:
    """Return drops at equal areas under one fill: curves, their mean, and paired leads."""
    found: dict[str, Any] = {"fractions": list(AREAS)}
    for drop in DROPS:
        curves = [own[curve_columns(drop, fill, kind)] for kind in PREFIXES]
        area, random = (curve.mean(axis=1, skipna=False) for curve in curves)
        found[drop] = {
            **dict(zip(("curve", "random_curve"), map(_points, curves), strict=True)),
            "area": interval(area),
            "random_area": interval(random),
            "lead_over_random": interval(random - area),
        }
        if control is not None:
            base = control[curve_columns(drop, fill)].mean(axis=1, skipna=False)
            found[drop][f"lead_over_{REFERENCE_CONTROL}"] = interval(base - area)
    return found


def _points(curves: pd.DataFrame) -> list[float | None]:
    """Return the mean of each column over the queries that have all."""
    kept = curves.dropna()
    return kept.mean().tolist() if len(kept) else [None] * len(curves.columns)


def _beats(found: Mapping[str, Any], lead: str) -> str:
    """Say under how many fills a lead in AS Drop at equal areas excludes 0."""
    leads = [found["area_matched"][fill]["as_drop"].get(lead) for fill in FILLS]
    if any(value is None for value in leads):
        return "-"
    won = sum((value["interval"][0] or 0) > 0 for value in leads)
    return {len(FILLS): "yes", 0: "no"}.get(won, f"{won} of {len(FILLS)} fills")


def _paper_table(bench: Bench, results: dict[str, Any], metrics: Sequence[Metric]) -> str:
    """Return the paper's figures, the kept area and whatever else is measured."""
    excluded, retrieval = results["excluded"], results["retrieval"]
    published = json.loads(PUBLISHED.read_text())["faithfulness"]
    rows = published.get(bench.dataset.name.removesuffix("_detected"), {})
    lines = metric_table(results["methods"], metrics, bench.controls)
    for method, values in rows.items():
        known = dict(zip(published["columns"], values, strict=True))
        cells = (f"{known[m.name]:.1f}" if m.name in known else "" for m in metrics)
        lines.append([f"{method}, published", *cells])
    few = ", ".join(f"of {m.title} {excluded[m.name]}" for m in metrics if m.name in excluded)
    notes = (
        f"{bench.dataset.name}, {bench.target.label}: Rank-1 {retrieval['rank1']:.1f}, "
        f"mAP {retrieval['mAP']:.1f}. In %, with 95 % bootstrap intervals over the identities of "
        f"{results['queries']} queries. Left out: {excluded['queries_without_match']} queries "
        f"without a match; {few or 'none'} with a denominator of at most 0. * control"
    )
    return f"{layout(lines)}\n{notes}" + (f"; published: {published['source']}" if rows else "")


def _area_table(methods: Mapping[str, Any], controls: Sequence[str]) -> str:
    """Return the AS Drop at equal areas under each fill, beside that of random maps."""
    lines = [["AS Drop at equal areas", *FILLS, "beats random", f"beats {REFERENCE_CONTROL}"]]
    for method, found in methods.items():
        drops = [found["area_matched"][fill]["as_drop"] for fill in FILLS]
        cells = (
            f"{d['area']['mean']:.1f} ({d['random_area']['mean']:.1f})" if d["area"] else "-"
            for d in drops
        )
        same = method == REFERENCE_CONTROL
        against = "" if same else _beats(found, f"lead_over_{REFERENCE_CONTROL}")
        row = [named(method, controls), *cells, _beats(found, "lead_over_random"), against]
        lines.append(row)
    shares = ", ".join(f"{share:g}" for share in SHARES)
    return (
        f"{layout(lines)}\nMean over kept areas of {shares} %; lower is better. In brackets: "
        "random maps of the same smoothness. yes: the paired 95 % interval of the lead excludes 0 "
        "under every fill"
    )


def _verdicts(methods: Mapping[str, Any]) -> list[str]:
    """Return what has to be said in words."""
    won = {name: _beats(found, "lead_over_random") for name, found in methods.items()}
    nothing = [name for name, fills in won.items() if fills not in ("yes", "-")]
    if not nothing:
        return []
    return [
        f"{', '.join(nothing)}: not shown to beat random maps at equal area under every fill. "
        "There, such a map has explained nothing."
    ]


def _areas(methods: Mapping[str, Any], controls: Sequence[str]) -> Figure:
    """Draw AS Drop against kept area: as the paper keeps it, and at equal areas."""
    points = {
        name: Curve([found["kept_area"]["mean"]], [found["as_drop"]["mean"]])
        for name, found in methods.items()
        if found.get("kept_area") and found.get("as_drop")
    }
    curves: dict[str, dict[str, dict[str, Curve]]] = {"curve": {}, "random_curve": {}}
    for kind, panels in curves.items():
        for fill in FILLS:
            drops = {name: m["area_matched"][fill]["as_drop"] for name, m in methods.items()}
            own = {name: Curve(SHARES, drop[kind]) for name, drop in drops.items() if drop["area"]}
            panels[f"equal areas, fill: {fill}"] = own
    return curves_figure(
        {"explanation maps of the paper": points, **curves["curve"]},
        xlabel="kept area, %",
        ylabel="AS Drop, %",
        controls=controls,
        dotted=curves["random_curve"],
        dotted_label="random maps as smooth",
    )


def _examples(bench: Bench, examples: Iterable["Query"]) -> Figure:
    """Draw the maps of some queries, and below each what its explanation map keeps."""
    rgb = bench.target.spec.to_rgb
    names = [name for name in bench.methods if name != "FullImage"]
    rows: list[list[Any]] = []
    for query in examples:
        image = rgb(query.images)[0]
        views = [query.explained_by(name) for name in names]
        maps = [view.map for view in views]
        rows.append([image, *(None if m is None else overlay(image, m[0]) for m in maps)])
        rows.append([None, *(rgb(view.kept)[0] for view in views)])
    return picture_figure(rows, titles=["query", *names])
