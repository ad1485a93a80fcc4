"""The interpreter end to end: what it returns, what it leaves behind, what it refuses."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from nets import images, small_reid_net
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reid_explain import InputError
from reid_explain.amd.interpreter import AMDInterpreter, Decomposed, PairExplanation
from reid_explain.models import build_model

close = torch.testing.assert_close
SIZE = (64, 32)
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
    own_stages = ("late", "last")


def own_net(kind: type[OwnNet] = OwnNet) -> OwnNet:
    torch.manual_seed(2)
    net = kind().eval()
    nn.init.normal_(net.early[1].running_mean)
    return net


def gem_net() -> nn.Module:
    torch.manual_seed(1)
    return build_model("resnet18", pooling="gem", width=0.125)


def osnet() -> nn.Module:
    torch.manual_seed(1)
    return build_model("osnet_x0_25", num_classes=3)


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
    interpreter = AMDInterpreter(target, NAMES, stages, image_size=SIZE, **kwargs)
    head, own = interpreter.network.head, interpreter.network.stages
    with torch.no_grad():
        for parameter in interpreter.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        raw = head.conv2(head.conv1(own(interpreter.target_features(QUERY)[1])))
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


# What it returns


@every_target
def test_forward_is_the_definition(name):
    """In float64: f^k = embed(F x A^k), one attribute at a time, through the user's seam alone."""
    interpreter = made(name).double()
    target, network = interpreter.target, interpreter.network
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
        found = interpreter(x)
    assert isinstance(found, Decomposed)
    assert all(part.dtype == torch.float64 for part in found)
    close(found.embeddings, target.embed(features))
    close(found.maps, maps)
    close(found.parts, torch.stack(parts, 1), rtol=1e-5, atol=1e-5)  # GeM's eps
    assert (found.maps > 0).all()
    assert (found.parts[:, 0] - found.parts[:, 1]).abs().max() > 0.01 * found.parts.abs().max()


@every_target
def test_an_explanation_adds_up(name):
    interpreter = made(name)
    found = interpreter.attribute(QUERY, GALLERY)
    assert isinstance(found, PairExplanation)
    for maps in (found.query_maps, found.gallery_maps):
        assert maps.shape == (3, 4, *SIZE)
        assert (maps > 0).all()
    assert found.distances.shape == found.contributions.shape == (3, 4)
    with torch.no_grad():
        first, second = interpreter(QUERY), interpreter(GALLERY)
        f, g = (interpreter.target.embed(interpreter.target.features(x)) for x in (QUERY, GALLERY))
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
    there, back = interpreter.attribute(QUERY, GALLERY), interpreter.attribute(GALLERY, QUERY)
    close(there.query_maps, back.gallery_maps)
    close(there.gallery_maps, back.query_maps)
    close(there[2:], back[2:])


@every_target
def test_identical_images_are_no_distance_apart_in_equal_shares(name):
    found = made(name).attribute(QUERY, QUERY)
    assert (found.distance == 0).all()
    assert (found.reconstructed == 0).all()
    close(found.contributions, torch.full((3, 4), 0.25))


@pytest.mark.parametrize("mode", [None, "bilinear", "bicubic", "nearest"])
def test_the_map_of_one_attribute_is_that_of_the_pair(mode):
    interpreter = made("avg")
    pair = interpreter.attribute(QUERY, GALLERY, interpolate_mode=mode)
    size = (4, 2) if mode is None else SIZE
    for k, name in enumerate(NAMES):
        by_name = interpreter.attribute(QUERY, target=name, interpolate_mode=mode)
        assert by_name.shape == (3, 1, *size)
        close(by_name, pair.query_maps[:, k : k + 1])
        assert torch.equal(by_name, interpreter.attribute(QUERY, target=k, interpolate_mode=mode))
    with torch.no_grad():
        maps = interpreter(GALLERY).maps
    if mode is None:
        assert torch.equal(pair.gallery_maps, maps)
    else:
        aligned = None if mode == "nearest" else False
        close(pair.gallery_maps, F.interpolate(maps, SIZE, mode=mode, align_corners=aligned))


