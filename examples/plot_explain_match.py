r"""
Why did these two images match?
===============================

A match has two sides, so it has two maps: what in the query makes it similar to the gallery image,
and the other way round. Here a right match and the nearest wrong one, by Grad-RAM, CG-RAM and RAM;
and what becomes of CG-RAM's map as two images agree.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import CGRAM, RAM, GradRAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.similarity import spearman
from reid_explain.models import load_pretrained
from reid_explain.retrieval import Gallery, embed_records
from reid_explain.visualization import Curve, comparison_figure, curves_figure

# %%
# A right match and a wrong one
# -----------------------------
# The nearest image of the same person from another camera, and the nearest of anybody else.

world = SyntheticReID(test_identities=20, distractors=40)
model = load_pretrained("synthetic")
spec = model.input_spec
query, gallery = (
    embed_records(model, world, records, spec=spec, show_progress=False)
    for records in (world.query[6:7], world.gallery)
)
order = Gallery(gallery).nearest(query, k=100)[0]
right = gallery.identities[order] == query.identities
rows = [int(order[right][0]), int(order[~right][0])]
image = spec.to_tensor(world.load(world.query[6]))
matches = torch.stack([spec.to_tensor(world.load(world.gallery[row])) for row in rows])
cosines = F.cosine_similarity(query.embeddings, gallery.embeddings[rows])

# %%
# Both sides of both
# ------------------
# ``attribute_pair`` explains both images of each pair. RAM explains a pooled layer, here the one
# before the batch norm of this model.

layer = model.get_submodule(model.map_layer)
explainers = {
    "GradRAM": GradRAM(model, layer),
    "CGRAM": CGRAM(model, layer),
    "RAM": RAM(lambda x: model.features(x).mean((2, 3)), layer),
}
images = image.expand(2, -1, -1, -1)
pairs = {name: method.attribute_pair(images, matches) for name, method in explainers.items()}

figure = comparison_figure(
    spec.to_rgb(torch.stack([image, matches[0], image, matches[1]])),
    {name: [a[0], b[0], a[1], b[1]] for name, (a, b) in pairs.items()},
    titles=["query", f"right, {cosines[0]:.2f}", "query", f"wrong, {cosines[1]:.2f}"],
    figure=plt.figure(),
)

# %%
# Does the map of the query depend on what it is compared with? Spearman's correlation of its two
# maps is 1 where the reference made no difference: such a map says what of the query is in the
# embedding, more than what the two images share.

for name, (of_query, _) in pairs.items():
    print(f"{name:8}{float(spearman(of_query[:1], of_query[1:])):.2f}")

# %%
# As two images agree
# -------------------
# CG-RAM follows what would bring the query *still closer* to its reference, so the better they
# match the less there is to follow. Here the reference turns step by step from the wrong match to
# the query itself. At cosine 1 what is left of CG-RAM is rounding, though a color scale of its own
# would paint that as brightly as any map.

own, wrong = F.normalize(query.embeddings), F.normalize(gallery.embeddings[rows[1:]])
references = torch.lerp(wrong, own, torch.linspace(0, 1, 12)[:, None])
agreement = F.cosine_similarity(own, references)
curves = {}
for name in ("GradRAM", "CGRAM"):
    copies = image.expand(len(references), -1, -1, -1)
    highest = explainers[name].attribute(copies, references, interpolate_mode=None).amax((1, 2, 3))
    curves[name] = Curve(agreement, highest / highest[0])
    print(f"{name:8} highest value {highest[0]:.1e} at first, {highest[-1]:.1e} at the end")

figure = curves_figure(
    {"": curves},
    xlabel="cosine of query and reference",
    ylabel="highest value, relative",
    figure=plt.figure(),
)

plt.show()
