import io
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import MappingProxyType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from matplotlib.text import Text
from PIL import Image
from skimage.color import rgb2lab

from reid_explain import InputError
from reid_explain.visualization import (
    comparison_figure,
    explanation_figure,
    matches_figure,
    overlay,
    picture_figure,
    rank_figure,
    save_figure,
)
from reid_explain.visualization.colors import (
    EXPONENT,
    GLOW,
    OPACITY,
    SIGNED_GLOW,
    color_scale,
    map_values,
)
from reid_explain.visualization.maps import RIGHT, WRONG


def photos(count, height=8, width=4):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def array(image):
    return image.permute(1, 2, 0).numpy()


def colors(values, cmap):
    return np.asarray(cmap(np.asarray(values, dtype=float)))[..., :3]


def shown(axis):
    """The array of the one image on an axis."""
    (artist,) = axis.get_images()
    return np.asarray(artist.get_array())


def grid(figure, columns):
    return np.array(figure.axes).reshape(-1, columns)


def bars(figure):
    """The axes of the color bars, which are insets."""
    return [bar for axis in figure.axes for bar in axis.child_axes]


def bar_words(figure):
    (bar,) = bars(figure)
    return [label.get_text() for label in bar.get_yticklabels()]


class TestOverlay:
    def test_blends_the_pixels_with_colors_as_opaque_as_the_map_is_high(self):
        image = photos(1, 2, 2)[0]
        map_ = torch.tensor([[0.0, 2.0], [1.0, 0.5]])
        place = np.array([[0, 1], [0.5, 0.25]])
        share = 0.4 * place[..., None] ** EXPONENT
        expected = (1 - share) * array(image) + share * colors(place, matplotlib.colormaps["jet"])
        result = overlay(image, map_, cmap="jet", opacity=0.4, percentile=100)
        np.testing.assert_allclose(result, expected, atol=1e-7)

    def test_the_image_shows_where_the_map_is_low(self):
        image, map_ = photos(1, 2, 1)[0], torch.tensor([[[3.0], [7.0]]])
        result = overlay(image, map_, opacity=1)
        np.testing.assert_allclose(result, [array(image)[0], colors([1], GLOW)], atol=1e-7)
        np.testing.assert_allclose(overlay(image, map_, opacity=0), array(image))

    def test_upsamples_bilinearly_to_the_image(self):
        image = torch.zeros(3, 3, 4)
        result = overlay(image, torch.tensor([[0.0, 1.0]]), opacity=1, percentile=100)
        place = np.array([0, 0.25, 0.75, 1])
        row = place[:, None] ** EXPONENT * colors(place, GLOW)
        np.testing.assert_allclose(result, np.stack([row] * 3), atol=1e-12)

    def test_zoom_keeps_the_map_at_the_layers_resolution(self):
        image, map_ = torch.full((3, 4, 2), 0.5), torch.eye(2)
        large = overlay(torch.full((3, 8, 4), 0.5), map_)
        np.testing.assert_allclose(overlay(image, map_, zoom=2), large, atol=1e-12)
        assert overlay(photos(1)[0], map_, zoom=3).shape == (24, 12, 3)

    def test_zero_is_transparent_in_a_signed_map(self):
        image = photos(1, 1, 3)[0]
        result = overlay(image, torch.tensor([[-4.0, 0.0, 4.0]]), opacity=1, percentile=100)
        expected = [colors(0, SIGNED_GLOW), array(image)[0, 1], colors(1, GLOW)]
        np.testing.assert_allclose(result[0], expected, atol=1e-7)

    def test_a_hot_corner_hides_nothing(self):
        generator = torch.Generator().manual_seed(0)
        map_ = torch.rand(64, 32, generator=generator)
        hot = map_.clone()
        hot[:3, :3] = 1000.0
        image = torch.zeros(3, 64, 32)
        elsewhere = np.s_[4:]
        plain, changed = (overlay(image, m)[elsewhere] for m in (map_, hot))
        np.testing.assert_allclose(plain, changed, atol=0.05)
        hidden = overlay(image, hot, percentile=100)[elsewhere]
        assert hidden.max() < 0.02 < plain.mean()

    def test_a_map_of_few_pixels_is_drawn(self):
        map_ = torch.zeros(20, 20)
        map_[3, 4] = 1.0
        result = overlay(torch.zeros(3, 20, 20), map_, opacity=1)
        assert np.argwhere(result.sum(-1)).tolist() == [[3, 4]]

    @pytest.mark.parametrize("value", [0.0, 0.7, -0.3])
    @pytest.mark.parametrize("noise", [0.0, 1e-8])
    def test_a_constant_map_leaves_the_image_as_it_is(self, value, noise):
        image = photos(1)[0]
        map_ = value * (1 + noise * photos(1, 4, 2)[0, :1].double())
        np.testing.assert_allclose(overlay(image, map_, opacity=1), array(image), atol=1e-7)

    @pytest.mark.slow
    @settings(max_examples=25, deadline=None)
    @given(scale=st.floats(1e-6, 1e6), offset=st.floats(0, 100))
    def test_only_the_shape_of_an_unsigned_map_counts(self, scale, offset):
        image, map_ = photos(1, 2, 2)[0], torch.tensor([[0.0, 1.0], [0.25, 0.75]]).double()
        moved = scale * (map_ + offset)
        np.testing.assert_allclose(overlay(image, moved), overlay(image, map_), atol=0.02)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_takes_any_float_dtype_with_or_without_history(self, dtype):
        map_ = torch.tensor([[0.0, 1.0]], dtype=dtype, requires_grad=True)
        result = overlay(torch.ones(3, 2, 4, dtype=dtype), map_)
        np.testing.assert_allclose(result, overlay(torch.ones(3, 2, 4), map_.detach().float()))

    def test_forgives_the_rounding_of_denormalized_images(self):
        result = overlay(torch.full((3, 2, 2), 1 + 1e-4), torch.eye(2), opacity=0)
        np.testing.assert_array_equal(result, np.ones((2, 2, 3)))


