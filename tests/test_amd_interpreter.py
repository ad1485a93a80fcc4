"""The interpreter end to end: what it returns, what it leaves behind, what it refuses."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from nets import images, small_reid_net
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reid_explain import InputError
from reid_explain.amd import AMDInterpreter, Decomposed, PairExplanation
from reid_explain.capture import find_layer
from reid_explain.inputs import InputSpec
from reid_explain.memory_format import PIXELS_PER_FORWARD
from reid_explain.models import build_model, load_pretrained
from reid_explain.testing import ContractNet, explainer_checks, pictures

close = torch.testing.assert_close
SIZE = (64, 32)
SPEC = InputSpec(size=SIZE)
NAMES = ("hat", "bag", "upred", "boots")
QUERY = images(3, SIZE, dtype=torch.float32)
GALLERY = images(3, SIZE, seed=7, dtype=torch.float32)


class OwnNet(nn.Module):
    """A user's model: ``features`` and ``embed`` alone; ``late`` writes into its input."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.BatchNorm2d(6))
        self.late = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, stride=2, padding=1))
        self.last = nn.Sequential(last or nn.BatchNorm2d(8), nn.LeakyReLU(inplace=True))
        self.head = nn.Linear(8, 5)

    def features(self, x: Tensor) -> Tensor:
        return self.last(self.late(self.early(x)))

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.head(features.amax((2, 3))))


class OwnStages(OwnNet):
    trainable_stages = ("late", "last")


def own_net(kind: type[OwnNet] = OwnNet) -> OwnNet:
    torch.manual_seed(2)
    net = kind().eval()
    nn.init.normal_(net.early[1].running_mean)
    return net


def gem_net() -> nn.Module:
    torch.manual_seed(1)
    return build_model("resnet18", pooling="gem", width=0.125).eval()


def osnet() -> nn.Module:
    torch.manual_seed(1)
    return build_model("osnet_x0_25", num_classes=3).eval()


TARGETS = {
    "avg": (small_reid_net, None),
    "gem": (gem_net, None),
    "osnet": (osnet, None),
    "osnet, one stage": (osnet, ("conv5",)),
    "own": (own_net, ("late", "last")),
}
every_target = pytest.mark.parametrize("name", TARGETS)


def interpreter_of(target: nn.Module, stages=None, **kwargs) -> AMDInterpreter:
    """An interpreter whose maps are, before PePU, of mean 0 and deviation 1."""
    torch.manual_seed(5)
    interpreter = AMDInterpreter(target, NAMES, stages, spec=SPEC, **kwargs)
    head, own = interpreter.network.head, interpreter.network.stages
    with torch.no_grad():
        for parameter in interpreter.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        raw = head.conv2(head.conv1(own(interpreter.network.target_features(QUERY)[1])))
        head.conv2.weight.div_(raw.std())
        head.conv2.bias.sub_(raw.mean()).div_(raw.std())
    return interpreter


def made(name: str) -> AMDInterpreter:
    make, stages = TARGETS[name]
    return interpreter_of(make(), stages)


