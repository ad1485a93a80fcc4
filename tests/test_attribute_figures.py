import io
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reid_explain import InputError
from reid_explain.visualization import (
    DIVERGING,
    SEQUENTIAL,
    attribute_maps_figure,
    attribute_masks_figure,
    attribute_pair_figure,
    overlay,
    training_figure,
)

NAMES = ("hat", "bag", "hair", "up", "down")
SHARES = torch.tensor([0.1, 0.4, 0.05, 0.15, 0.3])
LABELS = torch.tensor([False, True, True, False, False])
LONG = tuple(f"wears a {name} of anUnbreakableAndVeryLongDescription" for name in NAMES)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


QUERY, GALLERY = random(2, 3, 8, 4)
QUERY_MAPS, GALLERY_MAPS = random(2, 5, 4, 2)
GALLERY_MAPS = GALLERY_MAPS + 1
MASKS = torch.zeros(5, 8, 4, dtype=torch.bool)
MASKS[:4, 2:6, 1:3] = True
LOG = [
    {
        "epoch": epoch,
        "loss": 9.0 / epoch,
        "near": 6.0 / epoch,
        "far": 3.0 / epoch,
        "learning_rate": rate,
        "validation_loss": validation,
        "seconds": 50.0,
    }
    for epoch, rate, validation in [(1, 1e-5, 8.0), (2, 3e-4, 5.5), (3, 2e-4, 6.5)]
]


def draw_pair(names=NAMES, **options):
    arguments = (QUERY, GALLERY, QUERY_MAPS, GALLERY_MAPS, SHARES, names)
    return attribute_pair_figure(*arguments, **options)


def draw_maps(names=NAMES, **options):
    return attribute_maps_figure(QUERY_MAPS, names, **options)


def draw_masks(names=NAMES, **options):
    energies, chances = SHARES, 0.5 * SHARES
    return attribute_masks_figure(QUERY, QUERY_MAPS, MASKS, names, energies, chances, **options)


def draw_training(**options):
    return training_figure(LOG, **options)


def shown(axis):
    """The array of the one image on an axis."""
    (artist,) = axis.get_images()
    return np.asarray(artist.get_array())


def image_grid(figure, columns):
    return np.array([axis for axis in figure.axes if not axis.patches]).reshape(-1, columns)


def bars_of(figure):
    """Label, length, note and colour of each bar, from above to below."""
    (axis,) = (axis for axis in figure.axes if axis.patches)
    rows = zip(axis.get_yticklabels(), axis.patches, axis.texts, strict=True)
    bars = [
        (label.get_text(), bar.get_width(), note.get_text(), bar.get_facecolor())
        for label, bar, note in rows
    ]
    heights = [axis.transData.transform((0, bar.get_y()))[1] for bar in axis.patches]
    assert heights == sorted(heights, reverse=True)
    return bars


def under(axis):
    """The axes of the colour bars at a panel, which are insets."""
    return axis.child_axes


