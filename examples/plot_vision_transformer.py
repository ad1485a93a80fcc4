r"""
A vision transformer
====================

The layer of a transformer gives tokens, not a map: class and register tokens drop out, and the rest
becomes a grid, which need not be square. The package has a small one that was trained on drawn
people (Rank-1 96 %). Which method suits it is not the same as for a convolutional network.
"""

import matplotlib.pyplot as plt
import torch
from PIL import Image

from reid_explain import GradRAM, InputError, PairRelevance, ScoreFAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import comparison_figure

# %%
# Tokens and their grid
# ---------------------
# Images of 256 x 128: 16 x 8 patches, and a class token before them, which is the embedding. A
# layer is named by its path in the model.

model = load_pretrained("synthetic_vit")
spec = model.input_spec
world = SyntheticReID(test_identities=12, distractors=0)
queries = world.query[::5]  # about one of each person, from all cameras
matches = [
    next(r for r in world.gallery if r.identity == q.identity and r.camera != q.camera)
    for q in queries
]
scenes = [world.render(record) for record in queries]
images = torch.stack([spec.to_tensor(Image.fromarray(scene.image)) for scene in scenes])
people = torch.stack([torch.as_tensor(scene.person)[None] for scene in scenes])
others = torch.stack([spec.to_tensor(world.load(record)) for record in matches])

explainer = GradRAM(model, model.map_layer)
with torch.no_grad():
    print("tokens", tuple(model.features(images).shape))
maps = {"GradRAM": explainer.attribute(images, others)}
print("layer ", model.map_layer)
print("map   ", tuple(explainer.attribute(images, others, interpolate_mode=None).shape))

# %%
# The class token reads the patches in every block but never again after the last: there the
# gradient with respect to them is 0, and the error names a layer.

try:
    GradRAM(model, "vit.blocks.3").attribute(images[:1], others[:1])
except InputError as error:
    print(error)

# %%
# What makes the match
# --------------------
# Of each person's similarity to an image from another camera: by attention, without a layer
# (PairRelevance), and by gradients at the layer (Grad-RAM). Score-FAM passes masked images.

maps["ScoreFAM"] = ScoreFAM(model, model.map_layer).attribute(images)
maps["PairRelevance"] = PairRelevance(model).attribute(images, others)
figure = comparison_figure(
    spec.to_rgb(images[:3]), {name: found[:3] for name, found in maps.items()}, figure=plt.figure()
)

# %%
# On the person?
# --------------
# The share of a map's energy on the person, with 95 % intervals. Chance is the person's share of
# the image. On the package's ResNet Grad-RAM has 79 %.

print(f"chance        {100 * area(people).mean():.1f} %")
for name, found in maps.items():
    mean, low, high = bootstrap_mean(100 * energy_inside(found, people))
    print(f"{name:14}{mean:.1f} % [{low:.1f}, {high:.1f}]")

plt.show()
