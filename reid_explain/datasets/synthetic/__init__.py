"""Synthetic pedestrians: drawn images whose attributes, masks and differences are known."""

from reid_explain.datasets.synthetic.attributes import ATTRIBUTE_NAMES
from reid_explain.datasets.synthetic.truth import Counterfactual, Rendering
from reid_explain.datasets.synthetic.world import SyntheticReID

__all__ = ["ATTRIBUTE_NAMES", "Counterfactual", "Rendering", "SyntheticReID"]
