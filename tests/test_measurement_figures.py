import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from reid_explain import InputError
from reid_explain.visualization import (
    Curve,
    curves_figure,
    interval_figure,
    tradeoff_figure,
    training_figure,
)
from reid_explain.visualization.charts import GRAYS

X = (5, 10, 20)
UP = Curve(X, [1, 2, 3], [0.5, 1, 2.5], [1.5, 3, 4])
DOWN = Curve(X, [3, 2, 1])
PANELS = {"left": {"up": UP, "down": DOWN}, "right": {"down": DOWN}}
INTERVALS = {"GradFAM": (24.0, 19.0, 28.5), "a method with a long name": (48.0, 48.0, 48.5)}
NAN = float("nan")
COSTS = {
    "slow": Curve(8.0, 40.0, 38.0, 42.0),
    "fast": Curve(0.1, 45.0),
    "beaten": Curve(0.5, 46.0),
    "blob": Curve(0.01, 50.0),
}
LOG = [
    {
        "epoch": epoch,
        "loss": 9.0 / epoch,
        "near": 6.0 / epoch,
        "learning_rate": rate,
        "validation_loss": validation,
        "seconds": 50.0,
    }
    for epoch, rate, validation in [(1, 1e-5, 8.0), (2, 3e-4, 5.5), (3, 2e-4, 6.5)]
]


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def words(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


class TestCurvesFigure:
    def test_curves_pass_through_their_values(self):
        left, right = curves_figure(PANELS).axes
        np.testing.assert_array_equal(lines(left)["up"].get_xydata(), np.transpose([X, UP.y]))
        np.testing.assert_array_equal(lines(right)["down"].get_ydata(), DOWN.y)
        assert list(lines(right)) == ["down"]

    def test_each_curve_has_its_own_places(self):
        (axis,) = curves_figure({"": {"up": UP, "short": Curve([1, 7], [0, 0])}}).axes
        assert lines(axis)["short"].get_xdata().tolist() == [1, 7]

    def test_shades_reach_from_low_to_high(self):
        (axis,) = curves_figure({"": {"up": UP}}).axes
        corners = axis.collections[0].get_paths()[0].vertices
        for x, low, high in zip(X, UP.low, UP.high, strict=True):
            at = corners[corners[:, 0] == x, 1]
            assert (at.min(), at.max()) == (low, high)

    def test_a_single_point_has_a_bar(self):
        (axis,) = curves_figure({"": {"up": Curve(3, 2, 1, 5)}}).axes
        assert lines(axis)["up"].get_xydata().tolist() == [[3, 2]]
        assert axis.collections[0].get_segments()[0].tolist() == [[3, 1], [3, 5]]

    def test_dotted_curves_have_the_color_of_their_name_and_a_legend(self):
        panels, dotted = {"": {"up": UP, "down": DOWN}}, {"": {"up": Curve(X, [7, 8, 9])}}
        (axis,) = curves_figure(panels, dotted=dotted, dotted_label="random maps").axes
        (dotted,) = (line for line in axis.lines if line.get_linestyle() == ":")
        assert dotted.get_ydata().tolist() == [7, 8, 9]
        assert dotted.get_color() == lines(axis)["up"].get_color()
        assert words(axis) == ["up", "down", "random maps"]

    def test_a_name_keeps_its_color_and_controls_are_gray(self):
        left, right = curves_figure(PANELS, controls=("up",)).axes
        assert lines(left)["down"].get_color() == lines(right)["down"].get_color()
        assert lines(left)["down"].get_color() not in GRAYS
        assert lines(left)["up"].get_color() in GRAYS
        assert lines(left)["up"].get_linestyle() == "--"

    def test_many_names_look_different(self):
        panel = {f"{i}": DOWN for i in range(40)}
        (axis,) = curves_figure({"": panel}).axes
        assert len({(line.get_color(), line.get_marker()) for line in axis.lines}) == 40

    def test_panels_in_rows(self):
        figure = curves_figure({title: {"up": UP} for title in "abc"}, columns=2, ylabel="y")
        assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
        assert [axis.get_ylabel() for axis in figure.axes] == ["y", "", "y", ""]
        assert [axis.axison for axis in figure.axes] == [True] * 3 + [False]

    def test_places_take_names(self):
        (axis,) = curves_figure({"": {"up": UP}}, ticks={5: "neck", 20: "conv1"}).axes
        labels = [(t.get_position()[0], t.get_text()) for t in axis.get_xticklabels()]
        assert labels == [(5, "neck"), (20, "conv1")]


class TestIntervalFigure:
    def test_a_dot_and_a_line_for_each_name_from_the_top(self):
        (axis,) = interval_figure({"energy, %": INTERVALS}).axes
        assert [line.get_xydata().tolist() for line in axis.lines] == [[[24, 0]], [[48, 1]]]
        segments = [lines.get_segments()[0].tolist() for lines in axis.collections]
        assert segments == [[[19, 0], [28.5, 0]], [[48, 1], [48.5, 1]]]
        assert [label.get_text() for label in axis.get_yticklabels()] == list(INTERVALS)
        assert axis.get_ylim() == (1.5, -0.5)
        assert axis.get_xlabel() == "energy, %"

    def test_panels_share_their_rows_and_may_lack_names(self):
        panels = {"a": INTERVALS, "b": {"a method with a long name": (3.0, 2.0, 4.0)}}
        left, right = interval_figure(panels, controls=("GradFAM",)).axes
        assert right.lines[0].get_xydata().tolist() == [[3, 1]]
        assert left.lines[0].get_color() in GRAYS
        assert left.lines[1].get_color() == right.lines[0].get_color() not in GRAYS

    def test_a_mean_without_bounds_is_a_dot(self):
        (axis,) = interval_figure({"a": {"b": (1.0, NAN, NAN)}}).axes
        axis.figure.draw_without_rendering()
        assert axis.lines[0].get_xydata().tolist() == [[1, 0]]

    def test_chance_is_a_line_with_a_legend(self):
        panels = {"a": INTERVALS, "b": INTERVALS}
        left, right = interval_figure(panels, chance={"a": 34.4}).axes
        assert lines(left)["chance"].get_xdata() == [34.4, 34.4]
        assert words(left) == ["chance"]
        assert right.get_legend() is None


class TestTrainingFigure:
    def test_loss_and_terms_beside_the_learning_rate(self):
        losses, rates = (lines(axis) for axis in training_figure(LOG).axes)
        assert list(losses) == ["loss", "near", "validation_loss"]
        assert losses["near"].get_xydata().tolist() == [[1, 6], [2, 3], [3, 2]]
        assert rates["learning_rate"].get_ydata().tolist() == [1e-5, 3e-4, 2e-4]

    def test_values_that_are_missing_are_left_out(self):
        first = {key: value for key, value in LOG[0].items() if key != "validation_loss"}
        log = [first, LOG[1], {**LOG[2], "near": NAN, "validation_loss": NAN}]
        losses = lines(training_figure(log).axes[0])
        assert losses["near"].get_xdata().tolist() == [1, 2]
        assert losses["validation_loss"].get_xydata().tolist() == [[2, 5.5]]

    def test_one_epoch(self):
        figure = training_figure(LOG[:1])
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


class TestTradeoffFigure:
    def test_names_stand_at_their_cost_and_loss(self):
        (axis,) = tradeoff_figure(COSTS, xlabel="seconds").axes
        assert axis.get_xscale() == "log"
        drawn = {tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xdata()) == 1}
        assert drawn == {(curve.x, curve.y) for curve in COSTS.values()}
        named = {line.get_label(): tuple(line.get_xydata()[0]) for line in axis.lines[:-1]}
        assert named == {name: (curve.x, curve.y) for name, curve in COSTS.items()}

    def test_the_front_leaves_out_controls_and_what_is_worse_in_both(self):
        (axis,) = tradeoff_figure(COSTS, controls=("blob",)).axes
        front = axis.lines[-1].get_xydata().tolist()
        assert front == [[0.1, 45.0], [8.0, 40.0]]
        names = {text.get_text(): text.get_fontweight() for text in axis.get_legend().get_texts()}
        assert {name for name, weight in names.items() if weight == "bold"} == {"slow", "fast"}

    def test_names_are_in_the_order_of_the_losses(self):
        (axis,) = tradeoff_figure(COSTS).axes
        names = [text.get_text() for text in axis.get_legend().get_texts()]
        assert names == ["blob", "beaten", "fast", "slow"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda **f: tradeoff_figure(COSTS, xlabel="x", ylabel="y", **f),
        lambda **f: curves_figure(PANELS, xlabel="x", ylabel="y", dotted_label="a long name", **f),
        lambda **f: interval_figure({"energy, %": INTERVALS}, chance={"energy, %": 34.4}, **f),
        lambda **f: training_figure(LOG, **f),
    ],
)
class TestAll:
    def test_draws_into_the_figure_handed_in(self, draw):
        figure = plt.figure()
        assert draw(figure=figure) is figure
        plt.close(figure)

    @pytest.mark.slow
    def test_nothing_is_cut(self, draw):
        figure = draw()
        figure.savefig(io.BytesIO())
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= width
        assert drawn.y1 <= height


