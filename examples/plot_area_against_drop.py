"""
Area against drop
=================

The FAM paper keeps what a map marks, and measures how much of the similarity to the same person is
lost: AS Drop. A map that marks more keeps more, whatever it marks, and so noise wins. At equal
areas, beside random maps of the same smoothness, the picture is another one.

.. code-block:: console

   $ python examples/plot_area_against_drop.py --queries 40 --output pictures
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import ActivationMean, Centre, GradFAM, GradRAM, Random, ScoreFAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.fills import blurred
from reid_explain.metrics.embedding import embed_records
from reid_explain.metrics.faithfulness import (
    AREA_FRACTIONS,
    composite,
    drop,
    explanation_mask,
    kept_area,
    match_similarity,
    random_phase_maps,
    top_area_masks,
)
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import Curve, curves_figure, interval_figure, save_figure

parser = argparse.ArgumentParser(description="Draw AS Drop against the area that is kept.")
parser.add_argument("--queries", type=int, default=12, help="queries to average over")
parser.add_argument("--output", type=Path, help="write the figures to this folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# Queries, their matches, and maps
# --------------------------------
# AS Drop asks for the images of the same person from other cameras, so these are the gallery here.
# The reference of Grad-RAM is the first of them. Score-FAM takes one forward pass for each of 16
# clusters of channels, in place of 256. ``Random`` is noise at the layer's resolution; it, the
# channel mean and a blob in the centre know nothing of the embedding.

world = SyntheticReID()
model = load_pretrained("synthetic")
spec = model.input_spec
records = world.query[:: len(world.query) // args.queries][: args.queries]
people = {record.identity for record in records}
matches = [record for record in world.gallery if record.identity in people]
gallery = embed_records(model, world, matches, show_progress=False)
query = embed_records(model, world, records, show_progress=False)
images = torch.stack([spec.to_tensor(world.load(record)) for record in records])

matched = (query.identities[:, None] == gallery.identities) & (
    query.cameras[:, None] != gallery.cameras
)
references = gallery.embeddings[matched.int().argmax(1)]

explainers = {
    "GradFAM": GradFAM(model, model.map_layer),
    "GradRAM": GradRAM(model, model.map_layer),
    "ScoreFAM": ScoreFAM(model, model.map_layer, max_scored_channels=16),
    "ActivationMean": ActivationMean(model, model.map_layer),
    "Centre": Centre(model, model.map_layer),
    "Random": Random(model, model.map_layer),
}
controls = ("ActivationMean", "Centre", "Random")
maps = {}
for name, explainer in explainers.items():
    given = {"references": references} if name == "GradRAM" else {}
    maps[name] = explainer.attribute(images, **given, interpolate_mode=None)


def upsampled(map_):
    return F.interpolate(map_, images.shape[2:], mode="bilinear")


def similarity(pictures):
    """Return the mean cosine (Q,) of each query's picture with its matches."""
    with torch.no_grad():
        embeddings = model(pictures.contiguous(memory_format=torch.channels_last))
    return match_similarity(query._replace(embeddings=embeddings), gallery)


# %%
# The paper's score
# -----------------
# Its mask keeps whatever part of the image the map happens to mark, the rest is blurred. The image
# as it is would stand in the lower right corner: nothing lost, and nothing explained.

BLURRED, OTHER = "the rest blurred", "the rest from another person"
fills = {BLURRED: blurred(images), OTHER: images.roll(1, 0)}
whole = similarity(images)
blank = {title: similarity(fill) for title, fill in fills.items()}
harmed = torch.stack([whole > similar for similar in blank.values()]).all(0)
print(f"{harmed.sum()} of {len(images)} queries lose similarity to either fill alone, and count")

points = {}
for name, map_ in maps.items():
    mask = explanation_mask(upsampled(map_))
    lost = drop(whole, similarity(composite(images, mask, fills[BLURRED])), blank[BLURRED])
    points[name] = [bootstrap_mean(100 * kept_area(mask)), bootstrap_mean(100 * lost[harmed])]

scatter = curves_figure(
    {"": {name: Curve(area.mean, *lost) for name, (area, lost) in points.items()}},
    xlabel="kept area, %",
    ylabel=f"AS Drop, %, mean of {harmed.sum()} queries",
    controls=controls,
    figure=plt.figure(),
)

# %%
# At equal areas
# --------------
# Now every map keeps its highest 5, 10, ... 70 % of the pixels. Dotted: random
# maps, as smooth as the method's own. One
# fill is not enough, since a map can suit one by chance: here are two, and the benchmark has four.


def drops_of(maps):
    """Return the AS Drop (Q, A) in % of each query at each kept area, by fill and method."""
    drops = {title: {} for title in fills}
    for name, map_ in maps.items():
        masks = top_area_masks(upsampled(map_)).unbind(1)
        for title, fill in fills.items():
            kept = [similarity(composite(images, mask, fill)) for mask in masks]
            lost = drop(whole, torch.stack(kept, 1), blank[title])
            drops[title][name] = 100 * lost[harmed]
    return drops


del maps["Random"]  # its random maps are noise as well
seeds = range(len(images))
drops = drops_of(maps)
chance = drops_of({name: random_phase_maps(map_, seeds) for name, map_ in maps.items()})

shares = [100 * area for area in AREA_FRACTIONS]
panels, dotted = (
    {
        title: {name: Curve(shares, rows.mean(0)) for name, rows in own.items()}
        for title, own in found.items()
    }
    for found in (drops, chance)
)
curves = curves_figure(
    panels,
    xlabel="kept area, %",
    ylabel=f"AS Drop, %, mean of {harmed.sum()} queries",
    controls=controls,
    dotted=dotted,
    dotted_label="random maps",
    figure=plt.figure(),
)

# %%
# Ahead of chance?
# ----------------
# The curves differ from query to query far more than from method to method, so a method is
# compared with its own random maps query by query: its lead in AS Drop, mean over the six areas,
# with a 95 % bootstrap interval over the queries. With so few of them an interval that holds 0 says
# "not known". A query that a fill hardly harms has a small denominator, and can decide a mean.

leads = {
    f"lead over random maps, points,\n{title}": {
        name: bootstrap_mean((chance[title][name] - drops[title][name]).mean(1)) for name in maps
    }
    for title in fills
}
ahead = interval_figure(
    leads,
    chance=dict.fromkeys(leads, 0),
    controls=controls,
    figure=plt.figure(),
)
for title, intervals in zip(fills, leads.values(), strict=True):
    for name, (mean, low, high) in intervals.items():
        print(f"{name:15s} lead {mean:5.1f} [{low:5.1f}, {high:5.1f}], {title}")

# %%
# A blob in the centre is as far ahead as the explainers: people are in the middle. The channel
# mean, and Score-FAM which comes close to it, are *behind* random maps of their smoothness, and the
# paper's score had not told.

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    save_figure(scatter, args.output / "area_against_drop.png")
    save_figure(curves, args.output / "drop_at_equal_areas.png")
    save_figure(ahead, args.output / "ahead_of_chance.png")
