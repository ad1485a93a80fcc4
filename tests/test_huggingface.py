"""Image towers of transformers, with random weights: pooled as by hand, rectangles, explained."""

import pytest
import torch
from nets import images
from torch import nn
from torch.nn import functional

from reid_explain import GradFAM, InputError, InputSpec, ScoreFAM
from reid_explain.capture import find_layer
from reid_explain.models import HuggingFaceNet

FORM = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": 32, "patch_size": 8},
}
HIDDEN = {"intermediate_size": 48}
TOWERS = {
    "Dinov2Model": ("Dinov2Config", {}),
    "CLIPVisionModel": ("CLIPVisionConfig", HIDDEN),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**HIDDEN, "projection_dim": 12}),
    "SiglipVisionModel": ("SiglipVisionConfig", HIDDEN),
}
X = images(2, (64, 32), dtype=torch.float32)


def tower(name, **more):
    reason = "the towers are those of transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
    config, options = TOWERS[name]
    torch.manual_seed(0)
    net = getattr(transformers, name)(getattr(transformers, config)(**FORM, **options, **more))
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += (0.3 if parameter.dim() == 1 else 0.1) * noise
    return net.eval()


def pooled_by_hand(name, net, last):
    """What each makes of its last tokens (B, T, 32)."""
    w = {key.removeprefix("vision_model."): value for key, value in net.state_dict().items()}
    if name == "Dinov2Model":
        return last[:, 0]
    if name.startswith("CLIP"):
        norm = (w["post_layernorm.weight"], w["post_layernorm.bias"])
        vector = functional.layer_norm(last[:, 0], (32,), *norm, 1e-5)
        return vector @ w["visual_projection.weight"].T if "Projection" in name else vector
    # SigLIP: one query attends to all places, then a residual perceptron.
    q, k, v = (
        x @ m.T + b
        for x, m, b in zip(
            (w["head.probe"].expand(len(last), -1, -1), last, last),
            w["head.attention.in_proj_weight"].chunk(3),
            w["head.attention.in_proj_bias"].chunk(3),
            strict=True,
        )
    )
    q, k, v = (x.unflatten(2, (2, 16)).transpose(1, 2) for x in (q, k, v))
    read = ((q @ k.transpose(2, 3) / 4).softmax(-1) @ v).transpose(1, 2).flatten(2)
    out = "head.attention.out_proj"
    read = read @ w[f"{out}.weight"].T + w[f"{out}.bias"]
    norm = (w["head.layernorm.weight"], w["head.layernorm.bias"])
    hidden = functional.layer_norm(read, (32,), *norm, 1e-6)
    hidden = hidden @ w["head.mlp.fc1.weight"].T + w["head.mlp.fc1.bias"]
    hidden = functional.gelu(hidden, approximate="tanh")
    return (read + hidden @ w["head.mlp.fc2.weight"].T + w["head.mlp.fc2.bias"])[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_towers_are_pooled_as_by_hand_and_explained(name):
    net = tower(name)
    model = HuggingFaceNet(net)
    # Rectangles: 8 x 4 patches, with a class token but for SigLIP.
    options = {} if name == "Dinov2Model" else {"interpolate_pos_encoding": True}
    last = net(X, **options).last_hidden_state
    assert last.shape == (2, 32 + (name != "SiglipVisionModel"), 32)
    torch.testing.assert_close(model(X), pooled_by_hand(name, net, last))
    assert isinstance(find_layer(model, model.map_layer), nn.LayerNorm)
    for explainer, settings in ((GradFAM, {}), (ScoreFAM, {"max_scored_channels": 4})):
        method = explainer(model, model.map_layer, **settings)
        maps = method.attribute(X, interpolate_mode=None)
        assert maps.shape == (2, 1, 8, 4)
        assert maps.any()


@pytest.mark.slow
def test_images_of_each_type():
    dinov2, clip, siglip = (
        HuggingFaceNet(tower(name)).input_spec
        for name in ("Dinov2Model", "CLIPVisionModel", "SiglipVisionModel")
    )
    assert dinov2 == InputSpec((224, 224), interpolation="bicubic")
    assert clip.size == siglip.size == (32, 32)
    assert clip.mean[0] == pytest.approx(0.4815, abs=1e-4)
    assert siglip.std == (0.5,) * 3
    own = InputSpec((64, 32))
    assert HuggingFaceNet(tower("CLIPVisionModel"), own).input_spec == own


@pytest.mark.slow
def test_a_tower_without_pooling():
    model = HuggingFaceNet(tower("SiglipVisionModel", vision_use_head=False))
    with pytest.raises(InputError, match="SiglipVisionModel without pooled output"):
        model(X)


def test_what_is_no_tower():
    with pytest.raises(InputError, match="tower: got Linear, expected a vision transformer"):
        HuggingFaceNet(nn.Linear(2, 2))
