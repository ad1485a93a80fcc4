"""Attribute-guided metric distillation: the distance of two images, split into attributes.

``AMDInterpreter`` explains; ``AMDLoss`` and ``reid_explain.amd.trainer`` (with the ``train``
extra) train it, ``calibrate`` scales its distances; ``evaluate`` says how faithful it is. Chen et
al., ICCV 2021.
"""

from reid_explain.amd.calibration import Calibration as Calibration
from reid_explain.amd.calibration import calibrate as calibrate
from reid_explain.amd.evaluation import DecomposedRecords as DecomposedRecords
from reid_explain.amd.evaluation import decompose_records as decompose_records
from reid_explain.amd.evaluation import evaluate as evaluate
from reid_explain.amd.interpreter import AMDInterpreter as AMDInterpreter
from reid_explain.amd.interpreter import PairExplanation as PairExplanation
from reid_explain.amd.loss import AMDLoss as AMDLoss
from reid_explain.amd.loss import PairLabels as PairLabels
from reid_explain.amd.loss import pair_labels as pair_labels
from reid_explain.amd.network import AMDNetwork as AMDNetwork
from reid_explain.amd.network import Decomposed as Decomposed
