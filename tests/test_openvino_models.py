"""Networks of OpenVINO: files read into torch, against closed forms and against the runtime."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import SHARED, present
from nets import TWIN, images
from PIL import Image

from reid_explain import CGRAM, GradFAM, InputError, ScoreFAM
from reid_explain.benchmark.command_line import TargetOptions
from reid_explain.cli.__main__ import main
from reid_explain.inputs import BGR_255, InputSpec, load_image
from reid_explain.models import GraphNet, OpenVinoNet, open_checkpoint, read_openvino
from reid_explain.models.openvino_graphs import OPERATORS

X = images(2, (12, 8), dtype=torch.float32)
WINDOW = {"strides": "2, 2", "dilations": "1, 1", "pads_begin": "1, 1", "pads_end": "1, 1"}
WEIGHTS = {name: value.detach().numpy() for name, value in TWIN.named_parameters()}
TWIN_LAYERS = (
    ("conv", "Convolution", WINDOW, ["x", "conv.weight"]),
    ("sum", "Add", {"auto_broadcast": "numpy"}, ["conv", "conv.bias"]),
    ("relu.0", "ReLU", {}, ["sum"]),
    ("mean", "ReduceMean", {"keep_dims": "false"}, ["relu.0", "axes"]),
    ("head", "MatMul", {"transpose_a": "false", "transpose_b": "true"}, ["mean", "head.weight"]),
    ("logits", "Add", {"auto_broadcast": "numpy"}, ["head", "head.bias"]),
    ("eval", "Tanh", {}, ["logits"]),
)
TWIN_CONSTANTS = {
    **WEIGHTS,
    "conv.bias": WEIGHTS["conv.bias"].reshape(1, 5, 1, 1),
    "axes": np.array([2, 3]),
}
TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "float64": "f64"}


def written(path, layers=TWIN_LAYERS, constants=TWIN_CONSTANTS, shape="1, 3, 12, 8"):
    """Write a network, whose last layer is its result; return its file."""
    net, content = ElementTree.Element("net", version="11"), b""
    found, edges = (ElementTree.SubElement(net, name) for name in ("layers", "edges"))
    numbers = {}

    def add(name, kind, inputs, outputs=1, **data):
        number = numbers[name] = str(len(numbers))
        layer = ElementTree.SubElement(
            found, "layer", id=number, name=name, type=kind, version="opset1"
        )
        ElementTree.SubElement(layer, "data", data)
        for kind, ports in (("input", range(len(inputs))), ("output", [9] * outputs)):
            element = ElementTree.SubElement(layer, kind)
            for port in ports:
                ElementTree.SubElement(element, "port", id=str(port), precision="FP32")
        for port, source in enumerate(inputs):
            ends = {"from-layer": numbers[source], "from-port": "9", "to-layer": number}
            ElementTree.SubElement(edges, "edge", {**ends, "to-port": str(port)})

    add("x", "Parameter", [], shape=shape, element_type="f32")
    for name, value in constants.items():
        sizes = ", ".join(map(str, value.shape))
        place = {"offset": str(len(content)), "size": str(value.nbytes), "shape": sizes}
        add(name, "Const", [], element_type=TYPES[str(value.dtype)], **place)
        content += value.tobytes()
    for name, kind, data, inputs in layers:
        add(name, kind, inputs, **data)
    add("result", "Result", [layers[-1][0]], outputs=0)
    ElementTree.ElementTree(net).write(path)
    path.with_suffix(".bin").write_bytes(content)
    return path


@pytest.fixture
def twin(tmp_path):
    return open_checkpoint(written(tmp_path / "twin.xml"))


def test_a_file_is_its_twin_in_torch(twin):
    torch.testing.assert_close(twin(X), TWIN(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twin.embed(twin.features(X)), twin(X))
    assert not twin.training
    assert twin.map_layer == "relu/0"
    assert twin.maps == {name: (5, 6, 4) for name in ("conv", "sum", "relu/0")}
    assert {name for name, _ in twin.named_children()} >= {"eval_", "head"}  # eval is a method
    assert twin.input_spec == BGR_255.replace(size=(12, 8))
    assert (twin.embedding_dim, twin.channels) == (4, 4)


@pytest.mark.parametrize("explainer", [ScoreFAM, GradFAM, CGRAM])
@pytest.mark.parametrize("layer", ["relu/0", "sum"])
def test_it_is_explained_as_its_twin(tmp_path, explainer, layer):
    net = open_checkpoint(written(tmp_path / "twin.xml"), layer=layer)
    data = {"references": X.flip(0)} if explainer is CGRAM else {}
    expected = explainer(TWIN, "conv" if layer == "sum" else "relu").attribute(X, **data)
    found = explainer(net, net.map_layer).attribute(X, **data)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.abs().max() > 1e-3


@pytest.mark.slow
def test_the_command_line_opens_it(tmp_path):
    path = written(tmp_path / "twin.xml")
    target = TargetOptions(weights=path, layer="sum").open()
    assert target.label == "twin.xml"
    assert (target.settings()["layer"], target.spec.channels) == ("sum", "BGR")
    torch.testing.assert_close(target.embed(X), TWIN(X).detach(), rtol=1e-5, atol=1e-6)
    output = tmp_path / "page.html"
    files = (str(picture(tmp_path)), "--weights", str(path), "--output", str(output))
    main(["explain", *files, "--methods", "GradFAM"])
    assert "GradFAM" in output.read_text()


def picture(folder):
    Image.new("RGB", (8, 12), "red").save(folder / "red.png")
    return folder / "red.png"


def test_half_precision_is_kept_in_float32(tmp_path):
    half = {
        n: v.astype(np.float16) if v.dtype.kind == "f" else v for n, v in TWIN_CONSTANTS.items()
    }
    net = open_checkpoint(written(tmp_path / "half.xml", constants=half))
    assert net(X).dtype == torch.float32
    torch.testing.assert_close(net(X), TWIN(X), rtol=0, atol=3e-3)


def test_weights_are_parameters_and_move_with_the_network(twin):
    sizes = sorted(tuple(value.shape) for value in twin.parameters())
    assert sizes == [(4, 5), (5, 3, 3, 3)]
    torch.testing.assert_close(twin.double()(X.double()), TWIN(X).double(), rtol=1e-5, atol=1e-6)


def test_images_and_names(tmp_path):
    path = written(tmp_path / "twin.xml", shape="?, 3, ?, 1..64")
    spec = InputSpec((10, 14))
    net = open_checkpoint(path, input_spec=spec, embedding="logits")
    assert net.input_spec == spec
    torch.testing.assert_close(net(X).tanh(), TWIN(X), rtol=1e-5, atol=1e-6)
    assert "eval" not in dict(net.named_children())  # Nothing needs it.
    with pytest.raises(InputError, match=r"layer: got 'layer4', expected .* 'relu/0' \(5, 5, 7\)"):
        open_checkpoint(path, input_spec=spec, layer="layer4")
    with pytest.raises(InputError, match=r"embedding: got 'fc', expected .* 'eval' \(4,\)"):
        open_checkpoint(path, input_spec=spec, embedding="fc")
    fixed = written(tmp_path / "fixed.xml")
    with pytest.raises(InputError, match=r"input_spec: got size \(10, 14\).*\(12, 8\)"):
        open_checkpoint(fixed, input_spec=spec)
    with pytest.raises(TypeError):
        open_checkpoint(fixed, depth=3)


def test_a_map_that_the_embedding_goes_around_is_no_seam(tmp_path):
    gate = (
        *TWIN_LAYERS[:3],
        ("gate", "Sigmoid", {}, ["sum"]),
        ("gated", "Multiply", {}, ["relu.0", "gate"]),
        ("mean", "ReduceMean", {"keep_dims": "true"}, ["gated", "axes"]),
    )
    path = written(tmp_path / "gate.xml", gate)
    net = open_checkpoint(path)
    assert net.map_layer == "gated"
    assert net(X).shape == (2, 5)  # (B, 5, 1, 1) in the file
    torch.testing.assert_close(net.embed(net.features(X)), net(X))
    inner = open_checkpoint(path, layer="relu/0")
    assert GradFAM(inner, "relu/0").attribute(X).abs().max() > 0
    with pytest.raises(InputError, match="layer: got 'relu/0', which the embedding goes around"):
        inner.features(X)


def reshaped(*sizes, kind="Reshape", **attributes):
    layers = (
        *TWIN_LAYERS[:3],
        ("made", kind, attributes, ["relu.0", "target"]),
        ("flat", "ReduceMean", {"keep_dims": "false"}, ["made", "last"]),
    )
    constants = {**TWIN_CONSTANTS, "target": np.array(sizes), "last": np.array([-1])}
    return layers, constants


def test_a_file_for_one_image_takes_more(tmp_path):
    layers, constants = reshaped(1, 5, 24, special_zero="true")
    net = open_checkpoint(written(tmp_path / "one.xml", layers, constants))
    expected = TWIN.relu(TWIN.conv(X)).mean((2, 3))
    torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)
    layers, constants = reshaped(5, -1, special_zero="true")
    path = written(tmp_path / "mixed.xml", layers, constants)
    with pytest.raises(InputError, match=r"embedding: got none that is clear|path: got .* mixes"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"type": "GridSample"},
            "with the operator GridSample .node 'relu.0'., expected operators",
        ),
        ({"id": "99"}, "without input"),
    ],
)
def test_layers_that_are_not_read(tmp_path, replaced, message):
    path = written(tmp_path / "net.xml")
    tree = ElementTree.parse(path)
    next(tree.iterfind("layers/layer[@name='relu.0']")).attrib.update(replaced)
    tree.write(path)
    with pytest.raises(InputError, match=f"path: got .*{message}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("layer", "data", "message"),
    [
        ("logits", {"axis": "3"}, "got axis of Add 'logits', expected attributes .* read here"),
        ("relu.0", {"x": "3"}, "got x of ReLU 'relu.0'"),
        ("conv", {"strides": "2, 2, 2"}, "with Convolution 'conv' .*a graph that runs"),
        ("conv.weight", {"element_type": "u4"}, "numbers of type u4 .'conv.weight'.*one of f16"),
        ("conv.weight", {"size": "4"}, "135 numbers of 'conv.weight' in 4 bytes from 0"),
        ("conv.weight", {"shape": "5, x"}, "expected shapes of whole numbers"),
        ("x", {"shape": "1, 8, 12, 3"}, r"which takes \(1, 8, 12, 3\), expected .*images"),
    ],
)
def test_attributes_that_are_not_read(tmp_path, layer, data, message):
    path = written(tmp_path / "net.xml")
    tree = ElementTree.parse(path)
    next(tree.iterfind(f"layers/layer[@name='{layer}']/data")).attrib.update(data)
    tree.write(path)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_damaged_files(tmp_path):
    path = written(tmp_path / "net.xml")
    content = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(content[:-5])
    with pytest.raises(InputError, match=r"path: got .*net.bin of \d+ bytes, expected 2 numbers"):
        open_checkpoint(path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match="path: got .*net.bin.*, expected its .bin file"):
        open_checkpoint(path)
    path.write_text(path.read_text()[:200])
    for bad in (path, tmp_path / "absent.xml"):
        with pytest.raises(InputError, match="expected a network of OpenVINO"):
            open_checkpoint(bad)


# The runtime


@pytest.fixture(scope="module")
def openvino():
    return pytest.importorskip("openvino", reason="openvino is an extra")


def values(*shape, low=0.5, high=2.0):
    return np.random.default_rng(len(shape)).uniform(low, high, shape).astype(np.float32)


SAME = {"auto_pad": "same_upper"}
CASES = {
    "Abs": lambda o, x: o.abs(o.subtract(x, np.float32(0.5))),
    "Add": lambda o, x: o.add(x, values(3, 1, 1)),
    "AvgPool": lambda o, x: o.avg_pool(x, [2, 3], [1, 1], [1, 1], [3, 2], exclude_pad=True),
    "AvgPool padded": lambda o, x: o.avg_pool(x, [2, 1], [1, 0], [1, 0], [3, 2], exclude_pad=False),
    "AvgPool ceil": lambda o, x: o.avg_pool(x, [5, 3], [0, 0], [0, 0], [5, 3], True, "ceil"),
    "AvgPool uneven": lambda o, x: o.avg_pool(x, [1, 1], [0, 0], [1, 2], [3, 3], False),
    "BatchNormInference": lambda o, x: o.batch_norm_inference(
        x, values(3), values(3), values(3), values(3), epsilon=0.1
    ),
    "Broadcast": lambda o, x: o.broadcast(o.reduce_mean(x, [2], True), [2, 3, 5, 8]),
    "Clamp": lambda o, x: o.clamp(x, 0.4, 0.6),
    "Concat": lambda o, x: o.concat([x, x * x], axis=1),
    "Convert": lambda o, x: o.add(
        x, o.convert(o.convert(o.multiply(x, np.float32(9)), "i32"), "f32")
    ),
    "Convolution": lambda o, x: o.convolution(
        x, values(4, 3, 3, 2), [2, 1], [1, 2], [0, 1], [1, 2]
    ),
    "Convolution same": lambda o, x: o.convolution(
        x, values(4, 3, 4, 3), [3, 2], [0, 0], [0, 0], [1, 1], "same_lower"
    ),
    "Divide": lambda o, x: o.divide(x, values(3, 1, 1)),
    "Elu": lambda o, x: o.elu(o.subtract(x, np.float32(0.6)), 0.3),
    "Exp": lambda o, x: o.exp(x),
    "FakeQuantize": lambda o, x: o.fake_quantize(x, 0.3, 0.7, -1.0, 2.0, 9),
    "Gather": lambda o, x: o.gather(x, np.array([2, -3, 1]), 1),
    "GroupConvolution": lambda o, x: o.group_convolution(
        x, values(3, 2, 1, 3, 3), [1, 1], [1, 0], [1, 0], [1, 1]
    ),
    "HSigmoid": lambda o, x: o.hsigmoid(o.subtract(o.multiply(x, np.float32(9)), np.float32(4))),
    "HSwish": lambda o, x: o.hswish(o.subtract(o.multiply(x, np.float32(9)), np.float32(4))),
    "MVN": lambda o, x: o.mvn(x, np.array([1, 3]), True, 0.1, "inside_sqrt"),
    "MVN outside": lambda o, x: o.mvn(x, np.array([2]), True, 0.1, "outside_sqrt"),
    "MVN mean": lambda o, x: o.mvn(x, np.array([2]), False, 0.1, "inside_sqrt"),
    "MatMul": lambda o, x: o.matmul(x, values(5, 8), False, True),
    "MatMul transposed": lambda o, x: o.matmul(x, values(12, 5), True, False),
    "MaxPool": lambda o, x: o.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]),
    "MaxPool uneven": lambda o, x: o.max_pool(
        o.subtract(x, np.float32(2.0)), [2, 2], [1, 1], [0, 0], [1, 1], [3, 3]
    ),
    "MaxPool ceil": lambda o, x: o.max_pool(
        x, [5, 3], [1, 1], [0, 0], [0, 0], [5, 3], rounding_type="ceil"
    ),
    "Maximum": lambda o, x: o.maximum(x, np.float32(0.5)),
    "Minimum": lambda o, x: o.minimum(x, np.float32(0.5)),
    "Multiply": lambda o, x: o.multiply(x, values(12, 1)),
    "Negative": lambda o, x: o.negative(x),
    "NormalizeL2": lambda o, x: o.normalize_l2(x, np.array([1]), 0.1, "add"),
    "NormalizeL2 max": lambda o, x: o.normalize_l2(x, np.array([1, 2]), 5.0, "max"),
    "PReLU": lambda o, x: o.prelu(o.subtract(x, np.float32(0.6)), values(3)),
    "Power": lambda o, x: o.power(x, np.float32(1.7)),
    "ReLU": lambda o, x: o.relu(o.subtract(x, np.float32(0.6))),
    "ReduceL2": lambda o, x: o.reduce_l2(x, [2, 3], False),
    "ReduceMax": lambda o, x: o.reduce_max(x, [2, 3], True),
    "ReduceMean": lambda o, x: o.reduce_mean(x, [-1], False),
    "ReduceSum": lambda o, x: o.reduce_sum(x, [1], True),
    "Reshape": lambda o, x: o.reshape(x, np.array([0, -1, 4]), True),
    "ShapeOf": lambda o, x: o.multiply(x, o.convert(o.gather(o.shape_of(x), [2], 0), "f32")),
    "Sigmoid": lambda o, x: o.sigmoid(x),
    "SoftMax": lambda o, x: o.softmax(x, 1),
    "SoftPlus": lambda o, x: o.softplus(x),
    "Split": lambda o, x: o.concat(o.split(x, 3, 2).outputs()[::-1], 3),
    "Sqrt": lambda o, x: o.sqrt(x),
    "Squeeze": lambda o, x: o.squeeze(o.reduce_mean(x, [2, 3], True), np.array([3])),
    "Subtract": lambda o, x: o.subtract(x, values(3, 1, 1)),
    "Swish": lambda o, x: o.swish(x, np.float32(0.7)),
    "Tanh": lambda o, x: o.tanh(x),
    "Transpose": lambda o, x: o.transpose(x, np.array([0, 3, 1, 2])),
    "Unsqueeze": lambda o, x: o.unsqueeze(x, np.array([1, -1])),
    "VariadicSplit": lambda o, x: o.concat(o.variadic_split(x, 2, [5, -1, 3]).outputs()[::-1], 2),
}


def test_every_operator_has_a_case():
    assert {case.split()[0] for case in CASES} == {*OPERATORS}


@pytest.mark.parametrize("case", CASES)
def test_operators_are_those_of_the_runtime(openvino, tmp_path, case):
    from openvino import opset13

    image = opset13.parameter([-1, 3, 12, 8], np.float32, "x")
    made = CASES[case](opset13, opset13.sigmoid(image))
    made.set_friendly_name("made")
    model = openvino.Model([made], [image])
    openvino.save_model(model, tmp_path / "net.xml", compress_to_fp16=False)
    graph = read_openvino(tmp_path / "net.xml")
    assert case.split()[0] in {node.operator for node in graph.nodes}
    net = GraphNet(graph, embedding="made", input_spec=InputSpec((12, 8)))
    net.to(memory_format=torch.channels_last)
    expected = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(X.numpy())
    expected = torch.from_numpy(expected[0]).flatten(1)
    torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)
    given = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(given).sum(), given)
    assert gradient.isfinite().all()


def test_the_runtime_as_a_black_box(openvino, tmp_path):
    path = written(tmp_path / "twin.xml")
    box = OpenVinoNet(path)
    torch.testing.assert_close(box(X), TWIN(X), rtol=1e-4, atol=1e-5)
    expected = ScoreFAM(TWIN, "relu").attribute(X)
    found = ScoreFAM(box, box.map_layer).attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert box.input_spec == BGR_255.replace(size=(12, 8))
    conv = OpenVinoNet(path, activations="sum")
    expected = ScoreFAM(TWIN, "conv").attribute(X)
    found = ScoreFAM(conv, conv.map_layer).attribute(X)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="ScoreFAM and ScoreCAM need no gradients"):
        GradFAM(conv, conv.map_layer).attribute(X)
    with pytest.raises(InputError, match="activations: got 'layer4', expected .* 'relu.0'"):
        OpenVinoNet(path, activations="layer4")
    with pytest.raises(InputError, match="embedding: got 'fc', expected .* 'eval'"):
        OpenVinoNet(path, embedding="fc")
    with pytest.raises(InputError, match=r"inputs: got \(2, 3, 12, 6\), expected \(B, 3, 12, 8\)"):
        box(images(2, (12, 6)))
    with pytest.raises(InputError, match=r"path: got .*absent.xml \(.*that openvino runs"):
        OpenVinoNet(tmp_path / "absent.xml")


def test_without_openvino(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="without openvino, expected pip install openvino"):
        OpenVinoNet(written(tmp_path / "twin.xml"))
    open_checkpoint(tmp_path / "twin.xml")


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spec", "layer", "shape"),
    [
        ("0277.xml", BGR_255, "1126", (512, 16, 8)),
        ("0267.onnx", InputSpec(), "1150", (256, 16, 8)),
    ],
)
def test_published_networks_are_those_of_the_runtime(
    openvino, market_root, name, spec, layer, shape
):
    path = present(SHARED / "weights" / "openvino" / f"person-reidentification-retail-{name}")
    box = OpenVinoNet(path)
    net = open_checkpoint(path)
    assert net.input_spec == box.input_spec == spec
    assert (net.map_layer, net.has_seam, net.embedding_dim) == (layer, True, 256)
    assert net.maps[layer] == shape
    photo = load_image(next(market_root.glob("query/*.jpg")))
    image = net.input_spec.to_tensor(photo)[None]
    torch.testing.assert_close(net(image), box(image), rtol=0, atol=1e-4)
    expected = ScoreFAM(box, box.map_layer, max_scored_channels=4).attribute(image)
    found = ScoreFAM(net, net.map_layer, max_scored_channels=4).attribute(image)
    scale = expected.amax()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-3)
