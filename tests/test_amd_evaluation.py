"""X-mAP, its floors, ADRE and retrieval: exact values, all permutations, and plain loops."""

import itertools
import json
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reid_explain import InputError
from reid_explain.amd import evaluation
from reid_explain.amd.evaluation import (
    DecomposedRecords,
    balanced_accuracy,
    evaluate,
    largest_exclusive,
    pair_precision,
    product_distances,
)
from reid_explain.amd.loss import pair_labels
from reid_explain.datasets.records import Role
from reid_explain.metrics.attributes import (
    disagreement,
    frequencies,
    random_precision,
    ranked_precision,
)
from reid_explain.retrieval import (
    Embedded,
    Gallery,
    average_precision,
    ranks_by_distance,
    summarize,
)
from reid_explain.statistics import bootstrap_mean, bootstrap_ratio

close = torch.testing.assert_close
NAN = float("nan")


def plain_precision(scores: Sequence[float], relevant: Sequence[bool], known=None) -> float:
    """Walk down the list from the highest score."""
    places = range(len(scores)) if known is None else [k for k in range(len(scores)) if known[k]]
    hits, precisions = 0, []
    for seen, k in enumerate(sorted(places, key=lambda k: -scores[k]), start=1):
        if relevant[k]:
            hits += 1
            precisions.append(hits / seen)
    return sum(precisions) / len(precisions) if precisions else NAN


# Average precision of a ranking


@pytest.mark.parametrize(
    ("scores", "relevant", "known", "expected"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], None, 1),
        ([1, 2, 3, 4], [1, 0, 0, 0], None, 1 / 4),
        ([4, 3, 2, 1], [1, 0, 1, 0], None, (1 + 2 / 3) / 2),
        ([1, 2, 3, 4], [1, 0, 1, 0], None, (1 / 2 + 2 / 4) / 2),
        ([-5, -1, -3], [1, 0, 1], None, (1 / 2 + 2 / 3) / 2),
        ([1, 1, 1], [0, 0, 1], None, 1 / 3),  # of equal scores the first is the higher
        ([1, 1, 1], [1, 0, 0], None, 1),
        ([9, 3, 2, 1], [0, 0, 1, 0], [0, 1, 1, 1], 1 / 2),  # unknown: not in the ranking
        ([9, 3, 2, 1], [1, 0, 1, 0], [0, 1, 1, 1], 1 / 2),  # nor relevant
        ([-5, -6], [0, 1], [0, 1], 1),
        ([2, 1], [1, 1], [0, 0], NAN),
        ([2, 1], [0, 0], None, NAN),
        ([3], [1], None, 1),
    ],
)
def test_ranked_precision_by_hand(scores, relevant, known, expected):
    known = None if known is None else torch.tensor(known, dtype=torch.bool)
    found = ranked_precision(torch.tensor(scores).float(), torch.tensor(relevant).bool(), known)
    close(found, torch.tensor(expected).float(), equal_nan=True)


@pytest.mark.slow
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_ranked_precision_is_a_plain_walk(seed, attributes):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 6, (3, 4, attributes), generator=generator).double()
    relevant, known = torch.rand(2, 3, 4, attributes, generator=generator) < 0.6
    for mask in (None, known):
        found = ranked_precision(scores, relevant, mask)
        assert found.dtype == torch.float32
        expected = [
            [
                plain_precision(scores[i, j], relevant[i, j], None if mask is None else mask[i, j])
                for j in range(4)
            ]
            for i in range(3)
        ]
        close(found, torch.tensor(expected), equal_nan=True)


def test_one_row_of_relevant_and_known_serves_many_of_scores():
    scores = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    relevant, known = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    close(
        ranked_precision(scores, relevant, known),
        ranked_precision(scores, relevant.expand(5, 3), known.expand(5, 3)),
    )


@pytest.mark.parametrize("name", ["relevant", "known"])
@pytest.mark.parametrize("mask", [torch.ones(2, 4).bool(), torch.ones(2, 3)])
def test_masks_are_bool_and_as_wide_as_the_scores(name, mask):
    arguments = {"relevant": torch.ones(2, 3).bool(), name: mask}
    with pytest.raises(InputError, match=rf"^{name}: .*bool \(..., 3\)"):
        ranked_precision(torch.rand(2, 3), **arguments)


# Floors