def state_of(module: nn.Module) -> dict[str, object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [m.training for m in module.modules()],
        "hooks": [len(getattr(m, name)) for m in module.modules() for name in hooks],
        "flags": [p.requires_grad for p in module.parameters()],
        "grads": [p.grad if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "values": {k: v.numpy().tobytes() for k, v in module.state_dict().items()},
    }


def states(interpreter: AMDInterpreter) -> list[dict[str, object]]:
    return [state_of(interpreter.model), state_of(interpreter.network)]


# What it returns


@pytest.mark.slow
@every_target
def test_forward_is_the_definition(name):
    """In float64: f^k = embed(F x A^k), one attribute at a time, through the user's seam alone."""
    interpreter = made(name).to(torch.float64)
    target, network = interpreter.model, interpreter.network
    x = QUERY.double()
    with torch.no_grad():
        features = target.features(x)
        shared = x
        if name == "own":
            shared = target.early(x)
        elif name.startswith("osnet"):
            shared = target.conv2(F.max_pool2d(target.conv1(x), 3, stride=2, padding=1))
            shared = target.conv4(target.conv3(shared)) if "one" in name else shared
        else:
            shared = target.backbone.layer2(target.backbone.layer1(target.backbone.stem(x)))
        maps = network.head(network.stages(shared.clone()))
        parts = [target.embed(features * maps[:, k : k + 1]) for k in range(4)]
        found = network(x)
    assert isinstance(found, Decomposed)
    assert all(part.dtype == torch.float64 for part in found)
    close(found.embeddings, target.embed(features))
    close(found.maps, maps)
    close(found.parts, torch.stack(parts, 1), rtol=1e-5, atol=1e-5)  # GeM's eps
    assert (found.maps > 0).all()
    assert (found.parts[:, 0] - found.parts[:, 1]).abs().max() > 0.01 * found.parts.abs().max()


@pytest.mark.slow
@every_target
def test_an_explanation_adds_up(name):
    interpreter = made(name)
    found = interpreter.explain(QUERY, GALLERY)
    assert isinstance(found, PairExplanation)
    for maps in (found.query_maps, found.gallery_maps):
        assert maps.shape == (3, 4, *SIZE)
        assert (maps > 0).all()
    assert found.distances.shape == found.contributions.shape == (3, 4)
    with torch.no_grad():
        first, second = interpreter.network(QUERY), interpreter.network(GALLERY)
        f, g = (interpreter.model.embed(interpreter.model.features(x)) for x in (QUERY, GALLERY))
    close(found.distance, (f - g).square().sum(1).sqrt())
    close(found.distances, (first.parts - second.parts).square().sum(2).sqrt())
    close(found.reconstructed, found.distances.sum(1))
    close(found.contributions, found.distances / found.distances.sum(1, keepdim=True))
    close(found.contributions.sum(1), torch.ones(3))
    for maps, made_of in ((found.query_maps, first.maps), (found.gallery_maps, second.maps)):
        close(maps, F.interpolate(made_of, SIZE, mode="bilinear", align_corners=False))
    for value in found:
        assert not value.requires_grad
        assert value.dtype == torch.float32


def test_swapping_the_images_swaps_the_maps_alone():
    interpreter = made("avg")
    there, back = interpreter.explain(QUERY, GALLERY), interpreter.explain(GALLERY, QUERY)
    close(there.query_maps, back.gallery_maps)
    close(there.gallery_maps, back.query_maps)
    close(there[2:], back[2:])


@pytest.mark.slow
@every_target
def test_identical_images_are_no_distance_apart_in_equal_shares(name):
    found = made(name).explain(QUERY, QUERY)
    assert (found.distance == 0).all()
    assert (found.reconstructed == 0).all()
    close(found.contributions, torch.full((3, 4), 0.25))


@pytest.mark.parametrize("mode", [None, "bilinear", "bicubic", "nearest"])
def test_the_map_of_one_attribute_is_that_of_the_pair(mode):
    interpreter = made("avg")
    pair = interpreter.explain(QUERY, GALLERY, interpolate_mode=mode)
    size = (4, 2) if mode is None else SIZE
    for k, name in enumerate(NAMES):
        by_name = interpreter.attribute(QUERY, attribute=name, interpolate_mode=mode)
        assert by_name.shape == (3, 1, *size)
        close(by_name, pair.query_maps[:, k : k + 1])
        assert torch.equal(
            by_name, interpreter.attribute(QUERY, attribute=k, interpolate_mode=mode)
        )
    with torch.no_grad():
        maps = interpreter.network(GALLERY).maps
    if mode is None:
        assert torch.equal(pair.gallery_maps, maps)
    else:
        aligned = None if mode == "nearest" else False
        close(pair.gallery_maps, F.interpolate(maps, SIZE, mode=mode, align_corners=aligned))


@pytest.mark.slow
@every_target
def test_the_map_of_a_pair_is_the_sum_of_contributions_times_maps(name):
    interpreter = made(name)
    pair = interpreter.explain(QUERY, GALLERY, interpolate_mode=None)
    expected = sum(
        pair.contributions[:, k, None, None] * pair.query_maps[:, k] for k in range(len(NAMES))
    )[:, None]
    close(interpreter.attribute(QUERY, GALLERY, interpolate_mode=None), expected)
    found = interpreter.attribute(QUERY, references=GALLERY)
    close(found, F.interpolate(expected, SIZE, mode="bilinear", align_corners=False))
    assert found.is_contiguous()


@pytest.mark.slow
def test_each_reference_serves_its_share_of_the_images():
    interpreter = made("avg")
    six = torch.cat([QUERY, images(3, SIZE, seed=9, dtype=torch.float32)])
    for count in (1, 2, 3):
        repeated = GALLERY[:count].repeat_interleave(6 // count, dim=0)
        found = interpreter.attribute(six, GALLERY[:count])
        close(found, interpreter.attribute(six, repeated))
        close(interpreter.explain(six, GALLERY[:count]), interpreter.explain(six, repeated))
    one_by_one = [interpreter.attribute(image[None], GALLERY[:1]) for image in QUERY]
    close(interpreter.attribute(QUERY, GALLERY[:1]), torch.cat(one_by_one))


def test_more_images_than_fill_a_forward_pass(monkeypatch):
    interpreter = made("avg")
    expected = interpreter.explain(QUERY, GALLERY)
    seen = []
    handle = interpreter.model.backbone.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    monkeypatch.setitem(PIXELS_PER_FORWARD, "cpu", 2 * SIZE[0] * SIZE[1])
    close(interpreter.explain(QUERY, GALLERY), expected)
    handle.remove()
    assert seen == [2, 1, 2, 1]


class Shifted(OwnStages):
    """Takes a further argument, as TransReID takes a camera."""

    def features(self, x: Tensor, camera: Tensor | float = 0.0) -> Tensor:
        shift = camera[:, None, None, None] if isinstance(camera, Tensor) else camera
        return super().features(x + shift)


def test_further_arguments_follow_their_images():
    interpreter = interpreter_of(own_net(Shifted))
    cameras = torch.tensor([0.0, 1.0, 2.0])
    shift = cameras[:, None, None, None]
    for references in (GALLERY, GALLERY[:1]):
        found = interpreter.attribute(QUERY, references, additional_forward_args=cameras)
        close(found, interpreter.attribute(QUERY + shift, references + shift))
    found = interpreter.explain(QUERY, GALLERY, additional_forward_args=(0.5,))
    close(found, interpreter.explain(QUERY + 0.5, GALLERY + 0.5))


@pytest.mark.parametrize("rows", [1, 3])
def test_captum_tools(rows):
    interpreter = made("avg")
    query, gallery = QUERY[:rows], GALLERY[:rows]
    expected = interpreter.attribute(query, gallery)
    torch.manual_seed(0)
    tunnel = NoiseTunnel(interpreter)
    still = {"nt_samples": 4, "stdevs": 0.0, "nt_samples_batch_size": 2}
    close(tunnel.attribute(query, references=gallery, **still), expected)
    noisy = tunnel.attribute(query, references=gallery, nt_samples=3, stdevs=0.1)
    assert noisy.shape == expected.shape
    assert not torch.allclose(noisy, expected, rtol=1e-4)
    (in_a_tuple,) = interpreter.attribute((query,), (gallery,))
    close(in_a_tuple, expected)
    sensitivity = sensitivity_max(
        interpreter.attribute, query, references=gallery, n_perturb_samples=3
    )
    assert sensitivity.shape == (rows,)
    assert (sensitivity > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["avg", "own"])
def test_any_dtype(name, dtype, tmp_path):
    exact = made(name)
    exact.network.prototypes.normal_()
    exact.save(tmp_path / "it.safetensors")
    interpreter = AMDInterpreter.load(tmp_path / "it.safetensors", TARGETS[name][0]().to(dtype))
    query, gallery = QUERY.to(dtype), GALLERY.to(dtype)
    found, expected = interpreter.explain(query, gallery), exact.explain(QUERY, GALLERY)
    wide = torch.promote_types(dtype, torch.float32)
    assert all(value.dtype == wide and value.isfinite().all() for value in found)
    assert interpreter.attribute(query, gallery).isfinite().all()
    assert interpreter.predict(interpreter.decompose(query).parts).shape == (3, 4)
    tolerance = max(16 * torch.finfo(dtype).eps, 1e-4)
    for value, was in zip(found, expected, strict=True):
        assert (value - was).abs().max() <= tolerance * was.abs().max()


@pytest.mark.slow
def test_a_compiled_model():
    plain = interpreter_of(own_net(OwnStages))
    compiled = torch.compile(own_net(OwnStages), backend="eager")
    close(interpreter_of(compiled).explain(QUERY, GALLERY), plain.explain(QUERY, GALLERY))


# What a benchmark asks


def target_of(model: nn.Module, spec: InputSpec | None = None) -> SimpleNamespace:
    return SimpleNamespace(model=model, spec=spec or InputSpec())


@pytest.mark.slow
def test_the_shipped_model_has_its_interpreter():
    assert AMDInterpreter.needs == ("references",)
    model = load_pretrained("synthetic")
    found = AMDInterpreter.for_target(target_of(model))
    assert found.model is model
    assert not found.network.prototypes.isnan().any()
    with pytest.raises(InputError, match="^spec: "):
        AMDInterpreter.for_target(target_of(model, SPEC))


def test_other_models_need_a_file(saved):
    with pytest.raises(InputError, match="^interpreter: got none .*amd.py train"):
        AMDInterpreter.for_target(target_of(own_net(OwnStages)))
    found = AMDInterpreter.for_target(target_of(small_reid_net(), SPEC), interpreter=saved)
    close(found.explain(QUERY, GALLERY), made("avg").explain(QUERY, GALLERY))


def test_the_two_images_of_a_pair_may_differ_in_size():
    found = made("avg").explain(QUERY, images(3, (96, 64), dtype=torch.float32))
    assert found.query_maps.shape == (3, 4, *SIZE)
    assert found.gallery_maps.shape == (3, 4, 96, 64)


def test_images_made_under_inference_mode_and_inside_it():
    interpreter = made("own")
    expected = interpreter.explain(QUERY, GALLERY)
    with torch.inference_mode():
        query, gallery = QUERY.clone(), GALLERY.clone()
        close(interpreter.explain(query, gallery), expected)
        assert not any(part.is_inference() for part in interpreter.decompose(query))
        close(interpreter.attribute(query, gallery), interpreter.attribute(QUERY, GALLERY))
    close(interpreter.explain(query, gallery), expected)


@pytest.mark.slow
def test_autocast_keeps_features_distances_and_gradients_in_float32():
    interpreter = made("osnet")
    exact = interpreter.explain(QUERY, GALLERY)
    with torch.autocast("cpu", torch.bfloat16):
        decomposed = interpreter.network(QUERY)
        found = interpreter.explain(QUERY, GALLERY)
    assert all(part.dtype == torch.float32 for part in decomposed)
    assert all(value.dtype == torch.float32 for value in found)
    close(found.distance, exact.distance, rtol=0.15, atol=0)
    close(found.contributions, exact.contributions, rtol=0.2, atol=0.02)
    decomposed.parts.sum().backward()
    for parameter in interpreter.network.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@every_target
def test_gradients_reach_trainable_stages_and_head_and_no_shared_stage(name):
    interpreter = made(name)
    interpreter.network.train()
    embeddings, parts, _ = interpreter.network(QUERY)
    parts.square().sum().backward()
    assert not embeddings.requires_grad
    assert all((p.grad != 0).any() for p in interpreter.network.head.parameters())
    own = list(interpreter.network.stages.parameters())
    assert all(p.grad is not None for p in own)
    assert any((p.grad != 0).any() for p in own)
    before_f = ("backbone.", "conv", "early.", "late.", "last.")
    gradients = {
        n: p.grad for n, p in interpreter.model.named_parameters() if n.startswith(before_f)
    }
    assert gradients
    assert all(gradient is None for gradient in gradients.values())


class ContractSeam(ContractNet):
    """The contract's network with the seam of an embedding model."""

    trainable_stages = ("layer",)

    def features(self, x: Tensor) -> Tensor:
        return self.layer(self.conv(x))

    def embed(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(features.square().mean((2, 3)))))


def contract_interpreter(model, layer) -> AMDInterpreter:
    find_layer(model, layer)
    with torch.random.fork_rng():
        interpreter = AMDInterpreter(model, NAMES, spec=InputSpec(size=(12, 8)))
    generator = torch.Generator().manual_seed(0)
    for parameter in interpreter.network.head.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return interpreter


contract_interpreter.cost = "descent"  # It takes models, and no functions that call them.
contract = [
    *explainer_checks(
        contract_interpreter,
        given=lambda batch: {"references": pictures(batch, seed=7)},
        model=ContractSeam,
        layers=("layer",),
    )
]


@pytest.mark.parametrize("check", contract, ids=lambda check: check.__name__)
def test_the_contract_of_explainers(check):
    check()


# What it is made of


@every_target
def test_shared_stages_are_the_targets_and_trainable_stages_are_copies(name):
    make, stages = TARGETS[name]
    target = make()
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    interpreter = AMDInterpreter(target, NAMES, stages, spec=SPEC)
    assert interpreter.model is target
    names = stages or target.trainable_stages
    assert interpreter.stages == tuple(names)
    theirs = {id(p) for p in (*target.parameters(), *target.buffers())}
    network = interpreter.network
    assert all(id(p) not in theirs for p in (*network.parameters(), *network.buffers()))
    for copied, stage in zip(network.stages, names, strict=True):
        close(copied.state_dict(), target.get_submodule(stage).state_dict())
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in target.parameters())
    assert {*network.parameters()}.isdisjoint(target.parameters())
    assert not any(module.training for module in network.modules())
    # of the shared stages there is one: what they give changes with the target
    before = interpreter.network(QUERY).maps
    with torch.no_grad():
        next(iter(target.parameters())).add_(0.5)
        target.get_submodule(names[0]).apply(
            lambda m: m.weight.zero_() if isinstance(m, nn.Conv2d) else None
        )
    changed = interpreter.network(QUERY).maps
    assert changed.isfinite().all()
    assert not torch.allclose(before, changed)
    with torch.no_grad():
        next(iter(target.parameters())).sub_(0.5)
    close(interpreter.network(QUERY).maps, before)


