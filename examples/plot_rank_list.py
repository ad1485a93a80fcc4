r"""
A rank list with its reasons
============================

What came first for a query, whether it is right, and what in each image made it similar to the
query. The maps of a list only compare if they share one colour scale: on scales of their own, a
weak match glows as brightly as a strong one.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import GradRAM
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.metrics.embedding import embed_records
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import explanation_figure

# %%
# The list
# --------
# Images of the query's own camera that show the same person do not count: they would be too easy.

world = SyntheticReID(test_identities=20, distractors=40)
model = load_pretrained("synthetic")
spec = model.input_spec
record = world.query[37]
query = spec.to_tensor(world.load(record))[None]
gallery = embed_records(model, world, world.gallery, show_progress=False)
with torch.no_grad():
    embedding = model(query)

same = gallery.identities == record.identity
junk = same & (gallery.cameras == record.camera)
cosines = F.cosine_similarity(embedding, gallery.embeddings)
order = [row for row in cosines.argsort(descending=True).tolist() if not junk[row]]
shown = [0, 1, 2, 3, 4, 5, len(order) - 1]  # the first six, and the last of all
rows = [order[place] for place in shown]
found = torch.stack([spec.to_tensor(world.load(world.gallery[row])) for row in rows])

# %%
# One scale
# ---------
# Each map is that of a gallery image, with the query as its reference. Grad-RAM's values add up to
# the part of the embedding that points to the query (but for the ReLU, and the constant of the
# batch norm), so they compare between images: on the last of the list the person is dark. The
# border is bright on all, which is this network's answer to zero padding. A map does not say what
# is right: the wrong images of the list are explained as well as the right ones.

maps = GradRAM(model, model.map_layer).attribute(found, references=embedding)
figure = explanation_figure(
    spec.to_rgb(found),
    maps,
    titles=[f"{k + 1}\ncosine {c:.2f}" for k, c in zip(shown, cosines[rows], strict=True)],
    correct=same[rows].tolist(),
    shared_scale=True,
    figure=plt.figure(),
)

# %%
# A scale for each
# ----------------
# The first and the last again, each stretched over all colours: now the last looks as well
# explained as the first, and only the numbers say that it is not.

figure = explanation_figure(
    spec.to_rgb(found[[0, -1]]),
    maps[[0, -1]],
    titles=["first", "last"],
    figure=plt.figure(),
)
for place, map_ in zip(shown, maps, strict=True):
    print(f"rank {place + 1:3}: mean {float(map_.mean()):.2f}, highest {float(map_.max()):.2f}")

plt.show()