@pytest.mark.parametrize("attributes", range(1, 7))
def test_random_precision_is_the_mean_over_all_orders(attributes):
    for hits in range(attributes + 1):
        row = [True] * hits + [False] * (attributes - hits)
        orders = list(itertools.permutations(range(attributes)))
        expected = sum(plain_precision(order, row) for order in orders) / len(orders)
        found = random_precision(torch.tensor(row))
        close(found, torch.tensor(expected, dtype=torch.float32), equal_nan=True)
        # unknown attributes count for nothing, relevant or not
        known = torch.tensor([False, *[True] * attributes, False])
        wider = random_precision(torch.tensor([True, *row, False]), known)
        close(wider, found, equal_nan=True)


def test_random_precision_of_many_rows():
    relevant = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(0)) < 0.4
    rows = torch.stack([random_precision(row) for row in relevant.flatten(0, 1)])
    close(random_precision(relevant), rows.view(2, 3), equal_nan=True)


def test_frequencies_and_disagreement_by_hand():
    labels = torch.tensor([[1, 2, 0, 0], [2, 2, 2, 0], [2, 2, 1, 0], [1, 2, 2, 0]])
    p = frequencies(labels)
    assert p.dtype == torch.float32
    close(p, torch.tensor([0.5, 1.0, 2 / 3, 0.0]))
    close(disagreement(p), torch.tensor([0.5, 0.0, 4 / 9, 0.0]))


def test_disagreement_is_how_often_two_differ():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 3, (9, 5), generator=generator)
    often = (labels[:, None] != labels).double().mean((0, 1))
    close(disagreement(frequencies(labels)).double(), often)


# The evaluation against plain loops over all pairs

PERSON, DISTRACTOR, JUNK = (role.value for role in Role)


def embedded_of(embeddings: Tensor, identities: Tensor, cameras: Sequence[int]) -> Embedded:
    """Identities from 1 are people, 0 distractors and -1 junk."""
    roles = torch.where(identities > 0, PERSON, torch.where(identities == 0, DISTRACTOR, JUNK))
    return Embedded(embeddings, identities, torch.tensor(cameras), roles)


def world(seed: int = 0, dtype: torch.dtype = torch.float64, attributes: int = 6, width: int = 5):
    """Query and gallery with junk, distractors, people of one side alone and unknown labels."""
    generator = torch.Generator().manual_seed(seed)
    by_identity = torch.randint(1, 3, (7, attributes), generator=generator)
    by_identity[0] = 0
    by_identity[3, :2] = 0
    by_identity[5] = by_identity[1]  # another person with the same attributes
    by_identity[6], by_identity[2] = 2, 1  # and two who have nothing in common

    def records(identities: list[int], cameras: list[int]) -> DecomposedRecords:
        count = len(identities)
        who = torch.tensor(identities)
        shape = (count, attributes, width)
        parts = torch.randn(shape, generator=generator, dtype=torch.float64) / attributes + 3
        sizes = by_identity[who.clamp(min=0)].double() ** 2
        parts = parts + 0.3 * sizes[:, :, None]
        embeddings = parts.sum(1) + torch.randn(
            count, width, generator=generator, dtype=torch.float64
        )
        predicted = torch.randint(1, 3, (count, attributes), generator=generator)
        return DecomposedRecords(
            embedded_of(embeddings.to(dtype), who, cameras),
            parts.to(dtype),
            by_identity[who.clamp(min=0)] * (who > 0)[:, None],
            predicted,
        )

    query = records([1, 2, 3, 1, 4, 6, 5], [1, 1, 2, 3, 1, 1, 2])
    gallery = records(
        [1, 0, 2, -1, 3, 1, 0, 2, 4, 1, 3, -1, 2, 1, 6, 5],
        [1, 2, 3, 1, 3, 2, 1, 1, 2, 3, 2, 1, 2, 2, 4, 1],
    )
    gallery.labels[9] = 3 - gallery.labels[9]  # an image that is labelled unlike its person
    return query, gallery


def blocks(records: DecomposedRecords, size: int) -> list[DecomposedRecords]:
    starts = range(0, len(records.labels), size)
    return [records.rows(slice(start, start + size)) for start in starts]


def plain_exclusive(first: Sequence[int], second: Sequence[int]) -> list[bool]:
    return [bool(a and b and a != b) for a, b in zip(first, second, strict=True)]


def plain_common(first: Sequence[int], second: Sequence[int]) -> list[bool]:
    return [bool(a and b and a == b) for a, b in zip(first, second, strict=True)]