def test_head_width_of_the_target_and_names():
    interpreter = AMDInterpreter(small_reid_net(), list(NAMES), spec=SPEC)
    assert interpreter.attributes == NAMES
    assert interpreter.spec == SPEC
    assert interpreter.hidden == 8
    assert interpreter.network.head.conv1.in_channels == 64
    assert interpreter.network.head.conv2.out_channels == 4
    assert interpreter.network.head.kappa == 0.25
    assert interpreter.network.prototypes.shape == (2, 4, 64)
    osnet_of = AMDInterpreter(osnet(), NAMES, spec=SPEC, hidden=3)
    assert osnet_of.hidden == osnet_of.network.head.conv1.out_channels == 3
    assert osnet_of.network.prototypes.shape == (2, 4, 512)
    assert osnet_of.network.head.conv1.in_channels == 128


def test_images_are_those_of_the_model_unless_told():
    model = small_reid_net()
    model.input_spec = InputSpec(size=(96, 64))
    assert AMDInterpreter(model, NAMES).spec == model.input_spec
    assert AMDInterpreter(model, NAMES, spec=SPEC).spec == SPEC
    assert AMDInterpreter(own_net(OwnStages), NAMES).spec == InputSpec()


def test_a_user_s_model_may_name_its_trainable_stages():
    by_name = interpreter_of(own_net(OwnStages))
    assert by_name.stages == ("late", "last")
    by_hand = interpreter_of(own_net(), ("late", "last"))
    close(by_name.decompose(QUERY), by_hand.decompose(QUERY))