class TestColors:
    def test_lightness_orders_the_colors_in_steps_of_equal_size(self):
        lightness, *chroma = rgb2lab(colors(np.linspace(0, 1, 33), GLOW)).T
        assert (np.diff(lightness) > 0).all()
        steps = np.linalg.norm(np.diff([lightness, *chroma]), axis=0)
        assert steps.max() < 2.5 * steps.min()

    def test_a_higher_map_is_lighter_on_a_dark_image_and_never_black(self):
        ramp = torch.linspace(0, 1, 64)[None].double()
        result = overlay(torch.full((3, 1, 64), 0.1), ramp)
        assert (np.diff(rgb2lab(result)[0, :, 0]) >= 0).all()
        assert overlay(torch.ones(3, 1, 64), ramp).max(-1).min() > 0.7

    def test_negative_values_are_blue_and_darker_than_positive_ones(self):
        negative, positive = colors([0.0, 1.0], SIGNED_GLOW)
        dark, light = (rgb2lab(color)[0] for color in (negative, positive))
        assert negative[2] > 2 * negative[0]
        assert dark + 40 < light


class TestExplanationFigure:
    maps = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 3.0]]], [[[2.0, 2.0]]]])
    titles = ("query", "rank 1: 0.91", "rank 2: 0.84")

    def test_one_column_per_image_with_the_image_above_its_overlay(self):
        images = photos(3)
        axes = grid(explanation_figure(images, self.maps, titles=self.titles), 3)
        assert [axis.get_title() for axis in axes[0]] == list(self.titles)
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["image", "map"]
        for column, image, map_ in zip(axes.T, images, self.maps, strict=True):
            np.testing.assert_allclose(shown(column[0]), array(image))
            np.testing.assert_array_equal(shown(column[1]), overlay(image, map_))

    def test_one_bar_in_words_where_scales_differ(self):
        assert bar_words(explanation_figure(photos(3), self.maps)) == ["low", "high"]

    def test_shared_scale_colors_equal_values_alike(self):
        images, maps = torch.zeros(4, 3, 8, 4), torch.cat([self.maps, 0 * self.maps[:1]])
        figure = explanation_figure(images, maps, shared_scale=True)
        (bar,) = bars(figure)
        assert bar.get_ylim() == (0, 3)
        for axis, place in zip(grid(figure, 4)[1], (1 / 3, 1, 2 / 3, 0), strict=True):
            expected = OPACITY * place**EXPONENT * colors(place, GLOW)
            np.testing.assert_allclose(shown(axis)[0, -1], expected, atol=1e-12)

    def test_one_signed_map_makes_a_shared_scale_signed(self):
        figure = explanation_figure(photos(2), [-self.maps[1], self.maps[0]], shared_scale=True)
        (bar,) = bars(figure)
        assert bar.get_ylim() == (-3, 3)

    def test_frames_and_words_say_what_is_right(self):
        correct = [None, True, False]
        figure = explanation_figure(photos(3), self.maps, titles=self.titles, correct=correct)
        axes = grid(figure, 3)[0]
        titles = [axis.get_title() for axis in axes]
        assert titles == ["query", "rank 1: 0.91\nright", "rank 2: 0.84\nwrong"]
        frames = [axis.spines["left"].get_edgecolor() for axis in axes[1:]]
        assert frames == [to_rgba(color) for color in (RIGHT, WRONG)]
        assert [axis.spines["left"].get_visible() for axis in axes] == [False, True, True]

    def test_sizes_may_differ(self):
        images = [photos(1, 8, 4)[0], photos(1, 6, 6)[0]]
        axes = grid(explanation_figure(images, [torch.eye(3), torch.eye(2)[None]]), 2)
        assert [shown(axis).shape for axis in axes[1]] == [(8, 4, 3), (6, 6, 3)]


