"""
Why are these two people different?
===================================

An ``AMDInterpreter`` splits the distance of two images into attributes: which ones, how much each
of them contributes, and where it looks. The one used here comes with the package, for the model
that comes with it.
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import AMDInterpreter
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.visualization import attribute_pair_figure, explanation_figure

# %%
# A pair
# ------
# Two people of the synthetic world, and how far apart the model sees them. The distances of the
# attributes add up to the distance of the model, but for a small error of reconstruction.

world = SyntheticReID()
interpreter = AMDInterpreter.from_pretrained("synthetic")
spec = interpreter.spec
records = world.query[40], world.query[140]
query, gallery = (spec.to_tensor(world.load(record))[None] for record in records)

explanation = interpreter.explain(query, gallery)
distance, total = float(explanation.distance), float(explanation.reconstructed)
print(f"distance {distance:.2f}, sum {total:.2f}")

# %%
# Which attributes truly differ, the synthetic world knows. The interpreter was told of nobody here:
# it learned from other people.

labels = [torch.as_tensor(world.labels[record.identity]) for record in records]
figure = attribute_pair_figure(
    spec.to_rgb(query[0]),
    spec.to_rgb(gallery[0]),
    explanation.query_maps[0],
    explanation.gallery_maps[0],
    explanation.contributions[0],
    interpreter.attributes,
    top=5,
    title=f"distance {distance:.2f}, sum of the attributes {total:.2f}",
    labels=labels[0] != labels[1],
    figure=plt.figure(),
)

# %%
# As any other explainer
# ----------------------
# ``attribute`` gives one map of the whole difference, or that of one attribute: (B, 1, H, W).

difference = interpreter.attribute(query, references=gallery)
top = interpreter.attribute(query, attribute=int(explanation.contributions.argmax()))
figure = explanation_figure(
    spec.to_rgb(torch.cat([query, query])),
    torch.cat([difference, top]),
    titles=["all attributes", interpreter.attributes[int(explanation.contributions.argmax())]],
    figure=plt.figure(),
)

plt.show()
