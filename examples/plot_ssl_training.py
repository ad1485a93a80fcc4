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
from reid_explain.explainers.layout import upsample
from reid_explain.inputs import InputSpec
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.metrics.localisation import area, energy_inside
from reid_explain.models.pretrained import load_trained
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
# A ResNet-18 with 40 channels in its second stage and 80 in its last, trained on the 5,044
# training images of the synthetic world at 128 x 64. No label was used.

# Sphinx-gallery runs a page without __file__, in the folder of the examples.
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
cards = sorted((args.run or here / "ssl").glob("epoch_*.json"))
if not cards:
    parser.error(f"--run: {args.run} has no epoch_*.json")
facts = [json.loads(card.read_text()) for card in cards]
epochs = [fact["epoch"] for fact in facts]
models = [load_trained(card) for card in cards]
layers = args.layer or (
    [models[0].map_layer] if args.run else ["backbone.layer2", "backbone.layer4"]
)
print(f"epochs {epochs}, {sum(p.numel() for p in models[0].parameters()):,} parameters")

# %%
# Test people, none of whom it has seen, with the masks of the world that drew them.

world = SyntheticReID()
records = world.query[:: len(world.query) // args.images][: args.images]
scenes = [world.render(record) for record in records]
spec = models[0].input_spec
images = torch.stack([spec.to_tensor(Image.fromarray(scene.image)) for scene in scenes])
people = torch.stack([torch.from_numpy(scene.person)[None] for scene in scenes])

# %%
# Maps, epoch by epoch
# --------------------
# What is explained is the pooled map: the vector that BYOL trains.


def maps(explainer, model, layer):
    """Return the maps of all images, as large as the people were drawn."""

    def representation(x):
        return model.pool(model.features(x))

    coarse = explainer(representation, model.get_submodule(layer)).attribute(
        images, interpolate_mode=None
    )
    return upsample(coarse.detach(), tuple(people.shape[2:]))


grad_fam = {layer: [maps(GradFAM, model, layer) for model in models] for layer in layers}
four = torch.arange(4) * (len(images) // 4)


def pictures(layer):
    """Draw four people, with their maps after each epoch."""
    columns = {
        f"epoch {epoch}": own[four] for epoch, own in zip(epochs, grad_fam[layer], strict=True)
    }
    shown = torch.stack([InputSpec().to_tensor(Image.fromarray(scenes[n].image)) for n in four])
    return comparison_figure(spec.to_rgb(shown), columns, figure=plt.figure())


figures = {layer: pictures(layer) for layer in layers}

# %%
# How much lies on the person
# ---------------------------
# The share of a map's energy inside the person, with its 95 % bootstrap interval. A constant map
# scores the person's share of the image. ``ActivationMean`` knows nothing of the representation:
# what Grad-FAM shows beyond it is what the representation takes from the layer.


def energy(explainer, layer):
    """Return mean and interval of the energy inside the person, in %, by epoch."""
    if explainer is GradFAM:
        by_epoch = grad_fam[layer]
    else:
        by_epoch = [maps(explainer, model, layer) for model in models]
    return [bootstrap_mean(100 * energy_inside(own, people)) for own in by_epoch]


covered = [bootstrap_mean(100 * area(people))] * len(epochs)
panels = {
    layer: {
        "GradFAM": energy(GradFAM, layer),
        "ActivationMean": energy(ActivationMean, layer),
        "share of the image": covered,
    }
    for layer in layers
}
for layer, curves in panels.items():
    shares = ", ".join(f"{measured.mean:.1f}" for measured in curves["GradFAM"])
    print(f"{layer}: {shares} % inside the person, who covers {covered[0].mean:.1f} %")

by_epoch = curves_figure(
    {
        layer: {name: Curve(epochs, *zip(*own, strict=True)) for name, own in curves.items()}
        for layer, curves in panels.items()
    },
    xlabel="epochs of training",
    ylabel="energy inside the person, %",
    ticks={epoch: str(epoch) for epoch in epochs},
    controls=("ActivationMean", "share of the image"),
    figure=plt.figure(),
)

# %%

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    for layer, figure in figures.items():
        save_figure(figure, args.output / f"ssl_{layer}.png")
    save_figure(by_epoch, args.output / "ssl_energy.png")
elif __name__ == "__main__":
    plt.show()