def test_the_model_keeps_its_modes_and_runs_in_eval_mode():
    target = small_reid_net().train()
    target.backbone.layer1.eval()
    before, untouched = state_of(target), small_reid_net()
    interpreter, expected = (AMDInterpreter(m, NAMES, spec=SPEC) for m in (target, untouched))
    close(interpreter.network.fingerprint, expected.network.fingerprint)
    for training in (True, False):
        interpreter.network.train(training)
        interpreter.network(QUERY)
        assert all(module.training == training for module in interpreter.network.modules())
    assert state_of(target)["modes"] == before["modes"]
    close(target.state_dict(), untouched.state_dict(), rtol=0, atol=0)


def test_predict_gives_the_label_of_the_nearer_prototype():
    interpreter = made("own")
    parts = interpreter.explain(QUERY, GALLERY).distances.new_tensor(
        [[[0.0, 0.0]] * 4, [[1.0, 1.0]] * 4]
    )
    with pytest.raises(InputError, match="^interpreter: .*prototypes"):
        interpreter.predict(parts)
    interpreter.network.prototypes = torch.tensor([[0.1, 0.0], [0.9, 1.0]])[:, None].expand(2, 4, 2)
    assert interpreter.predict(parts).tolist() == [[1] * 4, [2] * 4]


