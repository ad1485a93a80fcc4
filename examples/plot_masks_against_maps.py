"""
Maps against the truth
======================

The synthetic world knows where the person is, where each attribute shows, and which pixels differ
when one attribute is changed. So it can be counted how much of a map lies there, beside what a
uniform map has there by chance. It is a test of where maps point, and not of why: an embedding may
well use the background, and a map that says so is right.

.. code-block:: console

   $ python examples/plot_masks_against_maps.py --pairs 52 --output pictures
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from reid_explain import ActivationMean, Centre, GradCAM, GradFAM, GradRAM, ScoreFAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.inputs import InputSpec
from reid_explain.metrics.intervals import bootstrap_mean
from reid_explain.metrics.localisation import area, energy_inside, pointing_game
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import attribute_maps_figure, save_figure

parser = argparse.ArgumentParser(description="Compare maps with the masks of drawn people.")
parser.add_argument("--pairs", type=int, default=12, help="images, each with one change")
parser.add_argument("--output", type=Path, help="write the figures to this folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# %%
# What is known
# -------------
# One image, its masks, and the region that changes with the attribute named last. The masks are
# drawn here as if they were maps: a map cannot be better than these.

world = SyntheticReID()
spec = InputSpec()
records = world.query[8 :: len(world.query) // args.pairs][: args.pairs]
changes = ("upwhite", "backpack", "downblack", "hair")
truth = [world.counterfactual(record, changes[i % 4]) for i, record in enumerate(records)]

originals, changed = (
    torch.stack([spec.to_tensor(Image.fromarray(getattr(t, side).image)) for t in truth])
    for side in ("original", "changed")
)
person, region = (
    torch.stack([torch.from_numpy(mask)[None] for mask in masks])
    for masks in ([t.original.person for t in truth], [t.region for t in truth])
)

shown = [k for k, mask in enumerate(truth[0].original.attributes) if mask.any()]
masks = torch.cat([person[0], torch.from_numpy(truth[0].original.attributes[shown]), region[0]])
known = attribute_maps_figure(
    masks.float(),
    ["person", *(world.attribute_names[k] for k in shown), f"changed: {changes[0]}"],
    spec.to_rgb(originals[0]),
    masks=masks,
    notes=[f"{100 * share:.1f} %" for share in area(masks[:, None])],
    figure=plt.figure(),
)

# %%
# Maps of images and of differences
# ---------------------------------
# The map of a difference is how much a method's map changes with the image; for Grad-RAM, which
# explains a match, how much it changes when the image meets its changed self in place of itself.
# Score-FAM takes one forward pass for each of 16 clusters of channels, in place of 256.

model = load_pretrained("synthetic")
layer = model.get_submodule(model.map_layer)
matches = [
    next(r for r in world.gallery if r.identity == q.identity and r.camera != q.camera)
    for q in records
]
with torch.no_grad():
    references = model(torch.stack([spec.to_tensor(world.load(record)) for record in matches]))
    own, other = model(originals), model(changed)


def logits(x):
    return model.classify(model(x))


explain = {
    "GradCAM": partial(GradCAM(logits, layer).attribute, target=logits(originals).argmax(1)),
    "GradFAM": GradFAM(model, layer).attribute,
    "ScoreFAM": ScoreFAM(model, layer, max_scored_channels=16).attribute,
    "ActivationMean": ActivationMean(model, layer).attribute,
    "Centre": Centre(model, layer).attribute,
}
ram = GradRAM(model, layer).attribute
maps = {"GradRAM": ram(originals, references)}
differences = {"GradRAM": (ram(originals, own) - ram(originals, other)).abs()}
for name, attribute in explain.items():
    maps[name] = attribute(originals)
    differences[name] = (maps[name] - attribute(changed)).abs()
maps["uniform"] = differences["uniform"] = torch.ones_like(maps["Centre"])

VERDICTS = {1.0: "hit", 0.0: "miss"}


def against(found, regions, images):
    """Draw the maps of the first image with the outline of the truth; a tie has no peak."""
    rows = torch.cat([map_[:1] for map_ in found.values()])
    truth = regions[:1].expand(len(rows), -1, -1, -1)
    verdicts = [VERDICTS.get(hit, "no peak") for hit in pointing_game(rows, truth).tolist()]
    shares = zip(verdicts, energy_inside(rows, truth), area(truth), strict=True)
    return attribute_maps_figure(
        rows[:, 0],
        list(found),
        spec.to_rgb(images[0]),
        masks=truth[:, 0],
        notes=[f"{v}\n{100 * e:.1f} % inside\n{100 * a:.1f} % by chance" for v, e, a in shares],
        figure=plt.figure(),
    )


# %%
# Does the map lie on the person? Hit: its highest pixel does.

on_person = against(maps, person, originals)

# %%
# Does the map of the difference lie where the image changed? The image is the changed one.

on_change = against(differences, region, changed)

# %%
# Over all images
# ---------------
# One image shows nothing but itself. The mean over all, with 95 % bootstrap intervals; the uniform
# map is what chance gives.

for title, found, regions in (("person", maps, person), ("change", differences, region)):
    print(f"{title} ({len(regions)} images)  energy inside, %     pointing game, %")
    for name, map_ in found.items():
        scores = energy_inside(map_, regions), pointing_game(map_, regions)
        print(f"  {name:15s}", end="")
        for mean, low, high in (bootstrap_mean(100 * score) for score in scores):
            print(f"  {mean:5.1f} [{low:5.1f}, {high:5.1f}]", end="")
        print()

# %%
# The gradient methods have half of their energy on the person; so has a blob in the centre, which
# has seen neither image nor model. Score-FAM and the channel mean have less than a uniform map:
# they lie on the border of the image. What changed is found by all but the blob, and by the plain
# channel mean as well as by most explainers: where the image changes the activations change,
# whatever the embedding makes of them.

if args.output:
    args.output.mkdir(parents=True, exist_ok=True)
    save_figure(known, args.output / "masks.png")
    save_figure(on_person, args.output / "maps_on_person.png")
    save_figure(on_change, args.output / "maps_on_change.png")
