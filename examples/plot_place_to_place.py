r"""
Which place goes with which?
============================

The similarity of two images, as lines between the places that go together: contributions that add
up to the cosine, what speaks for and against accepting the pair, and whether the lines are true.
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import PlaceToPlace
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.retrieval import Gallery, embed_records
from reid_explain.visualization import explanation_figure, matches_figure

# %%
# The ten strongest matches
# -------------------------
# A query and its nearest image from another camera. Two places match if each is the other's best;
# of these the ten that contribute most to the similarity, but none beside a stronger one.

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
image = spec.to_tensor(world.load(world.query[6]))[None]
match, wrong = (spec.to_tensor(world.load(world.gallery[row]))[None] for row in rows)

explainer = PlaceToPlace(model, model.map_layer)
found = explainer.explain(image, torch.cat([match, wrong]))
grids = [tuple(found.contributions.shape[1:3]), tuple(found.contributions.shape[3:])]
best = found.top(10, apart=2)

figure = matches_figure(
    spec.to_rgb(image)[0],
    spec.to_rgb(match)[0],
    best[0],
    grids,
    titles=["query", f"right, {found.similarity[0]:.2f}"],
    figure=plt.figure(),
)

# %%
# All contributions add up to the similarity. What this network has behind its map is linear (a mean
# and a batch norm), so that they do so but for rounding.

print(f"similarities   {[round(s, 4) for s in found.similarity.tolist()]}")
print(f"contributions  {[round(s, 4) for s in found.contributions.sum((1, 2, 3, 4)).tolist()]}")
for n, matches in enumerate(best):
    share = float(matches.contributions.sum() / found.similarity[n])
    print(f"the ten lines of pair {n}: {share:.1%} of the similarity")

# %%
# The nearest wrong image has its matches, too. Lines say what the model found alike, not that it
# was right.

figure = matches_figure(
    spec.to_rgb(image)[0],
    spec.to_rgb(wrong)[0],
    best[1],
    grids,
    titles=["query", f"wrong, {found.similarity[1]:.2f}"],
    figure=plt.figure(),
)

# %%
# For and against
# ---------------
# With a threshold between the two similarities, each place has to bring its share of it. What
# brings more speaks for accepting the pair, what brings less against it (blue). The maps add up to
# what the similarity exceeds the threshold by.

threshold = float(found.similarity.mean())
verifier = PlaceToPlace(model, model.map_layer, threshold=threshold)
maps = verifier.attribute(image.expand(2, -1, -1, -1), torch.cat([match, wrong]))
excess = verifier.attribute(
    image.expand(2, -1, -1, -1), torch.cat([match, wrong]), interpolate_mode=None
).sum((1, 2, 3))

figure = explanation_figure(
    spec.to_rgb(image.expand(2, -1, -1, -1)),
    maps,
    titles=[f"accept, {excess[0]:+.2f}", f"reject, {excess[1]:+.2f}"],
    shared_scale=True,
    figure=plt.figure(),
)

plt.show()