def test_prediction_is_a_plain_loop_and_a_label_that_no_image_had_is_never_the_nearer_one():
    interpreter = made("own")
    generator = torch.Generator().manual_seed(0)
    parts, prototypes = (torch.randn(n, 4, 5, generator=generator) for n in (50, 2))
    prototypes[0, 0] = prototypes[1, 1] = torch.inf
    interpreter.network.prototypes = prototypes
    found = interpreter.predict(parts)
    distances = [[math.dist(p.tolist(), q.tolist()) for q in prototypes[:, 2]] for p in parts[:, 2]]
    assert found[:, 2].tolist() == [1 + (first > second) for first, second in distances]
    assert (found[:, 0] == 2).all()
    assert (found[:, 1] == 1).all()
    assert set(found[:, 3].tolist()) == {1, 2}


@pytest.mark.parametrize(("attribute", "place"), [("hat", 0), ("boots", 3), (0, 0), (3, 3)])
def test_index_of_an_attribute(attribute, place):
    assert made("own").index(attribute) == place


# What it leaves behind


@pytest.mark.slow
@every_target
@pytest.mark.parametrize("training", [False, True])
def test_explaining_changes_nothing(name, training):
    interpreter = made(name)
    for module in (interpreter.network, interpreter.model):
        module.train(training)
    interpreter.network.stages[0].eval()
    next(iter(interpreter.model.children())).eval()
    last = next(iter(interpreter.model.parameters()))
    last.grad = torch.ones_like(last)
    query, gallery = QUERY.clone(), GALLERY.clone()
    before = states(interpreter)
    random_state = torch.get_rng_state()
    found = interpreter.explain(query, gallery)
    interpreter.attribute(query, gallery)
    interpreter.attribute(query, attribute="hat")
    assert states(interpreter) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(query, QUERY)
    assert torch.equal(gallery, GALLERY)
    interpreter.network.eval()
    interpreter.model.eval()
    close(found, interpreter.explain(QUERY, GALLERY))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("where", ["early", "last", "head"])
