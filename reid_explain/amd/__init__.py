"""Attribute-guided metric distillation: the distance of two images, split into attributes.

``AMDInterpreter`` explains; ``AMDLoss`` and ``reid_explain.amd.trainer`` (with the ``train``
extra) train it; ``evaluate`` says how faithful it is. Chen et al., ICCV 2021.
"""

from reid_explain.amd.evaluation import DecomposedRecords, Evaluation, evaluate
from reid_explain.amd.interpreter import AMDInterpreter, Decomposed, PairExplanation
from reid_explain.amd.loss import AMDLoss, PairLabels, pair_labels
from reid_explain.amd.records import decompose_records

__all__ = [
    "AMDInterpreter",
    "AMDLoss",
    "Decomposed",
    "DecomposedRecords",
    "Evaluation",
    "PairExplanation",
    "PairLabels",
    "decompose_records",
    "evaluate",
    "pair_labels",
]
