"""
The synthetic world
===================

``SyntheticReID`` draws its pedestrians, so it knows what no photograph tells: where each
attribute shows, and what differs between two images. First eight people in six cameras; then one
person with each of the 26 attributes changed, with the changed region outlined.

.. code-block:: console

   $ python examples/plot_synthetic_world.py --output pictures
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from reid_explain.datasets.records import Record
from reid_explain.datasets.synthetic import SyntheticReID

world = SyntheticReID()

# %%
# Eight people, six cameras
# -------------------------
# The cameras differ in the headings of people, in colour, exposure, resolution, noise and
# compression; the clothes of a person never change.

records: dict[int, dict[int, Record]] = defaultdict(dict)
for record in world.train:
    records[record.identity].setdefault(record.camera, record)
seen_by_all = [cameras for cameras in records.values() if len(cameras) == 6]


def contact_sheet(people: list[dict[int, Record]]) -> Figure:
    """Draw one column per person and one row per camera."""
    figure, axes = plt.subplots(6, len(people), figsize=(len(people), 12))
    for column, cameras in enumerate(people):
        for camera, record in cameras.items():
            axes[camera - 1, column].imshow(world.load(record))
    for axis in axes.flat:
        axis.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.03, hspace=0.015)
    return figure


sheet = contact_sheet(seen_by_all[:8])

# %%
# One person, each attribute changed
# ----------------------------------
# Each pair: the image with exactly one attribute changed, and on its right where that attribute
# shows (white) on the person (gray). Outside the line no pixel differs from the original.


def toggles(record: Record) -> Figure:
    """Draw a record with each attribute changed; the line bounds the changed region."""
    figure, axes = plt.subplots(4, 7, figsize=(16, 10))
    axes.flat[0].imshow(world.load(record))
    axes.flat[0].set_title("original")
    for axis, name in zip(axes.flat[1:], world.attribute_names, strict=False):
        pair = world.counterfactual(record, name)
        shows = (pair.original.attributes | pair.changed.attributes)[
            world.attribute_names.index(name)
        ]
        truth = np.where(shows, 255, 90 * pair.changed.person).astype(np.uint8)
        axis.imshow(np.hstack([pair.changed.image, np.dstack([truth] * 3)]))
        if pair.region.any():
            axis.contour(pair.region, [0.5], colors="#00e5ff", linewidths=1)
        axis.set_title(name)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout()
    return figure


changes = toggles(seen_by_all[1][2])

# %%

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="write the figures to this folder")
    output = parser.parse_known_args()[0].output
    if output:
        output.mkdir(parents=True, exist_ok=True)
        sheet.savefig(output / "synthetic_sheet.png", dpi=130)
        changes.savefig(output / "synthetic_toggles.png", dpi=110)