def test_an_exception_leaves_nothing_behind(where):
    interpreter = made("own")
    interpreter.network.train()
    interpreter.model.last.train()
    before = states(interpreter)

    def fail(*_args):
        raise RuntimeError("boom")

    for run in (interpreter.decompose, lambda x: interpreter.attribute(x, x)):
        handle = getattr(interpreter.model, where).register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="boom"):
            run(QUERY)
        handle.remove()
        assert states(interpreter) == before
    handle = getattr(interpreter.model, where).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        interpreter.network(QUERY)
    handle.remove()
    assert state_of(interpreter.model) == before[0]


def test_a_stage_that_writes_into_its_input_gets_what_it_had():
    """Without the copy the own stage would see what the target's stage left behind."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(x)

    target = own_net()
    target.late[0] = Square()
    interpreter = interpreter_of(target, ("late", "last"))
    with torch.no_grad():
        shared = target.early(QUERY)
        network = interpreter.network
        expected = network.head(network.stages(shared))
        close(network(QUERY).maps, expected)
        left_behind = network.head(network.stages(target.early(QUERY) ** 2))
    assert (expected - left_behind).abs().max() > 0.01


# Files


@pytest.mark.slow
@every_target
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0), (torch.float16, 2e-2)])
def test_a_file_gives_the_same_interpreter(name, dtype, tolerance, tmp_path):
    interpreter = made(name)
    interpreter.network.prototypes.normal_()
    interpreter.network.frequencies.uniform_()
    interpreter.network.scale.fill_(0.9)
    path = tmp_path / "it.safetensors"
    interpreter.save(path, dtype=dtype)
    target = TARGETS[name][0]()
    loaded = AMDInterpreter.load(path, target)
    assert loaded.model is target
    assert loaded.attributes == NAMES
    assert loaded.stages == interpreter.stages
    assert loaded.hidden == interpreter.hidden
    assert loaded.spec == SPEC
    assert not any(module.training for module in loaded.network.modules())
    expected = interpreter.network.state_dict()
    for key, value in loaded.network.state_dict().items():
        exact = tolerance == 0 or value.dim() < 2 or key == "prototypes"
        assert torch.equal(value, expected[key]) or not exact, key
        assert value.dtype == expected[key].dtype
    assert all(
        value.dtype
        == (
            dtype if value.dim() > 1 and "proto" not in key and "finger" not in key else value.dtype
        )
        for key, value in load_file(path).items()
    )
    assert load_file(path)["prototypes"].dtype == torch.float32
    found, before = loaded.explain(QUERY, GALLERY), interpreter.explain(QUERY, GALLERY)
    for value, was in zip(found, before, strict=True):
        assert (value - was).abs().max() <= tolerance * was.abs().max()


def test_a_file_has_nothing_of_the_target(tmp_path):
    interpreter = made("avg")
    interpreter.save(tmp_path / "it.safetensors")
    with safe_open(tmp_path / "it.safetensors", "pt") as file:
        keys = set(file.keys())
        settings = json.loads(file.metadata()["amd_interpreter"])
    assert keys == {*interpreter.network.state_dict(), "target_fingerprint"}
    assert set(settings) == {"attributes", "stages", "hidden", "input_spec"}
    assert settings["input_spec"] == SPEC.to_json()


@pytest.mark.parametrize("place", ["absent/it.safetensors", "."])
def test_a_file_that_cannot_be_written_is_named(place, tmp_path):
    with pytest.raises(InputError, match="^path: .*can be written"):
        made("own").save(tmp_path / place)


class Indexed(nn.Module):
    """A stage with a table of indices, as window attention has one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.full((2, 2), 2**24 + 1))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_whole_numbers_are_stored_as_such(dtype, tmp_path):
    def target():
        torch.manual_seed(0)
        return OwnNet(Indexed())

    interpreter = interpreter_of(target(), ("late", "last"))
    interpreter.save(tmp_path / "it.safetensors", dtype=dtype)
    loaded = AMDInterpreter.load(tmp_path / "it.safetensors", target())
    assert (loaded.network.stages[1][0].table == 2**24 + 1).all()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("amd") / "it.safetensors"
    made("avg").save(path)
    return path