def brute_force(query: DecomposedRecords, gallery: DecomposedRecords, p: Tensor, gamma: float):
    """Everything that ``evaluate`` reports, pair by pair in float64."""
    kept = [j for j, i in enumerate(gallery.embedded.identities.tolist()) if i != -1]
    order = [2 * x * (1 - x) for x in p.double().tolist()]
    table = {name: [] for name in ("target", "reconstructed", "reweighted", "oracle")}
    errors: list[list[float]] = []
    precision = {
        (kind, ranking): []
        for kind in ("exclusive", "common")
        for ranking in ("interpreter", "fixed_order", "random_order")
    }
    for i, who in enumerate(query.embedded.identities.tolist()):
        rows = {name: [] for name in table}
        errors.append([])
        here = {key: [] for key in precision}
        for j in kept:
            each = [
                math.dist(a, b)
                for a, b in zip(query.parts[i].tolist(), gallery.parts[j].tolist(), strict=True)
            ]
            d = math.dist(
                query.embedded.embeddings[i].tolist(), gallery.embedded.embeddings[j].tolist()
            )
            true = (query.labels[i].tolist(), gallery.labels[j].tolist())
            guessed = (query.predicted[i].tolist(), gallery.predicted[j].tolist())
            rows["target"].append(d)
            rows["reconstructed"].append(sum(each))
            for name, labels in (("reweighted", guessed), ("oracle", true)):
                differ = plain_exclusive(*labels)
                most = max((x for x, e in zip(each, differ, strict=True) if e), default=0)
                rows[name].append(d + gamma * most)
            if d > 0:
                errors[-1].append(abs(d - sum(each)) / d)
            exclusive, common = plain_exclusive(*true), plain_common(*true)
            if not any(exclusive) or gallery.embedded.identities[j] == who:
                continue
            known = [e or c for e, c in zip(exclusive, common, strict=True)]
            for kind, relevant, sign in (("exclusive", exclusive, 1), ("common", common, -1)):
                if not any(relevant):
                    continue
                for ranking, scores in (("interpreter", each), ("fixed_order", order)):
                    signed = [sign * x for x in scores]
                    here[kind, ranking].append(plain_precision(signed, relevant, known))
                here[kind, "random_order"].append(expected_at_random(sum(relevant), sum(known)))
        for name, row in rows.items():
            table[name].append(row)
        for key, values in here.items():
            precision[key].append(values)
    found = gallery.embedded.rows(torch.tensor(kept))
    retrieval = {
        name: summarize(ranks_by_distance(torch.tensor(rows), query.embedded, found))
        for name, rows in table.items()
    }
    return retrieval, errors, precision


def expected_at_random(relevant: int, known: int) -> float:
    """Mean over all places that the relevant ones can take."""
    chosen = itertools.combinations(range(1, known + 1), relevant)
    values = [sum((n + 1) / place for n, place in enumerate(row)) / relevant for row in chosen]
    return sum(values) / len(values)


def plain_mean(by_query: list[list[float]]) -> float:
    values = [x for row in by_query for x in row]
    return 100 * sum(values) / len(values)


P = torch.tensor([0.1, 0.45, 0.9, 0.3, 0.75, 0.5])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma", [1.0, 0.25])
def test_evaluation_is_plain_loops_over_all_pairs(seed, gamma):
    query, gallery = world(seed)
    retrieval, errors, precision = brute_force(query, gallery, P, gamma)
    found = evaluate([query], [gallery], P, gamma=gamma)
    assert found["ADRE"]["mean"] == pytest.approx(plain_mean(errors), rel=1e-9)
    for kind, key in KINDS.items():
        for name in ("interpreter", "fixed_order", "random_order"):
            value = found[key][name]
            value = value["mean"] if name == "interpreter" else value
            assert value == pytest.approx(plain_mean(precision[kind, name]), rel=1e-5), (kind, name)
    assert found["pairs"] == sum(map(len, precision["exclusive", "interpreter"]))
    assert sum(map(len, precision["common", "interpreter"])) < found["pairs"]
    assert found["retrieval"] == {
        way: {**{f"rank{k}": rate for k, rate in part.cmc.items()}, "mAP": part.mean_ap}
        for way, part in retrieval.items()
    }
    figures = [r.mean_ap for r in retrieval.values()]
    assert gamma < 1 or len(set(figures)) == 4


