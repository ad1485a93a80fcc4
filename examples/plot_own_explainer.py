r"""
Your own explainer
==================

HiRes-FAM in five lines: the element-wise sibling of Grad-FAM, after HiResCAM (Draelos and Carin,
2020). Then what every new map has to answer: does it keep more of the embedding than others *at
equal area*? :doc:`/own_explainer` says how it joins every benchmark.
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import ActivationMean, GradFAM, Random
from reid_explain.benchmark import Faithfulness, Target
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import Curve, comparison_figure, curves_figure

# %%
# The explainer
# -------------
# ``attribute`` and the objective, the length of the embedding, are Grad-FAM's. Only the weights
# are new.


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
images = torch.stack([spec.to_tensor(world.load(record)) for record in world.query[::30]])

ours, theirs = (explainer(model, model.map_layer) for explainer in (HiResFAM, GradFAM))
torch.testing.assert_close(ours.attribute(images), theirs.attribute(images))

# %%
# Where they differ
# -----------------
# One stage earlier the gradient depends on the place.

layer = "backbone.layer3"
methods = (HiResFAM, GradFAM, ActivationMean, Random)
maps = {method.__name__: method(model, layer).attribute(images) for method in methods}
figure = comparison_figure(spec.to_rgb(images), maps, figure=plt.figure())

# %%
# Is it any good?
# ---------------
# AS Drop at equal areas: the share of the similarity to the same person's images from other cameras
# that is lost when only the top pixels of a map stay sharp. Lower is better. The frame has a row
# for every number; metrics are named after drop, fill and kept area.

frame = Faithfulness(queries=10).run(Target(model, layer), world, methods=methods)
drops = frame[frame.metric.str.match("as_drop:blur:")].copy()
drops["area"] = 100 * drops.metric.str.rsplit(":").str[-1].astype(float)

curves = {}
for name, rows in drops.groupby("method", observed=True, sort=False):
    means = rows.groupby("area")["value"].mean()
    curves[name] = Curve(means.index, means)
figure = curves_figure(
    {"": curves},
    xlabel="kept area, %",
    ylabel="AS Drop, %",
    controls=("ActivationMean", "Random"),
    figure=plt.figure(),
)

# %%
# The lead over Grad-FAM, query by query, with its paired interval over people: if it holds 0, these
# few queries do not tell the two apart. And one fill is not enough: the frame has four.

table = drops.pivot_table(
    index=["identity", "case"], columns="method", values="value", observed=True
)
lead = torch.tensor((table["GradFAM"] - table["HiResFAM"]).to_numpy())
people = torch.tensor(table.index.get_level_values("identity").to_numpy())
mean, low, high = bootstrap_mean(lead, people)
print(table.mean().round(1).to_string())
print(f"lead over GradFAM {mean:.1f} points, 95 % interval [{low:.1f}, {high:.1f}]")

plt.show()
