"""Figures of the gallery's examples; the examples themselves run with the documentation."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from reid_explain import InputError
from reid_explain.visualization import interval_figure, overlay, rank_list_figure
from reid_explain.visualization.ranks import RIGHT, WRONG

PHOTOS = torch.rand(4, 3, 8, 4, generator=torch.Generator().manual_seed(0))
QUERY, GALLERY = PHOTOS[0], PHOTOS[1:]
MAPS = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 3.0]]], [[[2.0, 2.0]]]])
SCORES = torch.tensor([0.91, 0.8, -0.3])
CORRECT = torch.tensor([True, False, True])
INTERVALS = {"GradFAM": (24.0, 19.0, 28.5), "a method with a long name": (48.0, 48.0, 48.5)}


def shown(axis):
    (artist,) = axis.get_images()
    return np.asarray(artist.get_array())


def assert_nothing_is_cut(figure):
    figure.savefig(io.BytesIO())
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


class TestRankListFigure:
    def draw(self, **changed):
        given = {"maps": MAPS, "scores": SCORES, "correct": CORRECT} | changed
        return rank_list_figure(QUERY, GALLERY, **given)

    def test_the_query_and_then_its_list(self):
        axes = np.array(self.draw().axes).reshape(2, 4)
        titles = [
            "query",
            "1: right\ncosine 0.91",
            "2: wrong\ncosine 0.80",
            "3: right\ncosine -0.30",
        ]
        assert [axis.get_title() for axis in axes[0]] == titles
        for axis, photo in zip(axes[0], PHOTOS, strict=True):
            np.testing.assert_allclose(shown(axis), photo.permute(1, 2, 0).numpy())
        assert not axes[1, 0].get_images()

    def test_frames_say_what_is_right(self):
        axes = np.array(self.draw().axes).reshape(2, 4)[0]
        frames = [axis.spines["left"].get_edgecolor() for axis in axes[1:]]
        assert frames == [to_rgba(colour) for colour in (RIGHT, WRONG, RIGHT)]
        assert all(axis.spines["left"].get_visible() for axis in axes[1:])
        assert not axes[0].spines["left"].get_visible()

    def test_all_maps_are_on_one_scale(self):
        figure = self.draw(maps=torch.cat([MAPS[:1], MAPS[:1] / 2, MAPS[2:]]), alpha=1)
        axes = np.array(figure.axes).reshape(2, 4)[1, 1:]
        expected = overlay(torch.zeros(3, 8, 12), torch.tensor([[1.0, 0.5, 2.0, 0.0]]), alpha=1)
        one, half, two, _ = (expected[0, place] for place in (1, 4, 7, 10))
        (bar,) = (bar for axis in figure.axes for bar in axis.child_axes)
        assert bar.get_ylim() == (0, 2)
        for axis, colour in zip(axes, (one, half, two), strict=True):
            np.testing.assert_allclose(shown(axis)[0, -1], colour, atol=1e-12)

    def test_ranks_and_the_name_of_the_score(self):
        axes = self.draw(ranks=[1, 2, 137], score_name="distance").axes
        assert axes[3].get_title() == "137: right\ndistance -0.30"

    def test_nothing_is_cut(self):
        assert_nothing_is_cut(self.draw())

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("maps", MAPS[:2]),
            ("scores", SCORES[:2]),
            ("scores", SCORES.log()),
            ("correct", CORRECT[:2]),
            ("correct", CORRECT.long()),
            ("ranks", [1, 2]),
        ],
    )
    def test_what_does_not_fit_is_named(self, argument, value):
        with pytest.raises(InputError, match=f"^{argument}"):
            self.draw(**{argument: value})


class TestIntervalFigure:
    def test_a_dot_and_a_line_for_each_name_from_the_top(self):
        (axis,) = interval_figure(INTERVALS, "energy, %").axes
        (dots,) = axis.get_lines()
        np.testing.assert_array_equal(dots.get_xydata(), [[24, 0], [48, 1]])
        (lines,) = axis.collections
        assert [segment.tolist() for segment in lines.get_segments()] == [
            [[19, 0], [28.5, 0]],
            [[48, 1], [48.5, 1]],
        ]
        assert [label.get_text() for label in axis.get_yticklabels()] == list(INTERVALS)
        assert axis.get_ylim() == (1.5, -0.5)
        assert axis.get_xlabel() == "energy, %"

    def test_chance_is_a_line_with_its_name(self):
        (axis,) = interval_figure(INTERVALS, "energy, %", chance=34.4).axes
        assert axis.get_lines()[1].get_xdata() == [34.4, 34.4]
        assert [text.get_text() for text in axis.texts] == ["chance"]

    def test_nothing_is_cut(self):
        assert_nothing_is_cut(interval_figure(INTERVALS, "energy, %", chance=34.4))

    @pytest.mark.parametrize(
        "intervals",
        [{}, {"a": (1.0, 2.0, 3.0)}, {"a": (1.0, 0.0, float("nan"))}, {"a": (1, 0, float("inf"))}],
    )
    def test_what_is_no_interval_is_refused(self, intervals):
        with pytest.raises(InputError, match="^intervals"):
            interval_figure(intervals, "energy, %")