class TestAttributePairFigure:
    def test_images_and_the_maps_of_the_largest_contributions_in_columns(self):
        axes = image_grid(draw_pair(), 4)
        assert axes.shape == (2, 4)
        titles = [axis.get_title() for axis in axes[0]]
        assert titles == ["", "bag\n40.0 %", "down\n30.0 %", "up\n15.0 %"]
        assert [axis.get_ylabel() for axis in axes[:, 0]] == ["query", "gallery"]
        for axis, image in zip(axes[:, 0], (QUERY, GALLERY), strict=True):
            np.testing.assert_allclose(shown(axis), image.permute(1, 2, 0).numpy())

    def test_both_maps_of_an_attribute_share_one_scale_and_one_bar(self):
        axes = image_grid(draw_pair(), 4)
        for column, k in zip(axes.T[1:], (1, 4, 3), strict=True):
            # Side by side in one image, overlay gives both the same scale.
            photos = torch.cat([QUERY, GALLERY], dim=2)
            maps = [
                F.interpolate(maps[None, k : k + 1].double(), (8, 4), mode="bilinear")[0, 0]
                for maps in (QUERY_MAPS, GALLERY_MAPS)
            ]
            expected = overlay(photos, torch.cat(maps, dim=1))
            np.testing.assert_allclose(shown(column[0]), expected[:, :4], atol=1e-12)
            np.testing.assert_allclose(shown(column[1]), expected[:, 4:], atol=1e-12)
            assert under(column[0]) == []
            (bar,) = under(column[1])
            limits = (float(maps[0].min()), float(maps[1].max()))
            np.testing.assert_allclose(bar.get_xlim(), limits)

    def test_equal_values_have_equal_colours_on_both_images(self):
        black = torch.zeros(3, 1, 2)
        figure = attribute_pair_figure(
            *(black, black),
            *(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[2.0, 4.0]]])),
            *(torch.ones(1), ["hat"]),
        )
        axes = image_grid(figure, 2)
        np.testing.assert_array_equal(shown(axes[0, 1])[0, 1], shown(axes[1, 1])[0, 0])
        middle = matplotlib.colormaps[SEQUENTIAL](0.5)[:3]
        np.testing.assert_allclose(shown(axes[0, 1])[0, 1], 0.5 * np.array(middle))

    def test_bars_are_the_contributions_and_all_others(self):
        bars = bars_of(draw_pair())
        assert [label for label, *_ in bars] == ["bag", "down", "up", "2 others"]
        lengths = [length for _, length, *_ in bars]
        np.testing.assert_allclose(lengths, [0.4, 0.3, 0.15, 0.15], atol=1e-7)
        assert [note for *_, note, _ in bars] == ["40.0 %", "30.0 %", "15.0 %", "15.0 %"]
        colours = [colour for *_, colour in bars]
        assert colours[0] == colours[1] == colours[2] != colours[3]

    def test_labels_say_what_differs_in_words_and_colours(self):
        bars = bars_of(draw_pair(labels=LABELS))
        notes = [note for *_, note, _ in bars]
        assert notes == ["40.0 %, differs", "30.0 %, same", "15.0 %, same", "15.0 %, 1 differs"]
        differs, *same, others = [colour for *_, colour in bars]
        assert same[0] == same[1]
        assert len({differs, same[0], others}) == 3

    @pytest.mark.parametrize("top", [5, 9])
    def test_without_others_where_all_are_shown(self, top):
        bars = bars_of(draw_pair(top=top))
        assert [label for label, *_ in bars] == ["bag", "down", "up", "hat", "hair"]
        assert bars_of(draw_pair(top=4))[-1][0] == "1 other"

    def test_ties_keep_the_order_of_the_attributes(self):
        maps = random(26, 4, 2)
        names = [f"a{k}" for k in range(26)]
        figure = attribute_pair_figure(
            QUERY, GALLERY, maps, maps, torch.full((26,), 1 / 26), names, top=10
        )
        assert [label for label, *_ in bars_of(figure)] == [*names[:10], "16 others"]

    def test_many_attributes_go_on_below_with_the_images_again(self):
        maps, names = random(26, 4, 2), [f"a{k}" for k in range(26)]
        shares = torch.arange(26, 0, -1) / 351
        axes = image_grid(
            attribute_pair_figure(QUERY, GALLERY, maps, maps, shares, names, top=10), 9
        )
        titles = [axis.get_title().split("\n")[0] for row in axes[::2] for axis in row]
        assert titles == ["", *names[:8], "", *names[8:10], *[""] * 6]
        for row, image in enumerate((QUERY, GALLERY, QUERY, GALLERY)):
            np.testing.assert_allclose(shown(axes[row, 0]), image.permute(1, 2, 0).numpy())
        assert not any(axis.get_images() for axis in axes[2:, 3:].flat)

    @pytest.mark.parametrize(
        ("options", "title"),
        [
            ({}, ""),
            ({"distance": 12.0}, "distance 12"),
            ({"distance": torch.tensor(12.0)}, "distance 12"),
            ({"reconstructed": 11.4}, "sum of 5 attributes 11.4"),
            (
                {"distance": 12.0, "reconstructed": torch.tensor(11.4)},
                "distance 12\nsum of 5 attributes 11.4 (-5.0 %)",
            ),
            ({"distance": 0, "reconstructed": 0}, "distance 0\nsum of 5 attributes 0"),
        ],
    )
    def test_title_gives_the_distance_and_the_sum(self, options, title):
        assert draw_pair(**options).get_suptitle() == title

    def test_sizes_may_differ(self):
        figure = attribute_pair_figure(
            QUERY, random(3, 6, 6), QUERY_MAPS, random(5, 3, 3), SHARES, NAMES
        )
        shapes = [shown(axis).shape for axis in image_grid(figure, 4)[:, 1]]
        assert shapes == [(8, 4, 3), (6, 6, 3)]