class TestComparisonFigure:
    maps = MappingProxyType(
        {"GradFAM": torch.tensor([[[0.0, 1.0]]] * 2), "RAM": torch.tensor([[[-2.0, 1.0]]] * 2)}
    )

    def test_one_row_per_image_and_one_column_per_method(self):
        images = photos(2)
        axes = grid(comparison_figure(images, self.maps, titles=["a.jpg", "b.jpg"]), 3)
        assert [axis.get_title() for axis in axes[0]] == ["", "GradFAM", "RAM"]
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a.jpg", "b.jpg"]
        for row, (panels, image) in enumerate(zip(axes, images, strict=True)):
            np.testing.assert_allclose(shown(panels[0]), array(image))
            for axis, maps in zip(panels[1:], self.maps.values(), strict=True):
                np.testing.assert_array_equal(shown(axis), overlay(image, maps[row]))

    def test_one_color_bar_for_maps_with_and_without_sign(self):
        figure = comparison_figure(photos(2), self.maps)
        assert bar_words(figure) == ["negative", "low", "high"]
        assert bar_words(comparison_figure(photos(1), {"a": torch.eye(2)[None]})) == ["low", "high"]

    def test_jet_on_request(self):
        image = photos(1)
        figure = comparison_figure(image, {"CAM": torch.eye(2)[None]}, cmap="jet")
        expected = overlay(image[0], torch.eye(2), cmap="jet")
        np.testing.assert_array_equal(shown(figure.axes[1]), expected)

    def test_images_of_unequal_shapes_fill_their_columns(self):
        images = [photos(1, 40, 60)[0], photos(1, 50, 50)[0]]
        figure = comparison_figure(images, {"CAM": [torch.eye(2)] * 2})
        figure.draw_without_rendering()
        wide, square = (axis.get_window_extent() for axis in grid(figure, 2)[:, 1])
        columns = 2 * wide.width / figure.dpi
        assert columns > 0.85 * (figure.get_figwidth() - 1)  # an inch for the color bar
        assert square.width == pytest.approx(wide.width, rel=0.1)


class TestPictureFigure:
    def test_pictures_and_empty_places(self):
        images, bytes_ = photos(2), np.zeros((8, 4, 3), dtype=np.uint8)
        rows = [[images[0], None], [bytes_, images[1]]]
        axes = grid(picture_figure(rows, titles=["a", "b"], row_titles=["c", "d"]), 2)
        np.testing.assert_allclose(shown(axes[0, 0]), array(images[0]))
        np.testing.assert_array_equal(shown(axes[1, 0]), bytes_)
        assert not axes[0, 1].get_images()
        assert [axis.get_title() for axis in axes[0]] == ["a", "b"]
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["c", "d"]


def draw_explanation(**options):
    titles = ["0001_c1s1_001051_03.jpg", "rank 1\nsimilarity 0.91"]
    maps = photos(2)[:, :1]
    return explanation_figure(photos(2), maps, titles=titles, correct=[None, True], **options)


def draw_comparison(**options):
    maps = {"a method with a long name": photos(2)[:, :1], "RAM": photos(2)[:, :1] - 0.5}
    return comparison_figure(photos(2), maps, titles=["0001_c1s1_001051_03.jpg", "b"], **options)


def draw_pictures(**options):
    titles, row_titles = ["a picture with a long title", "b"], ["row\none", "row two"]
    rows = photos(4).unflatten(0, (2, 2))
    return picture_figure(rows, titles=titles, row_titles=row_titles, **options)


