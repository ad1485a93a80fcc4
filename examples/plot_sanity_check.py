"""
Does the map depend on the model?
=================================

The sanity check of Adebayo et al. (NeurIPS 2018): the layers of the model get new random weights,
from the last to the first, and a map that depends on what they had learnt has to change. Grad-FAM
and Grad-RAM pass. So does ``ActivationMean``, which does not look at the embedding at all: passing
proves little, and only failing would prove something.

.. code-block:: console

   $ python examples/plot_sanity_check.py --images 12 --output pictures
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from reid_explain import ActivationMean, Centre, GradFAM, GradRAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.metrics.sanity import cascading_randomisation, spearman
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import Curve, comparison_figure, curves_figure, save_figure

parser = argparse.ArgumentParser(description="Explain a model that forgets layer by layer.")
parser.add_argument("--images", type=int, default=6, help="images to explain")
parser.add_argument("--output", type=Path, help="write the figures to this folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# Images, matches and methods
# ---------------------------
# Grad-RAM explains the cosine with a reference: another image of the same person. Its embedding
# comes from the trained model and stays, whatever becomes of the model. Two controls stand beside
# the methods: the mean of the layer's channels, and a blob that is always in the centre.

world = SyntheticReID()
model = load_pretrained("synthetic")
spec = model.input_spec
queries = world.query[:: len(world.query) // args.images][: args.images]
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

controls = ("ActivationMean", "Centre")
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
# The model is randomised in place, one layer more at each step, and restored at the end. After each
# convolution, and after the neck, the maps are compared with those of the trained model, by the
# rank correlation of their cells: 1 for the same order, 0 for none, -1 for the reverse.

trained = explain()
shown = {"trained": trained}
steps, likeness = [], defaultdict(list)
for layer in cascading_randomisation(model, images):
    if not isinstance(model.get_submodule(layer), nn.Conv2d) and layer != "neck":
        continue
    maps = explain()
    steps.append(layer.removeprefix("backbone."))
    for name, map_ in maps.items():
        likeness[name].append(bootstrap_mean(spearman(trained[name], map_)))
    if layer.endswith((".0.conv1", "neck")) or layer == "backbone.conv1":
        shown[f"down to\n{steps[-1]}"] = maps

# %%
# The maps of one image, each on its own colour scale. Nothing in them says which of these models
# has learnt something: the map of a network of random weights looks as sure of itself.

rows = comparison_figure(
    spec.to_rgb(images[:1]).expand(len(explainers), -1, -1, -1),
    {step: torch.cat([maps[name][:1] for name in explainers]) for step, maps in shown.items()},
    titles=list(explainers),
    figure=plt.figure(),
)

# %%
# How much is left
# ----------------
# Shaded: 95 % bootstrap intervals over the images, which are few.

places = range(1, len(steps) + 1)
curve = curves_figure(
    {
        f"similarity to the trained model, {len(images)} images": {
            name: Curve(places, *zip(*values, strict=True)) for name, values in likeness.items()
        }
    },
    xlabel="all layers from the last to this one randomised",
    ylabel="Spearman's correlation",
    ticks={i: name for i, name in enumerate(steps, 1) if name.endswith(("neck", "conv1"))},
    controls=controls,
    figure=plt.figure(),
)
for name, values in likeness.items():
    means = torch.tensor([value.mean for value in values])
    print(
        f"{name:15s} mean over {len(steps)} steps {means.mean():5.2f}, at the last {means[-1]:5.2f}"
    )

# %%
# The blob fails, as it has to: it knows nothing of the model. The channel mean passes, more clearly
# than Grad-FAM, and explains no embedding. So the check tells a map that ignores the model from one
# that does not, and says nothing of whether the map is right.

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    save_figure(rows, args.output / "randomised_maps.png")
    save_figure(curve, args.output / "randomised_curve.png")
