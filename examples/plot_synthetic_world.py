"""
The synthetic world
===================

``SyntheticReID`` draws its pedestrians, so it knows what no photograph tells: where each
attribute shows, and what differs between two images. First eight people in six cameras; then one
person with each of the 26 attributes changed, and where it shows; last, what else can be changed:
attributes of somebody else, parts of the body, the background.
"""

from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np

from reid_explain.datasets.synthetic import GROUPS, PARTS, SyntheticReID
from reid_explain.visualization import picture_figure

world = SyntheticReID()

# %%
# Eight people, six cameras
# -------------------------
# The cameras differ in the headings of people, in color, exposure, resolution, noise and
# compression; the clothes of a person never change.

records = defaultdict(dict)
for record in world.train:
    records[record.identity].setdefault(record.camera, record)
people = [cameras for cameras in records.values() if len(cameras) == 6][:8]
sheet = [[np.asarray(world.load(cameras[k])) for cameras in people] for k in sorted(people[0])]
figure = picture_figure(
    sheet, row_titles=[f"camera {k}" for k in sorted(people[0])], figure=plt.figure()
)

# %%
# One person, each attribute changed
# ----------------------------------
# The image with exactly one attribute changed, and below where that attribute shows (white) on the
# person (gray). Outside the red area no pixel differs from the original.

record = people[1][2]
names = world.attribute_names
changes = [world.counterfactual(record, name) for name in names]
pictures = [pair.changed.image for pair in changes]
truths = []
for k, pair in enumerate(changes):
    shows = pair.original.attributes[k] | pair.changed.attributes[k]
    gray = np.where(shows, 255, 90 * pair.changed.person).astype(np.uint8)
    truths.append(np.dstack([np.maximum(gray, 160 * pair.region.astype(np.uint8)), gray, gray]))

for start in range(0, len(names), 9):
    part = slice(start, start + 9)
    figure = picture_figure([pictures[part], truths[part]], titles=names[part], figure=plt.figure())

# %%
# Attributes of somebody else
# ---------------------------
# One person with each group of attributes of another (last), all else equal; then with all of
# them. Where the two share an attribute, nothing changes.

own = world.labels[record.identity]
other = max((p[2] for p in people), key=lambda r: (world.labels[r.identity] != own).sum())
given = [{}, *({group: other} for group in GROUPS), dict.fromkeys(GROUPS, other)]
pictures = [world.intervene(record, changes).image for changes in given]
pictures.append(np.asarray(world.load(other)))
titles = ["original", *GROUPS, "all", "the other"]
for part in (slice(0, 7), slice(7, 14)):
    figure = picture_figure([pictures[part]], titles=titles[part], figure=plt.figure())

# %%
# Parts removed, other backgrounds
# --------------------------------
# A part is painted over by what is behind it, which may be another part: a bare arm under a sleeve.

removed = {part: world.remove(record, part) for part in PARTS}
showing = [part for part in PARTS if removed[part].shape.any()]
pictures = [removed[part].changed.image for part in showing]
figure = picture_figure([pictures], titles=showing, figure=plt.figure())

places = world.train[40:2400:300]
pictures = [world.swap_background(record, place).image for place in places]
figure = picture_figure([pictures], figure=plt.figure())

plt.show()