def test_the_two_images_of_a_pair_may_differ_in_size():
    found = made("avg").attribute(QUERY, images(3, (96, 64), dtype=torch.float32))
    assert found.query_maps.shape == (3, 4, *SIZE)
    assert found.gallery_maps.shape == (3, 4, 96, 64)


def test_images_go_to_where_the_weights_are():
    interpreter = made("own").to("meta")
    interpreter.forward = lambda images: images  # a whole pass wants autocast, which meta has not
    assert interpreter.decompose(QUERY).device.type == "meta"


def test_images_made_under_inference_mode_and_inside_it():
    interpreter = made("own")
    expected = interpreter.attribute(QUERY, GALLERY)
    with torch.inference_mode():
        query, gallery = QUERY.clone(), GALLERY.clone()
        close(interpreter.attribute(query, gallery), expected)
        assert not any(part.is_inference() for part in interpreter.decompose(query))
    close(interpreter.attribute(query, gallery), expected)


def test_autocast_keeps_features_distances_and_gradients_in_float32():
    interpreter = made("osnet")
    exact = interpreter.attribute(QUERY, GALLERY)
    with torch.autocast("cpu", torch.bfloat16):
        decomposed = interpreter(QUERY)
        found = interpreter.attribute(QUERY, GALLERY)
    assert all(part.dtype == torch.float32 for part in decomposed)
    assert all(value.dtype == torch.float32 for value in found)
    close(found.distance, exact.distance, rtol=0.15, atol=0)
    close(found.contributions, exact.contributions, rtol=0.2, atol=0.02)
    decomposed.parts.sum().backward()
    for parameter in interpreter.network.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@every_target
def test_gradients_reach_own_stages_and_head_and_no_shared_stage(name):
    interpreter = made(name)
    interpreter.train()
    embeddings, parts, _ = interpreter(QUERY)
    parts.square().sum().backward()
    assert not embeddings.requires_grad
    assert all((p.grad != 0).any() for p in interpreter.network.head.parameters())
    own = list(interpreter.network.stages.parameters())
    assert all(p.grad is not None for p in own)
    assert any((p.grad != 0).any() for p in own)
    before_f = ("backbone.", "conv", "early.", "late.", "last.")
    gradients = {
        n: p.grad for n, p in interpreter.target.named_parameters() if n.startswith(before_f)
    }
    assert gradients
    assert all(gradient is None for gradient in gradients.values())


# What it is made of


@every_target
def test_shared_stages_are_the_targets_and_own_stages_are_copies(name):
    make, stages = TARGETS[name]
    target = make()
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    interpreter = AMDInterpreter(target, NAMES, stages, image_size=SIZE)
    assert interpreter.target is target
    names = stages or target.own_stages
    assert interpreter.stages == tuple(names)
    theirs = {id(p) for p in (*target.parameters(), *target.buffers())}
    network = interpreter.network
    assert all(id(p) not in theirs for p in (*network.parameters(), *network.buffers()))
    for copied, stage in zip(network.stages, names, strict=True):
        close(copied.state_dict(), target.get_submodule(stage).state_dict())
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in target.parameters())
    assert not any(module.training for module in interpreter.modules())
    # of the shared stages there is one: what they give changes with the target
    before = interpreter(QUERY).maps
    with torch.no_grad():
        next(iter(target.parameters())).add_(0.5)
        target.get_submodule(names[0]).apply(
            lambda m: m.weight.zero_() if isinstance(m, nn.Conv2d) else None
        )
    changed = interpreter(QUERY).maps
    assert changed.isfinite().all()
    assert not torch.allclose(before, changed)
    with torch.no_grad():
        next(iter(target.parameters())).sub_(0.5)
    close(interpreter(QUERY).maps, before)


