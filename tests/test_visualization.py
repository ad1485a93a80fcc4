import io
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import MappingProxyType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from reid_explain import InputError
from reid_explain.visualization import (
    DIVERGING,
    SEQUENTIAL,
    comparison_figure,
    explanation_figure,
    overlay,
    save_figure,
)


def photos(count, height=8, width=4):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def colours(values, cmap):
    return np.asarray(matplotlib.colormaps[cmap](np.asarray(values, dtype=float)))[..., :3]


def shown(axis):
    """The array of the one image on an axis."""
    (artist,) = axis.get_images()
    return np.asarray(artist.get_array())


def grid(figure, columns):
    return np.array(figure.axes).reshape(-1, columns)


def bars(figure):
    """The axes of the colour bars, which are insets."""
    return [bar for axis in figure.axes for bar in axis.child_axes]


class TestOverlay:
    def test_blends_the_colours_of_the_map_with_the_pixels(self):
        image = photos(1, 2, 2)[0]
        map_ = torch.tensor([[0.0, 2.0], [1.0, 0.5]])
        result = overlay(image, map_, cmap="jet", alpha=0.25)
        expected = 0.75 * image.permute(1, 2, 0).numpy()
        expected = expected + 0.25 * colours([[0, 1], [0.5, 0.25]], "jet")
        np.testing.assert_allclose(result, expected, atol=1e-7)

    def test_alpha_goes_from_the_image_to_the_map(self):
        image, map_ = photos(1, 2, 1)[0], torch.tensor([[[3.0], [7.0]]])
        np.testing.assert_allclose(overlay(image, map_, alpha=0), image.permute(1, 2, 0).numpy())
        np.testing.assert_allclose(
            overlay(image, map_, alpha=1), colours([[0], [1]], SEQUENTIAL), atol=1e-12
        )

    def test_upsamples_bilinearly_to_the_image(self):
        result = overlay(photos(1, 3, 4)[0], torch.tensor([[0.0, 1.0]]), alpha=1)
        row = colours([0, 0.25, 0.75, 1], SEQUENTIAL)
        np.testing.assert_allclose(result, np.stack([row] * 3), atol=1e-12)

    def test_zero_is_the_middle_colour_of_a_signed_map(self):
        map_ = torch.tensor([[-1.0, 0.0, 4.0]])
        result = overlay(photos(1, 1, 3)[0], map_, alpha=1)
        np.testing.assert_allclose(result[0], colours([0.375, 0.5, 1], DIVERGING), atol=1e-12)

    @pytest.mark.parametrize("value", [0.0, 0.7, -0.3])
    @pytest.mark.parametrize("noise", [0.0, 1e-8])
    def test_a_constant_map_has_the_lowest_colour_everywhere(self, value, noise):
        map_ = value * (1 + noise * photos(1, 4, 2)[0, :1].double())
        result = overlay(photos(1)[0], map_, alpha=1)
        np.testing.assert_array_equal(result, np.broadcast_to(colours(0, SEQUENTIAL), (8, 4, 3)))

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
        result = overlay(torch.full((3, 2, 2), 1 + 1e-4), torch.eye(2), alpha=0)
        np.testing.assert_array_equal(result, np.ones((2, 2, 3)))


