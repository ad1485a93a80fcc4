"""Networks outside torch: functions of numpy arrays, and graphs of ONNX."""

import sys

import numpy as np
import pytest
import torch
from nets import TWIN, PooledNet, images, small_reid_net
from torch import nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    Centre,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    PlaceToPlace,
    Random,
    ScoreCAM,
    ScoreFAM,
)
from reid_explain.inputs import BGR_255, InputSpec
from reid_explain.models.functions import FunctionNet
from reid_explain.models.onnx_models import CutOnnxNet, OnnxNet, onnx_layers

X = images(3, (12, 8), dtype=torch.float32)


def by_hand(pictures):
    """The same in numpy."""
    weights = {name: value.detach().numpy() for name, value in TWIN.named_parameters()}
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    conv = np.einsum("bchwij,kcij->bkhw", windows, weights["conv.weight"])
    maps = np.maximum(conv + weights["conv.bias"][:, None, None], 0)
    return maps, np.tanh(maps.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"])


# Functions


def test_a_function_of_arrays_is_explained_as_its_twin_in_torch():
    net = FunctionNet(by_hand)
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    for explainer in (ScoreFAM, ScoreCAM, ActivationMean, Random, Centre):
        expected = explainer(TWIN, "relu").attribute(X)
        found = explainer(net, net.map_layer).attribute(X)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert found.abs().max() > 0.1


def test_clusters_and_both_baselines():
    net = FunctionNet(by_hand)
    for data in ({"baselines": 0.0}, {"baselines": X.flip(0)}, {"perturbations_per_eval": 2}):
        expected = ScoreFAM(TWIN, "relu", max_scored_channels=3).attribute(X, **data)
        found = ScoreFAM(net, net.activations, max_scored_channels=3).attribute(X, **data)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_ram_where_the_embedding_is_the_pooled_map():
    twin = PooledNet().float()

    def pooled(pictures):
        maps = twin.relu(twin.conv(torch.from_numpy(pictures))).detach()
        return maps.numpy(), maps.mean((2, 3)).numpy()

    net = FunctionNet(pooled)
    for one, other in zip(
        RAM(net, "activations").attribute_pair(X, X.flip(0)),
        RAM(twin, "relu").attribute_pair(X, X.flip(0)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="GradRAM takes any other model"):
        RAM(FunctionNet(by_hand), "activations").attribute(X, X)


def test_tokens():
    def tokens(pictures):
        maps, embeddings = by_hand(pictures)
        flat = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
        return np.concatenate([flat[:, :1] * 0 + 7, flat], axis=1), embeddings

    expected = ScoreFAM(TWIN, "relu").attribute(X)
    found = ScoreFAM(FunctionNet(tokens), "activations").attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_function_gets_contiguous_float32_and_may_keep_its_results():
    kept = []

    def function(pictures):
        assert pictures.dtype == np.float32
        assert pictures.flags.c_contiguous
        made = by_hand(pictures)
        for array in made:
            array.flags.writeable = False
        kept.append((pictures, *made))
        return made

    net = FunctionNet(function)
    images_ = X.double().contiguous(memory_format=torch.channels_last)
    maps = ScoreFAM(net, "activations").attribute(images_)
    assert maps.dtype == torch.float64
    for pictures, activations, embeddings in kept:
        again = by_hand(pictures)
        np.testing.assert_array_equal(activations, again[0])
        np.testing.assert_array_equal(embeddings, again[1])


def test_a_function_may_fill_the_same_arrays_again():
    buffers = {}

    def function(pictures):
        made = by_hand(pictures)
        for k, array in enumerate(made):
            buffers.setdefault((k, array.shape), np.empty_like(array))[...] = array
        return tuple(buffers[k, array.shape] for k, array in enumerate(made))

    found = ScoreFAM(FunctionNet(function), "activations").attribute(X, perturbations_per_eval=3)
    expected = ScoreFAM(TWIN, "relu").attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("explainer", [GradFAM, GradCAM, GradRAM, CGRAM])
@pytest.mark.parametrize("gradients", [True, False])
def test_gradients_are_refused(explainer, gradients):
    net = FunctionNet(by_hand)
    data = {"references": X} if explainer in (GradRAM, CGRAM) else {}
    expected = "layer: got .* that gradients follow, .* ScoreFAM and ScoreCAM need no gradients"
    with torch.set_grad_enabled(gradients), pytest.raises(InputError, match=expected):
        explainer(net, net.map_layer).attribute(X, **data)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "function: got a result of type NoneType, expected a pair"),
        ((1, 2, 3), "function: got a result of type tuple, expected a pair"),
        ((X, X), r"function: got a result \(3, 3, 12, 8\) float32, expected arrays of 3 rows"),
        ((np.ones((3, 2, 4, 4)), np.ones((2, 4))), r"got a result \(2, 4\), expected .* 3 rows"),
        ((np.float32(1), np.ones((3, 4))), "function: got a result float32, expected arrays"),
    ],
)
def test_functions_that_give_something_else(made, message):
    with pytest.raises(InputError, match=message):
        ScoreFAM(FunctionNet(lambda _: made), "activations").attribute(X)


