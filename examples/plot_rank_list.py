r"""
A rank list with its reasons
============================

What came first for a query, whether it is right, and what in each image made it similar to the
query. The maps of a list only compare if they share one color scale: on scales of their own, a
weak match glows as brightly as a strong one. And why each image is above the next.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import GradRAM, PlaceToPlace
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.retrieval import Gallery, embed_records
from reid_explain.visualization import explanation_figure, rank_figure

# %%
# The list
# --------
# Images of the query's own camera that show the same person do not count: they would be too easy.

world = SyntheticReID(test_identities=20, distractors=40)
model = load_pretrained("synthetic")
spec = model.input_spec
query, gallery = (
    embed_records(model, world, records, spec=spec, show_progress=False)
    for records in (world.query[37:38], world.gallery)
)
order = Gallery(gallery).nearest(query, k=100)[0]
ranks = torch.tensor([1, 2, 3, 4, 5, 6, len(order)])
rows = order[ranks - 1]
found = torch.stack([spec.to_tensor(world.load(world.gallery[row])) for row in rows])
cosines = F.cosine_similarity(query.embeddings, gallery.embeddings[rows])
correct = (gallery.identities[rows] == query.identities).tolist()

# %%
# One scale
# ---------
# Each map is that of a gallery image, with the query as its reference. Grad-RAM's values add up to
# the part of the embedding that points to the query (but for the ReLU, and the constant of the
# batch norm), so they compare between images. A map does not say what is right: the wrong images
# of the list are explained as well as the right ones.

image = spec.to_tensor(world.load(world.query[37]))[None]
explainer = GradRAM(model, model.map_layer)
maps = explainer.attribute(found, references=query.embeddings)
own = explainer.attribute(image, references=gallery.embeddings[rows[:1]])
figure = explanation_figure(
    spec.to_rgb(torch.cat([image, found])),
    torch.cat([own, maps]),
    titles=["query", *(f"rank {k}\ncosine {c:.2f}" for k, c in zip(ranks, cosines, strict=True))],
    correct=[None, *correct],
    shared_scale=True,
    figure=plt.figure(),
)

# %%
# A scale for each
# ----------------
# The first and the last again, each on its own scale: now the last looks as well explained as the
# first, and only the numbers say that it is not.

figure = explanation_figure(
    spec.to_rgb(found[[0, -1]]), maps[[0, -1]], titles=["first", "last"], figure=plt.figure()
)
for rank, map_ in zip(ranks, maps, strict=True):
    print(f"rank {rank:3}: mean {float(map_.mean()):.2f}, highest {float(map_.max()):.2f}")

# %%
# What decided each place
# -----------------------
# Why is an image above the next? Contributions of places add up to each cosine, so the difference
# of two maps of the query adds up to the margin. Orange speaks for the image above, blue for the
# one below it.

contributions = PlaceToPlace(model, model.map_layer).explain(image, found[:6]).query_map
figure = rank_figure(
    spec.to_rgb(image)[0],
    spec.to_rgb(found[:6]),
    cosines[:6].tolist(),
    contributions[:-1] - contributions[1:],
    correct=correct[:6],
    figure=plt.figure(),
)

# %%
# The wrong image has the black shirt, too, which speaks for it; it loses by hair, shoes and the
# stripe at the knee.

plt.show()
