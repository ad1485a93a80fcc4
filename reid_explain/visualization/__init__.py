"""Maps, attributes and measurements: tensors in, matplotlib figures out.

A figure is a plain :class:`matplotlib.figure.Figure` that pyplot does not know: nothing to close,
safe in threads and servers. Pass ``figure=plt.figure()`` to have pyplot (a notebook,
sphinx-gallery) show it.
"""

from reid_explain.visualization.attributes import (
    attribute_maps_figure,
    attribute_masks_figure,
)
from reid_explain.visualization.colours import DIVERGING, SEQUENTIAL
from reid_explain.visualization.heatmaps import comparison_figure, explanation_figure, overlay
from reid_explain.visualization.intervals import interval_figure
from reid_explain.visualization.layout import save_figure
from reid_explain.visualization.measurements import curves_figure, scatter_figure
from reid_explain.visualization.pairs import attribute_pair_figure
from reid_explain.visualization.ranks import rank_list_figure
from reid_explain.visualization.training import training_figure

__all__ = [
    "DIVERGING",
    "SEQUENTIAL",
    "attribute_maps_figure",
    "attribute_masks_figure",
    "attribute_pair_figure",
    "comparison_figure",
    "curves_figure",
    "explanation_figure",
    "interval_figure",
    "overlay",
    "rank_list_figure",
    "save_figure",
    "scatter_figure",
    "training_figure",
]
