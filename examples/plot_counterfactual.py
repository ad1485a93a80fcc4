"""
What would make these two the same?
===================================

``CounterfactualInterpreter`` answers with pictures: the query with one attribute of the gallery
person, everything else as it was. The model itself says how much nearer that brings the two.
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import CounterfactualInterpreter
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.visualization import explanation_figure, picture_figure

# %%
# Three pairs
# -----------
# The editor that comes with the package learned from drawn people of another world.

world, model = SyntheticReID(seed=1, distractors=0), load_pretrained("synthetic")
interpreter = CounterfactualInterpreter(model)
spec = interpreter.spec
pairs = [(0, 300), (40, 140), (200, 20)]
sides = zip(*((world.query[one], world.query[other]) for one, other in pairs), strict=True)
query, gallery = (torch.stack([spec.to_tensor(world.load(r)) for r in side]) for side in sides)
found = interpreter.explain(query, gallery)

# %%
# The four groups of attributes that matter most, with their shares of the distance. A negative
# share would take the two further apart; what no attribute explains is the remainder.

top = found.contributions.argsort(descending=True)[:, :4]
rows, titles = [], []
for row in range(len(pairs)):
    shown = [query[row], gallery[row], *found.images[row, top[row]]]
    rows.append([spec.to_rgb(image) for image in shown])
    names = [f"{interpreter.groups[k]}\n{found.contributions[row, k]:.1%}" for k in top[row]]
    titles += ["query\n", f"gallery\nremainder {found.remainder[row]:.0%}", *names]
figure = picture_figure(rows, titles=titles, figure=plt.figure())

# %%
# Where
# -----
# The map of a group is what its edit changes; that of the whole difference adds them up by share.

difference = interpreter.attribute(query, gallery)
figure = explanation_figure(spec.to_rgb(query), difference, figure=plt.figure())

# %%
# True interventions
# ------------------
# The drawn world can give a person the other's attribute for real. Above what the editor makes of
# the first pair, below what the world draws, and what either does to the distance.

records = world.query[pairs[0][0]], world.query[pairs[0][1]]
truth = []
for k in top[0]:
    image = world.intervene(records[0], {interpreter.groups[k]: records[1]}).image
    truth.append(spec.from_rgb(torch.from_numpy(image).permute(2, 0, 1) / 255))
with torch.no_grad():
    moved, goal = model(torch.stack(truth)), model(gallery[:1])
effects = (found.distance[0] - (moved - goal).norm(dim=1)) / found.distance[0]
edited = found.images[0, top[0]]
figure = picture_figure(
    [[spec.to_rgb(image) for image in images] for images in (edited, truth)],
    titles=[
        f"{interpreter.groups[k]}\nedit {found.contributions[0, k]:.1%}, true {effect:.1%}"
        for k, effect in zip(top[0], effects, strict=True)
    ],
    row_titles=["edited", "drawn"],
    figure=plt.figure(),
)

plt.show()
