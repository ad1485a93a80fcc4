"""
Where attributes are read
=========================

The average map of each attribute, over test images of the people who have it, and two figures that
say how to read it: how much of the image the map needs for half of its mass, and how much of it
lies where the attribute truly shows. The maps of the garments' colours are highest on the garment;
those of belongings follow the border of the image, and lie on a bag no more than a constant map.

.. code-block:: console

   $ python examples/plot_attribute_maps.py --images 492 --output pictures
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from PIL import Image

from reid_explain import AMDInterpreter
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.localisation import area, energy_inside
from reid_explain.visualization import attribute_maps_figure, save_figure

parser = argparse.ArgumentParser(description="Draw the average map of each attribute.")
parser.add_argument("--images", type=int, default=164, help="test images to average over")
parser.add_argument("--output", type=Path, help="write the figure to this folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# Maps of people whom the interpreter never saw
# ---------------------------------------------
# Every image has one map per attribute, also of attributes that the person does not have. Only
# the others are averaged. The world that drew the images also knows where each attribute shows.

world = SyntheticReID()
interpreter = AMDInterpreter.from_pretrained("synthetic")
spec = interpreter.spec
names = interpreter.attributes
records = world.query[:: max(1, len(world.query) // args.images)][: args.images]
has = record_labels(world, records, names) == 2

maps, images = torch.zeros(len(names), 256, 128), torch.zeros(len(names), 3, 256, 128)
inside, chance = (torch.full(has.shape, torch.nan) for _ in range(2))
for i, record in enumerate(records):
    drawn = world.render(record)
    image = spec.to_tensor(Image.fromarray(drawn.image))
    own = F.interpolate(interpreter.decompose(image[None]).maps, image.shape[1:], mode="bilinear")[
        0
    ]
    maps[has[i]] += own[has[i]]
    images[has[i]] += spec.to_rgb(image)
    masks = torch.from_numpy(drawn.attributes)[:, None]
    shows = has[i] & masks.flatten(1).any(1)
    inside[i, shows] = energy_inside(own[shows, None], masks[shows]).float()
    chance[i, shows] = area(masks[shows]).float()
counts = has.sum(0)
maps, images = maps / counts[:, None, None], images / counts[:, None, None, None]

# %%
# Each panel has its own colour scale, from the lowest to the highest value of its map: the colours
# say where a map is highest, never that it is high only there.

notes = [f"{count} images" for count in counts.tolist()]
figure = attribute_maps_figure(maps, names, images, notes=notes, figure=plt.figure())

# %%
# Local, or everywhere
# --------------------
# The smallest part of the image that holds half of an average map's mass is 50 % for a constant
# map and small for a map of one spot. Beside it, the share of a map inside the attribute's true
# mask, in the mean over the images where it shows, and what a constant map has there. Nearly all
# maps need 40 % of the image or more: under each bright spot lies a floor that is as wide as the
# image. An attribute whose lead over the constant is about 0 is not read off where it is seen.

mass = maps.flatten(1).sort(descending=True).values.cumsum(1)
half = (mass < mass[:, -1:] / 2).float().mean(1)
inside, chance = inside.nanmean(0), chance.nanmean(0)
print("attribute     half of the map  inside its mask  constant map   lead   images")
for k in half.argsort().tolist():
    if counts[k]:
        print(
            f"{names[k]:13s} {100 * half[k]:13.1f} % {100 * inside[k]:14.1f} %"
            f" {100 * chance[k]:11.1f} % {100 * (inside[k] - chance[k]):+6.1f} {counts[k]:8d}"
        )

# %%
# How to read it: a map is where the interpreter weighs the target's features to tell two people
# apart by this attribute. It may look beside the garment, or at everything but the garment, and
# still be right about the attribute. Bright lines along the border are the zero padding of the
# network's convolutions, not people. And an average of one image, or of five, is of these people.

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    save_figure(figure, args.output / "attribute_maps.png")