def test_head_width_of_the_target_and_names():
    interpreter = AMDInterpreter(small_reid_net(), list(NAMES), image_size=SIZE)
    assert interpreter.attributes == NAMES
    assert interpreter.image_size == SIZE
    assert interpreter.hidden == 8
    assert interpreter.network.head.conv1.in_channels == 64
    assert interpreter.network.head.conv2.out_channels == 4
    assert interpreter.network.head.kappa == 0.25
    assert interpreter.network.prototypes.shape == (2, 4, 64)
    osnet_of = AMDInterpreter(osnet(), NAMES, image_size=SIZE, hidden=3)
    assert osnet_of.hidden == osnet_of.network.head.conv1.out_channels == 3
    assert osnet_of.network.prototypes.shape == (2, 4, 512)
    assert osnet_of.network.head.conv1.in_channels == 128


def test_a_user_s_model_may_name_its_own_stages():
    by_name = interpreter_of(own_net(OwnStages))
    assert by_name.stages == ("late", "last")
    close(by_name(QUERY), interpreter_of(own_net(), ("late", "last"))(QUERY))


def test_train_reaches_own_stages_and_head_alone():
    target = small_reid_net().train()
    interpreter = AMDInterpreter(target, NAMES, image_size=SIZE)
    assert not any(module.training for module in interpreter.modules())
    untouched = small_reid_net()
    close(target.state_dict(), untouched.state_dict(), rtol=0, atol=0)
    close(interpreter.fingerprint, AMDInterpreter(untouched, NAMES, image_size=SIZE).fingerprint)
    assert interpreter.train() is interpreter
    assert interpreter.training
    assert all(module.training for module in interpreter.network.modules())
    assert not any(module.training for module in target.modules())
    before = copy.deepcopy(target.state_dict())
    interpreter(QUERY)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())
    interpreter.eval()
    assert not any(module.training for module in interpreter.modules())


def test_predict_gives_the_label_of_the_nearer_prototype():
    interpreter = made("own")
    parts = interpreter.attribute(QUERY, GALLERY).distances.new_tensor(
        [[[0.0, 0.0]] * 4, [[1.0, 1.0]] * 4]
    )
    with pytest.raises(InputError, match="^interpreter: .*prototypes"):
        interpreter.predict(parts)
    interpreter.network.prototypes = torch.tensor([[0.1, 0.0], [0.9, 1.0]])[:, None].expand(2, 4, 2)
    assert interpreter.predict(parts).tolist() == [[1] * 4, [2] * 4]


@pytest.mark.parametrize(("attribute", "place"), [("hat", 0), ("boots", 3), (0, 0), (3, 3)])
def test_index_of_an_attribute(attribute, place):
    assert made("own").index(attribute) == place


# What it leaves behind


@every_target
@pytest.mark.parametrize("training", [False, True])
def test_attribute_changes_nothing(name, training):
    interpreter = made(name)
    interpreter.train(training)
    interpreter.network.stages[0].eval()
    last = next(iter(interpreter.target.parameters()))
    last.grad = torch.ones_like(last)
    query, gallery = QUERY.clone(), GALLERY.clone()
    before = state_of(interpreter)
    random_state = torch.get_rng_state()
    in_eval = interpreter.attribute(query, gallery)
    interpreter.attribute(query, target="hat")
    assert state_of(interpreter) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(query, QUERY)
    assert torch.equal(gallery, GALLERY)
    close(in_eval, interpreter.eval().attribute(QUERY, GALLERY))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("where", ["early", "last", "head"])
def test_an_exception_leaves_nothing_behind(where):
    interpreter = made("own")
    interpreter.train()
    before, target = state_of(interpreter), state_of(interpreter.target)

    def fail(*_args):
        raise RuntimeError("boom")

    handle = getattr(interpreter.target, where).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        interpreter.attribute(QUERY, GALLERY)
    handle.remove()
    assert state_of(interpreter) == before
    handle = getattr(interpreter.target, where).register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        interpreter(QUERY)
    handle.remove()
    assert state_of(interpreter.target) == target


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
        expected = interpreter.network(shared)
        close(interpreter(QUERY).maps, expected)
        left_behind = interpreter.network(target.early(QUERY) ** 2)
    assert (expected - left_behind).abs().max() > 0.01


# Files


