"""What torchreid has beside OSNet and ResNet: seams, layers, and explained end to end."""

import pytest
import torch
from nets import images
from project_nets import trained

from reid_explain import AMDInterpreter, GradFAM, InputSpec, ScoreFAM
from reid_explain.capture import capture, find_layer
from reid_explain.models import MobileNetV2, OSNet, build_model

X = images(2, (64, 32), dtype=torch.float32)
NETS = {
    "osnet_ibn_x0_25": (128, (4, 2), 512),
    "osnet_ain_x0_25": (128, (4, 2), 512),
    "mobilenetv2_x1_0": (1280, (2, 1), 1280),
    "mobilenetv2_x1_4": (1792, (2, 1), 1792),
}


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return trained(build_model(request.param, 3)), *NETS[request.param]


@pytest.mark.slow
def test_seam_layer_and_maps(net):
    model, channels, grid, dim = net
    features = model.features(X)
    assert features.shape == (2, channels, *grid)
    assert model(X).shape == (2, dim) == (2, model.embedding_dim)
    torch.testing.assert_close(model(X), model.embed(features))
    torch.testing.assert_close(model(X), model.neck(model.pool(features)))
    activation, _ = capture(model, find_layer(model, model.map_layer), X, ())
    assert torch.equal(activation, features)
    for explainer, options in ((GradFAM, {}), (ScoreFAM, {"max_scored_channels": 4})):
        maps = explainer(model, model.map_layer, **options).attribute(X)
        assert maps.shape == (2, 1, 64, 32)
        assert maps.any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["osnet_ain_x0_25", "mobilenetv2_x1_0"])
def test_an_interpreter_owns_the_last_stages(name):
    model = trained(build_model(name))
    interpreter = AMDInterpreter(model, ["hat"], spec=InputSpec((64, 32)))
    torch.testing.assert_close(interpreter.decompose(X)[0], model(X))


@pytest.mark.slow
def test_published_sizes():
    # Millions of parameters, Sandler et al., table 4, without the classifier of 1000 classes.
    with torch.device("meta"):
        counts = [sum(p.numel() for p in MobileNetV2(w, 1000).parameters()) for w in (1.0, 1.4)]
        assert [round(count / 1e6, 1) for count in counts] == [3.5, 6.1]
        # An instance norm has as many weights as the batch norm that it stands for.
        plain, ain = (sum(p.numel() for p in OSNet(norm=n).parameters()) for n in ("batch", "ain"))
    assert plain == ain