# ONNX


@pytest.fixture(scope="module")
def onnx():
    pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    return pytest.importorskip("onnx", reason="graphs are written with onnx")


@pytest.fixture(scope="module")
def graph(onnx, tmp_path_factory):
    """Return a function that writes the graph of ``TWIN`` and returns its file."""
    folder = tmp_path_factory.mktemp("graphs")

    def write(batch="batch", dtype=np.float32, outputs=("map", "embedding"), size=(12, 8)):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
        weights = [
            onnx.numpy_helper.from_array(value.detach().numpy().astype(dtype), name)
            for name, value in TWIN.named_parameters()
        ]
        nodes = [
            node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], pads=[1] * 4, strides=[2, 2]),
            node("Relu", ["c"], ["map"]),
            node("ReduceMean", ["map", "axes"], ["mean"], keepdims=0),
            node("Gemm", ["mean", "head.weight", "head.bias"], ["g"], transB=1),
            node("Tanh", ["g"], ["embedding"]),
        ]
        half = [side if isinstance(side, str) else side // 2 for side in size]
        shapes = {"map": [batch, 5, *half], "mean": [batch, 5], "embedding": [batch, 4]}
        body = onnx.helper.make_graph(
            nodes,
            "twin",
            [info("x", kind, [batch, 3, *size])],
            [info(name, kind, shapes[name]) for name in outputs],
            [*weights, axes],
        )
        model = onnx.helper.make_model(
            body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
        )
        path = folder / f"{batch}_{np.dtype(dtype)}_{'_'.join(outputs)}.onnx"
        onnx.save(model, path)
        return path

    return write


@pytest.mark.parametrize("outputs", [("map", "embedding"), ("embedding", "map")])
def test_a_graph_is_explained_as_its_twin_in_torch(graph, outputs):
    net = OnnxNet(graph(outputs=outputs))
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    for explainer in (ScoreFAM, ScoreCAM, ActivationMean):
        expected = explainer(TWIN, "relu").attribute(X)
        found = explainer(net, net.map_layer).attribute(X)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="ScoreFAM and ScoreCAM need no gradients"):
        GradFAM(net, net.map_layer).attribute(X)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_a_fixed_batch_size(graph, batch):
    net = OnnxNet(str(graph(batch=batch)))
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    expected = ScoreFAM(TWIN, "relu").attribute(X)
    found = ScoreFAM(net, net.map_layer).attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision(graph):
    net = OnnxNet(graph(dtype=np.float16))
    assert net(X).dtype == torch.float16
    expected = ScoreFAM(TWIN, "relu").attribute(X)
    found = ScoreFAM(net, net.map_layer).attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_sizes_that_the_graph_leaves_open(graph):
    net = OnnxNet(graph(size=("height", "width")))
    other = images(2, (10, 14), dtype=torch.float32)
    torch.testing.assert_close(net(other), TWIN(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", ["batch", 2])
def test_a_graph_cut_in_two_is_explained_place_to_place(graph, batch):
    net = CutOnnxNet(graph(outputs=("embedding",), batch=batch))
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    expected = PlaceToPlace(TWIN, "relu", steps=8).explain(X[:1], X)
    found = PlaceToPlace(net, net.map_layer, steps=8).explain(X[:1], X)
    torch.testing.assert_close(found.contributions, expected.contributions, rtol=1e-3, atol=1e-5)
    assert found.error.abs().max() < 1e-2
    assert found.contributions.abs().max() > 0.01
    with pytest.raises(InputError, match="layer: got an output that the result does not"):
        PlaceToPlace(net.whole, net.whole.map_layer).explain(X[:1], X)


def test_a_graph_with_a_way_around_the_layer_is_not_cut(onnx, tmp_path):
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    nodes = [
        node("Relu", ["x"], ["map"]),
        node("Add", ["map", "x"], ["sum"]),
        node("ReduceMean", ["sum", "axes"], ["embedding"], keepdims=0),
    ]
    ends = [info("x", 1, [1, 3, 4, 4])], [info("embedding", 1, [1, 3])]
    body = onnx.helper.make_graph(nodes, "around", *ends, [axes])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(body, opset_imports=opset, ir_version=9), tmp_path / "a.onnx")
    assert CutOnnxNet(tmp_path / "a.onnx", "sum").map_layer == "activations"
    with pytest.raises(InputError, match="activations: got 'map', expected a tensor through which"):
        CutOnnxNet(tmp_path / "a.onnx", "map")


def session_of(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_session_and_names(graph, onnx):
    session = session_of(graph(outputs=("map", "mean", "embedding")))
    net = OnnxNet(session, embedding="mean")
    expected = RAM(PooledTwin(), "relu").attribute(X, X.flip(0))
    torch.testing.assert_close(
        RAM(net, "activations").attribute(X, X.flip(0)), expected, rtol=1e-4, atol=1e-5
    )
    whole = OnnxNet(session, "map", "embedding")
    torch.testing.assert_close(whole(X), TWIN(X), rtol=1e-5, atol=1e-6)


class PooledTwin(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = TWIN.conv, TWIN.relu

    def forward(self, x):
        return self.relu(self.conv(x)).mean((2, 3))


def test_outputs_that_are_not_there_or_not_clear(graph):
    both = graph()
    known = r"'map' \['batch', 5, 6, 4\], 'embedding' \['batch', 4\]"
    with pytest.raises(InputError, match=f"activations: got 'layer4', expected .*such as {known}"):
        OnnxNet(session_of(both), activations="layer4")
    inner = r"'c' \(1, 5, 6, 4\), 'map' \(1, 5, 6, 4\)"
    with pytest.raises(InputError, match=f"activations: got 'layer4', expected .*such as {inner}"):
        OnnxNet(both, activations="layer4")
    with pytest.raises(InputError, match=f"embedding: got 'fc', expected .*such as {known}"):
        OnnxNet(both, embedding="fc")
    with pytest.raises(InputError, match="embedding: got none that is clear without a name"):
        OnnxNet(graph(outputs=("map", "mean", "embedding")))
    with pytest.raises(InputError, match="activations: got none that is clear .*'embedding'"):
        OnnxNet(session_of(graph(outputs=("embedding",))))


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("layer", [None, "c", "map"])
def test_a_graph_of_the_embedding_alone_gets_its_map(graph, layer, batch):
    path = graph(outputs=("embedding",), batch=batch)
    assert list(onnx_layers(path)) == ["c", "map"]
    net = OnnxNet(path, activations=layer)
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    expected = ScoreFAM(TWIN, "conv" if layer == "c" else "relu").attribute(X)
    found = ScoreFAM(net, net.map_layer).attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert net.trainable_stages == ()


def test_the_images_of_a_graph(graph):
    assert OnnxNet(graph()).input_spec == InputSpec((12, 8))
    spec = BGR_255.replace(size=(12, 8))
    assert OnnxNet(graph(), input_spec=spec).input_spec == spec
    assert OnnxNet(graph(size=("height", "width"))).input_spec == InputSpec()
    assert OnnxNet(graph(size=("height", "width")), input_spec=spec).input_spec == spec
    with pytest.raises(InputError, match=r"input_spec: got size \(256, 128\).*\(12, 8\)"):
        OnnxNet(graph(), input_spec=BGR_255)


def test_images_and_graphs_that_do_not_fit(graph, onnx, tmp_path):
    net = OnnxNet(graph())
    with pytest.raises(InputError, match=r"inputs: got \(2, 3, 12, 6\), expected \(B, 3, 12, 8\)"):
        net(images(2, (12, 6)))
    with pytest.raises(InputError, match="session: got no file .*absent.onnx"):
        OnnxNet(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match=r"session: got .*text.onnx \(.*expected a graph of ONNX"):
        OnnxNet(tmp_path / "text.onnx")
    info = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Identity", [a], [b]) for a, b in (("u", "v"), ("s", "t"))]
    body = onnx.helper.make_graph(
        nodes,
        "bytes",
        [info("u", onnx.TensorProto.UINT8, [1, 3, 4, 4]), info("s", 1, [1, 2])],
        [info("v", onnx.TensorProto.UINT8, [1, 3, 4, 4]), info("t", 1, [1, 2])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(body, opset_imports=opset, ir_version=9), tmp_path / "b.onnx")
    with pytest.raises(InputError, match=r"session: got a graph of 'u' tensor\(uint8\)"):
        OnnxNet(tmp_path / "b.onnx")


def test_without_onnxruntime(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="without onnxruntime, expected pip install onnxruntime"):
        OnnxNet(tmp_path / "net.onnx")


def test_without_onnx(graph, monkeypatch):
    whole, alone = graph(), graph(outputs=("embedding",))
    monkeypatch.setitem(sys.modules, "onnx", None)
    OnnxNet(whole)
    with pytest.raises(InputError, match="without onnx, expected pip install onnx"):
        OnnxNet(alone)


class Both(nn.Module):
    """The seam of a network as two outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        features = self.model.features(x)
        return features, self.model.embed(features)


@pytest.mark.slow
def test_a_network_that_torch_exports(onnx, tmp_path):
    pytest.importorskip("onnxscript", reason="torch exports with onnxscript")
    model = small_reid_net()
    inputs = images(2, (64, 32), dtype=torch.float32)
    program = torch.onnx.export(
        Both(model).eval(),
        (inputs,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(tmp_path / "net.onnx")
    net = OnnxNet(tmp_path / "net.onnx")
    expected = ScoreFAM(model, model.map_layer).attribute(inputs)
    found = ScoreFAM(net, net.map_layer).attribute(inputs)
    scale = expected.amax()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)
    assert (expected / scale).std() > 1e-2