@every_target
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0), (torch.float16, 2e-2)])
def test_a_file_gives_the_same_interpreter(name, dtype, tolerance, tmp_path):
    interpreter = made(name)
    interpreter.network.prototypes.normal_()
    interpreter.network.frequencies.uniform_()
    path = tmp_path / "it.safetensors"
    interpreter.save(path, dtype=dtype)
    target = TARGETS[name][0]()
    loaded = AMDInterpreter.load(path, target)
    assert loaded.target is target
    assert loaded.attributes == NAMES
    assert loaded.stages == interpreter.stages
    assert loaded.hidden == interpreter.hidden
    assert loaded.image_size == SIZE
    assert not any(module.training for module in loaded.modules())
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
    found, before = loaded.attribute(QUERY, GALLERY), interpreter.attribute(QUERY, GALLERY)
    for value, was in zip(found, before, strict=True):
        assert (value - was).abs().max() <= tolerance * was.abs().max()


def test_a_file_has_nothing_of_the_target(tmp_path):
    interpreter = made("avg")
    interpreter.save(tmp_path / "it.safetensors")
    with safe_open(tmp_path / "it.safetensors", "pt") as file:
        keys = set(file.keys())
        settings = json.loads(file.metadata()["amd_interpreter"])
    assert keys == {*interpreter.network.state_dict(), "target_fingerprint"}
    assert set(settings) == {"attributes", "stages", "hidden", "image_size"}


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


def changed(scale: float) -> nn.Module:
    target = small_reid_net()
    with torch.no_grad():
        target.backbone.conv1.weight.mul_(scale)
    return target


def test_a_target_with_other_weights_is_refused(saved):
    with pytest.raises(InputError, match=r"^target: got embeddings .* % away"):
        AMDInterpreter.load(saved, changed(1.3))
    AMDInterpreter.load(saved, changed(1.0001))


def test_a_target_whose_embeddings_are_no_numbers_is_refused(saved):
    with pytest.raises(InputError, match=r"^target: "):
        AMDInterpreter.load(saved, changed(float("nan")))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (osnet, "^stages: "),
        (lambda: build_model("resnet18", width=0.25), r"^target: got embeddings of 128, .* of 64"),
        (lambda: build_model("resnet34", width=0.125), "^target: "),
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
    "target", [nn.Linear(3, 2), WithoutEmbed(), PlainSeam(), None, "resnet50"], ids=repr
)
def test_a_target_without_the_seam_is_refused(target):
    with pytest.raises(InputError, match=r"^target: .*features\(x\) and embed\(features\)"):
        AMDInterpreter(target, NAMES, ("late",), image_size=SIZE)


@pytest.mark.parametrize("names", [(), ("hat", "bag", "hat"), "hat"])
def test_attributes_are_different_names(names):
    with pytest.raises(InputError, match="^attributes: .* different names, at least one"):
        AMDInterpreter(own_net(), names, ("late", "last"), image_size=SIZE)


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
        AMDInterpreter(target, NAMES, stages, image_size=SIZE)
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
        (QUERY, GALLERY[:1], {}, "gallery"),
        (QUERY, None, {"target": "cap"}, "target"),
        (QUERY, None, {"target": 4}, "target"),
        (QUERY, None, {"target": -1}, "target"),
        (QUERY, None, {"target": [0, 1]}, "target"),
        (NAN, None, {"target": 0}, "query"),
        (QUERY, GALLERY, {"interpolate_mode": "area"}, "interpolate_mode"),
    ],
)
def test_bad_arguments_are_named(query, gallery, options, argument):
    with pytest.raises(InputError, match=f"^{argument}: "):
        made("own").attribute(query, gallery, **options)


def test_an_unknown_attribute_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="got 'cap', expected one of 'hat', 'bag', 'upred'"):
        made("own").attribute(QUERY, target="cap")


@pytest.mark.parametrize("between", [torch.relu_, torch.relu])
def test_what_happens_between_two_stages_is_not_lost_in_silence(between):
    class Between(OwnNet):
        def features(self, x: Tensor) -> Tensor:
            return self.last(between(self.late(self.early(x))))

    with pytest.raises(InputError, match="stages: got late, last, expected .* nothing between"):
        interpreter_of(own_net(Between), ("late", "last"))
    interpreter_of(own_net(Between), ("last",))
