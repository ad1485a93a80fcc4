"""
What a network looks at while it learns without labels
======================================================

A network that learns without labels has no classes, so there is no class to explain. Its
representation is a vector like any other, and Grad-FAM explains that: here the same people, seen
by the same network after more and more epochs of BYOL, as in figure 6 of the FAM paper (Wu et al.,
CVPR 2022). Beside the pictures stands the number: how much of the maps lies on the person.

.. code-block:: console

   $ python examples/plot_ssl_training.py --output pictures
   $ python examples/plot_ssl_training.py --run runs/ssl --layer backbone.layer4
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from reid_explain import ActivationMean, GradFAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.models import load_trained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import Curve, comparison_figure, curves_figure, save_figure

parser = argparse.ArgumentParser(description="Draw Grad-FAM maps over the epochs of a training.")
add = parser.add_argument
add("--run", type=Path, help="an --output of benchmarks/train_ssl.py train")
add("--layer", nargs="+", metavar="NAME", help="dotted names, default: the last map; layer 2 too")
add("--images", type=int, default=123, help="test images to measure on, 4 to 492")
add("--output", type=Path, help="write the figures to this folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# The same network at several epochs
# ----------------------------------
# A ResNet-18 with 40 channels in its second stage and 80 in its last, trained on the training
# images of the synthetic world at 128 x 64. No label was used.

# Sphinx-gallery runs a page without __file__, in the folder of the examples.
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
cards = sorted((args.run or here / "ssl").glob("epoch_*.json"))
if not cards:
    parser.error(f"--run: {args.run} has no epoch_*.json")
epochs = [json.loads(card.read_text())["epoch"] for card in cards]
models = [load_trained(card) for card in cards]
spec = models[0].input_spec
layers = args.layer or [models[0].map_layer]
if not args.run and not args.layer:
    layers = ["backbone.layer2", "backbone.layer4"]
print(f"epochs {epochs}, {sum(p.numel() for p in models[0].parameters()):,} parameters")

# %%
# Test people, none of whom it has seen, with the masks of the world that drew them.

world = SyntheticReID()
records = world.query[:: len(world.query) // args.images][: args.images]
identities = torch.tensor([record.identity for record in records])
scenes = [world.render(record) for record in records]
images = torch.stack([spec.to_tensor(Image.fromarray(scene.image)) for scene in scenes])
people = torch.stack([torch.from_numpy(scene.person)[None] for scene in scenes])
people = people[..., :: people.shape[2] // spec.size[0], :: people.shape[3] // spec.size[1]]

# %%
# Maps, epoch by epoch
# --------------------
# What is explained is the pooled map: the vector that BYOL trains.


def maps(explainer, model, layer):
    """Return the maps of all images."""
    representation = explainer(lambda x: model.pool(model.features(x)), model.get_submodule(layer))
    return representation.attribute(images)


grad_fam = {layer: [maps(GradFAM, model, layer) for model in models] for layer in layers}
four = torch.arange(4) * (len(images) // 4)
figures = {
    f"ssl_{layer}": comparison_figure(
        spec.to_rgb(images[four]),
        {f"epoch {n}": own[four] for n, own in zip(epochs, grad_fam[layer], strict=True)},
        figure=plt.figure(),
    )
    for layer in layers
}

# %%
# How much lies on the person
# ---------------------------
# The share of a map's energy inside the person, with its 95 % bootstrap interval. A constant map
# scores the person's share of the image. ``ActivationMean`` knows nothing of the representation:
# what Grad-FAM shows beyond it is what the representation takes from the layer.


def curve(values):
    """Return the mean over the images, with intervals, of values (B,) at each epoch."""
    intervals = [bootstrap_mean(100 * own, identities) for own in values]
    return Curve(epochs, *zip(*intervals, strict=True))


panels = {}
for layer in layers:
    means = [maps(ActivationMean, model, layer) for model in models]
    panels[layer] = {
        "GradFAM": curve([energy_inside(own, people) for own in grad_fam[layer]]),
        "ActivationMean": curve([energy_inside(own, people) for own in means]),
        "share of the image": curve([area(people)] * len(epochs)),
    }
    print(f"{layer}: {', '.join(f'{y:.1f}' for y in panels[layer]['GradFAM'].y)} % on the person")

figures["ssl_energy"] = curves_figure(
    panels,
    xlabel="epochs of training",
    ylabel="energy inside the person, %",
    ticks={epoch: str(epoch) for epoch in epochs},
    controls=("ActivationMean", "share of the image"),
    figure=plt.figure(),
)

# %%

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, args.output / f"{name}.png")
else:
    plt.show()
