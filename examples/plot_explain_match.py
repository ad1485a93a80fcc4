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
from reid_explain.metrics.embedding import embed_records
from reid_explain.metrics.sanity import spearman
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import comparison_figure

# %%
# A right match and a wrong one
# -----------------------------
# The nearest image of the same person from another camera, and the nearest of anybody else.

world = SyntheticReID(test_identities=20, distractors=40)
model = load_pretrained("synthetic")
spec = model.input_spec
record = world.query[6]
query = spec.to_tensor(world.load(record))[None]
gallery = embed_records(model, world, world.gallery, show_progress=False)
with torch.no_grad():
    embedding = model(query)

cosines = F.cosine_similarity(embedding, gallery.embeddings)
same = gallery.identities == record.identity
right = same & (gallery.cameras != record.camera)
nearest = [int(cosines.where(mask, -1).argmax()) for mask in (right, ~same)]
matches = torch.stack([spec.to_tensor(world.load(world.gallery[row])) for row in nearest])

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
queries = query.expand(2, -1, -1, -1)
pairs = {name: method.attribute_pair(queries, matches) for name, method in explainers.items()}

found = [f"cosine {float(cosines[row]):.2f}" for row in nearest]
figure = comparison_figure(
    spec.to_rgb(torch.stack([query[0], matches[0], query[0], matches[1]])),
    {name: [a[0], b[0], a[1], b[1]] for name, (a, b) in pairs.items()},
    titles=[f"query\n{found[0]}", "right match", f"query\n{found[1]}", "wrong match"],
    figure=plt.figure(),
)

# %%
# Does the map of the query depend on what it is compared with? Spearman's correlation of its two
# maps is 1 where the reference made no difference. It makes none to RAM, which marks the padded
# border of the image in this model, and little to Grad-RAM: its map says what of the query is in
# the embedding more than what these two share. CG-RAM depends on the reference most.

for name, (of_query, _) in pairs.items():
    print(f"{name:8}{float(spearman(of_query[:1], of_query[1:])):.2f}")

# %%
# As two images agree
# -------------------
# CG-RAM follows what would bring the query *still closer* to its reference, so the better they
# match the less there is to follow. Here the reference turns step by step from the wrong match to
# the query itself. At cosine 1 what is left of CG-RAM is rounding, though a colour scale of its own
# would paint that as brightly as any map.

wrong = F.normalize(gallery.embeddings[nearest[1:]])
steps = torch.linspace(0, 1, 12)[:, None]
references = torch.lerp(wrong, F.normalize(embedding), steps)
agreement = F.cosine_similarity(embedding, references)
copies = query.expand(len(steps), -1, -1, -1)

axis = plt.figure(figsize=(5, 3), layout="constrained").subplots()
for name in ("GradRAM", "CGRAM"):
    maps = explainers[name].attribute(copies, references, interpolate_mode=None)
    highest = maps.amax((1, 2, 3))
    axis.plot(agreement, highest / highest[0], marker="o", label=name)
    for step in (0, -2, -1):
        print(f"{name:8} cosine {agreement[step]:.3f}: highest value {highest[step]:.1e}")
axis.set(xlabel="cosine of query and reference", ylabel="highest value, relative")
axis.legend(frameon=False)

plt.show()
