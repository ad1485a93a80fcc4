"""
Why are these two people different?
===================================

An ``AMDInterpreter`` splits the distance of two images into attributes: which ones, how much each
of them contributes, and where it looks. The one used here comes with the package, for the model
that comes with it.

.. code-block:: console

   $ python examples/plot_explain_difference.py --output pictures
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from reid_explain import AMDInterpreter
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.inputs import InputSpec
from reid_explain.visualization import attribute_pair_figure

# %%
# A pair in three lines
# ---------------------
# Two people of the synthetic world, and how far apart the model sees them. The distances of the
# attributes add up to the distance of the model, but for a small error of reconstruction.

world = SyntheticReID()
spec = InputSpec()
query, gallery = (spec.to_tensor(world.load(record))[None] for record in world.query[40:160:100])

interpreter = AMDInterpreter.from_pretrained("synthetic")
explanation = interpreter.explain(query, gallery)
print(f"distance {float(explanation.distance):.2f}, sum {float(explanation.reconstructed):.2f}")

# %%
# Which attributes truly differ, the synthetic world knows. The interpreter was told of nobody here:
# it learnt from other people.

labels = [torch.as_tensor(world.labels[world.query[index].identity]) for index in (40, 140)]
pair = attribute_pair_figure(
    spec.to_rgb(query[0]),
    spec.to_rgb(gallery[0]),
    explanation.query_maps[0],
    explanation.gallery_maps[0],
    explanation.contributions[0],
    interpreter.attributes,
    top=5,
    title=f"distance {float(explanation.distance):.2f}",
    labels=labels[0] != labels[1],
    figure=plt.figure(),
)

# %%
# One attribute alone
# -------------------
# As every explainer of this package, the interpreter gives maps (B, 1, H, W): of all attributes by
# their contributions, or of one.

map_ = interpreter.attribute(gallery, attribute=int(explanation.contributions.argmax()))
print(tuple(map_.shape))

# %%

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write the figure to this folder")
    output = parser.parse_known_args()[0].output
    if output:
        output.mkdir(parents=True, exist_ok=True)
        pair.savefig(output / "difference.png", dpi=150)