def test_a_file_of_before_input_specs_is_read(saved, tmp_path):
    with safe_open(saved, "pt") as file:
        settings = json.loads(file.metadata()["amd_interpreter"])
    del settings["input_spec"]
    metadata = {"amd_interpreter": json.dumps({**settings, "image_size": SIZE})}
    save_file(load_file(saved), tmp_path / "old", metadata)
    old, new = (AMDInterpreter.load(path, small_reid_net()) for path in (tmp_path / "old", saved))
    assert old.spec == new.spec == SPEC
    close(old.explain(QUERY, GALLERY), new.explain(QUERY, GALLERY))


def test_a_file_of_before_calibration_has_the_scale_1(saved, tmp_path):
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    state = load_file(saved)
    assert state.pop("scale") == 1
    save_file(state, tmp_path / "old", metadata)
    old, new = (AMDInterpreter.load(path, small_reid_net()) for path in (tmp_path / "old", saved))
    close(old.explain(QUERY, GALLERY), new.explain(QUERY, GALLERY), rtol=0, atol=0)


def changed(scale: float) -> nn.Module:
    target = small_reid_net()
    with torch.no_grad():
        target.backbone.conv1.weight.mul_(scale)
    return target


def test_a_target_with_other_weights_is_refused(saved):
    with pytest.raises(InputError, match=r"^model: got embeddings .* % away"):
        AMDInterpreter.load(saved, changed(1.3))
    AMDInterpreter.load(saved, changed(1.0001))


def test_a_target_whose_embeddings_are_no_numbers_is_refused(saved):
    with pytest.raises(InputError, match=r"^model: "):
        AMDInterpreter.load(saved, changed(float("nan")))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (osnet, "^stages: "),
        (lambda: build_model("resnet18", width=0.25), r"^model: got embeddings of 128, .* of 64"),
        (lambda: build_model("resnet34", width=0.125), "^model: "),
    ],
)
def test_a_target_of_another_architecture_is_refused(saved, target, message):
    with pytest.raises(InputError, match=message):
        AMDInterpreter.load(saved, target())


