"""
Where attributes are read
=========================

The average map of each attribute, over test images of the people who have it, and two numbers that
say how to read it: how much of the image the map needs for half of its mass, and how much of it
lies where the attribute truly shows.

.. code-block:: console

   $ python examples/plot_attribute_maps.py --images 492
"""

import argparse
import sys

import matplotlib.pyplot as plt
import torch
from PIL import Image

from reid_explain import AMDInterpreter
from reid_explain.datasets.attributes import record_labels
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.explainers.layout import upsample
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.visualization import attribute_maps_figure

parser = argparse.ArgumentParser(description="Draw the average map of each attribute.")
parser.add_argument("--images", type=int, default=164, help="test images to average over")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# Maps of people whom the interpreter never saw
# ---------------------------------------------
# Every image has one map per attribute, also of attributes that the person does not have. Only
# the others are averaged. The world that drew the images also knows where each attribute shows.

world = SyntheticReID()
interpreter = AMDInterpreter.from_pretrained("synthetic")
names, spec = interpreter.attributes, interpreter.spec
records = world.query[:: max(1, len(world.query) // args.images)][: args.images]
has = record_labels(world, records, names) == 2

maps, images = torch.zeros(len(names), *spec.size), torch.zeros(len(names), 3, *spec.size)
inside, chance = (torch.full(has.shape, torch.nan) for _ in range(2))
for i, record in enumerate(records):
    drawn = world.render(record)
    image = spec.to_tensor(Image.fromarray(drawn.image))
    own = upsample(interpreter.decompose(image[None]).maps, spec.size)[0]
    maps[has[i]] += own[has[i]]
    images[has[i]] += spec.to_rgb(image)
    masks = torch.from_numpy(drawn.attributes)[:, None]
    shows = has[i] & masks.flatten(1).any(1)
    inside[i, shows] = energy_inside(own[shows, None], masks[shows]).float()
    chance[i, shows] = area(masks[shows]).float()
counts = has.sum(0)
maps, images = maps / counts[:, None, None], images / counts[:, None, None, None]

# %%
# Each panel has its own color scale: the colors say where a map is highest, never that it is high
# only there.

notes = [f"{count} image{'s' * (count != 1)}" for count in counts.tolist()]
figure = attribute_maps_figure(maps, names, images, notes=notes, figure=plt.figure())

# %%
# Local, or everywhere
# --------------------
# The smallest part of the image that holds half of an average map's mass is 50 % for a constant
# map and small for a map of one spot. Beside it, the share of a map inside the attribute's true
# mask, in the mean over the images where it shows, and what a constant map has there. An attribute
# whose lead over the constant is about 0 is not read off where it is seen.

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
# still be right about the attribute. And an average of one image, or of five, is of these people.

plt.show()
