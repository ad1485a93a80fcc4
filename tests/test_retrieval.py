"""Ranks, AP and CMC: by hand, against a plain sorted evaluation, and whatever the blocks."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from reid_explain import InputError
from reid_explain.datasets.records import Record, Role
from reid_explain.inputs import InputSpec
from reid_explain.retrieval import (
    Embedded,
    Gallery,
    average_precision,
    cumulative_matches,
    embed_records,
    ranks_by_distance,
    relevance,
    summarize,
)

NAN = float("nan")
PERSON, DISTRACTOR, JUNK = (role.value for role in Role)


def embedded(embeddings, identities, cameras, roles=None, dtype=torch.float64):
    columns = [torch.tensor(column) for column in (identities, cameras)]
    roles = [PERSON] * len(identities) if roles is None else roles
    return Embedded(torch.tensor(embeddings, dtype=dtype), *columns, torch.tensor(roles))


def made_up(count, generator, width=32, identities=20):
    columns = [
        torch.randint(low, high, (count,), generator=generator)
        for low, high in ((0, identities), (1, 7), (0, 3))
    ]
    columns[2][torch.rand(count, generator=generator) < 0.8] = PERSON
    return Embedded(torch.randn(count, width, generator=generator), *columns)


def on_circle(degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()


def plain_evaluation(query, gallery, metric, interpolation):
    """Sort everything and walk down the list: the protocol as torchreid and fast-reid have it.

    Trapezoid: the original Market-1501 script.
    """
    q, g = query.embeddings.double(), gallery.embeddings.double()
    if metric == "cosine":
        q, g = (x / x.norm(dim=1, keepdim=True) for x in (q, g))
    precisions, all_ranks, orders = [], [], []
    for vector, identity, camera, role in zip(q, *query[1:], strict=True):
        distance = (g - vector).square().sum(1).round(decimals=9)
        hits, order = [], []
        for index in np.argsort(distance.numpy(), kind="stable"):
            of_nobody = int(gallery.roles[index]) != PERSON or int(role) != PERSON
            same = not of_nobody and int(gallery.identities[index]) == int(identity)
            junk = same and int(gallery.cameras[index]) == int(camera)
            if not junk and int(gallery.roles[index]) != JUNK:
                hits.append(same)
                order.append(int(index))
        orders.append(order)
        all_ranks.append([rank for rank, hit in enumerate(hits) if hit])
        if not any(hits):
            precisions.append(NAN)
            continue
        area, found, before = 0.0, 0, 1.0
        for seen, hit in enumerate(hits, start=1):
            found += hit
            precision = found / seen
            if hit and interpolation == "standard":
                area += precision
            elif hit:
                area += (before + precision) / 2
            before = precision
        precisions.append(area / sum(hits))
    return precisions, all_ranks, orders


def test_ranks_and_scores_worked_out_by_hand():
    # Query of person 1, camera 1, at 0 degrees. Nearer to farther: junk of its own camera (1),
    # a distractor (5), a match (10), junk by its role (15), person 2 (20), a match (30).
    query = embedded(on_circle([0]), [1], [1])
    roles = [PERSON, PERSON, PERSON, DISTRACTOR, PERSON, JUNK]
    gallery = embedded(
        on_circle([10, 1, 30, 5, 20, 15]), [1, 1, 1, 1, 2, 1], [2, 1, 3, 2, 1, 2], roles
    )
    (ranks,) = Gallery(gallery).ranks(query)
    assert ranks.tolist() == [1, 3]
    # Precision at the hits 1/2 and 2/4; before them 0/1 and 1/3.
    assert average_precision([ranks]).tolist() == pytest.approx([1 / 2])
    trapezoid = ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert average_precision([ranks], "trapezoid").tolist() == pytest.approx([trapezoid])
    assert cumulative_matches([ranks], (1, 2, 10)).tolist() == [[0, 1, 1]]
    similarity, precision = Gallery(gallery).scores(query, "trapezoid")
    assert precision.tolist() == pytest.approx([trapezoid])
    assert similarity.tolist() == pytest.approx([np.cos(np.deg2rad([10, 30])).mean()])
    assert Gallery(gallery).nearest(query, 4).tolist() == [[3, 0, 4, 2]]


def test_a_first_place_counts_as_full_precision_before_it():
    ranks = [torch.tensor([0, 2])]
    assert average_precision(ranks, "trapezoid").item() == pytest.approx(
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_of_equal_distances_the_first_in_the_gallery_is_nearer(metric, block):
    query = embedded([[1.0, 0.0]], [1], [1])
    vectors = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]
    gallery = Gallery(embedded(vectors, [2, 1, 3], [2, 2, 2]), metric=metric, block=block)
    assert gallery.ranks(query)[0].tolist() == [1]
    assert gallery.nearest(query, 3).tolist() == [[0, 1, 2]]


def test_euclidean_and_cosine_differ_where_lengths_do():
    query = embedded([[1.0, 0.0]], [1], [1])
    gallery = embedded([[1.0, 0.5], [9.0, 0.0]], [2, 1], [2, 2])
    assert Gallery(gallery, metric="cosine").ranks(query)[0].tolist() == [0]
    assert Gallery(gallery, metric="euclidean").ranks(query)[0].tolist() == [1]


def test_queries_without_a_match_are_left_out_and_counted():
    # Person 1 only in its own camera; junk and distractors are nobody, also as queries.
    roles = [PERSON, JUNK, DISTRACTOR, PERSON]
    query = embedded([[1.0, 0.0]] * 4, [1, 5, 6, 2], [1, 1, 1, 1], roles)
    gallery = Gallery(embedded([[1.0, 0.0]] * 4, [1, 5, 6, 2], [1, 2, 2, 2], roles))
    ranks = gallery.ranks(query)
    assert [len(row) for row in ranks] == [0, 0, 0, 1]
    # For person 2: person 1 and the distractor stand before it, junk is not there.
    assert average_precision(ranks).tolist() == pytest.approx([NAN, NAN, NAN, 1 / 3], nan_ok=True)
    assert gallery.match_similarity(query).tolist() == pytest.approx([NAN] * 3 + [1], nan_ok=True)
    summary = summarize(ranks, at=(1, 3))
    assert (summary.queries, summary.excluded) == (4, 3)
    assert summary.mean_ap == pytest.approx(100 / 3)
    assert summary.cmc == {1: 0.0, 3: 100.0}


def test_no_number_of_an_identity_is_special():
    """Identity 0 was nobody and -1 junk, whatever a data set meant by them."""
    query = embedded([[1.0, 0.0]] * 2, [0, -1], [1, 1])
    gallery = Gallery(embedded([[1.0, 0.0]] * 2, [0, -1], [2, 2]))
    assert [row.tolist() for row in gallery.ranks(query)] == [[0], [1]]


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(InputError, match="2 queries without a match"):
        summarize([torch.zeros(0, dtype=torch.int64)] * 2)


@st.composite
def worlds(draw):
    """Few people, cameras and directions: ties, junk and queries without a match abound."""
    width = draw(st.integers(1, 3))
    value = st.sampled_from([-2.0, -1.0, 1.0, 2.0, 3.0])

    def side():
        count = draw(st.integers(1, 12))
        row = st.lists(value, min_size=width, max_size=width)
        columns = [
            draw(st.lists(st.integers(*bounds), min_size=count, max_size=count))
            for bounds in ((-1, 3), (1, 2), (0, 2))
        ]
        vectors = draw(st.lists(row, min_size=count, max_size=count))
        return embedded(vectors, *columns, dtype=torch.float32)

    return side(), side()


@pytest.mark.slow
@given(
    worlds(),
    st.sampled_from(["cosine", "euclidean"]),
    st.sampled_from(["standard", "trapezoid"]),
    st.integers(1, 13),
)
@settings(max_examples=300, deadline=None)
def test_agrees_with_the_sorted_evaluation(world, metric, interpolation, block):
    query, gallery = world
    precisions, expected, orders = plain_evaluation(query, gallery, metric, interpolation)
    prepared = Gallery(gallery, metric=metric, block=block)
    ranks = prepared.ranks(query)
    assert [row.tolist() for row in ranks] == expected
    found = average_precision(ranks, interpolation).tolist()
    assert found == pytest.approx(precisions, abs=1e-6, nan_ok=True)
    fewest = min(map(len, orders))
    if fewest:
        assert prepared.nearest(query, fewest).tolist() == [order[:fewest] for order in orders]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_agrees_with_the_sorted_evaluation_on_a_random_gallery(metric, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query, gallery = made_up(60, generator), made_up(900, generator)
    gallery.embeddings[450:] = gallery.embeddings[:450]  # Every image twice.
    _, expected, _ = plain_evaluation(query, gallery, metric, "standard")
    for block, query_block in ((900, 256), (128, 7), (7, 60)):
        monkeypatch.setattr("reid_explain.retrieval.gallery.QUERY_BLOCK", query_block)
        ranks = Gallery(gallery, metric=metric, block=block).ranks(query)
        assert [row.tolist() for row in ranks] == expected


@pytest.mark.slow
@given(st.integers(0, 200), st.sampled_from(["cosine", "euclidean"]))
def test_match_similarity_agrees_with_a_plain_loop(seed, metric):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = made_up(5, generator, 3, 3), made_up(9, generator, 3, 3)
    scales = 10.0 ** torch.randint(-6, 7, (2,), generator=generator)
    query.embeddings.mul_(scales[0])
    gallery.embeddings.mul_(scales[1])
    match, _ = relevance(query, gallery)
    cosines = F.cosine_similarity(query.embeddings[:, None], gallery.embeddings[None], 2, 1e-30)
    expected = (cosines * match).sum(1) / match.sum(1)
    found = Gallery(gallery, metric=metric).match_similarity(query)
    torch.testing.assert_close(found.float(), expected, equal_nan=True)


def test_relevance_by_hand():
    query = embedded([[0.0]] * 3, [1, 1, 1], [1, 1, 1], [PERSON, DISTRACTOR, JUNK])
    roles = [PERSON, PERSON, PERSON, DISTRACTOR, JUNK]
    gallery = embedded([[0.0]] * 5, [1, 1, 2, 1, 1], [1, 2, 2, 2, 2], roles)
    match, valid = relevance(query, gallery)
    assert match.int().tolist() == [[0, 1, 0, 0, 0], [0] * 5, [0] * 5]
    assert valid.int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]


def test_ranks_by_distance_are_those_of_the_gallery():
    generator = torch.Generator().manual_seed(1)
    query, gallery = made_up(20, generator), made_up(90, generator)
    distances = torch.cdist(query.embeddings.double(), gallery.embeddings.double())
    ranks = ranks_by_distance(distances, query, gallery)
    expected = Gallery(gallery, metric="euclidean").ranks(query)
    assert [row.tolist() for row in ranks] == [row.tolist() for row in expected]
    with pytest.raises(InputError, match="distances: got"):
        ranks_by_distance(distances[:, 1:], query, gallery)


def test_a_gallery_is_prepared_once():
    """It was cast and normalized anew at each call: 68 hours at the size of Market-1501 (B6)."""
    generator = torch.Generator().manual_seed(2)
    query, gallery = made_up(9, generator), made_up(70, generator)
    prepared = Gallery(gallery)
    before = prepared.scores(query)
    gallery.embeddings.fill_(NAN)
    for one, other in zip(before, prepared.scores(query), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.slow
def test_masked_images_of_a_query_cost_little_in_a_large_gallery():
    """49 masked images at the size of Market-1501; before, each six of them took 0.76 s."""
    generator = torch.Generator().manual_seed(3)
    gallery = Gallery(made_up(19_732, generator, width=512, identities=750))
    query = made_up(1, generator, width=512, identities=750)
    columns = [column.expand(49) for column in query[1:]]
    masked = Embedded(torch.randn(49, 512, generator=generator), *columns)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        gallery.scores(masked)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.ones(2, 3)}, r"query: .*\(2, 2\).*expected \(N, 3\)"),
        ({"identities": torch.ones(3, dtype=torch.int64)}, r"gallery: .*\(3,\)"),
        ({"embeddings": torch.tensor([[NAN, 1.0]] * 2)}, "gallery: .*NaN"),
        ({"embeddings": torch.zeros(2, 2)}, "gallery: .*zero vector"),
    ],
)
def test_a_gallery_that_does_not_fit(change, message):
    good = embedded([[1.0, 0.0]] * 2, [1, 2], [1, 2])
    with pytest.raises(InputError, match=message):
        Gallery(good._replace(**change)).ranks(good)


def test_bad_settings():
    good = embedded([[1.0, 0.0]] * 2, [1, 1], [1, 2])
    with pytest.raises(InputError, match="metric: got 'dot'"):
        Gallery(good, metric="dot")
    for block in (0, 2**19):
        with pytest.raises(InputError, match="block: got"):
            Gallery(good, block=block)
    with pytest.raises(InputError, match="interpolation: got 'old'"):
        average_precision([torch.tensor([0])], "old")
    with pytest.raises(InputError, match="at: "):
        cumulative_matches([torch.tensor([0])], (0, 1))
    for k in (0, 2):  # One of the two is junk.
        with pytest.raises(InputError, match="k: got .*1 to 1"):
            Gallery(good).nearest(good, k)


def test_embedded_is_a_tuple_that_can_be_sent_to_another_process():
    one = embedded([[1.0, 0.0]] * 2, [1, 1], [1, 2])
    other = pickle.loads(pickle.dumps(one))
    assert isinstance(other, Embedded)
    assert all(map(torch.equal, one, other))
    assert one._replace(identities=torch.tensor([3, 4])).identities.tolist() == [3, 4]
    both = Embedded.concatenated([one, one.rows(slice(1))])
    assert both.cameras.tolist() == [1, 2, 1]


class Colors:
    """Ten images of one color each; the identity is the red of it."""

    def load(self, record):
        from PIL import Image

        return Image.new("RGB", (5, 9), (record.identity, 0, 0))


def test_columns_of_records_can_be_written_to_a_file():
    records = [Record(Path("a"), 3, 1), Record(Path("b"), 4, 2)]
    embedded = Embedded.of(torch.ones(2, 5), records)
    loaded = Embedded(**load(save(embedded._asdict())))
    assert all(torch.equal(a, b) for a, b in zip(embedded, loaded, strict=True))


def test_embed_records_keeps_the_order_in_any_batch(capsys):
    records = [Record(None, 20 * i, i, Role(i % 3)) for i in range(10)]
    spec = InputSpec(size=(6, 4))

    def red(images):
        assert images.shape[2:] == (6, 4)
        return images[:, :1].mean((2, 3)).double()

    whole = embed_records(red, Colors(), records, spec=spec, show_progress=False)
    assert capsys.readouterr().err == ""
    parts = embed_records(red, Colors(), records, spec=spec, batch_size=3)
    assert "embed" in capsys.readouterr().err
    assert torch.equal(whole.embeddings, parts.embeddings)
    expected = (torch.arange(0, 200, 20) / 255 - 0.485) / 0.229
    torch.testing.assert_close(whole.embeddings[:, 0], expected)
    assert whole.identities.tolist() == list(range(0, 200, 20))
    assert whole.cameras.tolist() == list(range(10))
    assert whole.roles.tolist() == [0, 1, 2] * 3 + [0]
    with pytest.raises(InputError, match="records"):
        embed_records(red, Colors(), [], spec=spec)
