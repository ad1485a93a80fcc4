import io
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reid_explain import InputError
from reid_explain.visualization import attribute_maps_figure, attribute_pair_figure, overlay
from reid_explain.visualization.attributes import COLUMNS

NAMES = ("hat", "bag", "hair", "up", "down")
SHARES = torch.tensor([0.1, 0.4, 0.05, 0.15, 0.3])
LABELS = torch.tensor([False, True, True, False, False])
LONG = tuple(f"wears a {name} of anUnbreakableAndVeryLongDescription" for name in NAMES)
NAN = float("nan")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


QUERY, GALLERY = random(2, 3, 8, 4)
QUERY_MAPS, GALLERY_MAPS = random(2, 5, 4, 2)
GALLERY_MAPS = GALLERY_MAPS + 1
MASKS = torch.zeros(5, 8, 4, dtype=torch.bool)
MASKS[:4, 2:6, 1:3] = True
PARTLY = QUERY_MAPS.clone()
PARTLY[1, 0, 0] = NAN


def pair(**changed):
    given = {
        "query": QUERY,
        "gallery": GALLERY,
        "query_maps": QUERY_MAPS,
        "gallery_maps": GALLERY_MAPS,
        "contributions": SHARES,
        "attributes": NAMES,
    }
    return attribute_pair_figure(**{**given, **changed})


def maps(**changed):
    given = {"maps": QUERY_MAPS, "attributes": NAMES, "images": QUERY}
    return attribute_maps_figure(**{**given, **changed})


def shown(axis):
    """The array of the one image on an axis."""
    (artist,) = axis.get_images()
    return np.asarray(artist.get_array())


def image_grid(figure, columns):
    return np.array([axis for axis in figure.axes if not axis.patches]).reshape(-1, columns)


def bars_of(figure):
    """Label, length, note and color of each bar, from above to below."""
    (axis,) = (axis for axis in figure.axes if axis.patches)
    rows = zip(axis.get_yticklabels(), axis.patches, axis.texts, strict=True)
    bars = [
        (label.get_text(), bar.get_width(), note.get_text(), bar.get_facecolor())
        for label, bar, note in rows
    ]
    heights = [axis.transData.transform((0, bar.get_y()))[1] for bar in axis.patches]
    assert heights == sorted(heights, reverse=True)
    return bars


def color_bars(figure):
    """The axes of the color bars, which are insets."""
    return [bar for axis in figure.axes for bar in axis.child_axes]


class TestAttributePairFigure:
    def test_images_and_the_maps_of_the_largest_contributions_in_columns(self):
        axes = image_grid(pair(), 4)
        titles = [axis.get_title() for axis in axes[0]]
        assert titles == ["", "bag\n40.0%", "down\n30.0%", "up\n15.0%"]
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["query", "gallery"]
        for axis, image in zip(axes[:, 0], (QUERY, GALLERY), strict=True):
            np.testing.assert_allclose(shown(axis), image.permute(1, 2, 0).numpy())

    def test_both_maps_of_an_attribute_share_one_scale(self):
        figure = pair()
        axes = image_grid(figure, 4)
        for column, k in zip(axes.T[1:], (1, 4, 3), strict=True):
            # Side by side in one image, overlay gives both the same scale.
            photos = torch.cat([QUERY, GALLERY], dim=2)
            both = [
                F.interpolate(maps[None, k : k + 1].double(), (8, 4), mode="bilinear")[0, 0]
                for maps in (QUERY_MAPS, GALLERY_MAPS)
            ]
            expected = overlay(photos, torch.cat(both, dim=1))
            np.testing.assert_allclose(shown(column[0]), expected[:, :4], atol=1e-12)
            np.testing.assert_allclose(shown(column[1]), expected[:, 4:], atol=1e-12)
        (bar,) = color_bars(figure)
        assert [label.get_text() for label in bar.get_yticklabels()] == ["low", "high"]

    def test_bars_are_the_contributions_and_all_others(self):
        bars = bars_of(pair())
        assert [label for label, *_ in bars] == ["bag", "down", "up", "2 others"]
        lengths = [length for _, length, *_ in bars]
        np.testing.assert_allclose(lengths, [0.4, 0.3, 0.15, 0.15], atol=1e-7)
        assert [note for *_, note, _ in bars] == ["40.0%", "30.0%", "15.0%", "15.0%"]
        colors = [color for *_, color in bars]
        assert colors[0] == colors[1] == colors[2] != colors[3]

    def test_labels_say_what_differs_in_words_and_colors(self):
        bars = bars_of(pair(labels=LABELS))
        notes = [note for *_, note, _ in bars]
        others = "15.0%, 1 of them differ"
        assert notes == ["40.0%, differs", "30.0%, same", "15.0%, same", others]
        differs, *same, others = [color for *_, color in bars]
        assert same[0] == same[1]
        assert len({differs, same[0], others}) == 3

    @pytest.mark.slow
    @pytest.mark.parametrize("top", [5, 9])
    def test_without_others_where_all_are_shown(self, top):
        bars = bars_of(pair(top=top))
        assert [label for label, *_ in bars] == ["bag", "down", "up", "hat", "hair"]

    def test_ties_keep_the_order_of_the_attributes(self):
        many, names = random(26, 4, 2), [f"a{k}" for k in range(26)]
        shares = torch.full((26,), 1 / 26)
        figure = pair(
            query_maps=many, gallery_maps=many, contributions=shares, attributes=names, top=4
        )
        assert [label for label, *_ in bars_of(figure)] == [*names[:4], "22 others"]

    def test_sizes_may_differ(self):
        figure = pair(gallery=random(3, 6, 6), gallery_maps=random(5, 3, 3))
        shapes = [shown(axis).shape for axis in image_grid(figure, 4)[:, 1]]
        assert shapes == [(8, 4, 3), (6, 6, 3)]


