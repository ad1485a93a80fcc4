r"""
Your own explainer
==================

HiRes-FAM in ten lines: the element-wise sibling of Grad-FAM, after HiResCAM (Draelos and Carin,
2020). The frame brings the rest: argument forms, evaluation mode, resizing, Captum's tools. Then
what every new map has to answer: does it keep more of the embedding than others *at equal area*?
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import ActivationMean, GradFAM, Random, blurred
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.embedding import Embedded, embed_records
from reid_explain.metrics.faithfulness import (
    AREA_FRACTIONS,
    composite,
    drop,
    match_similarity,
    top_area_masks,
)
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import Curve, comparison_figure, curves_figure

# %%
# The explainer
# -------------
# ``attribute`` and the score, the length of the embedding, are Grad-FAM's. Only the formula is new.


class HiResFAM(GradFAM):
    r"""HiRes-FAM: each place weighted by its own gradient, not by the mean of its channel.

    .. math:: L_{ij} = \mathrm{ReLU}\left(\sum_k
        \frac{\partial \|f(X)\|_2}{\partial A^k_{ij}} \, A^k_{ij}\right)
    """

    weights = "elementwise"


# %%
# A limit that must hold
# ----------------------
# Behind the last layer of this model the map is averaged: the gradient is the same everywhere, and
# the two methods are one. A new formula has such a case more often than not, and it is a free test.

world = SyntheticReID(test_identities=20, distractors=0)
model = load_pretrained("synthetic")
spec = model.input_spec
records = world.query[::8]
images = torch.stack([spec.to_tensor(world.load(record)) for record in records])

ours, theirs = (explainer(model, "backbone.layer4") for explainer in (HiResFAM, GradFAM))
torch.testing.assert_close(ours.attribute(images), theirs.attribute(images))

# %%
# Where they differ
# -----------------
# One stage earlier the gradient depends on the place.

explainers = (HiResFAM, GradFAM, ActivationMean, Random)
maps = {
    explainer.__name__: explainer(model, "backbone.layer3").attribute(images)
    for explainer in explainers
}
shown = {name: rows[:3] for name, rows in maps.items()}
figure = comparison_figure(spec.to_rgb(images[:3]), shown, figure=plt.figure())

# %%
# Is it any good?
# ---------------
# AS Drop at equal areas: the share of the similarity to the same person's images from other cameras
# that is lost when only the top pixels of a map stay sharp. Lower is better.

people = {record.identity for record in records}
candidates = [record for record in world.gallery if record.identity in people]
gallery = embed_records(model, world, candidates, show_progress=False)
identities = torch.tensor([record.identity for record in records])
cameras = torch.tensor([record.camera for record in records])


def similarity(pictures):
    with torch.no_grad():
        return match_similarity(Embedded(model(pictures), identities, cameras), gallery)


fill = blurred(images)
original, baseline = similarity(images), similarity(fill)
drops = {}
for name, rows in maps.items():
    masks = top_area_masks(rows).unbind(dim=1)
    kept = torch.stack([similarity(composite(images, mask, fill)) for mask in masks], dim=1)
    drops[name] = 100 * drop(original, kept, baseline)

shares = [100 * fraction for fraction in AREA_FRACTIONS]
intervals = {name: [bootstrap_mean(area) for area in rows.T] for name, rows in drops.items()}
figure = curves_figure(
    {"": {name: Curve(shares, *zip(*own, strict=True)) for name, own in intervals.items()}},
    xlabel="kept area, %",
    ylabel="AS Drop, %",
    controls=("ActivationMean", "Random"),
    figure=plt.figure(),
)

# %%
# The lead over Grad-FAM, query by query, with its paired interval: if it holds 0, these few queries
# do not tell the two apart. And one fill is not enough: the benchmark has four.

lead = drops["GradFAM"].mean(dim=1) - drops["HiResFAM"].mean(dim=1)
mean, low, high = bootstrap_mean(lead)
for name, values in drops.items():
    print(f"{name:15}mean AS Drop {values.mean():.1f} %")
print(f"lead over GradFAM {mean:.1f} points, 95 % interval [{low:.1f}, {high:.1f}]")

# %%
# Into the benchmarks
# -------------------
# Every benchmark takes a class by its module and name, without another edit.
#
# .. code-block:: console
#
#    $ python benchmarks/faithfulness.py --layer backbone.layer3 \
#          --methods plot_own_explainer:HiResFAM GradFAM

plt.show()