class TestAttributeMapsFigure:
    def test_one_panel_per_attribute_with_a_scale_of_its_own(self):
        axes = draw_maps().axes
        (bar,) = under(axes[-1])
        assert [axis.get_title() for axis in axes] == list(NAMES)
        for axis, map_ in zip(axes, QUERY_MAPS, strict=True):
            np.testing.assert_array_equal(shown(axis), map_.double().numpy())
            limits = (float(map_.min()), float(map_.max()))
            assert axis.get_images()[0].get_clim() == limits
        assert [label.get_text() for label in bar.get_yticklabels()] == ["lowest", "highest"]

    def test_maps_over_their_images(self):
        images = random(5, 3, 8, 4)
        axes = draw_maps(images=images).axes
        for axis, image, map_ in zip(axes, images, QUERY_MAPS, strict=True):
            np.testing.assert_array_equal(shown(axis), overlay(image, map_))

    def test_counts_under_the_names(self):
        axes = draw_maps(counts=torch.tensor([3, 1, 20, 4, 0])).axes
        titles = [axis.get_title() for axis in axes]
        assert titles[:2] == ["hat\n3 images", "bag\n1 image"]
        assert titles[4] == "down\n0 images"

    @pytest.mark.parametrize("over_images", [False, True])
    def test_an_attribute_that_no_image_has_stays_empty_and_says_so(self, over_images):
        maps, images = QUERY_MAPS.clone(), random(5, 3, 8, 4)
        maps[2], images[2] = torch.nan, torch.nan
        figure = attribute_maps_figure(maps, NAMES, images=images if over_images else None)
        panels = [[text.get_text() for text in axis.texts] for axis in figure.axes]
        assert panels == [[], [], ["no image"], [], []]
        assert [len(axis.get_images()) for axis in figure.axes] == [1, 1, 0, 1, 1]

    def test_nothing_but_empty_panels(self):
        figure = attribute_maps_figure(torch.full((2, 4, 2), torch.nan), ["hat", "bag"])
        assert [axis.texts[0].get_text() for axis in figure.axes] == ["no image"] * 2

    def test_columns(self):
        places = [axis.get_subplotspec() for axis in draw_maps(columns=2).axes]
        rows = [(place.rowspan.start, place.colspan.start) for place in places]
        assert rows == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]

    def test_signed_maps_have_zero_in_the_middle(self):
        figure = attribute_maps_figure(torch.tensor([[[-1.0, 3.0]]]), ["hat"])
        (image,) = figure.axes[0].get_images()
        assert image.get_clim() == (-3, 3)
        assert image.get_cmap().name == DIVERGING


class TestAttributeMasksFigure:
    def test_image_and_maps_over_it(self):
        first, *axes = draw_masks().axes
        assert first.get_title() == "image"
        np.testing.assert_allclose(shown(first), QUERY.permute(1, 2, 0).numpy())
        assert [axis.get_title() for axis in axes] == list(NAMES)
        for axis, map_ in zip(axes, QUERY_MAPS, strict=True):
            np.testing.assert_array_equal(shown(axis), overlay(QUERY, map_))

    def test_shares_beside_chance(self):
        labels = [axis.get_xlabel() for axis in draw_masks().axes[1:]]
        assert labels[:2] == ["10.0 % inside\n5.0 % by chance", "40.0 % inside\n20.0 % by chance"]
        assert labels[4] == "does not show"

    def test_outline_runs_along_the_edge_of_the_mask(self):
        axes = draw_masks().axes
        for axis in axes[1:5]:
            for lines in axis.collections:
                (path,) = lines.get_paths()
                low, high = path.vertices.min(axis=0), path.vertices.max(axis=0)
                np.testing.assert_allclose(low, (0.5, 1.5))
                np.testing.assert_allclose(high, (2.5, 5.5))
        assert [len(axis.collections) for axis in axes] == [0, 2, 2, 2, 2, 0]

    def test_outline_of_a_mask_at_the_border_is_closed_and_leaves_the_view_alone(self):
        everywhere = torch.ones(1, 8, 4, dtype=torch.bool)
        one = torch.ones(1)
        axis = attribute_masks_figure(QUERY, QUERY_MAPS[:1], everywhere, ["a"], one, one).axes[1]
        assert axis.get_xlim() == (-0.5, 3.5)
        assert axis.get_ylim() == (7.5, -0.5)
        (path,) = axis.collections[0].get_paths()
        np.testing.assert_array_equal(path.vertices[0], path.vertices[-1])
        np.testing.assert_allclose(path.vertices.max(axis=0), (3.5, 7.5))