def test_retrieval_of_the_target_is_that_of_its_embeddings():
    query, gallery = world()
    found = evaluate([query], [gallery], P)
    ranks = Gallery(gallery.embedded, metric="euclidean").ranks(query.embedded)
    assert found["retrieval"]["target"]["mAP"] == summarize(ranks).mean_ap
    precision = [None if value != value else value for value in average_precision(ranks).tolist()]
    assert found["per_query"]["target"]["mAP"] == [v and 100 * v for v in precision]


def test_intervals_are_over_identities_and_of_ratios():
    query, gallery = world()
    _, errors, precision = brute_force(query, gallery, P, 1.0)
    found = evaluate([query], [gallery], P)
    for interval, by_query in (
        (found["ADRE"], errors),
        (found["X-mAP_e"]["interpreter"], precision["exclusive", "interpreter"]),
        (found["X-mAP_c"]["interpreter"], precision["common", "interpreter"]),
    ):
        sums, counts = (torch.tensor([f(row) for row in by_query]).double() for f in (sum, len))
        expected = bootstrap_ratio(100 * sums, counts, query.embedded.identities)
        low, high = interval["interval"]
        assert (interval["mean"], low, high) == pytest.approx(expected, rel=1e-5)
        assert low < interval["mean"] < high


def test_a_ratio_that_all_pairs_share_has_no_width():
    """Queries with few and with many pairs, each of them off by a tenth (B3)."""
    query = nested([1, 1, 2, 5], [1, 3, 1, 1])
    gallery = nested([1] * 9 + [2, 3, 4, 5, 6], [2] * 14)
    shrunk = (records._replace(parts=0.9 * records.parts) for records in (query, gallery))
    found = evaluate(*([records] for records in shrunk), P)
    assert flat(found["ADRE"]) == pytest.approx([10, 10, 10])
    assert flat(found["bias"]) == pytest.approx([-10, -10, -10])
    assert flat(found["X-mAP_e"]["interpreter"]) == pytest.approx([100, 100, 100])


def test_gains_are_paired_over_the_queries_with_a_match_by_identity():
    query, gallery = world()
    gallery = gallery.rows(gallery.embedded.identities != 6)
    found = evaluate([query], [gallery], P)
    for way, gains in found["gain"].items():
        for name, value in gains.items():
            after, before = (found["per_query"][k][name] for k in (way, "target"))
            pairs = [
                (a - b, i)
                for a, b, i in zip(after, before, query.embedded.identities.tolist(), strict=True)
                if a is not None
            ]
            differences, people = (torch.tensor(column) for column in zip(*pairs, strict=True))
            assert flat(value) == pytest.approx(list(bootstrap_mean(differences.double(), people)))
            both = [found["retrieval"][k][name] for k in (way, "target")]
            assert value["mean"] == pytest.approx(both[0] - both[1], abs=1e-4)
    assert len(pairs) < len(query.labels)


@pytest.mark.parametrize("query_size", [1, 3])
@pytest.mark.parametrize("gallery_size", [1, 5])
@pytest.mark.parametrize("compared", [1, 100, 2**20])
def test_block_sizes_do_not_matter(query_size, gallery_size, compared, monkeypatch):
    query, gallery = world()
    expected = evaluate([query], [gallery], P)
    monkeypatch.setattr(evaluation, "COMPARED", compared)
    found = evaluate(iter(blocks(query, query_size)), iter(blocks(gallery, gallery_size)), P)
    assert found["per_query"] == expected["per_query"]
    assert flat(found) == pytest.approx(flat(expected), rel=1e-6, abs=1e-6)


KINDS = {"exclusive": "X-mAP_e", "common": "X-mAP_c"}


