"""
Area against drop
=================

The FAM paper keeps what a map marks, and measures how much of the similarity to the same person is
lost: AS Drop. A map that marks more keeps more, whatever it marks, and so noise wins. At equal
areas, beside random maps of the same smoothness, the picture is another one.

.. code-block:: console

   $ python benchmarks/faithfulness.py --queries 40
"""

import matplotlib.pyplot as plt
import torch

from reid_explain.benchmark import Faithfulness, Target
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.models import load_pretrained
from reid_explain.statistics import bootstrap_mean
from reid_explain.visualization import Curve, curves_figure, interval_figure

# %%
# Twelve queries
# --------------
# The benchmark is a library: one call measures explainers by name on a model and a data set, and
# gives a pandas frame with a row for every number. ``Random`` is noise at the layer's resolution;
# it, the channel mean and a blob in the center know nothing of the embedding.

methods = ("GradFAM", "GradRAM", "RAM", "ActivationMean", "Centre", "Random")
controls = methods[3:]
target = Target(load_pretrained("synthetic"), precision="bfloat16")
world = SyntheticReID(distractors=200)
frame = Faithfulness(queries=12).run(target, world, methods=methods)
print(frame.head(3).to_string())

# %%
# The paper's score
# -----------------
# Its mask keeps whatever part of the image the map happens to mark, the rest is blurred. The image
# as it is would stand in the lower right corner: nothing lost, and nothing explained.


def interval(rows):
    """Return the mean of rows of the frame, with its interval over people."""
    rows = rows.dropna(subset="value")
    return bootstrap_mean(
        torch.tensor(rows["value"].to_numpy()), torch.tensor(rows["identity"].to_numpy())
    )


def measured(name, metric):
    """Return the rows of a method and a metric."""
    return frame[(frame.method == name) & (frame.metric == metric)]


figure = curves_figure(
    {
        "": {
            name: Curve(
                interval(measured(name, "kept_area")).mean, *interval(measured(name, "as_drop"))
            )
            for name in methods
        }
    },
    xlabel="kept area, %",
    ylabel="AS Drop, %",
    controls=controls,
    figure=plt.figure(),
)

# %%
# At equal areas
# --------------
# Now every map keeps its highest 5, 10, ... 70 % of the pixels. Dotted: random maps as smooth as
# the method's own. One fill is not enough, since a map can suit one by chance; here are two of the
# four.

fills = {"blur": "the rest blurred", "other": "the rest from another person"}
parts = frame.metric.astype(str).str.extract(
    r"^(?P<kind>random_)?as_drop:(?P<fill>\w+):(?P<area>.+)$"
)
equal = frame.join(parts).dropna(subset=["fill", "value"])
equal["kind"] = equal["kind"].fillna("")


def curves(kind):
    """Return the mean drop over the kept area of every method, by fill."""
    means = (
        equal[equal.kind == kind].groupby(["fill", "method", "area"], observed=True)["value"].mean()
    )
    return {
        title: {
            name: Curve([100 * float(a) for a in means[fill, name].index], means[fill, name])
            for name in methods
        }
        for fill, title in fills.items()
    }


figure = curves_figure(
    curves(""),
    dotted=curves("random_"),
    dotted_label="random maps",
    xlabel="kept area, %",
    ylabel="AS Drop, %",
    controls=controls,
    figure=plt.figure(),
)

# %%
# Ahead of chance?
# ----------------
# The curves differ from query to query far more than from method to method, so a method is compared
# with its own random maps query by query: its lead in AS Drop, mean over the six areas, with a 95 %
# bootstrap interval over the people. With so few of them an interval that holds 0 says "not known".

by_query = equal.pivot_table(
    index=["fill", "method", "identity", "case"], columns="kind", values="value", observed=True
)
leads = (by_query["random_"] - by_query[""]).rename("value").reset_index()
figure = interval_figure(
    {
        f"lead over random maps, points,\n{title}": {
            name: interval(leads[(leads.fill == fill) & (leads.method == name)]) for name in methods
        }
        for fill, title in fills.items()
    },
    chance={f"lead over random maps, points,\n{title}": 0 for title in fills.values()},
    controls=controls,
    figure=plt.figure(),
)

plt.show()
