"""Ranks, AP and CMC: by hand, against a plain sorted evaluation, and whatever the blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_explain import InputError
from reid_explain.datasets import Record
from reid_explain.metrics.embedding import Embedded, embed_records
from reid_explain.metrics.retrieval import (
    average_precision,
    cumulative_matches,
    match_ranks,
    summarize,
)

NAN = float("nan")


def embedded(embeddings, identities, cameras, dtype=torch.float64):
    return Embedded(
        torch.tensor(embeddings, dtype=dtype), torch.tensor(identities), torch.tensor(cameras)
    )


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
    precisions, firsts = [], []
    for vector, identity, camera in zip(q, query.identities, query.cameras, strict=True):
        distance = (g - vector).square().sum(1).round(decimals=9)
        hits = []
        for index in np.argsort(distance.numpy(), kind="stable"):
            same = int(gallery.identities[index]) == int(identity)
            junk = same and int(gallery.cameras[index]) == int(camera)
            if not junk and int(gallery.identities[index]) != -1:
                hits.append(same and int(identity) > 0)
        if not any(hits):
            precisions.append(NAN)
            firsts.append(None)
            continue
        firsts.append(hits.index(True))
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
    return precisions, firsts


def test_ranks_and_figures_worked_out_by_hand():
    # Query of person 1, camera 1, at 0 degrees. Nearer to farther: junk of its own camera (1),
    # a distractor (5), a match (10), junk -1 (15), person 2 (20), a match (30).
    query = embedded(on_circle([0]), [1], [1])
    gallery = embedded(on_circle([10, 1, 30, 5, 20, 15]), [1, 1, 1, 0, 2, -1], [2, 1, 3, 2, 1, 2])
    (ranks,) = match_ranks(query, gallery)
    assert ranks.tolist() == [1, 3]
    # Precision at the hits 1/2 and 2/4; before them 0/1 and 1/3.
    assert average_precision([ranks]).tolist() == pytest.approx([1 / 2])
    trapezoid = ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert average_precision([ranks], "trapezoid").tolist() == pytest.approx([trapezoid])
    assert cumulative_matches([ranks], (1, 2, 10)).tolist() == [[0, 1, 1]]


def test_a_first_place_counts_as_full_precision_before_it():
    ranks = [torch.tensor([0, 2])]
    assert average_precision(ranks, "trapezoid").item() == pytest.approx(
        ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    )


def test_of_equal_distances_the_first_in_the_gallery_is_nearer():
    query = embedded([[1.0, 0.0]], [1], [1])
    gallery = embedded([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [2, 1, 3], [2, 2, 2])
    for block in (1, 2, 3):
        assert match_ranks(query, gallery, gallery_block=block)[0].tolist() == [1]


def test_euclidean_and_cosine_differ_where_lengths_do():
    query = embedded([[1.0, 0.0]], [1], [1])
    gallery = embedded([[1.0, 0.5], [9.0, 0.0]], [2, 1], [2, 2])
    assert match_ranks(query, gallery, metric="cosine")[0].tolist() == [0]
    assert match_ranks(query, gallery, metric="euclidean")[0].tolist() == [1]


def test_queries_without_a_match_are_left_out_and_counted():
    # Person 1 only in its own camera; -1 and 0 are nobody, also as queries.
    query = embedded([[1.0, 0.0]] * 4, [1, -1, 0, 2], [1, 1, 1, 1])
    gallery = embedded([[1.0, 0.0]] * 4, [1, -1, 0, 2], [1, 2, 2, 2])
    ranks = match_ranks(query, gallery)
    assert [len(row) for row in ranks] == [0, 0, 0, 1]
    # For person 2: person 1 and the distractor stand before it, -1 is not there.
    assert average_precision(ranks).tolist() == pytest.approx([NAN, NAN, NAN, 1 / 3], nan_ok=True)
    summary = summarize(ranks, at=(1, 3))
    assert (summary.queries, summary.excluded) == (4, 3)
    assert summary.mean_ap == pytest.approx(100 / 3)
    assert summary.cmc == {1: 0.0, 3: 100.0}


def test_nothing_to_summarize_is_an_error():
    with pytest.raises(InputError, match="2 queries without a match"):
        summarize([torch.zeros(0, dtype=torch.int64)] * 2)


@st.composite
def worlds(draw):
    """Few people, cameras and directions: ties, junk and queries without a match abound."""
    width = draw(st.integers(1, 3))
    value = st.sampled_from([-2.0, -1.0, 1.0, 2.0, 3.0])

    def side(least):
        count = draw(st.integers(least, 12))
        column = st.lists(st.integers(1, 2), min_size=count, max_size=count)
        row = st.lists(value, min_size=width, max_size=width)
        people = draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))
        return embedded(
            draw(st.lists(row, min_size=count, max_size=count)), people, draw(column), torch.float32
        )

    return side(1), side(1)


@given(
    worlds(),
    st.sampled_from(["cosine", "euclidean"]),
    st.sampled_from(["standard", "trapezoid"]),
    st.integers(1, 13),
    st.integers(1, 13),
)
@settings(max_examples=300, deadline=None)
def test_agrees_with_the_sorted_evaluation(world, metric, interpolation, query_block, block):
    ranks = match_ranks(*world, metric=metric, query_block=query_block, gallery_block=block)
    precisions, firsts = plain_evaluation(*world, metric, interpolation)
    found = average_precision(ranks, interpolation).tolist()
    assert found == pytest.approx(precisions, abs=1e-6, nan_ok=True)
    assert [int(row[0]) if len(row) else None for row in ranks] == firsts


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_agrees_with_the_sorted_evaluation_on_a_random_gallery(metric):
    generator = torch.Generator().manual_seed(0)

    def side(count):
        numbers = [
            torch.randint(low, high, (count,), generator=generator)
            for low, high in ((-1, 20), (1, 7))
        ]
        return Embedded(torch.randn(count, 32, generator=generator), *numbers)

    query, gallery = side(60), side(900)
    gallery.embeddings[450:] = gallery.embeddings[:450]  # Every image twice.
    for interpolation in ("standard", "trapezoid"):
        precisions, _ = plain_evaluation(query, gallery, metric, interpolation)
        for block in (900, 128, 7):
            ranks = match_ranks(query, gallery, metric=metric, gallery_block=block)
            found = average_precision(ranks, interpolation).tolist()
            assert found == pytest.approx(precisions, abs=1e-6, nan_ok=True)


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
        match_ranks(good, good._replace(**change))


def test_unknown_metric_interpolation_and_rank():
    good = embedded([[1.0, 0.0]] * 2, [1, 1], [1, 2])
    with pytest.raises(InputError, match="metric: got 'dot'"):
        match_ranks(good, good, metric="dot")
    with pytest.raises(InputError, match="interpolation: got 'old'"):
        average_precision([torch.tensor([0])], "old")
    with pytest.raises(InputError, match="at: "):
        cumulative_matches([torch.tensor([0])], (0, 1))


class Colours:
    """Ten images of one colour each; the identity is the red of it."""

    def load(self, record):
        from PIL import Image

        return Image.new("RGB", (5, 9), (record.identity, 0, 0))


def test_embed_records_keeps_the_order_in_any_batch(capsys):
    records = [Record(None, 20 * i, i) for i in range(10)]

    def red(images):
        return images[:, :1].mean((2, 3)).double()

    whole = embed_records(red, Colours(), records, size=(6, 4), show_progress=False)
    assert capsys.readouterr().err == ""
    parts = embed_records(red, Colours(), records, size=(6, 4), batch_size=3)
    assert "embed" in capsys.readouterr().err
    assert torch.equal(whole.embeddings, parts.embeddings)
    expected = (torch.arange(0, 200, 20) / 255 - 0.485) / 0.229
    torch.testing.assert_close(whole.embeddings[:, 0], expected)
    assert whole.identities.tolist() == list(range(0, 200, 20))
    assert whole.cameras.tolist() == list(range(10))
    with pytest.raises(InputError, match="records"):
        embed_records(red, Colours(), [])