@pytest.mark.parametrize("draw", [draw_explanation, draw_comparison, draw_pictures])
class TestAll:
    @pytest.mark.slow
    def test_nothing_is_cut_and_no_titles_meet(self, draw):
        figure = draw()
        figure.savefig(io.BytesIO())
        drawn, size = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= size[0]
        assert drawn.y1 <= size[1]
        titled = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
        assert all(a.x1 < b.x0 for a, b in pairwise(titled))

    @pytest.mark.slow
    def test_pyplot_knows_only_the_figure_it_made(self, draw):
        draw()
        assert plt.get_fignums() == []
        figure = plt.figure()
        try:
            assert draw(figure=figure) is figure
            assert plt.get_fignums() == [figure.number]
        finally:
            plt.close(figure)

    @pytest.mark.slow
    def test_threads_draw_what_one_draws(self, draw):
        def picture(_):
            file = io.BytesIO()
            draw().savefig(file, format="png", metadata={"Software": None})
            return file.getvalue()

        with ThreadPoolExecutor(2) as pool:
            pictures = set(pool.map(picture, range(4)))
        assert pictures == {picture(None)}

    @pytest.mark.slow
    def test_files_open_again(self, draw, tmp_path):
        figure = draw()
        save_figure(figure, tmp_path / "figure.png")
        save_figure(figure, str(tmp_path / "figure.PDF"))
        width, height = figure.get_size_inches()
        with Image.open(tmp_path / "figure.png") as image:
            image.load()
            assert image.format == "PNG"
            assert abs(image.width - 200 * width) <= 1
            assert abs(image.height - 200 * height) <= 1
        assert (tmp_path / "figure.PDF").read_bytes().startswith(b"%PDF-")


