"""Graphs of ONNX read into torch, against closed forms and against onnxruntime."""

import sys

import numpy as np
import pytest
import torch
from nets import TWIN, images, small_reid_net

from reid_explain import CGRAM, GradFAM, InputError, ScoreFAM
from reid_explain.inputs import InputSpec
from reid_explain.models import GraphNet, open_checkpoint, read_onnx
from reid_explain.models.onnx_graphs import OPERATORS

onnx = pytest.importorskip("onnx", reason="onnx is an extra")
X = images(2, (12, 8), dtype=torch.float32)
WEIGHTS = {name.replace(".", "_"): v.detach().numpy() for name, v in TWIN.named_parameters()}
TWIN_NODES = """
    c = Conv <pads=[1, 1, 1, 1], strides=[2, 2]> (x, conv_weight, conv_bias)
    "/relu.0/Relu" = Relu (c)
    m = GlobalAveragePool ("/relu.0/Relu")
    f = Flatten (m)
    g = Gemm <transB=1> (f, head_weight, head_bias)
    made = Tanh (g)
"""


def model_of(nodes, opset=18, shape="B, 3, 12, 8", **constants):
    """Return a model of nodes in ONNX's text form, whose result is "made"."""
    graph = onnx.parser.parse_graph(f"net (float[{shape}] x) => () {{ {nodes} }}")
    graph.output.add().name = "made"
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


def written(folder, *args, **kwargs):
    onnx.save(model_of(*args, **kwargs), folder / "net.onnx")
    return folder / "net.onnx"


def test_a_file_is_its_twin_in_torch(tmp_path):
    net = open_checkpoint(written(tmp_path, TWIN_NODES, **WEIGHTS), input_spec=InputSpec((12, 8)))
    torch.testing.assert_close(net(X), TWIN(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net.embed(net.features(X)), net(X))
    assert net.map_layer == "/relu/0/Relu"
    assert net.maps == {"c": (5, 6, 4), "/relu/0/Relu": (5, 6, 4)}
    assert sorted(p.dim() for p in net.parameters()) == [1, 1, 2, 4]
    for explainer in (ScoreFAM, GradFAM, CGRAM):
        data = {"references": X.flip(0)} if explainer is CGRAM else {}
        expected = explainer(TWIN, "relu").attribute(X, **data)
        found = explainer(net, net.map_layer).attribute(X, **data)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_and_a_fixed_batch(tmp_path):
    half = {name: value.astype(np.float16) for name, value in WEIGHTS.items()}
    nodes = TWIN_NODES.replace("f = Flatten (m)", "f = Reshape (m, one)")
    path = written(tmp_path, nodes, shape="1, 3, 12, 8", **half, one=np.array([1, 5]))
    net = open_checkpoint(path)
    assert net.input_spec == InputSpec((12, 8))
    torch.testing.assert_close(net(X), TWIN(X), rtol=0, atol=3e-3)
    token = values(1, 1, 5)
    nodes = """
        c = Conv <pads=[1, 1, 1, 1], strides=[2, 2]> (x, conv_weight, conv_bias)
        flat = Reshape (c, rows)
        patches = Transpose <perm=[0, 2, 1]> (flat)
        made = Concat <axis=1> (token, patches)
    """
    rows = np.array([1, 5, 24])
    path = written(tmp_path, nodes, shape="1, 3, 12, 8", **WEIGHTS, rows=rows, token=token)
    tokens = GraphNet(read_onnx(path), embedding="made")(X).unflatten(1, (25, 5))
    torch.testing.assert_close(tokens[:, 0], torch.from_numpy(token)[:, 0].expand(2, 5))
    torch.testing.assert_close(tokens[:, 1:].mT.flatten(1), TWIN.conv(X).flatten(1))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("made = GridSample (x, x)", "with the operator GridSample .node 'made'.*operators of Abs"),
        ("made = my.domain.Relu (x)", "with the operator my.domain.Relu .node 'made'"),
        ("made = Relu <alpha=2.0> (x)", "got alpha of Relu 'made'"),
        ("made = Relu (y)", "with Relu 'made' .'y'.*a graph that runs"),
        ("made = MatMul (x, x)", "with MatMul 'made' .*a graph that runs on two images"),
        ("made = ReduceMean <axes=[0, 2, 3], keepdims=0> (x)", "embedding: got none that is clear"),
        (
            "c = ReduceMean <axes=[0, 2, 3]> (x) made = Flatten (c)",
            "path: got .* which mixes images",
        ),
        ("c = Cast <to=8> (x) made = Flatten (c)", "Cast to type 8"),
    ],
)
def test_graphs_that_are_not_read(tmp_path, nodes, message):
    with pytest.raises(InputError, match=message):
        open_checkpoint(written(tmp_path, nodes, opset=13))


