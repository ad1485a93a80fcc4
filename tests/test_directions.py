"""Attributes as directions: closed forms, an independent solver, and what is saved."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import HeadNet, images

from reid_explain import (
    AttributeDirections,
    CounterfactualDirections,
    GradientWeighting,
    InputError,
)

NAMES = ("hat", "bag", "red")


@pytest.fixture
def world():
    """Embeddings that are a sum of directions, of all 8 people."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cartesian_prod(*[torch.tensor([1, 2])] * 3)
    directions = torch.randn(3, 5, generator=generator)
    return labels, (labels - 1.0) @ directions + 7, directions


def test_a_sum_of_directions_is_found(world):
    labels, embeddings, directions = world
    found = AttributeDirections.fit(embeddings, labels, NAMES, ridge=1e-9)
    torch.testing.assert_close(found.directions, directions, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.values(embeddings), labels - 1.0, atol=1e-4, rtol=0)


def test_a_contribution_is_what_the_intervention_does(world):
    labels, embeddings, directions = world
    found = AttributeDirections.fit(embeddings, labels, NAMES, ridge=1e-9)
    explanation = found.explain(embeddings[:1], embeddings[1:])
    for row, (other, target) in enumerate(zip(labels[1:], embeddings[1:], strict=True)):
        before = (embeddings[0] - target).norm()
        for k in range(3):
            changed = embeddings[0] + (other[k] - labels[0, k]) * directions[k]
            expected = (before - (changed - target).norm()) / before
            torch.testing.assert_close(
                explanation.contributions[row, k], expected, atol=1e-4, rtol=0
            )
    total = explanation.contributions.sum(1) + explanation.remainder
    torch.testing.assert_close(total, torch.ones(7))


def test_a_group_changes_together(world):
    labels, embeddings, _ = world
    found = AttributeDirections.fit(embeddings, labels, NAMES, ridge=1e-9)
    groups = {"all": NAMES, "hat": ["hat"]}
    explanation = found.explain(embeddings[:1], embeddings[-1:], groups=groups)
    assert explanation.contributions.shape == (1, 2)
    torch.testing.assert_close(
        explanation.contributions[0, 0], torch.tensor(1.0), atol=1e-4, rtol=0
    )


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_directions_are_scikit_style_ridge_regressions(seed, ridge):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size=(20, 3))
    embeddings = rng.normal(size=(20, 4)) * 3 + 1
    found = AttributeDirections.fit(
        torch.tensor(embeddings), torch.tensor(labels), NAMES, ridge=ridge
    )
    known = np.where(labels > 0, labels - 1.0, np.nan)
    values = np.where(labels > 0, known, np.nan_to_num(np.nanmean(known, axis=0)))
    a, f = values - values.mean(0), embeddings - embeddings.mean(0)
    stacked = np.vstack([a, np.sqrt(ridge) * np.eye(3)])  # ridge as least squares
    expected = np.linalg.lstsq(stacked, np.vstack([f, np.zeros((3, 4))]), rcond=None)[0]
    np.testing.assert_allclose(found.directions, expected, atol=1e-4)


def test_given_labels_stand_for_read_ones(world):
    labels, embeddings, _ = world
    found = AttributeDirections.fit(embeddings, labels, NAMES, ridge=1e-9)
    wrong = torch.tensor([[2, 1, 0]])
    explanation = found.explain(embeddings[:1], embeddings[:1], query_labels=wrong)
    torch.testing.assert_close(
        explanation.query_values, torch.tensor([[1.0, 0, 0]]), atol=1e-4, rtol=0
    )


def test_equal_embeddings_have_no_distance(world):
    labels, embeddings, _ = world
    found = AttributeDirections.fit(embeddings, labels, NAMES)
    explanation = found.explain(embeddings[:2], embeddings[:2])
    assert explanation.distance.tolist() == [0, 0]
    assert explanation.contributions.tolist() == [[0, 0, 0]] * 2
    assert explanation.remainder.tolist() == [1, 1]


def test_a_concept_is_explained():
    net = HeadNet().float()
    batch = images(6, (12, 8)).float()
    embeddings = net(batch).detach()
    labels = torch.randint(1, 3, (6, 3), generator=torch.Generator().manual_seed(1))
    found = AttributeDirections.fit(embeddings, labels, NAMES)
    maps = GradientWeighting(net, net.relu).attribute(batch, found.concept("bag"))
    assert maps.shape == (6, 1, 12, 8)


