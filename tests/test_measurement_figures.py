import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import same_color

from reid_explain import InputError
from reid_explain.visualization import curves_figure, scatter_figure
from reid_explain.visualization.measurements import BAND, GREYS

PLACES = (5, 10, 20)
UP = [(1.0, 0.5, 1.5), (2.0, 1.0, 3.0), (3.0, 2.5, 4.0)]
DOWN = [(3.0, 2.0, 4.0), (2.0, 1.0, 3.0), (1.0, 0.0, 2.0)]
PANELS = {"left": {"up": UP, "down": DOWN}, "right": {"down": DOWN}}


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def test_curves_pass_through_the_means():
    left, right = curves_figure(PLACES, PANELS).axes
    np.testing.assert_array_equal(lines(left)["up"].get_xdata(), PLACES)
    np.testing.assert_array_equal(lines(left)["up"].get_ydata(), [1, 2, 3])
    np.testing.assert_array_equal(lines(right)["down"].get_ydata(), [3, 2, 1])
    assert list(lines(right)) == ["down"]


def test_shades_reach_from_low_to_high():
    (axis,) = curves_figure(PLACES, {"": {"up": UP}}).axes
    corners = axis.collections[0].get_paths()[0].vertices
    for x, (_, low, high) in zip(PLACES, UP, strict=True):
        at = corners[corners[:, 0] == x, 1]
        assert (at.min(), at.max()) == (low, high)
    assert not curves_figure(PLACES, {"": {"up": UP}}, shade=False).axes[0].collections


def test_the_band_reaches_from_the_lowest_to_the_highest_curve():
    bands = {"": [[1, 5, 2], [3, 4, 2], [2, 9, 2]]}
    (axis,) = curves_figure(
        PLACES, {"": {"up": UP}}, bands=bands, band_label="random", shade=False
    ).axes
    (band,) = axis.collections
    assert same_color(band.get_facecolor()[0], BAND)
    corners = band.get_paths()[0].vertices
    for x, low, high in zip(PLACES, (1, 4, 2), (3, 9, 2), strict=True):
        at = corners[corners[:, 0] == x, 1]
        assert (at.min(), at.max()) == (low, high)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["random", "up"]


def test_a_name_keeps_its_colour_and_controls_are_grey():
    left, right = curves_figure(PLACES, PANELS, controls=("up",)).axes
    assert lines(left)["down"].get_color() == lines(right)["down"].get_color()
    assert lines(left)["down"].get_color() not in GREYS
    assert lines(left)["up"].get_color() in GREYS
    assert lines(left)["up"].get_linestyle() == "--"


def test_places_take_names():
    (axis,) = curves_figure(PLACES, {"": {"up": UP}}, ticks={5: "neck", 20: "conv1"}).axes
    assert [(t.get_position()[0], t.get_text()) for t in axis.get_xticklabels()] == [
        (5, "neck"),
        (20, "conv1"),
    ]


def test_points_lie_at_their_means_with_a_cross_of_intervals():
    (axis,) = scatter_figure({"a": (UP[0], DOWN[2])}).axes
    (container,) = axis.containers
    point, _, (across, upright) = container
    assert (point.get_xdata().item(), point.get_ydata().item()) == (1, 1)
    np.testing.assert_allclose(across.get_segments()[0], [[0.5, 1], [1.5, 1]])
    np.testing.assert_allclose(upright.get_segments()[0], [[1, 0], [1, 2]])


@pytest.mark.parametrize(("x", "zeros"), [((1, -1, 2), 1), ((3, 2.9, 4), 0)])
def test_zero_is_drawn_where_points_lie_on_both_sides(x, zeros):
    (axis,) = scatter_figure({"a": (x, (5, 4, 6))}).axes
    assert sum(list(line.get_xdata()) == [0, 0] for line in axis.lines) == zeros


def test_draws_into_the_figure_handed_in():
    for draw in (
        lambda **f: curves_figure(PLACES, PANELS, **f),
        lambda **f: scatter_figure({"a": (UP[0], UP[1])}, **f),
    ):
        figure = plt.figure()
        assert draw(figure=figure) is figure
        plt.close(figure)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves_figure(PLACES, {}),
        lambda: curves_figure(PLACES, {"": {}}),
        lambda: curves_figure(PLACES, {"": {"up": UP[:2]}}),
        lambda: curves_figure(PLACES, {"": {"up": [1.0, 2.0, 3.0]}}),
        lambda: curves_figure(PLACES, {"": {"up": [*UP[:2], (float("nan"), 0, 1)]}}),
        lambda: curves_figure(PLACES, {"": {"up": [*UP[:2], (1.0, 2.0)]}}),
        lambda: curves_figure(PLACES, {"": {"up": UP}}, bands={}),
        lambda: curves_figure(PLACES, {"": {"up": UP}}, bands={"": [[1, 2]]}),
        lambda: scatter_figure({}),
        lambda: scatter_figure({"a": (UP[0],)}),
    ],
)
def test_bad_input_is_named(draw):
    with pytest.raises(InputError):
        draw()