def flat(value) -> list[float]:
    """All numbers of plain data in order, but None."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in flat(part)]
    return [] if value is None else [value]


def test_the_callers_tensors_stay_as_they_are():
    query, gallery = world()
    before = [query.parts.clone(), gallery.parts.clone(), query.embedded.embeddings.clone()]
    evaluate([query], [gallery], P)
    after = [query.parts, gallery.parts, query.embedded.embeddings]
    assert all(map(torch.equal, after, before))


def test_junk_alone_changes_nothing():
    query, gallery = world()
    real = gallery.rows(gallery.embedded.roles != JUNK)
    assert evaluate([query], [gallery], P) == evaluate([query], [real], P)
    junk = gallery.rows(gallery.embedded.roles == JUNK)
    assert evaluate([query], [junk, real, junk], P) == evaluate([query], [real], P)


def test_distractors_count_for_adre_and_retrieval_alone():
    query, gallery = world()
    distractor = gallery.embedded.roles == DISTRACTOR
    gallery.embedded.embeddings[distractor] = query.embedded.embeddings[0]
    without = gallery.rows(~distractor)
    found, less = evaluate([query], [gallery], P), evaluate([query], [without], P)
    for key in ("X-mAP_e", "X-mAP_c", "pairs"):
        assert flat(found[key]) == pytest.approx(flat(less[key]))
    assert found["ADRE"]["mean"] != pytest.approx(less["ADRE"]["mean"], rel=1e-4)
    assert precisions(found)["target"] < precisions(less)["target"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_that_is_query_and_gallery_stays_out_of_the_error(dtype):
    """Inner products leave a distance of about 1e-3 there, and errors of thousands of percent."""
    query, gallery = world(dtype=dtype, width=512)
    doubled = [gallery, query]
    _, errors, _ = brute_force(
        query,
        DecomposedRecords.joined("gallery", doubled),
        P,
        1.0,
    )
    assert sum(map(len, errors)) == 7 * (14 + 7) - 7
    assert evaluate([query], doubled, P)["ADRE"]["mean"] == pytest.approx(
        plain_mean(errors), rel=1e-4
    )


def nested(people: Sequence[int], cameras: Sequence[int], attributes: int = 6) -> DecomposedRecords:
    """Person n has the first n attributes, so that one number tells how many two differ in."""
    who = torch.tensor(people)
    labels = 1 + (torch.arange(attributes) < who[:, None]).long()
    embedded = embedded_of(who[:, None].double(), who, cameras)
    return DecomposedRecords(embedded, labels[:, :, None].double(), labels, labels)


def test_a_perfect_interpreter():
    query, gallery = nested([1, 2, 5], [1, 1, 1]), nested([1, 2, 3, 4, 5, 6], [2] * 6)
    found = evaluate([query], [gallery], P)
    assert flat(found["ADRE"]) == pytest.approx([0, 0, 0], abs=1e-6)
    for key in KINDS.values():
        assert flat(found[key]["interpreter"]) == pytest.approx([100, 100, 100])
        assert found[key]["random_order"] < 95
        assert found[key]["fixed_order"] < 95
    assert found["pairs"] == 3 * 5
    assert set(precisions(found).values()) == {100}
    assert found["balanced_accuracy"] == [None, *[100] * 5]  # everybody has the first


def precisions(found: dict) -> dict[str, float]:
    return {way: part["mAP"] for way, part in found["retrieval"].items()}


def test_reweighting_by_hand():
    """d' = d + max exclusive d^e: 0.1 + 0.5 for the stranger, 0.4 for the match."""
    query = nested([1], [1], attributes=2)
    gallery = nested([2, 1], [1, 2], attributes=2)
    gallery.embedded.embeddings[:] = torch.tensor([[1.1], [1.4]])
    gallery.parts[:, :, 0] = torch.tensor([[2.9, 1.5], [2.9, 1.9]])
    found = evaluate([query], [gallery], P[:2])
    assert precisions(found) == {
        "target": 50,
        "reconstructed": 50,
        "reweighted": 100,
        "oracle": 100,
    }
    # labelled as one, predicted as other: the two go apart
    gallery = gallery._replace(predicted=torch.tensor([[2, 1], [2, 2]]))
    found = evaluate([query], [gallery], P[:2])
    assert precisions(found)["oracle"] == 100
    assert precisions(found)["reweighted"] == 50
    assert precisions(evaluate([query], [gallery], P[:2], gamma=0.5))["oracle"] == 50


def test_floors_know_nothing_of_the_interpreter():
    query, gallery = world()
    other = query._replace(parts=torch.rand_like(query.parts), predicted=query.labels)
    found, changed = evaluate([query], [gallery], P), evaluate([other], [gallery], P)
    for key in KINDS.values():
        for name in ("fixed_order", "random_order"):
            assert found[key][name] == changed[key][name]
        assert found[key]["interpreter"] != changed[key]["interpreter"]