def test_saved_and_loaded(world, tmp_path):
    labels, embeddings, _ = world
    found = AttributeDirections.fit(embeddings, labels, NAMES)
    path = tmp_path / "directions.safetensors"
    found.save(path, fingerprint=embeddings[:2])
    again = AttributeDirections.load(path, fingerprint=embeddings[:2] * 1.001)
    assert again.attributes == NAMES
    assert again.directions.equal(found.directions)
    assert again.probe.equal(found.probe)
    with pytest.raises(InputError, match="fingerprint: got another model's embeddings"):
        AttributeDirections.load(path, fingerprint=embeddings[2:4])


def test_wrong_input(world, tmp_path):
    labels, embeddings, _ = world
    with pytest.raises(InputError, match="labels"):
        AttributeDirections.fit(embeddings, labels + 1, NAMES)
    with pytest.raises(InputError, match="ridge"):
        AttributeDirections.fit(embeddings, labels, NAMES, ridge=0)
    found = AttributeDirections.fit(embeddings, labels, NAMES)
    with pytest.raises(InputError, match="query"):
        found.explain(embeddings[:, :4], embeddings)
    with pytest.raises(InputError, match="gallery"):
        found.explain(embeddings[:3], embeddings[:2])
    with pytest.raises(InputError, match="attribute: got 'shoes'"):
        found.concept("shoes")
    with pytest.raises(InputError, match="groups"):
        found.explain(embeddings[:1], embeddings[:1], groups={"feet": ["shoes"]})
    with pytest.raises(InputError, match="a file of save of this class"):
        AttributeDirections.load(tmp_path / "absent")


@pytest.fixture
def interventions():
    """Embeddings of 40 images in which an intervention sets one of two coordinates."""
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(2, 40, 3, generator=generator)
    group = torch.arange(40) % 2
    changed = query.clone()
    changed[torch.arange(40), group] = gallery[torch.arange(40), group]
    return query, gallery, changed, group


def test_linear_interventions_are_found(interventions):
    query, gallery, changed, group = interventions
    found = CounterfactualDirections.fit(*interventions, ["first", "second"], ridge=1e-8)
    steps = found.displacements(query, gallery)
    for n in range(2):
        expected = torch.zeros(40, 3)
        expected[:, n] = gallery[:, n] - query[:, n]
        torch.testing.assert_close(steps[:, n], expected, atol=1e-4, rtol=0)
    explanation = found.explain(query, gallery)
    before = (query - gallery).norm(dim=1)
    after = (changed - gallery).norm(dim=1)
    own = explanation.contributions[torch.arange(40), group]
    torch.testing.assert_close(own, (before - after) / before, atol=1e-4, rtol=0)
    total = explanation.contributions.sum(1) + explanation.remainder
    torch.testing.assert_close(total, torch.ones(40))


def test_maps_are_ridge_regressions(interventions):
    query, gallery, changed, group = (values.numpy() for values in interventions)
    found = CounterfactualDirections.fit(*interventions, ["first", "second"], ridge=3.0)
    inputs = np.hstack([query, gallery])
    scaled = inputs - inputs.mean(0)
    scaled = np.hstack([scaled / np.sqrt((scaled**2).mean()), np.ones((40, 1))])[group == 0]
    stacked = np.vstack([scaled, np.sqrt(3.0) * np.eye(7)])
    goal = np.vstack([(changed - query)[group == 0], np.zeros((7, 3))])
    expected = scaled @ np.linalg.lstsq(stacked, goal, rcond=None)[0]
    steps = found.displacements(*interventions[:2])[interventions[3] == 0, 0]
    np.testing.assert_allclose(steps, expected, atol=1e-4)


def test_maps_saved_and_loaded(interventions, tmp_path):
    found = CounterfactualDirections.fit(*interventions, ["first", "second"])
    path = tmp_path / "maps.safetensors"
    found.save(path, fingerprint=interventions[0][:2])
    again = CounterfactualDirections.load(path, fingerprint=interventions[0][:2])
    assert again.groups == ("first", "second")
    torch.testing.assert_close(again.maps, found.maps, atol=1e-3, rtol=1e-3)
    with pytest.raises(InputError, match="fingerprint"):
        CounterfactualDirections.load(path, fingerprint=interventions[1][:2])
    with pytest.raises(InputError, match="a file of save of this class"):
        AttributeDirections.load(path)


def test_wrong_interventions(interventions):
    query, gallery, changed, group = interventions
    with pytest.raises(InputError, match="group: got no intervention on second"):
        CounterfactualDirections.fit(query, gallery, changed, group * 0, ["first", "second"])
    with pytest.raises(InputError, match="changed"):
        CounterfactualDirections.fit(query, gallery, changed[:3], group, ["first", "second"])
    with pytest.raises(InputError, match="maps"):
        CounterfactualDirections(["first"], torch.zeros(1, 3, 3))
