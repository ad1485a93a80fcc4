"""Maps, attributes and measurements: tensors and plain numbers in, matplotlib figures out.

Pyplot does not know the figures: nothing to close, safe in threads and servers. Pass
``figure=plt.figure()`` to have pyplot (a notebook, sphinx-gallery) show one.
"""

from reid_explain.visualization.attributes import attribute_maps_figure, attribute_pair_figure
from reid_explain.visualization.charts import (
    Curve,
    curves_figure,
    interval_figure,
    tradeoff_figure,
    training_figure,
)
from reid_explain.visualization.colors import overlay
from reid_explain.visualization.layout import save_figure
from reid_explain.visualization.maps import (
    comparison_figure,
    explanation_figure,
    picture_figure,
    rank_figure,
)
from reid_explain.visualization.matches import matches_figure

__all__ = [
    "Curve",
    "attribute_maps_figure",
    "attribute_pair_figure",
    "comparison_figure",
    "curves_figure",
    "explanation_figure",
    "interval_figure",
    "matches_figure",
    "overlay",
    "picture_figure",
    "rank_figure",
    "save_figure",
    "tradeoff_figure",
    "training_figure",
]