def test_files_that_are_no_graphs(tmp_path, monkeypatch):
    (tmp_path / "text.onnx").write_text("no graph")
    for name in ("text.onnx", "absent.onnx"):
        with pytest.raises(InputError, match=rf"path: got .*{name} \(.*expected a graph of ONNX"):
            open_checkpoint(tmp_path / name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="without onnx, expected pip install onnx"):
        open_checkpoint(tmp_path / "text.onnx")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_that_torch_exports(tmp_path):
    model, inputs = small_reid_net(), images(2, (64, 32), dtype=torch.float32)
    path = tmp_path / "net.onnx"
    torch.onnx.export(model, (inputs[:1],), path, dynamo=False, input_names=["images"])
    net = open_checkpoint(path)
    torch.testing.assert_close(net(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.features(inputs), model.features(inputs), rtol=1e-4, atol=1e-5)
    expected = GradFAM(model, model.map_layer).attribute(inputs)
    found = GradFAM(net, net.map_layer).attribute(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


# onnxruntime


def values(*shape, low=0.5, high=2.0):
    return np.random.default_rng(len(shape)).uniform(low, high, shape).astype(np.float32)


def ints(*numbers):
    return np.array(numbers, dtype=np.int64)


W, C, ROW = {"w": values(4, 3, 3, 2)}, {"c": values(3, 1, 1)}, {"c": values(8)}
BY_CHANNEL = {name: values(3) for name in ("a", "b", "m", "v")}
HALF = {"h": np.float32(0.5)}
CASES = {
    "Abs": ("d = Sub (s, h) made = Abs (d)", HALF),
    "Add": ("made = Add (s, c)", C),
    "AveragePool": (
        "made = AveragePool <kernel_shape=[3, 2], strides=[2, 3], pads=[1, 1, 1, 1]> (s)",
    ),
    "AveragePool padded": (
        "made = AveragePool <kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1> (s)",
    ),
    "AveragePool uneven": (
        "made = AveragePool <kernel_shape=[3, 3], pads=[0, 0, 1, 2], count_include_pad=1> (s)",
    ),
    "BatchNormalization": ("made = BatchNormalization <epsilon=0.1> (s, a, b, m, v)", BY_CHANNEL),
    "Cast": (
        "k = Mul (s, n) i = Cast <to=7> (k) f = Cast <to=1> (i) made = Add (f, s)",
        {"n": np.float32(9)},
    ),
    "Clip": ("made = Clip (s, h)", HALF),
    "Clip upper": ("made = Clip (s, , h)", HALF),
    "Clip 6": ("made = Clip <min=0.4, max=0.6> (s)", {}, 6),
    "Concat": ("made = Concat <axis=1> (s, s)",),
    "Constant": ("k = Constant <value_floats=[2.0]> () made = Mul (s, k)",),
    "ConstantOfShape": ("k = Shape <start=1> (s) z = ConstantOfShape (k) made = Add (z, s)",),
    "Conv": ("made = Conv <strides=[2, 1], pads=[1, 2, 0, 1], dilations=[1, 2]> (s, w)", W),
    "Conv same": ('made = Conv <strides=[2, 2], auto_pad="SAME_LOWER"> (s, w)', W),
    "Conv grouped": ("made = Conv <group=3> (s, w, b)", {"w": values(6, 1, 3, 3), "b": values(6)}),
    "Div": ("made = Div (s, c)", C),
    "Dropout": ("made = Dropout (s)",),
    "Elu": ("d = Sub (s, h) made = Elu <alpha=0.3> (d)", HALF),
    "Equal": ("r = Relu (s) e = Equal (r, s) f = Cast <to=1> (e) made = Add (f, s)",),
    "Erf": ("made = Erf (s)",),
    "Exp": ("made = Exp (s)",),
    "Expand": ("m = ReduceMean (s, k) made = Expand (m, t)", {"k": ints(2), "t": ints(5, 1)}),
    "Flatten": ("f = Flatten <axis=2> (s) made = Reshape (f, k)", {"k": ints(-1, 288)}),
    "Gather": ("made = Gather <axis=1> (s, i)", {"i": ints(2, -3, 1)}),
    "Gelu": ('d = Sub (s, h) made = Gelu <approximate="tanh"> (d)', HALF, 20),
    "Gemm": (
        "f = Flatten (s) made = Gemm <alpha=0.5, beta=2.0, transB=1> (f, w, b)",
        {"w": values(5, 288), "b": values(5)},
    ),
    "GlobalAveragePool": ("made = GlobalAveragePool (s)",),
    "GlobalMaxPool": ("made = GlobalMaxPool (s)",),
    "HardSigmoid": ("d = Sub (s, h) made = HardSigmoid <alpha=3.0, beta=0.4> (d)", HALF),
    "HardSwish": ("k = Mul (x, n) made = HardSwish (k)", {"n": np.float32(3)}),
    "Identity": ("made = Identity (s)",),
    "InstanceNormalization": ("made = InstanceNormalization <epsilon=0.1> (s, a, b)", BY_CHANNEL),
    "LayerNormalization": ("made = LayerNormalization <epsilon=0.1> (s, c, c)", ROW),
    "LayerNormalization axes": (
        "made = LayerNormalization <axis=2> (s, w)",
        {"w": values(12, 8)},
    ),
    "LeakyRelu": ("made = LeakyRelu <alpha=0.3> (x)",),
    "LpNormalization": ("made = LpNormalization <axis=1> (s)",),
    "MatMul": ("made = MatMul (s, w)", {"w": values(8, 5)}),
    "Max": ("made = Max (s, h, c)", {**HALF, "c": values(8, low=0.3, high=0.7)}),
    "MaxPool": ("made = MaxPool <kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]> (x)",),
    "MaxPool ceil": ("made = MaxPool <kernel_shape=[5, 3], strides=[5, 3], ceil_mode=1> (x)",),
    "MaxPool uneven": ("made = MaxPool <kernel_shape=[3, 3], pads=[0, 0, 1, 1]> (x)",),
    "MeanVarianceNormalization": ("made = MeanVarianceNormalization <axes=[2, 3]> (s)",),
    "Min": ("made = Min (s, h)", HALF),
    "Mul": ("made = Mul (s, c)", C),
    "Neg": ("made = Neg (s)",),
    "PRelu": ("made = PRelu (x, c)", C),
    "Pad": ("made = Pad (s, p, v)", {"p": ints(0, 0, 1, 2, 0, 1, 0, 3), "v": np.float32(0.7)}),
    "Pad axes": ("made = Pad (s, p, , k)", {"p": ints(1, 2, 3, 0), "k": ints(-1, 1)}),
    "Pad reflect": ('made = Pad <mode="reflect"> (s, p)', {"p": ints(0, 0, 1, 2, 0, 0, 0, 3)}),
    "Pad edge 2": ('made = Pad <mode="edge", pads=[0, 0, 1, 2, 0, 0, 0, 3]> (s)', {}, 9),
    "Pow": ("made = Pow (s, n)", {"n": np.float32(1.7)}),
    "Reciprocal": ("made = Reciprocal (s)",),
    "ReduceL2": ("made = ReduceL2 (s, k)", {"k": ints(2, 3)}),
    "ReduceMax": ("made = ReduceMax <keepdims=0> (s, k)", {"k": ints(2, 3)}),
    "ReduceMean": ("made = ReduceMean <keepdims=0> (s, k)", {"k": ints(-1)}),
    "ReduceMean 13": ("made = ReduceMean <axes=[1, 2]> (s)", {}, 13),
    "ReduceMin": ("made = ReduceMin (s, k)", {"k": ints(1)}),
    "ReduceSum": ("made = ReduceSum (s, k)", {"k": ints(2)}),
    "Relu": ("made = Relu (x)",),
    "Reshape": ("made = Reshape (s, k)", {"k": ints(0, -1, 4)}),
    "Shape": (
        "k = Shape (s) f = Cast <to=1> (k) g = Gather (f, i) made = Add (s, g)",
        {"i": ints(2)},
    ),
    "Sigmoid": ("made = Sigmoid (s)",),
    "Slice": (
        "made = Slice (s, a, b, k, t)",
        {"a": ints(-1, 1), "b": ints(-9, 9999), "k": ints(2, 3), "t": ints(-2, 3)},
    ),
    "Slice 9": ("made = Slice <starts=[1, -3], ends=[2, 9999], axes=[1, 3]> (s)", {}, 9),
    "Softmax": ("made = Softmax <axis=1> (s)",),
    "Softmax 12": ("made = Softmax (s)", {}, 12),
    "Softplus": ("made = Softplus (s)",),
    "Split": ("a, b = Split <axis=2> (s, k) made = Concat <axis=2> (b, a)", {"k": ints(5, 7)}),
    "Split equal": ("a, b = Split <axis=2> (s) made = Concat <axis=2> (b, a)", {}, 13),
    "Split 11": ("a, b = Split <axis=2, split=[5, 7]> (s) made = Concat <axis=2> (b, a)", {}, 11),
    "Sqrt": ("made = Sqrt (s)",),
    "Squeeze": ("g = GlobalAveragePool (s) made = Squeeze (g, k)", {"k": ints(3)}),
    "Squeeze 11": ("g = GlobalAveragePool (s) made = Squeeze <axes=[2, 3]> (g)", {}, 11),
    "Sub": ("made = Sub (s, c)", C),
    "Sum": ("made = Sum (s, s, c)", C),
    "Tanh": ("made = Tanh (s)",),
    "Transpose": ("made = Transpose <perm=[0, 3, 1, 2]> (s)",),
    "Unsqueeze": ("made = Unsqueeze (s, k)", {"k": ints(1, -1)}),
    "Unsqueeze 11": ("made = Unsqueeze <axes=[2]> (s)", {}, 11),
    "Where": ("made = Where (k, s, x)", {"k": values(12, 8) > 1}),
}


def test_every_operator_has_a_case():
    assert {case.split()[0] for case in CASES} == {*OPERATORS}


@pytest.mark.parametrize("case", CASES)
def test_operators_are_those_of_onnxruntime(tmp_path, case):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    nodes, constants, opset = CASES[case] + ({}, 18)[len(CASES[case]) - 1 :]
    path = written(tmp_path, f"s = Sigmoid (x) {nodes}", opset, **constants)
    graph = read_onnx(path)
    assert case.split()[0] in {node.operator for node in graph.nodes}
    net = GraphNet(graph, embedding="made", input_spec=InputSpec((12, 8)))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"x": X.numpy()})[0]).flatten(1)
    torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)
    given = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(given).sum(), given)
    assert gradient.isfinite().all()
