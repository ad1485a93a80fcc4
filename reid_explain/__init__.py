"""Attribution for embedding models: what a vector, a match or a difference was made of."""

from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.errors import InputError
from reid_explain.explainers.cam import GradCAM, ScoreCAM
from reid_explain.explainers.controls import ActivationMean, Centre, Random
from reid_explain.explainers.extremal import ExtremalFAM
from reid_explain.explainers.fam import GradFAM, ScoreFAM
from reid_explain.explainers.ram import CGRAM, RAM, GradRAM
from reid_explain.fills import blurred

__version__ = "0.1.0"
__all__ = [
    "CGRAM",
    "RAM",
    "AMDInterpreter",
    "ActivationMean",
    "Centre",
    "ExtremalFAM",
    "GradCAM",
    "GradFAM",
    "GradRAM",
    "InputError",
    "Random",
    "ScoreCAM",
    "ScoreFAM",
    "blurred",
]