def test_what_is_no_file_of_an_interpreter_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    state = load_file(saved)
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    names = json.dumps([*json.loads(metadata["amd_interpreter"])])
    paths = {
        "truncated": content[: len(content) // 2],
        "header": content[:20],
        "empty": b"",
        "text": b"attribute maps of persons\n" * 9,
    }
    for name, data in paths.items():
        (tmp_path / name).write_bytes(data)
    save_file(state, tmp_path / "something else")
    save_file(state, tmp_path / "no settings", {"amd_interpreter": "[1, 2"})
    save_file(state, tmp_path / "a number", {"amd_interpreter": "3"})
    save_file(state, tmp_path / "a list", {"amd_interpreter": names})
    save_file(state, tmp_path / "other settings", {"amd_interpreter": '{"channels": 3}'})
    del state["target_fingerprint"]
    save_file(state, tmp_path / "no fingerprint", metadata)
    files = [*sorted(tmp_path.iterdir()), tmp_path, tmp_path / "absent"]
    assert len(files) == 12
    for path in files:
        with pytest.raises(InputError, match="^path: .*AMDInterpreter.save"):
            AMDInterpreter.load(path, small_reid_net())


def test_a_file_without_some_weights_is_refused(saved, tmp_path):
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    state = load_file(saved)
    del state["head.conv2.bias"]
    save_file(state, tmp_path / "it.safetensors", metadata)
    with pytest.raises(InputError, match="missing: head.conv2.bias"):
        AMDInterpreter.load(tmp_path / "it.safetensors", small_reid_net())


def test_an_unknown_shipped_interpreter_is_refused():
    with pytest.raises(InputError, match="^name: got 'nobody'"):
        AMDInterpreter.from_pretrained("nobody")


# What it refuses


class WithoutEmbed(nn.Module):
    def features(self, x: Tensor) -> Tensor:
        return x


class PlainSeam:
    def features(self, x: Tensor) -> Tensor:
        return x

    def embed(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    "target",
    [nn.Linear(3, 2), WithoutEmbed(), PlainSeam(), None, "resnet50"],
    ids=lambda value: type(value).__name__,
)
def test_a_target_without_the_seam_is_refused(target):
    with pytest.raises(InputError, match=r"^model: .*features\(x\) and embed\(features\)"):
        AMDInterpreter(target, NAMES, ("late",), spec=SPEC)


@pytest.mark.parametrize("names", [(), ("hat", "bag", "hat"), "hat"])
def test_attributes_are_different_names(names):
    with pytest.raises(InputError, match="^attributes: .* different names, at least one"):
        AMDInterpreter(own_net(), names, ("late", "last"), spec=SPEC)


class Twice(OwnNet):
    def features(self, x: Tensor) -> Tensor:
        return self.last(self.last(self.late(self.early(x))))


class After(OwnNet):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + 1


class Between(OwnNet):
    def features(self, x: Tensor) -> Tensor:
        return self.last(self.late(self.early(x)) * 2)


@pytest.mark.parametrize(
    ("kind", "stages", "message"),
    [
        (OwnNet, None, "none for a OwnNet"),
        (OwnNet, (), "got none"),
        (OwnNet, ("late", "lost"), "'lost'.*'last'"),
        (OwnNet, ("last", "late"), "last, late"),
        (OwnNet, ("late",), "late"),
        (OwnNet, ("early", "last"), "early, last"),
        (OwnNet, ("late", "last", "head"), "late, last, head"),
        (OwnNet, ("last", "last"), "last, last"),
        (OwnNet, ("",), "that runs once"),
        (Twice, ("late", "last"), "late, last"),
        (After, ("late", "last"), "late, last"),
        (Between, ("late", "last"), "late, last"),
    ],
)
def test_stages_are_the_last_ones_and_chain(kind, stages, message):
    target = own_net(kind)
    with pytest.raises(InputError, match=f"^stages: .*{message}"):
        AMDInterpreter(target, NAMES, stages, spec=SPEC)
    assert not any(module._forward_hooks for module in target.modules())
    assert not any(module._forward_pre_hooks for module in target.modules())


NAN = QUERY.clone()
NAN[1, 0, 3, 3] = torch.nan


@pytest.mark.parametrize(
    ("query", "gallery", "options", "argument"),
    [
        (NAN, GALLERY, {}, "query"),
        (QUERY, NAN, {}, "gallery"),
        (QUERY * torch.inf, GALLERY, {}, "query"),
        (QUERY[0], GALLERY, {}, "query"),
        (QUERY[:0], GALLERY[:0], {}, "query"),
        (QUERY.long(), GALLERY, {}, "query"),
        ("image.jpg", GALLERY, {}, "query"),
        (QUERY, None, {}, "gallery"),
        (QUERY, GALLERY[:2], {}, "gallery"),
        (QUERY, GALLERY[:0], {}, "gallery"),
        (QUERY, GALLERY, {"interpolate_mode": "area"}, "interpolate_mode"),
    ],
)
def test_bad_arguments_are_named(query, gallery, options, argument):
    with pytest.raises(InputError, match=f"^{argument}: "):
        made("own").explain(query, gallery, **options)
    argument = {"query": "inputs", "gallery": "references"}.get(argument, argument)
    with pytest.raises(InputError, match=f"^{argument}: "):
        made("own").attribute(query, gallery, **options)


@pytest.mark.parametrize("attribute", ["cap", 4, -1, [0, 1]])
def test_an_attribute_it_does_not_have_is_refused(attribute):
    with pytest.raises(InputError, match="^attribute: "):
        made("own").attribute(QUERY, attribute=attribute)


@pytest.mark.parametrize("references", [torch.ones(3, 5), "photo.jpg", (QUERY, QUERY)])
def test_references_are_images(references):
    with pytest.raises(InputError, match="^references: "):
        made("own").attribute(QUERY, references)


def test_an_unknown_attribute_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="got 'cap', expected one of 'hat', 'bag', 'upred'"):
        made("own").attribute(QUERY, attribute="cap")


@pytest.mark.parametrize("between", [torch.relu_, torch.relu])
def test_what_happens_between_two_stages_is_not_lost_in_silence(between):
    class Between(OwnNet):
        def features(self, x: Tensor) -> Tensor:
            return self.last(between(self.late(self.early(x))))

    with pytest.raises(InputError, match="stages: got late, last, expected .* nothing between"):
        interpreter_of(own_net(Between), ("late", "last"))
    interpreter_of(own_net(Between), ("last",))
