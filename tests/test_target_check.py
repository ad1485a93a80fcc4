"""The check of a target: what it prints of a small world and a network that sees nothing."""

import re

import pytest
import target_check
import torch
from torch import Tensor, nn
from worlds import drawn_once

from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import GlobalAveragePool
from reid_explain.retrieval import Gallery, embed_records


class Constant(EmbeddingNet):
    map_layer = "layer"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 16, stride=16)
        nn.init.zeros_(self.layer.weight)
        nn.init.ones_(self.layer.bias)
        self.pool, self.neck = GlobalAveragePool(), nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.slow
def test_constant_maps_score_chance_and_know_no_border(capsys):
    world = drawn_once(train_identities=0, test_identities=3, distractors=1)
    model = Constant().eval()
    query, gallery = (
        embed_records(model, world, records, spec=model.input_spec, show_progress=False)
        for records in (world.query, world.gallery)
    )
    target_check.explain(model, world, Gallery(gallery), query, 4)
    shown = capsys.readouterr().out
    chance = float(re.search(r"chance +([\d.]+) %", shown)[1])
    for method in ("ActivationMean", "RAM", "GradFAM", "ScoreFAM"):
        energy = float(re.search(rf"{method} +([\d.]+) %", shown)[1])
        assert energy == pytest.approx(chance, abs=0.2)
    assert "outermost cells: 1.00 times" in shown
    assert torch.equal(query.embeddings, torch.ones(len(world.query), 4))