class TestExplanationFigure:
    maps = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 3.0]]], [[[2.0, 2.0]]]])
    titles = ("query", "rank 1: 0.91", "rank 2: 0.84")

    def test_one_column_per_image_with_image_map_and_overlay(self):
        images = photos(3)
        axes = grid(explanation_figure(images, self.maps, titles=self.titles), 3)
        assert [axis.get_title() for axis in axes[0]] == list(self.titles)
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["image", "map", "overlay"]
        upsampled = F.interpolate(self.maps.double(), (8, 4), mode="bilinear")
        for column, image, map_, large in zip(axes.T, images, self.maps, upsampled, strict=True):
            np.testing.assert_allclose(shown(column[0]), image.permute(1, 2, 0).numpy())
            np.testing.assert_array_equal(shown(column[1]), large[0])
            np.testing.assert_array_equal(shown(column[2]), overlay(image, map_))

    def test_each_map_has_its_scale_and_colour_bar(self):
        figure = explanation_figure(photos(3), self.maps)
        ranges = [axis.get_images()[0].get_clim() for axis in grid(figure, 3)[1]]
        assert ranges == [(0, 1), (0, 3), (2, 4)]
        assert [bar.get_xlim() for bar in bars(figure)] == ranges
        labels = [[label.get_text() for label in bar.get_xticklabels()] for bar in bars(figure)]
        assert labels == [["0", "1"], ["0", "3"], ["2", "4"]]

    def test_shared_scale_colours_equal_values_alike(self):
        images = torch.zeros(3, 3, 8, 4)
        figure = explanation_figure(images, self.maps, shared_scale=True, alpha=1)
        axes = grid(figure, 3)
        assert {axis.get_images()[0].get_clim() for axis in axes[1]} == {(0, 3)}
        (bar,) = bars(figure)
        assert bar.get_ylim() == (0, 3)
        for axis, value in zip(axes[2], (1 / 3, 1, 2 / 3), strict=True):
            np.testing.assert_allclose(shown(axis)[0, -1], colours(value, SEQUENTIAL))

    def test_one_signed_map_makes_a_shared_scale_signed(self):
        figure = explanation_figure(photos(2), [-self.maps[1], self.maps[0]], shared_scale=True)
        drawn = [axis.get_images()[0] for axis in grid(figure, 2)[1]]
        assert [image.get_clim() for image in drawn] == [(-3, 3)] * 2
        assert [image.get_cmap().name for image in drawn] == [DIVERGING] * 2

    def test_sizes_may_differ(self):
        images = [photos(1, 8, 4)[0], photos(1, 6, 6)[0]]
        axes = grid(explanation_figure(images, [torch.eye(3), torch.eye(2)[None]]), 2)
        assert [shown(axis).shape for axis in axes[2]] == [(8, 4, 3), (6, 6, 3)]


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
            np.testing.assert_allclose(shown(panels[0]), image.permute(1, 2, 0).numpy())
            for axis, maps in zip(panels[1:], self.maps.values(), strict=True):
                np.testing.assert_array_equal(shown(axis), overlay(image, maps[row]))

    def test_colour_bar_for_each_kind_of_map(self):
        labels = [
            [label.get_text() for label in bar.get_yticklabels()]
            for bar in bars(comparison_figure(photos(2), self.maps))
        ]
        assert labels == [["lowest", "highest"], ["-max", "0", "max"]]
        (bar,) = bars(comparison_figure(photos(2), {"GradFAM": self.maps["GradFAM"]}))
        assert bar.get_ylim() == (0, 1)

    def test_jet_on_request(self):
        image = photos(1)
        figure = comparison_figure(image, {"CAM": torch.eye(2)[None]}, cmap="jet", alpha=0.5)
        expected = overlay(image[0], torch.eye(2), cmap="jet")
        np.testing.assert_array_equal(shown(figure.axes[1]), expected)


def draw_explanation(**options):
    titles = ["0001_c1s1_001051_03.jpg", "rank 1\nsimilarity 0.91"]
    return explanation_figure(photos(2), photos(2)[:, :1], titles=titles, **options)


def draw_comparison(**options):
    maps = {"a method with a long name": photos(2)[:, :1], "RAM": photos(2)[:, :1] - 0.5}
    return comparison_figure(photos(2), maps, titles=["0001_c1s1_001051_03.jpg", "b"], **options)


@pytest.mark.parametrize("draw", [draw_explanation, draw_comparison])
class TestBoth:
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

    def test_pyplot_knows_only_the_figure_it_made(self, draw):
        draw()
        assert plt.get_fignums() == []
        figure = plt.figure()
        try:
            assert draw(figure=figure) is figure
            assert plt.get_fignums() == [figure.number]
        finally:
            plt.close(figure)

    def test_threads_draw_what_one_draws(self, draw):
        def picture(_):
            file = io.BytesIO()
            draw().savefig(file, format="png", metadata={"Software": None})
            return file.getvalue()

        with ThreadPoolExecutor(2) as pool:
            pictures = set(pool.map(picture, range(4)))
        assert pictures == {picture(None)}

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
        (lambda: overlay(IMAGE, MAP, alpha=1.5), "alpha"),
        (lambda: overlay(IMAGE, MAP, alpha=float("nan")), "alpha"),
        (lambda: explanation_figure([], []), "images"),
        (lambda: explanation_figure([IMAGE, IMAGE], [MAP]), "maps"),
        (lambda: explanation_figure([IMAGE], [MAP], titles=["a", "b"]), "titles"),
        (lambda: explanation_figure([IMAGE, IMAGE[0]], [MAP, MAP]), "images[1]"),
        (lambda: explanation_figure([IMAGE, IMAGE], [MAP, NAN]), "maps[1]"),
        (lambda: comparison_figure([IMAGE], {}), "maps"),
        (lambda: comparison_figure([IMAGE], {"RAM": [MAP, MAP]}), "maps['RAM']"),
        (lambda: comparison_figure([IMAGE], {"RAM": [NAN]}), "maps['RAM'][0]"),
        (lambda: comparison_figure([IMAGE], {"RAM": [MAP]}, titles=[]), "titles"),
        (lambda: save_figure(Figure(), "figure.jpg"), "path"),
        (lambda: save_figure(Figure(), "figure"), "path"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