class TestAttributeMapsFigure:
    def test_one_panel_per_attribute_with_a_scale_of_its_own(self):
        images = random(5, 3, 8, 4)
        figure = maps(images=images)
        assert [axis.get_title() for axis in figure.axes] == list(NAMES)
        for axis, image, map_ in zip(figure.axes, images, QUERY_MAPS, strict=True):
            np.testing.assert_array_equal(shown(axis), overlay(image, map_))
        (bar,) = color_bars(figure)
        assert [label.get_text() for label in bar.get_yticklabels()] == ["low", "high"]

    def test_a_single_image_comes_first_and_lies_under_all_maps(self):
        first, *axes = maps().axes
        assert first.get_title() == "image"
        np.testing.assert_allclose(shown(first), QUERY.permute(1, 2, 0).numpy())
        for axis, map_ in zip(axes, QUERY_MAPS, strict=True):
            np.testing.assert_array_equal(shown(axis), overlay(QUERY, map_))

    def test_notes_under_the_names(self):
        axes = maps(notes=["3 images", "1 image", "", "a\nb", "-"]).axes[1:]
        titles = [axis.get_title() for axis in axes]
        assert titles == ["hat\n3 images", "bag\n1 image", "hair", "up\na\nb", "down\n-"]

    @pytest.mark.slow
    def test_an_attribute_without_a_map_stays_empty(self):
        absent, images = QUERY_MAPS.clone(), random(5, 3, 8, 4)
        absent[2], images[2] = torch.nan, torch.nan
        figure = maps(maps=absent, images=images, masks=MASKS)
        assert [len(axis.get_images()) for axis in figure.axes] == [1, 1, 0, 1, 1]
        nothing = maps(maps=absent * torch.nan, images=images)
        assert not any(axis.get_images() for axis in nothing.axes)

    def test_rows_are_about_equally_long(self):
        many = random(COLUMNS, 4, 2)
        axes = maps(maps=many, attributes=[f"{k}" for k in range(COLUMNS)]).axes
        columns = [axis.get_subplotspec().colspan.start for axis in axes]
        assert columns == [*range(5)] * 2

    def test_outline_is_white_inside_the_mask_and_black_around_it(self):
        plain, drawn = (shown(figure.axes[1]) for figure in (maps(), maps(masks=MASKS)))
        changed = np.zeros((8, 4), dtype=bool)
        changed[2:6, 1:3] = True
        np.testing.assert_array_equal(drawn[2:6, 1:3], 1)
        np.testing.assert_array_equal(drawn[[1, 6], 1:3], 0)
        np.testing.assert_array_equal(drawn[2:6, [0, 3]], 0)
        np.testing.assert_array_equal(drawn[[0, 7]], plain[[0, 7]])

    def test_outline_of_a_mask_at_the_border_is_closed(self):
        plain, drawn = (shown(maps(**m).axes[1]) for m in ({}, {"masks": torch.ones_like(MASKS)}))
        np.testing.assert_array_equal(drawn[[0, -1]], 1)
        np.testing.assert_array_equal(drawn[:, [0, -1]], 1)
        np.testing.assert_array_equal(drawn[1:-1, 1:-1], plain[1:-1, 1:-1])

    def test_an_empty_mask_draws_nothing(self):
        plain, drawn = (shown(figure.axes[5]) for figure in (maps(), maps(masks=MASKS)))
        np.testing.assert_array_equal(plain, drawn)