def lines_of(axis):
    return {line.get_label(): line.get_xydata().T.tolist() for line in axis.lines}


class TestTrainingFigure:
    def test_loss_and_terms_over_the_epochs(self):
        losses, rates = draw_training().axes
        lines = lines_of(losses)
        assert lines["loss"] == [[1, 2, 3], [9, 4.5, 3]]
        assert lines["near"] == [[1, 2, 3], [6, 3, 2]]
        assert lines["far"] == [[1, 2, 3], [3, 1.5, 1]]
        assert [text.get_text() for text in losses.get_legend().get_texts()] == list(lines)
        assert losses.get_ylim()[0] <= 0
        assert rates.get_xlabel() == "epoch"

    def test_learning_rate_below(self):
        losses, rates = draw_training().axes
        (line,) = rates.lines
        assert line.get_xydata().T.tolist() == [[1, 2, 3], [1e-5, 3e-4, 2e-4]]
        assert [label.get_text() for label in rates.get_yticklabels()] == ["0", "0.0003"]
        assert rates.get_position().y1 <= losses.get_position().y0
        assert rates.get_shared_x_axes().joined(losses, rates)

    def test_validation_loss_and_where_it_is_lowest(self):
        lines = lines_of(draw_training().axes[0])
        assert lines["validation_loss"] == [[1, 2, 3], [8, 5.5, 6.5]]
        assert lines["lowest, epoch 2"] == [[2], [5.5]]

    def test_without_validation_or_terms(self):
        log = [{key: row[key] for key in ("epoch", "loss", "learning_rate")} for row in LOG]
        figure = training_figure(log)
        assert list(lines_of(figure.axes[0])) == ["loss"]
        assert figure.axes[0].get_title() == "3 epochs"

    @pytest.mark.parametrize(
        ("seconds", "title"),
        [
            (50, "3 epochs in 2.5 min"),
            (10, "3 epochs in 30 s"),
            (6000, "3 epochs in 5 h"),
            (float("nan"), "3 epochs"),
        ],
    )
    def test_title_says_how_long_it_took(self, seconds, title):
        figure = training_figure([{**row, "seconds": seconds} for row in LOG])
        assert figure.axes[0].get_title() == title

    def test_gaps_where_nothing_was_measured(self):
        first = {key: value for key, value in LOG[0].items() if key != "validation_loss"}
        log = [first, LOG[1], {**LOG[2], "near": float("nan"), "validation_loss": float("nan")}]
        lines = lines_of(training_figure(log).axes[0])
        np.testing.assert_array_equal(lines["near"][1], [6, 3, np.nan])
        np.testing.assert_array_equal(lines["validation_loss"][1], [np.nan, 5.5, np.nan])
        assert "lowest, epoch 2" in lines

    def test_one_epoch(self):
        figure = training_figure(LOG[:1])
        figure.draw_without_rendering()
        low, high = figure.axes[1].get_xlim()
        assert [tick for tick in figure.axes[1].get_xticks() if low <= tick <= high] == [1]
        assert figure.axes[0].get_title() == "1 epoch in 50 s"

    def test_more_terms_than_colours_look_different(self):
        terms = {f"term {i}": float(i) for i in range(12)}
        lines = training_figure([{**row, **terms} for row in LOG]).axes[0].lines
        looks = {(line.get_color(), line.get_marker()) for line in lines}
        assert len(looks) == len(lines)


CASES = {
    "pair": draw_pair,
    "pair with everything": lambda **options: draw_pair(
        LONG, top=5, distance=12.0, reconstructed=11.4, labels=LABELS, **options
    ),
    "one attribute": lambda **options: draw_pair(
        top=1, distance=12.0, reconstructed=11.4, **options
    ),
    "maps": lambda **options: draw_maps(LONG, counts=torch.arange(5), columns=3, **options),
    "26 maps": lambda **options: attribute_maps_figure(
        random(26, 4, 2),
        [f"{NAMES[k % 5]} number {k}" for k in range(26)],
        images=random(26, 3, 8, 4),
        counts=torch.arange(26),
        **options,
    ),
    "masks": lambda **options: draw_masks(LONG, columns=4, **options),
    "training": draw_training,
}


