"""The presets give the maps of commit 78ffebb, from before objectives and algorithms were split.

The values were written there, by the same cases: ``write(path)`` on a checkout of it.
"""

from pathlib import Path

import pytest
import torch
from nets import HeadNet, PooledNet, images, small_reid_net
from safetensors.torch import load_file, save_file

import reid_explain

GOLDEN = Path(__file__).with_name("golden_maps.safetensors")
SCORES = {"return_scores": True}
CASES = {
    "GradFAM": ("GradFAM", {}),
    "GradRAM": ("GradRAM", {"references": 7}),
    "CGRAM": ("CGRAM", {"references": 7}),
    "RAM": ("RAM", {"references": 7}),
    "GradCAM": ("GradCAM", {}),
    "GradCAM-target": ("GradCAM", {"target": [1, 0, 2]}),
    "ScoreFAM": ("ScoreFAM", SCORES),
    "ScoreFAM-baselines": ("ScoreFAM", {"baselines": 0.25, **SCORES}),
    "ScoreCAM": ("ScoreCAM", SCORES),
    "ScoreCAM-target": ("ScoreCAM", {"target": [1, 0, 2], **SCORES}),
    "ExtremalFAM": ("ExtremalFAM", {}),
    "ExtremalFAM-references": ("ExtremalFAM", {"references": 7}),
    "ExtremalFAM-difference": ("ExtremalFAM", {"references": 7, "explains": "difference"}),
    "ActivationMean": ("ActivationMean", {}),
    "Random": ("Random", {}),
    "Centre": ("Centre", {}),
}
NETS = ("head", "reid")


def maps_of(case: str, net: str) -> dict[str, torch.Tensor]:
    """The maps (and scores) of a case on a net by hand or a small ResNet, in float64."""
    name, data = CASES[case]
    if net == "head":
        model, layer, size = HeadNet(), "relu", (12, 8)
    else:
        model, layer, size = small_reid_net().double(), "backbone.layer4", (64, 32)
    function = model
    if name == "RAM":  # needs the pooled map as the embedding
        model = PooledNet() if net == "head" else model
        function = model if net == "head" else lambda x: model.features(x).mean(dim=(2, 3))
    elif "CAM" in name and net == "reid":
        function = lambda x: model.classify(model(x))  # noqa: E731
    layer = model.eval().get_submodule(layer)
    if "references" in data:
        data = data | {"references": images(3, size, data["references"])}
    found = getattr(reid_explain, name)(function, layer).attribute(
        images(3, size), interpolate_mode=None, **data
    )
    maps, *scores = found if isinstance(found, tuple) else (found,)
    return {"maps": maps, **({"scores": scores[0]} if scores else {})}


def write(path: Path) -> None:
    save_file(
        {
            f"{case}:{net}:{kind}": values.contiguous()
            for case in CASES
            for net in NETS
            for kind, values in maps_of(case, net).items()
        },
        path,
    )


def takes_long(case: str, net: str) -> bool:
    return case.startswith("ExtremalFAM") and net == "reid"


@pytest.mark.parametrize(
    ("case", "net"),
    [
        pytest.param(case, net, marks=[pytest.mark.slow] * takes_long(case, net))
        for case in CASES
        for net in NETS
    ],
)
def test_maps_are_those_of_before(case, net):
    golden = load_file(GOLDEN)
    for kind, values in maps_of(case, net).items():
        expected = golden[f"{case}:{net}:{kind}"]
        scale = expected.abs().max()
        assert values.dtype == expected.dtype
        assert (values - expected).abs().max() <= 1e-9 * scale, kind