CASES = {
    "pair": pair,
    "pair with everything": lambda **options: pair(
        attributes=LONG, top=5, title="distance 12\nsum 11.4 (-5.0%)", labels=LABELS, **options
    ),
    "one attribute": lambda **options: pair(top=1, title="distance 12", **options),
    "maps": lambda **options: maps(attributes=LONG, notes=["a\nb"] * 5, masks=MASKS, **options),
    "26 maps": lambda **options: attribute_maps_figure(
        random(26, 4, 2),
        [f"{NAMES[k % 5]} number {k}" for k in range(26)],
        random(26, 3, 8, 4),
        **options,
    ),
}


@pytest.mark.parametrize("draw", CASES.values(), ids=CASES)
class TestAll:
    @pytest.mark.slow
    def test_nothing_is_cut_and_no_texts_meet(self, draw):
        figure = draw()
        figure.savefig(io.BytesIO())
        drawn, size = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= size[0]
        assert drawn.y1 <= size[1]
        boxes = [(text, text.get_window_extent()) for text in texts(figure)]
        meeting = [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)]
        assert meeting == []

    @pytest.mark.slow
    def test_draws_into_the_figure_handed_in(self, draw):
        figure = plt.figure()
        assert draw(figure=figure) is figure
        plt.close(figure)


def texts(figure):
    """Titles, labels and notes of a figure that say something."""
    found = [figure._suptitle] if figure.get_suptitle() else []
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        found += [*axis.get_xticklabels(), *axis.get_yticklabels()]
        for bar in axis.child_axes:
            found += [*bar.get_xticklabels(), *bar.get_yticklabels()]
    return [text for text in found if text.get_visible() and text.get_text()]


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: pair(query=QUERY[None]), "query"),
        (lambda: pair(gallery=2 * GALLERY + 1), "gallery"),
        (lambda: pair(query_maps=QUERY_MAPS[None]), "query_maps"),
        (lambda: pair(query_maps=QUERY_MAPS[:4]), "query_maps"),
        (lambda: pair(query_maps=PARTLY), "maps of bag[0]"),
        (lambda: pair(gallery_maps=GALLERY_MAPS.numpy()), "maps of bag[1]"),
        (lambda: pair(gallery_maps=GALLERY_MAPS.long()), "maps of bag[1]"),
        (lambda: pair(contributions=SHARES[:4]), "contributions"),
        (lambda: pair(contributions=SHARES[:, None]), "contributions"),
        (lambda: pair(contributions=100 * SHARES), "contributions"),
        (lambda: pair(contributions=-SHARES), "contributions"),
        (lambda: pair(contributions=SHARES * NAN), "contributions"),
        (lambda: pair(attributes=[]), "contributions"),
        (lambda: pair(attributes="three"), "attributes"),
        (lambda: pair(top=0), "top"),
        (lambda: pair(top=1.5), "top"),
        (lambda: pair(labels=LABELS[:4]), "labels"),
        (lambda: pair(labels=LABELS.long()), "labels"),
        (lambda: maps(maps=QUERY_MAPS[0]), "attributes"),
        (lambda: maps(maps=QUERY_MAPS[:, :0]), "maps[0]"),
        (lambda: maps(maps=PARTLY), "maps[1]"),
        (lambda: maps(maps=QUERY_MAPS / 0), "maps[0]"),
        (lambda: maps(attributes=NAMES[:4]), "attributes"),
        (lambda: maps(attributes="three"), "attributes"),
        (lambda: maps(images=random(4, 3, 8, 4)), "images"),
        (lambda: maps(images=random(5, 1, 8, 4)), "images[0]"),
        (lambda: maps(images=QUERY[:1]), "images[0]"),
        (lambda: maps(notes=["a"]), "notes"),
        (lambda: maps(masks=MASKS.float()), "masks"),
        (lambda: maps(masks=MASKS[:, :4]), "masks"),
        (lambda: maps(masks=MASKS[:4]), "masks"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
