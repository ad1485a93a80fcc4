"""
Maps against the truth
======================

The synthetic world knows where the person is, where each attribute shows, and which pixels differ
when one attribute is changed. So it can be counted how much of a map lies there, beside what a
uniform map has there by chance. It is a test of where maps point, and not of why: an embedding may
well use the background, and a map that says so is right.

``benchmarks/localization.py`` measures it with all explainers:

.. code-block:: console

   $ python benchmarks/localization.py
"""

import matplotlib.pyplot as plt
import torch
from PIL import Image

from reid_explain import ActivationMean, Centre, GradFAM, GradRAM, ScoreFAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.localization import area, energy_inside, pointing_game
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import attribute_maps_figure, interval_figure

# %%
# What is known
# -------------
# One image, its masks, and the region that changes with the attribute named last. The masks are
# drawn here as if they were maps: a map cannot be better than these.

world = SyntheticReID()
records = world.query[8::41]
changes = ("upwhite", "backpack", "downblack", "hair")
truth = [world.counterfactual(record, changes[i % 4]) for i, record in enumerate(records)]

model = load_pretrained("synthetic")
spec = model.input_spec
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
figure = attribute_maps_figure(
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
# Score-FAM takes one forward pass for each of 16 channels, and predicts the other scores.

layer = model.map_layer
matches = [
    next(r for r in world.gallery if r.identity == q.identity and r.camera != q.camera)
    for q in records
]
with torch.no_grad():
    references = model(torch.stack([spec.to_tensor(world.load(record)) for record in matches]))
    own, other = model(originals), model(changed)

explain = {
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

VERDICTS = {1.0: "hit", 0.0: "miss"}


def against(found, regions, images):
    """Draw the maps of the first image with the outline of the truth; a tie has no peak."""
    rows = torch.cat([map_[:1] for map_ in found.values()])
    truth = regions[:1].expand(len(rows), -1, -1, -1)
    verdicts = [VERDICTS.get(hit, "no peak") for hit in pointing_game(rows, truth).tolist()]
    shares = zip(verdicts, energy_inside(rows, truth).tolist(), strict=True)
    return attribute_maps_figure(
        rows[:, 0],
        list(found),
        spec.to_rgb(images[0]),
        masks=truth[:, 0],
        notes=[f"{verdict}\n{100 * share:.1f} % inside" for verdict, share in shares],
        figure=plt.figure(),
    )


# %%
# Does the map lie on the person? Hit: its highest pixel does.

figure = against(maps, person, originals)

# %%
# Does the map of the difference lie where the image changed? The image is the changed one.

figure = against(differences, region, changed)

# %%
# Over all images
# ---------------
# One image shows nothing but itself. The mean energy inside, with 95 % bootstrap intervals over
# people; chance is what a uniform map has there. Where the image changes the activations change,
# whatever the embedding makes of them: so the plain channel mean finds changes, too.

identities = torch.tensor([record.identity for record in records])
titles = {"energy on the person, %": (maps, person), "on the change, %": (differences, region)}
figure = interval_figure(
    {
        title: {
            name: bootstrap_mean(100 * energy_inside(map_, regions), identities)
            for name, map_ in found.items()
        }
        for title, (found, regions) in titles.items()
    },
    chance={title: 100 * float(area(regions).mean()) for title, (_, regions) in titles.items()},
    controls=("ActivationMean", "Centre"),
    figure=plt.figure(),
)

plt.show()
