"""
Does the map depend on the model?
=================================

The sanity check of Adebayo et al. (NeurIPS 2018): the layers of the model get new random weights,
from the last to the first, and a map that depends on what they had learned has to change. Passing
proves little: ``ActivationMean`` passes, which does not look at the embedding at all. Only failing
would prove something.

``benchmarks/sanity.py`` runs it with every explainer, and layer by layer:

.. code-block:: console

   $ python benchmarks/sanity.py
"""

from collections import defaultdict

import matplotlib.pyplot as plt
import torch
from torch import nn

from reid_explain import ActivationMean, Centre, GradFAM, GradRAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.randomization import cascading_randomization
from reid_explain.metrics.similarity import spearman
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import Curve, comparison_figure, curves_figure

# %%
# Images, matches and methods
# ---------------------------
# Grad-RAM explains the cosine with a reference: another image of the same person. Its embedding
# comes from the trained model and stays, whatever becomes of the model. Two controls stand beside
# the methods: the mean of the layer's channels, and a blob that is always in the center.

world = SyntheticReID()
model = load_pretrained("synthetic")
spec = model.input_spec
queries = world.query[::82]
matches = [
    next(r for r in world.gallery if r.identity == q.identity and r.camera != q.camera)
    for q in queries
]
images, others = (
    torch.stack([spec.to_tensor(world.load(record)) for record in records])
    for records in (queries, matches)
)
with torch.no_grad():
    references = model(others)

explainers = {
    explainer.__name__: explainer(model, model.map_layer)
    for explainer in (GradFAM, GradRAM, ActivationMean, Centre)
}


def explain():
    """Return every method's maps at the layer's resolution, as the model is now."""
    given = {"GradRAM": {"references": references}}
    return {
        name: explainer.attribute(images, interpolate_mode=None, **given.get(name, {}))
        for name, explainer in explainers.items()
    }


# %%
# From the last layer to the first
# --------------------------------
# The model is randomized in place, one layer more at each step, and restored at the end. After each
# convolution, and after the neck, the maps are compared with those of the trained model, by the
# rank correlation of their cells: 1 for the same order, 0 for none, -1 for the reverse.

trained = explain()
shown = {"trained": trained}
steps, similarity = [], defaultdict(list)
for layer in cascading_randomization(model, images):
    if not isinstance(model.get_submodule(layer), nn.Conv2d) and layer != "neck":
        continue
    maps = explain()
    steps.append(layer.removeprefix("backbone."))
    for name, map_ in maps.items():
        similarity[name].append(bootstrap_mean(spearman(trained[name], map_)))
    if layer.endswith((".0.conv1", "neck")) or layer == "backbone.conv1":
        shown[f"down to\n{steps[-1]}"] = maps

# %%
# The maps of one image, each on its own color scale. Nothing in them says which of these models
# has learned something: the map of a network of random weights looks as sure of itself.

figure = comparison_figure(
    spec.to_rgb(images[:1]).expand(len(explainers), -1, -1, -1),
    {step: torch.cat([maps[name][:1] for name in explainers]) for step, maps in shown.items()},
    titles=list(explainers),
    figure=plt.figure(),
)

# %%
# How much is left
# ----------------
# Shaded: 95 % bootstrap intervals over the images, which are few. The blob fails, as it has to: it
# knows nothing of the model. So the check tells a map that ignores the model from one that does
# not, and says nothing of whether the map is right.

places = range(1, len(steps) + 1)
curves = {name: Curve(places, *zip(*own, strict=True)) for name, own in similarity.items()}
figure = curves_figure(
    {f"similarity to the trained model's map, {len(images)} images": curves},
    xlabel="all layers from the last to this one randomized",
    ylabel="Spearman's correlation",
    ticks={i: name for i, name in enumerate(steps, 1) if name.endswith(("neck", "conv1"))},
    controls=("ActivationMean", "Centre"),
    figure=plt.figure(),
)
for name, curve in curves.items():
    mean = sum(curve.y) / len(steps)
    print(f"{name:15s} mean over {len(steps)} steps {mean:5.2f}, at the last {curve.y[-1]:5.2f}")

plt.show()