def without(key):
    return [LOG[0], {name: value for name, value in LOG[1].items() if name != key}]


@pytest.mark.parametrize(
    ("draw", "argument"),
    [
        (lambda: curves_figure({}), "panels"),
        (lambda: curves_figure({"": {}}), "panels"),
        (lambda: curves_figure({"a": {"up": UP._replace(y=[1, 2])}}), "panels['a']['up']"),
        (lambda: curves_figure({"a": {"up": UP._replace(low=[1, 2])}}), "panels['a']['up']"),
        (lambda: curves_figure({"a": {"up": UP._replace(y=[1, 2, NAN])}}), "panels['a']['up']"),
        (lambda: curves_figure({"a": {"up": Curve([], [])}}), "panels['a']['up']"),
        (lambda: curves_figure({"a": {"up": Curve([X], [X])}}), "panels['a']['up']"),
        (lambda: interval_figure({"a": {}}), "panels"),
        (lambda: interval_figure({"a": {"b": (1.0, 2.0, 0.0)}}), "panels['a']['b']"),
        (lambda: interval_figure({"a": {"b": (NAN, 0.0, 1.0)}}), "panels['a']['b']"),
        (lambda: interval_figure({"a": {"b": (1, 0, float("inf"))}}), "panels['a']['b']"),
        (lambda: tradeoff_figure({}), "panels"),
        (lambda: tradeoff_figure({"a": Curve(0.0, 1.0)}), "points['a']"),
        (lambda: tradeoff_figure({"a": Curve(1.0, NAN)}), "points['a']"),
        (lambda: tradeoff_figure({"a": UP}), "points['a']"),
        (lambda: training_figure([]), "panels"),
        (lambda: training_figure(without("loss")), "log[1]"),
        (lambda: training_figure(without("learning_rate")), "log[1]"),
        (lambda: training_figure([{**LOG[0], "near": "0.5"}]), "log[0]"),
        (lambda: training_figure([{**LOG[0], "epoch": NAN}]), "panels['loss']['loss']"),
    ],
)
def test_bad_input_is_named(draw, argument):
    with pytest.raises(InputError) as caught:
        draw()
    assert caught.value.argument == argument
