"""Synthetic pedestrians: drawn images whose attributes, masks and differences are known."""

from reid_explain.datasets.synthetic.attributes import ATTRIBUTE_NAMES, GROUPS
from reid_explain.datasets.synthetic.truth import PARTS, Counterfactual, Removal, Rendering
from reid_explain.datasets.synthetic.world import SyntheticReID

__all__ = [
    "ATTRIBUTE_NAMES",
    "GROUPS",
    "PARTS",
    "Counterfactual",
    "Removal",
    "Rendering",
    "SyntheticReID",
]
