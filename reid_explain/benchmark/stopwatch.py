"""Seconds and memory of one version's explainers, in a process of its own.

``versions.py`` runs this file with the folder of a version in PYTHONPATH, so it imports nothing
but torch, torchvision and names that every version has. It answers each line of standard input:
``memory`` with MiB, the name of an explanation with seconds.
"""

import resource
import sys
import time
from collections.abc import Callable
from functools import cache

import torch
import torchvision
from torch import nn

import reid_explain

MASKS = 16
SIZE = (256, 128)
EXPLAINERS = ("ScoreFAM", "GradFAM", "GradRAM", "CGRAM", "ExtremalFAM")


def memory() -> float:
    """Return the MiB of Score-FAM beyond bare passes of as many images, for 2,048 channels.

    The network is small, so that nothing hides behind its activations.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(8),
        nn.Conv2d(8, 2048, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(MASKS, 3, *SIZE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    explainer = reid_explain.ScoreFAM(model, "4")
    explainer.attribute(torch.randn(1, 3, *SIZE), perturbations_per_eval=MASKS)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@cache
def explanations() -> dict[str, Callable[[], object]]:
    """Return explanations of one image by an untrained MobileNetV3, ready to run."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small().eval()
    model.classifier = nn.Identity()
    image, reference = torch.randn(2, 1, 3, *SIZE)

    def ready(name: str) -> Callable[[], object]:
        explainer = getattr(reid_explain, name)
        settings = {"rounds": 1, "descents": 1} if name == "ExtremalFAM" else {}
        takes_references = name in ("GradRAM", "CGRAM")
        data = {"references": reference} if takes_references else {}
        return lambda: explainer(model, "features", **settings).attribute(image, **data)

    return {name: ready(name) for name in EXPLAINERS}


def main() -> None:
    """Answer until standard input ends."""
    for name in map(str.strip, sys.stdin):
        run = memory if name == "memory" else explanations()[name]
        started = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - started
        print(result if name == "memory" else seconds, flush=True)


if __name__ == "__main__":
    main()