@pytest.mark.parametrize("draw", CASES.values(), ids=CASES)
class TestAll:
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

    def test_pyplot_knows_only_the_figure_it_made(self, draw):
        draw()
        assert plt.get_fignums() == []
        figure = plt.figure()
        try:
            assert draw(figure=figure) is figure
            assert plt.get_fignums() == [figure.number]
        finally:
            plt.close(figure)


def texts(figure):
    """Titles, labels and notes of a figure that say something."""
    found = [figure._suptitle] if figure.get_suptitle() else []
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        found += [*axis.get_xticklabels(), *axis.get_yticklabels()]
        for bar in under(axis):
            found += [*bar.get_xticklabels(), *bar.get_yticklabels()]
    return [text for text in found if text.get_visible() and text.get_text()]


NAN = float("nan")


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
    return attribute_maps_figure(**{"maps": QUERY_MAPS, "attributes": NAMES, **changed})


def masks(**changed):
    given = {
        "image": QUERY,
        "maps": QUERY_MAPS,
        "masks": MASKS,
        "attributes": NAMES,
        "energies": SHARES,
        "chances": SHARES,
    }
    return attribute_masks_figure(**{**given, **changed})


def without(key):
    return [LOG[0], {name: value for name, value in LOG[1].items() if name != key}]


PARTLY = QUERY_MAPS.clone()
PARTLY[1, 0, 0] = NAN


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: pair(query=QUERY[None]), "query"),
        (lambda: pair(gallery=2 * GALLERY + 1), "gallery"),
        (lambda: pair(query_maps=QUERY_MAPS[None]), "query_maps"),
        (lambda: pair(query_maps=QUERY_MAPS[:4]), "query_maps"),
        (lambda: pair(query_maps=PARTLY), "query_maps"),
        (lambda: pair(gallery_maps=GALLERY_MAPS.numpy()), "gallery_maps"),
        (lambda: pair(gallery_maps=GALLERY_MAPS.long()), "gallery_maps"),
        (lambda: pair(contributions=SHARES[:4]), "contributions"),
        (lambda: pair(contributions=SHARES[None]), "contributions"),
        (lambda: pair(contributions=100 * SHARES), "contributions"),
        (lambda: pair(contributions=-SHARES), "contributions"),
        (lambda: pair(contributions=SHARES * NAN), "contributions"),
        (lambda: pair(attributes=[]), "attributes"),
        (lambda: pair(attributes="three"), "attributes"),
        (lambda: pair(top=0), "top"),
        (lambda: pair(top=1.5), "top"),
        (lambda: pair(distance=-1.0), "distance"),
        (lambda: pair(distance=torch.ones(2)), "distance"),
        (lambda: pair(reconstructed=NAN), "reconstructed"),
        (lambda: pair(labels=LABELS[:4]), "labels"),
        (lambda: pair(labels=LABELS.long()), "labels"),
        (lambda: maps(maps=QUERY_MAPS[0]), "maps"),
        (lambda: maps(maps=QUERY_MAPS[:, :0]), "maps"),
        (lambda: maps(attributes=NAMES[:4]), "maps"),
        (lambda: maps(maps=PARTLY), "maps[1]"),
        (lambda: maps(maps=QUERY_MAPS / 0), "maps[0]"),
        (lambda: maps(images=random(4, 3, 8, 4)), "images"),
        (lambda: maps(images=random(5, 1, 8, 4)), "images[0]"),
        (lambda: maps(counts=torch.ones(5)), "counts"),
        (lambda: maps(counts=torch.ones(4).long()), "counts"),
        (lambda: maps(columns=0), "columns"),
        (lambda: masks(image=QUERY[:1]), "image"),
        (lambda: masks(maps=QUERY_MAPS[:4]), "maps"),
        (lambda: masks(maps=PARTLY), "maps[1]"),
        (lambda: masks(masks=MASKS.float()), "masks"),
        (lambda: masks(masks=MASKS[:, :4]), "masks"),
        (lambda: masks(masks=MASKS[:4]), "masks"),
        (lambda: masks(energies=SHARES + 1), "energies"),
        (lambda: masks(chances=SHARES * NAN), "chances"),
        (lambda: masks(columns=0), "columns"),
        (lambda: training_figure([]), "log"),
        (lambda: training_figure(without("loss")), "log[1]"),
        (lambda: training_figure(without("learning_rate")), "log[1]"),
        (lambda: training_figure([{**LOG[0], "near": "0.5"}]), "log[0]['near']"),
        (lambda: training_figure([{**LOG[0], "epoch": NAN}]), "log[0]['epoch']"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.argument == argument
