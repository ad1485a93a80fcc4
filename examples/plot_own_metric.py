r"""
Your own metric
===============

How much of a map lies along the border of the image, where padding leaves its traces and people
seldom stand? A metric is a pure function of tensors with one value per image; intervals come after.
:doc:`/own_metric` makes a column of every table of it.
"""

import matplotlib.pyplot as plt
import torch

from reid_explain import ActivationMean, Centre, GradFAM, Random
from reid_explain.checks import check_maps
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import comparison_figure, interval_figure

# %%
# The metric
# ----------
# No model, no data set, no averaging: whoever has maps can call it, and test it by hand.


def border_energy(maps, width=16):
    """Return the share (B,) of each map's positive mass within ``width`` pixels of the border.

    NaN for a map without positive mass: it has no share. A constant map scores the border's area.

    Args:
        maps: (B, 1, H, W); negative values count as 0.
        width: Width of the border in pixels.
    """
    maps = check_maps("maps", maps).double().clamp_min(0)
    total = maps.sum(dim=(1, 2, 3))
    inner = maps[..., width:-width, width:-width].sum(dim=(1, 2, 3))
    return (1 - inner / total).where(total > 0, torch.nan)


# %%
# Values known by heart come first.

constant = torch.ones(1, 1, 256, 128)
area = float(border_energy(constant))
assert abs(area - (1 - 224 * 96 / (256 * 128))) < 1e-12
assert border_energy(torch.zeros_like(constant)).isnan().all()

# %%
# The measurement
# ---------------
# Two queries of each of 20 people, who are not independent: the interval resamples the people.

world = SyntheticReID(test_identities=20, distractors=0)
model = load_pretrained("synthetic")
spec = model.input_spec
records = [record for record in world.query if record.camera < 3]
identities = torch.tensor([record.identity for record in records])
images = torch.stack([spec.to_tensor(world.load(record)) for record in records])
maps = {
    explainer.__name__: explainer(model, model.map_layer).attribute(images)
    for explainer in (GradFAM, ActivationMean, Random, Centre)
}
figure = comparison_figure(
    spec.to_rgb(images[:2]), {name: rows[:2] for name, rows in maps.items()}, figure=plt.figure()
)

# %%
# Means and intervals
# -------------------
# ``bootstrap_mean`` takes the values that exist; say how many do not.

intervals = {}
for name, rows in maps.items():
    values = 100 * border_energy(rows)
    known = ~values.isnan()
    intervals[name] = bootstrap_mean(values[known], identities[known])
    mean, low, high = intervals[name]
    left_out = int((~known).sum())
    print(f"{name:15}{mean:5.1f} % [{low:.1f}, {high:.1f}], {left_out} left out")

label = f"energy within 16 pixels of the border, %\n{len(images)} images"
figure = interval_figure(
    {label: intervals},
    chance={label: 100 * area},
    controls=("ActivationMean", "Random", "Centre"),
    figure=plt.figure(),
)

# %%
# Two methods on the same images: an interval of their *differences*, pair by pair.

difference = 100 * (border_energy(maps["ActivationMean"]) - border_energy(maps["GradFAM"]))
mean, low, high = bootstrap_mean(difference, identities)
print(f"ActivationMean - GradFAM: {mean:.1f} points [{low:.1f}, {high:.1f}]")

plt.show()