def test_balanced_accuracy_by_hand():
    labels = torch.tensor([[1, 1, 2], [1, 2, 2], [1, 2, 0], [2, 0, 2]])
    predicted = torch.tensor([[1, 2, 2], [1, 2, 2], [2, 1, 1], [2, 1, 1]])
    expected = [100 * (2 / 3 + 1) / 2, 100 * (0 + 1 / 2) / 2, NAN]
    close(balanced_accuracy(predicted, labels), torch.tensor(expected).double(), equal_nan=True)


def test_accuracy_is_over_query_and_gallery_images_but_junk():
    query, gallery = world()
    kept = gallery.embedded.roles != JUNK
    expected = balanced_accuracy(
        torch.cat([query.predicted, gallery.predicted[kept]]),
        torch.cat([query.labels, gallery.labels[kept]]),
    )
    assert evaluate([query], [gallery], P)["balanced_accuracy"] == expected.tolist()
    assert expected.isfinite().all()


def test_without_an_attribute_that_differs_there_is_no_x_map():
    query, gallery = nested([1, 2], [1, 1]), nested([1, 2], [2, 2])
    query.labels[:], gallery.labels[:] = 1, 1
    found = evaluate([query], [gallery], P)
    assert found["pairs"] == 0
    assert found["X-mAP_e"] == found["X-mAP_c"]
    assert set(found["X-mAP_e"].values()) == {None}
    assert math.isfinite(found["ADRE"]["mean"])
    json.dumps(found, allow_nan=False)


def test_pair_precision_and_largest_exclusive_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0, 9.0]]).expand(3, 4)
    first = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 2]])
    second = torch.tensor([[1, 1, 2, 1], [1, 1, 1, 1], [2, 2, 2, 1]])
    exclusive, common = pair_precision(scores, pair_labels(first, second))
    close(exclusive, torch.tensor([1 / 2, NAN, 1.0]), equal_nan=True)
    close(common, torch.tensor([(1 + 2 / 3) / 2, NAN, NAN]), equal_nan=True)
    assert largest_exclusive(scores, pair_labels(first, second)).tolist() == [2, 0, 9]


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_product_distances_are_distances(seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    gallery = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    gallery[1, 2] = query[1, 3]
    expected = (query[:, :, None] - gallery[:, None]).square().sum(-1).sqrt()
    found = product_distances(query, gallery)
    close(found, expected, atol=1e-7, rtol=1e-9)


def test_product_distances_of_rows_to_themselves_are_about_0():
    """Rounding takes some of their squares below 0."""
    rows = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    assert (product_distances(rows, rows).diagonal() < 0.02).all()


def test_features_that_lie_far_from_0_keep_their_distances_in_float32():
    """f^k of all images lie together, away from 0: the mean of the queries is taken out."""
    query, gallery = world()
    query, gallery = (
        part._replace(parts=(part.parts + 1000).float(), embedded=part.embedded)
        for part in (query, gallery)
    )
    _, errors, precision = brute_force(query, gallery, P, 1.0)
    found = evaluate([query], [gallery], P)
    assert found["ADRE"]["mean"] == pytest.approx(plain_mean(errors), rel=1e-4)
    expected = plain_mean(precision["exclusive", "interpreter"])
    assert found["X-mAP_e"]["interpreter"]["mean"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["query", "gallery"])
def test_no_image_is_refused(name):
    query, gallery = world()
    data = {"query": [query], "gallery": [gallery], name: []}
    with pytest.raises(InputError, match=f"^{name}: got no image"):
        evaluate(**data, frequencies=P)


@pytest.mark.parametrize("identity", [0, -1, 9])
def test_a_gallery_without_a_match_is_refused(identity):
    query, gallery = world()
    identities = torch.full_like(gallery.embedded.identities, identity)
    embeddings, _, cameras, _ = gallery.embedded
    gallery = gallery._replace(embedded=embedded_of(embeddings, identities, cameras.tolist()))
    with pytest.raises(InputError, match="queries without a match|gallery: got no image"):
        evaluate([query], [gallery], P)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_the_bias_is_what_all_pairs_have_in_common(factor):
    query, gallery = world()
    before = evaluate([query], [gallery], P)["bias"]["mean"]
    scaled = (part._replace(parts=factor * part.parts) for part in (query, gallery))
    after = evaluate(*([part] for part in scaled), P)["bias"]["mean"]
    assert 100 + after == pytest.approx(factor * (100 + before), rel=1e-5)
    known = evaluate([query], [query._replace(parts=query.parts)], P)
    assert abs(known["bias"]["mean"]) <= known["ADRE"]["mean"]
