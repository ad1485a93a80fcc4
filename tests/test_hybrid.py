"""The hybrid transformer: its equations, its frozen stem, explained end to end."""

import pytest
import torch
from nets import images
from torch.nn import functional

from reid_explain import AttentionRelevance, GradRAM, InputError
from reid_explain.datasets import SyntheticReID
from reid_explain.models import build_model, load_pretrained, load_trained, save_trained
from reid_explain.models.pretrained import SHIPPED
from reid_explain.objectives import Cosine
from reid_explain.retrieval import Gallery, embed_records, summarize

FORM = {
    **{"width": 0.125, "img_size": (64, 32), "embed_dim": 16, "depth": 2, "num_heads": 2},
    **{"stages": 2, "patch_size": 2},
}
X = images(3, (64, 32), dtype=torch.float32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = build_model("hybrid_vit", **FORM)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


def attended(w, block, x):
    """One block, head by head."""

    def norm(name, y):
        return functional.layer_norm(y, (16,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name, y):
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=2)
    heads = []
    for h in (slice(0, 8), slice(8, 16)):
        weights = (q[..., h] @ k[..., h].transpose(1, 2) / 8**0.5).softmax(dim=2)
        heads.append(weights @ v[..., h])
    x = x + linear(f"{block}.attn.proj", torch.cat(heads, dim=2))
    hidden = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
    return x + linear(f"{block}.mlp.fc2", hidden)


def test_the_class_token_reads_patches_of_the_map_of_the_second_stage(model):
    w = {key.removeprefix("vit."): value for key, value in model.state_dict().items()}
    stem = model.stem
    with torch.no_grad():
        map_ = stem.layer2(stem.layer1(stem.stem(X)))
        assert map_.shape == (3, 16, 8, 4)
        patches = functional.unfold(map_, 2, stride=2).transpose(1, 2)
        tokens = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
        x = torch.cat([w["cls_token"].expand(3, -1, -1), tokens], dim=1) + w["pos_embed"]
        for block in ("blocks.0", "blocks.1"):
            x = attended(w, block, x)
        expected = functional.layer_norm(x[:, 0], (16,), w["norm.weight"], w["norm.bias"], 1e-6)
        torch.testing.assert_close(model(X), expected, atol=1e-5, rtol=1e-5)


def test_a_frozen_stem_stays_in_eval_mode(model):
    model.train()
    assert model.stem.bn1.training
    model.stem.requires_grad_(False)
    before = model.stem.bn1.running_mean.clone()
    model.train()(X)
    assert model.vit.training
    assert torch.equal(before, model.stem.bn1.running_mean)


@pytest.mark.slow
def test_it_is_explained_and_comes_back_from_its_card(model, tmp_path):
    save_trained(model, tmp_path / "a.json", {"name": "hybrid_vit", **FORM, "img_size": [64, 32]})
    again = load_trained(tmp_path / "a.json")
    assert torch.equal(model(X), again(X))
    references = X.flip(0)
    maps = GradRAM(again, again.map_layer).attribute(X, references=references)
    of_match = AttentionRelevance(again).attribute(X, Cosine(references), interpolate_mode=None)
    assert maps.shape == (3, 1, 64, 32)
    assert of_match.shape == (3, 1, 4, 2)
    assert maps.abs().amax() > 0


@pytest.mark.slow
def test_the_shipped_one_stands_on_the_shipped_resnet_and_finds_people():
    model, resnet = load_pretrained("synthetic_vit"), load_pretrained("synthetic")
    given = resnet.backbone.state_dict()
    for key, values in model.stem.state_dict().items():
        assert torch.equal(values, given[key]), key
    world = SyntheticReID(seed=1, test_identities=20, distractors=0)
    query, gallery = (
        embed_records(model, world, records, spec=model.input_spec, show_progress=False)
        for records in (world.query[::5], world.gallery)
    )
    found = summarize(Gallery(gallery).ranks(query))
    assert found.cmc[1] > 95
    assert (SHIPPED / "synthetic_vit.safetensors").stat().st_size < 2.2e6


@pytest.mark.parametrize(("name", "value"), [("stages", 5), ("stages", 0), ("num_classes", -1)])
def test_what_it_does_not_take(name, value):
    with pytest.raises(InputError, match=name):
        build_model("hybrid_vit", **{**FORM, name: value})
