"""Attribution for embedding models: what a vector, a match or a difference was made of."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

__version__ = "0.2.0"
_HOMES = {
    "AMDInterpreter": "amd.interpreter",
    "AmortizedFAM": "explainers.amortized",
    "AttributeDirections": "directions",
    "ActivationMean": "explainers.controls",
    "AttentionRelevance": "explainers.attention",
    "AttentionRollout": "explainers.attention",
    "CGRAM": "explainers.ram",
    "Centre": "explainers.controls",
    "Concept": "objectives",
    "CorrRISE": "explainers.corr_rise",
    "Cosine": "objectives",
    "CounterfactualDirections": "directions",
    "CounterfactualInterpreter": "counterfactual.interpreter",
    "EigenCAM": "explainers.cam_variants",
    "ExtremalDescent": "explainers.extremal",
    "ExtremalFAM": "explainers.extremal",
    "GradCAM": "explainers.cam",
    "GradFAM": "explainers.fam",
    "GradRAM": "explainers.ram",
    "GradientWeighting": "explainers.gradient",
    "HiResCAM": "explainers.cam_variants",
    "InputError": "errors",
    "InputSpec": "inputs",
    "LayerCAM": "explainers.cam_variants",
    "LeGrad": "explainers.attention",
    "Logit": "objectives",
    "Margin": "objectives",
    "MaskWeighting": "explainers.rise",
    "Norm": "objectives",
    "PairLeGrad": "explainers.attention",
    "PairRelevance": "explainers.attention",
    "PlaceToPlace": "explainers.place_to_place",
    "Projection": "objectives",
    "RELAX": "explainers.relax",
    "RISE": "explainers.rise",
    "RAM": "explainers.ram",
    "Random": "explainers.controls",
    "SBSM": "explainers.sbsm",
    "ScoreCAM": "explainers.cam",
    "ScoreFAM": "explainers.fam",
    "ScoreWeighting": "explainers.score",
    "Shared": "explainers.base",
    "Verification": "objectives",
    "XGradCAM": "explainers.cam_variants",
    "blurred": "fills",
}
"""Public name -> the module that has it, imported when the name is first asked for (PEP 562)."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return imported(__name__, _HOMES, name)


def imported(package: str, homes: Mapping[str, str], name: str) -> Any:
    """Return what a package has under a public name, from its module; the package keeps it."""
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
