"""Every network of this package by name."""

from typing import Any

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.models.osnet import OSNet
from reid_explain.models.reid import RESNETS, ReIDNet

OSNET_WIDTHS = {"osnet_x1_0": 1.0, "osnet_x0_75": 0.75, "osnet_x0_5": 0.5, "osnet_x0_25": 0.25}
MODEL_NAMES = (*RESNETS, *OSNET_WIDTHS)


def build_model(name: str, num_classes: int = 0, **options: Any) -> ReIDNet | OSNet:
    """Return an untrained network.

    Args:
        name: one of ``MODEL_NAMES``.
        num_classes: training identities; 0 builds no classifier.
        options: ``pooling``, ``last_stride`` and ``width`` of a ``ReIDNet``; an OSNet has none.

    Raises:
        InputError: another name, or an option that the network does not have.
    """
    check_choice("name", name, MODEL_NAMES)
    if name in RESNETS:
        return ReIDNet(name, num_classes, **options)
    if options:
        raise InputError("options", f"{', '.join(options)} for {name}", "none for an OSNet")
    return OSNet(OSNET_WIDTHS[name], num_classes)