IMAGE, MAP = torch.zeros(3, 4, 2), torch.eye(2)
NAN = torch.tensor([[0.0, float("nan")]])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: overlay(IMAGE[None], MAP), "image"),
        (lambda: overlay(IMAGE[:1], MAP), "image"),
        (lambda: overlay(IMAGE[:, :0], MAP), "image"),
        (lambda: overlay(IMAGE.numpy(), MAP), "image"),
        (lambda: overlay(IMAGE + 1.01, MAP), "image"),
        (lambda: overlay(IMAGE - 0.01, MAP), "image"),
        (lambda: overlay(IMAGE * float("nan"), MAP), "image"),
        (lambda: overlay(IMAGE.byte(), MAP), "image"),
        (lambda: overlay(IMAGE, MAP[None, None]), "map_"),
        (lambda: overlay(IMAGE, IMAGE), "map_"),
        (lambda: overlay(IMAGE, MAP[:0]), "map_"),
        (lambda: overlay(IMAGE, NAN), "map_"),
        (lambda: overlay(IMAGE, MAP / 0), "map_"),
        (lambda: overlay(IMAGE, MAP, cmap="rainbows"), "cmap"),
        (lambda: overlay(IMAGE, MAP, cmap=""), "cmap"),
        (lambda: overlay(IMAGE, MAP, opacity=1.5), "opacity"),
        (lambda: overlay(IMAGE, MAP, opacity=float("nan")), "opacity"),
        (lambda: overlay(IMAGE, MAP, percentile=50), "percentile"),
        (lambda: overlay(IMAGE, MAP, percentile=float("nan")), "percentile"),
        (lambda: explanation_figure([], []), "images"),
        (lambda: explanation_figure([IMAGE, IMAGE], [MAP]), "maps"),
        (lambda: explanation_figure([IMAGE], [MAP], titles=["a", "b"]), "titles"),
        (lambda: explanation_figure([IMAGE], [MAP], correct=[]), "correct"),
        (lambda: explanation_figure([IMAGE, IMAGE[0]], [MAP, MAP]), "images[1]"),
        (lambda: explanation_figure([IMAGE, IMAGE], [MAP, NAN]), "maps[1]"),
        (lambda: comparison_figure([IMAGE], {}), "maps"),
        (lambda: comparison_figure([IMAGE], {"RAM": [MAP, MAP]}), "maps['RAM']"),
        (lambda: comparison_figure([IMAGE], {"RAM": [NAN]}), "maps['RAM'][0]"),
        (lambda: comparison_figure([IMAGE], {"RAM": [MAP]}, titles=[]), "titles"),
        (lambda: picture_figure([]), "rows"),
        (lambda: picture_figure([[]]), "rows"),
        (lambda: picture_figure([[IMAGE], [IMAGE, IMAGE]]), "rows"),
        (lambda: picture_figure([[IMAGE[0]]]), "rows"),
        (lambda: picture_figure([[IMAGE]], titles=["a", "b"]), "titles"),
        (lambda: picture_figure([[IMAGE]], row_titles=["a", "b"]), "row_titles"),
        (lambda: save_figure(Figure(), "figure.jpg"), "path"),
        (lambda: save_figure(Figure(), "figure"), "path"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument


def test_a_rank_list_has_its_margins():
    images, maps = photos(4), torch.tensor([[[[1.0, -1.0]]], [[[0.5, 0.0]]]])
    found = rank_figure(images[0], images[1:], [0.9, 0.75, 0.75], maps, correct=[True, False, None])
    top, bottom = grid(found, 4)
    titles = ["query", "1\n0.900\nright", "2\n0.750\nwrong", "3\n0.750"]
    assert [axis.get_title() for axis in top] == titles
    assert [axis.get_title() for axis in bottom] == ["", "1 over 2\n+0.150", "2 over 3\n+0.000", ""]
    frames = [axis.spines["left"].get_edgecolor() for axis in top[1:3]]
    assert frames == [to_rgba(RIGHT), to_rgba(WRONG)]
    assert not top[3].spines["left"].get_visible()
    assert not bottom[3].get_images()
    scale = color_scale([map_values(m, array(images[0]), "maps") for m in maps])
    for axis, map_ in zip(bottom[1:], maps, strict=False):
        over = scale.over(array(images[0]), map_values(map_, array(images[0]), "maps"))
        np.testing.assert_allclose(shown(axis), over, atol=1e-6)
    for argument, changed in {
        "similarities": {"similarities": [0.9, 0.7, 0.8]},
        "correct": {"correct": [True]},
        "maps": {"maps": maps[:1]},
        "query": {"query": images},
    }.items():
        given = {"query": images[0], "similarities": [0.9, 0.8, 0.7], "maps": maps} | changed
        with pytest.raises(InputError, match=argument):
            rank_figure(gallery=images[1:], **given)
    with pytest.raises(InputError, match="similarities"):
        rank_figure(images[0], images[1:2], [0.9], maps[:0])


def test_matches_join_their_places():
    query, gallery = torch.full((3, 40, 20), 0.5), torch.full((3, 30, 30), 0.5)
    places = torch.tensor([[0, 0], [3, 1]]), torch.tensor([[1, 2], [2, 0]])
    figure = matches_figure(query, gallery, (*places, torch.tensor([2.0, -1.0])), [(4, 2), (3, 3)])
    left, right = figure.axes
    lines, disks, numbers = (
        [artist for artist in figure.artists if isinstance(artist, kind)]
        for kind in (ConnectionPatch, Line2D, Text)
    )
    assert [tuple(line.xy1) for line in lines] == [(4.5, 4.5), (14.5, 34.5)]
    assert [tuple(line.xy2) for line in lines] == [(24.5, 14.5), (4.5, 24.5)]
    assert [(line.axesA, line.axesB) for line in lines] == [(left, right)] * 2
    assert lines[0].get_linewidth() > lines[1].get_linewidth()
    assert lines[0].get_edgecolor() != lines[1].get_edgecolor()
    dots = [[4.5, 4.5], [24.5, 14.5], [14.5, 34.5], [4.5, 24.5]]
    assert [disk.get_xydata()[0].tolist() for disk in disks] == dots
    assert [list(number.get_position()) for number in numbers] == dots
    assert [number.get_text() for number in numbers] == ["1", "1", "2", "2"]
    assert [disk.get_transform() for disk in disks] == [left.transData, right.transData] * 2
    assert max(line.zorder for line in lines) < min(disk.zorder for disk in disks)
    with pytest.raises(InputError, match="matches"):
        matches_figure(query, gallery, (*places, torch.ones(2)), [(3, 2), (3, 3)])


def test_wide_images_of_matches_stand_one_above_the_other():
    many = torch.zeros(21, 2, dtype=torch.long), torch.ones(21, 2, dtype=torch.long), torch.ones(21)
    wide = torch.full((3, 20, 40), 0.5)
    figure = matches_figure(wide, wide, many, [(2, 4)] * 2, titles=["one", "other"])
    figure.draw_without_rendering()
    above, below = (axis.get_position() for axis in figure.axes)
    assert above.y0 > below.y1
    assert [axis.get_ylabel() for axis in figure.axes] == ["one", "other"]
    assert not any(text.get_text() for text in figure.artists if isinstance(text, Text))
