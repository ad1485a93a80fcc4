r"""
Ten-minute tutorial
===================

From an image to a map, to numbers, to a pair, to a rank list, with the model and the drawn people
that come with the package. The notebook of this page is at its end; nothing is downloaded.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import ActivationMean, GradFAM, GradRAM, PlaceToPlace, Random
from reid_explain.datasets import SyntheticReID
from reid_explain.fills import blurred
from reid_explain.metrics.faithfulness import composite, top_area_masks
from reid_explain.models import load_pretrained
from reid_explain.retrieval import Gallery, embed_records
from reid_explain.visualization import comparison_figure, matches_figure, rank_figure

# %%
# Model and images
# ----------------
# A model maps images (B, 3, H, W) to embeddings (B, D). ``map_layer`` is its last layer with a map,
# ``input_spec`` the size and normalization of its images. For your own, replace these two lines by
# ``open_checkpoint("weights.pth")`` and ``FolderDataset("people")``.

model = load_pretrained("synthetic")
world = SyntheticReID(test_identities=20, distractors=40)

spec = model.input_spec
record = world.query[37]
query = spec.to_tensor(world.load(record))[None]
with torch.no_grad():
    embedding = model(query)
print(f"image {tuple(query.shape)}, embedding {tuple(embedding.shape)}, layer {model.map_layer}")

# %%
# A map
# -----
# Which pixels is the embedding made of? ``GradFAM`` takes one forward and one backward pass. The
# mean of the layer's channels does not ask the embedding anything: it is a control, and a method
# has to do better.

methods = {"GradFAM": GradFAM, "channel mean": ActivationMean}
maps = {name: method(model, model.map_layer).attribute(query) for name, method in methods.items()}
figure = comparison_figure(spec.to_rgb(query), maps, figure=plt.figure())

# %%
# Numbers
# -------
# Does the embedding survive on what a map keeps? Only the highest 10 and 30 % of its pixels stay,
# the rest is blurred; what is left is the cosine with the embedding of the whole image, here in the
# mean of eight queries. Noise is the second control.

few = torch.stack([spec.to_tensor(world.load(record)) for record in world.query[::10][:8]])
with torch.no_grad():
    whole = model(few)
for name, method in {**methods, "noise": Random}.items():
    masks = top_area_masks(method(model, model.map_layer).attribute(few), [0.1, 0.3])
    with torch.no_grad():
        kept = [model(composite(few, mask, blurred(few))) for mask in masks.unbind(1)]
    left = [float(F.cosine_similarity(part, whole).mean()) for part in kept]
    print(f"{name:13} 10 % of the pixels: {left[0]:.2f}    30 %: {left[1]:.2f}")

# %%
# Noise is far behind. The channel mean is not: on this network the activation already marks what
# the embedding is made of. Eight images only tell large differences; ``reid-explain benchmark
# faithfulness`` has retrieval, four fills, all areas and intervals.

# %%
# A pair
# ------
# Embed the gallery once and look at the nearest image. Images of the query's own camera that show
# the same person do not count. ``PlaceToPlace`` splits the cosine into contributions of pairs of
# places; lines are the strongest.

queries, gallery = (
    embed_records(model, world, records, spec=spec, show_progress=False)
    for records in ([record], world.gallery)
)
order = Gallery(gallery).nearest(queries, k=6)[0]
found = torch.stack([spec.to_tensor(world.load(world.gallery[row])) for row in order])

explainer = PlaceToPlace(model, model.map_layer)
pairs = explainer.explain(query, found)
grids = [tuple(pairs.contributions.shape[1:3]), tuple(pairs.contributions.shape[3:])]
figure = matches_figure(
    spec.to_rgb(query)[0],
    spec.to_rgb(found)[0],
    pairs.top(8, apart=2)[0],
    grids,
    titles=["query", f"rank 1, cosine {pairs.similarity[0]:.2f}"],
    figure=plt.figure(),
)
total = float(pairs.contributions[0].sum())
print(f"sum of the contributions {total:.4f}, cosine {float(pairs.similarity[0]):.4f}")

# %%
# The same as a map of each image, which takes two forward and backward passes:

query_map, match_map = GradRAM(model, model.map_layer).attribute_pair(query, found[:1])
figure = comparison_figure(
    spec.to_rgb(torch.cat([query, found[:1]])),
    {"GradRAM": [query_map[0], match_map[0]]},
    titles=["query", "rank 1"],
    figure=plt.figure(),
)

# %%
# A rank list
# -----------
# Green frames are right, orange ones wrong. Below, why each image is above the next: bright places
# of the query speak for the upper one, blue for the lower one, and they add up to the margin.

contributions = pairs.query_map
figure = rank_figure(
    spec.to_rgb(query)[0],
    spec.to_rgb(found),
    pairs.similarity.tolist(),
    contributions[:-1] - contributions[1:],
    correct=(gallery.identities[order] == record.identity).tolist(),
    figure=plt.figure(),
)

# %%
# The wrong image loses by hair and shoes; its black shirt speaks for it. A map of a wrong match
# looks as convincing as one of a right match: it says what the model found alike, not that it was
# right.
#
# As a page to send to a colleague, with the same views:
# ``reid-explain rank query.jpg --gallery people --weights weights.pth``.

plt.show()
