"""Every registered explainer, and every cell of algorithms x objectives, keeps the contract."""

from functools import partial

import pytest
import torch

from reid_explain import (
    Concept,
    Cosine,
    ExtremalDescent,
    GradFAM,
    GradientWeighting,
    Logit,
    Margin,
    MaskWeighting,
    Norm,
    Projection,
    ScoreWeighting,
)
from reid_explain.explainers.amortized import ActivationHead
from reid_explain.explainers.attention import AttentionExplainer
from reid_explain.explainers.controls import ActivationMean
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.testing import (
    AttentionNet,
    Contract,
    ContractNet,
    check_explainer,
    explainer_checks,
    pictures,
)

FAST = {
    "AmortizedFAM": {"head": ActivationHead(5).double()},
    "ExtremalFAM": {"rounds": 1, "descents": 2},
    "CorrRISE": {"masks": 40},
    "RELAX": {"masks": 40},
    "RISE": {"masks": 40},
}
PRESETS = [
    name
    for name, explainer in EXPLAINERS.items()
    if explainer.__module__.startswith("reid_explain.explainers")
]
CHECKS = [check.__name__ for check in explainer_checks(GradFAM)]
OBJECTIVES = {
    "Norm": lambda batch: Norm(),
    "Projection": lambda batch: Projection(pictures(1, seed=7)),
    "Cosine": lambda batch: Cosine(pictures(1, seed=7)),
    "Logit": lambda batch: Logit(1),
    "Margin": lambda batch: Margin(pictures(1, seed=7), pictures(1, seed=8)),
    "Concept": lambda batch: Concept(torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)),
}
ALGORITHMS = {
    "mean": GradientWeighting,
    "elementwise": partial(GradientWeighting, weights="elementwise"),
    "positive": partial(GradientWeighting, weights="positive"),
    "score": ScoreWeighting,
    "sampled score": partial(ScoreWeighting, max_scored_channels=3),
    "descent": partial(ExtremalDescent, rounds=1, descents=2),
    "masks": partial(MaskWeighting, masks=40),
    "control": ActivationMean,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets(name, check):
    explainer = partial(EXPLAINERS[name], **FAST.get(name, {}))
    model = AttentionNet if issubclass(EXPLAINERS[name], AttentionExplainer) else ContractNet
    (found,) = (c for c in explainer_checks(explainer, model=model) if c.__name__ == check)
    found()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*every map is zero")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cells(algorithm, objective):
    given = OBJECTIVES[objective]
    for check in explainer_checks(
        ALGORITHMS[algorithm], given=lambda batch: {"objective": given(batch)}
    ):
        if check.__name__ in CELL_CHECKS:
            check()


CELL_CHECKS = (
    "check_form",
    "check_batch_parity",
    "check_layers",
    "check_containers",
    "check_gradient_modes",
    "check_nothing_left_behind",
    "check_bad_input",
)
"""The objective stays whole here: Captum does not expand it with the images."""


OTHER_DATA = {
    "ScoreFAM": lambda batch: {"baselines": pictures(batch, seed=5)},
    "ExtremalFAM": lambda batch: {"references": pictures(batch, seed=5)},
    "RAM": lambda batch: {"references": ContractNet().pooled(pictures(batch, seed=5)).detach()},
    "CGRAM": lambda batch: {"references": torch.eye(4, dtype=torch.float64)[:batch]},
}
OTHER_DATA["GradRAM"] = OTHER_DATA["SBSM"] = OTHER_DATA["CGRAM"]


@pytest.mark.parametrize("check", ["noise_tunnel", "sensitivity_max", "batch_parity", "containers"])
@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data(name, check):
    """Baselines, and references that are embeddings, follow their images as Captum repeats them."""
    explainer = partial(EXPLAINERS[name], **FAST.get(name, {}))
    getattr(Contract(explainer, OTHER_DATA[name]), f"check_{check}")()


class Careless(GradFAM):
    """Breaks a promise, by name."""

    broken = ""

    def _map(self, images, args, objective):
        maps = super()._map(images, args, objective)
        if self.broken == "hook":
            self.layer.register_forward_hook(lambda *_: None)
        if self.broken == "mode":
            self.forward_func.head.train()
        if self.broken == "grad":
            next(p for p in self.forward_func.parameters() if p.dim() > 1).grad = None
        if self.broken == "batch":
            maps = maps - maps.mean(dim=0, keepdim=True)
        if self.broken == "random":
            maps = maps + torch.rand(())
        return maps


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("hook", "hooks changed"),
        ("mode", "modes changed"),
        ("grad", "grads changed"),
        ("batch", "check_batch_parity"),
        ("random", "check_"),
    ],
)
def test_the_contract_catches_what_breaks_it(broken, message):
    explainer = type("Broken", (Careless,), {"broken": broken})
    with pytest.raises(AssertionError, match=message):
        check_explainer(explainer)
