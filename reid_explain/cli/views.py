"""From images to reports: what the commands show of a model and of pairs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_explain.amd import AMDInterpreter
from reid_explain.benchmark.methods import Method, Subject
from reid_explain.benchmark.run import versions
from reid_explain.benchmark.target import Target
from reid_explain.counterfactual import CounterfactualInterpreter
from reid_explain.errors import InputError
from reid_explain.explainers.pairs import PairExplanation
from reid_explain.inputs import PIXELS, InputSpec
from reid_explain.report import Entry, Link, Report

SCORE = "ScoreFAM(max_scored_channels=64)"
"""All channels of ten images are thousands of passes."""
SINGLE = ("GradFAM", SCORE)
MATCH, MARGIN, VERDICT = "PlaceToPlace", "Margin", "Verification"
PAIRS = (MATCH, "GradRAM", *SINGLE)
MOST_ATTRIBUTES = 12
NOTES = {
    "GradFAM": "What the embedding is made of: channels by the gradient of its length.",
    **dict.fromkeys(
        ("ScoreFAM", SCORE),
        "What the embedding is made of: channels by what they keep of it alone.",
    ),
    "GradRAM": "What points to the other image: channels by the gradient of the similarity.",
    MATCH: "What each place adds to the similarity: the places of a map add up to it. Point at a "
    "place to see which place of the other image goes with it.",
    MARGIN: "Why this image stands above the next in the list: for, and against.",
    VERDICT: "What speaks for accepting the pair at the threshold, and what against it.",
}
Maps = dict[str, Tensor]
"""Maps (N, 1, h, w) by the name of the view."""
Shares = dict[str, tuple[float, Tensor, Tensor | None]]
"""By attribute, its share of the distance, and its maps (1, h, w) over the query and the other."""


def explained(target: Target, methods: Mapping[str, Method], images: Tensor, names: Any) -> Report:
    """Return the report of images by themselves."""
    subject = Subject(images, None, target.predicted(images))
    maps = check_any(methods, maps_of(target, methods, subject))
    entries = [
        Entry(name, image, {method: found[n] for method, found in maps.items()})
        for n, (name, image) in enumerate(zip(names, target.spec.to_rgb(images), strict=True))
    ]
    return Report("What the embeddings look at", entries, None, NOTES, facts(target))


def matched(
    target: Target,
    methods: Mapping[str, Method],
    images: Tensor,
    names: Sequence[str],
    *,
    threshold: float | None = None,
    correct: Sequence[bool] | None = None,
    attributes: bool = False,
) -> Report:
    """Return the report of a query, the first image, and of what it found, the others."""
    query, others = images[:1], images[1:]
    places = place_to_place(target, methods, query, others)
    queries, found = ({}, {}) if places is None else views_of(places, threshold)
    rest = {name: method for name, method in methods.items() if name != MATCH}
    if rest or places is None:
        queries |= side(target, rest, query, others)
        found |= side(target, rest, others, query)
    shares = shares_of(target, query, others) if attributes else [{} for _ in others]
    links = [None for _ in others] if places is None else Link.of(places)
    similarity = cosines(target, images)
    entries = [
        Entry(
            names[n + 1],
            image,
            {name: maps[n] for name, maps in found.items()},
            {name: maps[n] for name, maps in queries.items()},
            similarity[n],
            None if correct is None else correct[n],
            links[n],
            shares[n],
        )
        for n, image in enumerate(target.spec.to_rgb(others))
    ]
    first = names[0], target.spec.to_rgb(query)[0]
    settings = facts(target, threshold=threshold)
    return Report(f"Why these match: {names[0]}", entries, first, NOTES, settings)


def split(
    target: Target, images: Tensor, names: Sequence[str], interpreter: Path | None = None
) -> Report:
    """Return the report of a query, the first image, and of how the others differ from it."""
    query, others = images[:1], images[1:]
    shares = shares_of(target, query, others, interpreter)
    found = zip(names[1:], target.spec.to_rgb(others), cosines(target, images), shares, strict=True)
    entries = [
        Entry(name, image, similarity=similarity, shares=each)
        for name, image, similarity, each in found
    ]
    first = names[0], target.spec.to_rgb(query)[0]
    settings = facts(target, interpreter=interpreter)
    return Report(f"What differs: {names[0]}", entries, first, NOTES, settings)


def cosines(target: Target, images: Tensor) -> list[float]:
    """Return the cosine of the first image with each of the others."""
    embedded = target.embed(images)
    return F.cosine_similarity(embedded[:1], embedded[1:]).tolist()


def maps_of(target: Target, methods: Mapping[str, Method], subject: Subject) -> Maps:
    """Return the maps of methods; what does not suit the model is named and left out."""
    found: Maps = {}
    for name, method in methods.items():
        bar = {"show_progress": True} if method.takes("show_progress") else {}
        say_begun(name, len(subject.images))
        try:
            found[name] = method.on(target)(subject, interpolate_mode=None, **bar)
        except InputError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    return found


def say_begun(name: str, images: int) -> None:
    """Say what is computed now."""
    print(f"{name}, {images} {'image' if images == 1 else 'images'}", file=sys.stderr)


def check_any(methods: Mapping[str, Method], maps: Maps) -> Maps:
    """Return maps, of at least one of the methods."""
    if not maps:
        raise InputError("methods", ", ".join(methods) or "none", "one that suits the model")
    return maps


def side(target: Target, methods: Mapping[str, Method], images: Tensor, references: Tensor) -> Maps:
    """Return the maps (N, 1, h, w) over N images for one reference, or over one image for N.

    Methods that need no reference explain an image once.
    """
    count = max(len(images), len(references))
    paired = {name: method for name, method in methods.items() if "references" in method.needs}
    alone = {name: method for name, method in methods.items() if name not in paired}
    classes = target.predicted(images)
    maps = maps_of(target, alone, Subject(images, None, classes))
    if classes is not None:
        classes = classes.expand(count)
    subject = Subject(images.expand(count, -1, -1, -1), references, classes)
    maps = check_any(methods, maps | maps_of(target, paired, subject))
    return {name: maps[name].expand(count, -1, -1, -1) for name in methods if name in maps}


def place_to_place(
    target: Target, methods: Mapping[str, Method], query: Tensor, others: Tensor
) -> PairExplanation | None:
    """Return which place goes with which, if it is wanted and the model allows it."""
    if MATCH not in methods:
        return None
    say_begun(MATCH, 1 + len(others))
    try:
        explainer = methods[MATCH].build(target)
        found: PairExplanation = explainer.explain(
            query.to(target.device), others.to(target.device), show_progress=True
        )
    except InputError as error:
        print(f"left out: {MATCH}: {error}", file=sys.stderr)
        return None
    return found


def views_of(places: PairExplanation, threshold: float | None) -> tuple[Maps, Maps]:
    """Return the maps over the query and over the others of all that pairs of places tell."""
    one, two = places.query_map, places.gallery_map
    queries, others = {MATCH: one}, {MATCH: two}
    if len(one) > 1:
        queries[MARGIN] = torch.cat([one[:-1] - one[1:], torch.zeros_like(one[:1])])
    if threshold is not None:
        queries[VERDICT], others[VERDICT] = (m - threshold / m[0].numel() for m in (one, two))
    return queries, others


def shares_of(
    target: Target, query: Tensor, others: Tensor, interpreter: Path | None = None
) -> list[Shares]:
    """Return the largest shares of the distance of a query (1, 3, H, W) to each of the others."""
    queries = query.expand_as(others)
    if interpreter is None:
        editing = CounterfactualInterpreter.for_target(target)
        edited = editing.explain(queries, others)
        names, shares, own, other = editing.groups, edited.contributions, edited.maps, None
    else:
        trained = AMDInterpreter.for_target(target, interpreter)
        read = trained.explain(queries, others)
        names, shares = trained.attributes, read.contributions
        own, other = read.query_maps, read.gallery_maps
    found: list[Shares] = []
    for n, row in enumerate(shares.detach().cpu()):
        each: Shares = {}
        for k in row.abs().argsort(descending=True)[:MOST_ATTRIBUTES].tolist():
            there = None if other is None else other[n, k : k + 1]
            each[names[k]] = float(row[k]), own[n, k : k + 1], there
        found.append(each)
    return found


def pixels_of(spec: InputSpec) -> str:
    """Return the name of how pixels become numbers, or the numbers."""
    for name, known in PIXELS.items():
        if known == spec.replace(
            size=known.size, resize=known.resize, interpolation=known.interpolation
        ):
            return name
    return f"{spec.channels} to {spec.scale:g}, mean {spec.mean}, deviation {spec.std}"


def facts(target: Target, **more: Any) -> dict[str, Any]:
    """Return what the result depends on, for the page."""
    height, width = target.spec.size
    own = {
        "model": target.label,
        "layer": target.settings()["layer"],
        "images": f"{height} × {width}",
        "pixels": pixels_of(target.spec),
        "precision": target.precision,
    }
    given = {name: value for name, value in more.items() if value is not None}
    return {**own, **given, "versions": ", ".join(f"{k} {v}" for k, v in versions().items())}
