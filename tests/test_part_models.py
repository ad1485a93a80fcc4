"""PCB and MGN: against their definitions in plain functions, part by part, and explained."""

import functools

import pytest
import torch
from nets import images
from torch import nn

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    InputSpec,
    ScoreCAM,
    ScoreFAM,
)
from reid_explain.amd.interpreter import AMDInterpreter
from reid_explain.amd.loss import AMDLoss
from reid_explain.amd.trainer import pair_terms
from reid_explain.models.mgn import BRANCHES, MGN, PARTS, PartPools
from reid_explain.models.pcb import PCB
from reid_explain.models.pooling import GeneralizedMeanPool, GlobalAveragePool, StripePool
from reid_explain.models.reid import ReIDNet
from reid_explain.models.resnet import ResNetBackbone

close = torch.testing.assert_close
SIZE = (96, 32)
UNEVEN = (112, 32)
"""Maps of 6 and of 7 rows: 7 is divided neither by 6 nor by 2 or 3."""
X = images(3, SIZE)
FAST_REID_ORDER = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")


def trained(model):
    """Return the network in eval mode and float64, far from new in its norms and its copies."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return model.double().eval()


def pcb(**options):
    torch.manual_seed(0)
    return trained(PCB(**{"backbone": "resnet18", "num_classes": 5, "width": 1 / 16, **options}))


def mgn(**options):
    torch.manual_seed(0)
    return trained(MGN(**{"backbone": "resnet18", "num_classes": 5, "width": 1 / 16, **options}))


NETS = {
    "pcb": pcb,
    "pcb, own length": functools.partial(pcb, normalize=False),
    "pcb, H": functools.partial(pcb, descriptor="H"),
    "pcb, H, own length": functools.partial(pcb, descriptor="H", normalize=False),
    "mgn": mgn,
    "mgn, old": functools.partial(mgn, reduction="relu", pooling="avg"),
}
every_net = pytest.mark.parametrize("name", NETS)


def stripes_by_hand(height, parts):
    """Every row that a stripe of exact ends i h / parts and (i + 1) h / parts touches."""
    return [
        [
            row
            for row in range(height)
            if (row + 1) * parts > i * height and row * parts < (i + 1) * height
        ]
        for i in range(parts)
    ]


def norm_by_hand(x, norm):
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


# Against their definitions


@pytest.mark.parametrize("size", [SIZE, UNEVEN])
@pytest.mark.parametrize("parts", [6, 4])
@pytest.mark.parametrize("descriptor", ["G", "H"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pcb_is_its_definition(size, parts, descriptor, normalize):
    model = pcb(parts=parts, descriptor=descriptor, normalize=normalize)
    x = images(2, size)
    features = model.features(x)
    assert features.shape == (2, 32, size[0] // 16, 2)
    convolution, norm = model.conv5[0], model.conv5[1]
    vectors = []
    for rows in stripes_by_hand(size[0] // 16, parts):
        vector = sum(features[:, :, row].sum(2) for row in rows) / (2 * len(rows))
        if descriptor == "H":
            vector = norm_by_hand(vector @ convolution.weight[:, :, 0, 0].T, norm).relu()
        if normalize:
            vector = vector / vector.square().sum(1, keepdim=True).sqrt()
        vectors.append(vector)
    # torchreid's order: all parts of the first channel, all parts of the second one, ...
    expected = [vector[:, c] for c in range(vectors[0].shape[1]) for vector in vectors]
    embedding = model(x)
    assert embedding.shape == (2, model.embedding_dim) == (2, parts * (32, 256)[descriptor == "H"])
    close(embedding, torch.stack(expected, dim=1))
    assert model.pool(features).shape == (2, model.channels)


def test_pcb_has_no_last_stride_and_the_backbone_of_the_baseline():
    model = pcb()
    baseline = ReIDNet("resnet18", width=1 / 16).double().eval()
    baseline.backbone.load_state_dict(model.backbone.state_dict())
    close(model.features(X), baseline.features(X))


def branch_by_hand(model, branch, name="resnet18", **options):
    """One branch of MGN as a ResNet by itself, filled key by key."""
    blocks = {"resnet18": 2, "resnet50": 6}[name]
    state = model.state_dict()
    starts = {f"layer3.{i}.": f"branches.{branch}.layer3.{i - 1}." for i in range(1, blocks)}
    starts |= {"layer3.0.": "backbone.layer3.", "layer4.": f"branches.{branch}.layer4."}
    whole = ResNetBackbone(name, width=1 / 16, **options).double().eval()
    filled = {}
    for key in whole.state_dict():
        start = next((start for start in starts if key.startswith(start)), None)
        source = f"backbone.{key}" if start is None else starts[start] + key.removeprefix(start)
        filled[key] = state[source]
    whole.load_state_dict(filled)
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, UNEVEN])
@pytest.mark.parametrize(("pooling", "reduction"), [("gem", "linear"), ("avg", "relu")])
def test_mgn_is_its_definition(size, pooling, reduction):
    model = mgn(pooling=pooling, reduction=reduction)
    x = images(2, size)
    maps = {branch: branch_by_hand(model, branch)(x) for branch in BRANCHES}
    close(model.features(x), torch.cat([maps[branch] for branch in BRANCHES], dim=1))
    crops = dict(maps)
    crops["b21"], crops["b22"] = maps["b2"].chunk(2, dim=2)
    crops["b31"], crops["b32"], crops["b33"] = maps["b3"].chunk(3, dim=2)
    expected = []
    for part in FAST_REID_ORDER:
        if pooling == "gem":
            p = model.pool[part].p.item()
            pooled = crops[part].clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)
        else:
            pooled = crops[part].mean((2, 3))
        neck = model.neck[part]
        vector = norm_by_hand(pooled @ neck[0].weight[:, :, 0, 0].T, neck[1])
        expected.append(norm_by_hand(vector.relu(), neck[3]) if reduction == "relu" else vector)
    if pooling == "gem":
        assert len({model.pool[part].p.item() for part in PARTS}) == 8
    close(model(x), torch.cat(expected, dim=1))
    assert model.embedding_dim == 2048
    assert model.pool(model.features(x)).shape == (2, model.channels)


@pytest.mark.slow
def test_mgn_of_bottlenecks_with_instance_norm_and_fast_reids_stem():
    options = {"ibn": True, "ceil_mode": True}
    model = mgn(backbone="resnet50", **options)
    for branch, found in zip(BRANCHES, model.features(X).chunk(3, dim=1), strict=True):
        close(found, branch_by_hand(model, branch, "resnet50", **options)(X))


def test_branches_start_equal_and_share_nothing(tmp_path):
    torch.manual_seed(3)
    baseline = ReIDNet("resnet18", width=1 / 16).eval()
    torch.save(baseline.backbone.state_dict(), tmp_path / "weights.pth")
    options = {"backbone": "resnet18", "width": 1 / 16, "weights": tmp_path / "weights.pth"}
    model = MGN(**options).eval()
    expected = baseline.features(X.float())
    close(model.features(X.float()), expected.repeat(1, 3, 1, 1))
    close(PCB(**options).eval().features(X.float()), expected)
    named = model.named_parameters(remove_duplicate=False)
    pointers = [parameter.data_ptr() for _, parameter in named]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize(("name", "frozen"), [("mgn", "1.bias"), ("mgn, old", "3.bias")])
def test_the_last_norm_of_each_part_has_no_bias_to_train(name, frozen):
    fixed = {key for key, p in NETS[name]().named_parameters() if not p.requires_grad}
    assert fixed == {f"neck.{part}.{frozen}" for part in PARTS}


@every_net
@pytest.mark.parametrize("mode", [True, False])
def test_forward_is_embed_of_features_in_both_modes(name, mode):
    model = NETS[name]().train(mode)
    features = model.features(X)
    close(model(X), model.embed(features))
    close(model(X), model.neck(model.pool(features)))


# Part by part


@pytest.mark.slow
@every_net
def test_the_embedding_is_its_parts(name):
    model = NETS[name]()
    embedding, count = model(X), len(model.part_names)
    assert count == (8 if name.startswith("mgn") else 6)
    for i in range(count):
        part = model.part(X, i)
        if name.startswith("mgn"):
            close(embedding[:, 256 * i : 256 * (i + 1)], part)
        elif model.normalize:
            close(embedding[:, i::6], part / part.norm(dim=1, keepdim=True))
        else:
            close(embedding[:, i::6], part)
    with pytest.raises(InputError, match=f"index: got {count}"):
        model.part(X, count)
    with pytest.raises(InputError, match="index: got -1"):
        model.part(X, -1)


@every_net
@pytest.mark.parametrize("height", [6, 7])
def test_a_part_is_made_of_its_rows_alone(name, height):
    """Of its branch's channels, too."""
    model = NETS[name]()
    features = model.features(images(1, (16 * height, 32)))
    before = model.vectors(model.pool(features))
    for i, rows in enumerate(model.pool.rows(height)):
        inside = torch.zeros_like(features, dtype=torch.bool)
        channels = slice(None)
        if name.startswith("mgn"):
            branch = BRANCHES.index(model.part_names[i][:2])
            channels = slice(32 * branch, 32 * (branch + 1))
        inside[:, channels, rows] = True
        noise = torch.rand(features.shape, generator=torch.Generator().manual_seed(i)).double()
        outer = model.vectors(model.pool(torch.where(inside, features, noise)))[:, i]
        inner = model.vectors(model.pool(torch.where(inside, noise, features)))[:, i]
        assert torch.equal(outer, before[:, i])
        assert not torch.allclose(inner, before[:, i])


def test_rows_of_both_kinds_of_stripes():
    """Adaptive pooling shares rows, chunks do not and leave less to the last one."""
    assert StripePool(3).rows(7) == [slice(0, 3), slice(2, 5), slice(4, 7)]
    assert StripePool(6).rows(4) == [
        slice(0, 1), slice(0, 2), slice(1, 2), slice(2, 3), slice(2, 4), slice(3, 4)
    ]  # fmt: skip
    rows = dict(zip(PARTS, mgn().pool.rows(7), strict=True))
    assert (rows["b1"], rows["b2"], rows["b3"]) == (slice(0, 7),) * 3
    assert (rows["b21"], rows["b22"]) == (slice(0, 4), slice(4, 7))
    assert (rows["b31"], rows["b32"], rows["b33"]) == (slice(0, 3), slice(3, 6), slice(6, 7))


@pytest.mark.parametrize("height", [6, 7, 5])
@pytest.mark.parametrize("kind", ["stripes", "avg", "gem"])
def test_masked_pooling_is_the_pooled_product(kind, height):
    pools = {"avg": GlobalAveragePool, "gem": GeneralizedMeanPool}
    pool = StripePool(6)
    if kind != "stripes":
        pool = PartPools({name: pools[kind]() for name in PARTS}).double()
        for i, exponent in enumerate(pool.parameters()):
            exponent.data.fill_(2 + i / 3)
    generator = torch.Generator().manual_seed(height)
    features = torch.rand(2, 12, height, 3, generator=generator, dtype=torch.float64) + 0.1
    masks = torch.rand(2, 4, height, 3, generator=generator, dtype=torch.float64) + 0.1
    found = pool.masked(features, masks)
    for k in range(4):
        close(found[:, k], pool(features * masks[:, k : k + 1]))
    assert found.shape == (2, 4, 72 if kind == "stripes" else 32)


# Classes


@every_net
def test_logits_are_the_mean_over_the_parts_classifiers(name):
    model = NETS[name]()
    assert list(model.classifier) == list(model.part_names)
    pooled = model.pool(model.features(X))
    read = model.reduced(pooled)
    layers = model.classifier.values()
    each = [
        read[:, i] @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        for i, layer in enumerate(layers)
    ]
    close(model.part_logits(pooled), torch.stack(each, dim=1))
    close(model.logits(X), sum(each) / len(each))
    assert all((layer.bias is None) == name.startswith("mgn") for layer in layers)
    if name in ("pcb", "pcb, H", "pcb, H, own length"):
        with pytest.raises(InputError, match=r"use model\.logits\(images\)"):
            model.classify(model(X))
    else:
        close(model.classify(model(X)), model.logits(X))


def test_what_the_classifiers_of_pcb_read_is_h():
    h = pcb(descriptor="H", normalize=False)
    g = pcb()
    g.load_state_dict(h.state_dict())
    close(g.reduced(g.pool(g.features(X))), h(X).view(3, 256, 6).transpose(1, 2))


def test_pcb_drops_half_of_what_its_classifiers_read_in_training_alone():
    model = pcb()
    given = []
    model.conv5.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    pooled = torch.ones(3, model.channels, dtype=torch.float64)
    model.part_logits(pooled)
    torch.manual_seed(0)
    model.train().part_logits(pooled)
    assert given[0].unique().tolist() == [1]
    assert given[1].unique().tolist() == [0, 2]
    assert given[1].mean().item() == pytest.approx(1, abs=0.1)


@every_net
def test_a_network_without_classes_says_so(name):
    model = NETS[name](num_classes=0)
    assert not [key for key in model.state_dict() if key.startswith("classifier")]
    pooled = model.pool(model.features(X))
    for ask, given in [
        (model.classify, model.neck(pooled)),
        (model.part_logits, pooled),
        (model.logits, X),
    ]:
        with pytest.raises(InputError, match="num_classes=0"):
            ask(given)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (PCB, {"parts": 0}, "parts: got 0"),
        (PCB, {"descriptor": "g"}, "descriptor: got 'g'"),
        (PCB, {"num_classes": -1}, "num_classes: got -1"),
        (PCB, {"backbone": "resnet20"}, "backbone: got 'resnet20'"),
        (MGN, {"width": 0}, "width: got 0"),
        (MGN, {"num_classes": -1}, "num_classes: got -1"),
        (MGN, {"pooling": "max"}, "pooling: got 'max'"),
        (MGN, {"reduction": "leaky"}, "reduction: got 'leaky'"),
    ],
)
def test_bad_settings(build, options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_maps_that_do_not_fall_into_three_stripes():
    with pytest.raises(InputError, match="maps of 4 rows, expected rows for 3 stripes"):
        mgn()(images(1, (64, 32)))


# Explained


def explanations(forward, layer):
    """Return the map of one image by every explainer that fits any embedding."""
    other = images(1, SIZE, seed=4)
    yield GradFAM(forward, layer).attribute(X[:1])
    yield ScoreFAM(forward, layer).attribute(X[:1])
    yield GradRAM(forward, layer).attribute(X[:1], other)
    yield CGRAM(forward, layer).attribute(X[:1], other)
    yield ActivationMean(forward, layer).attribute(X[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcb, own length", "mgn"])
@pytest.mark.parametrize("index", [None, 4])
def test_every_explainer_on_the_embedding_and_on_one_part(name, index):
    model = NETS[name]()
    forward = model if index is None else functools.partial(model.part, index=index)
    for maps in explanations(forward, model.map_layer):
        assert maps.shape == (1, 1, *SIZE)
        assert torch.isfinite(maps).all()
        assert maps.amax() > 0
    with pytest.raises(InputError, match="GradRAM"):
        RAM(forward, model.map_layer).attribute(X, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcb", "mgn"])
def test_class_based_explainers_take_the_logits(name):
    model = NETS[name]()
    classes = model.logits(X).argmax(1)
    found = GradCAM(model.logits, model.map_layer).attribute(X)
    close(found, GradCAM(model.logits, model.map_layer).attribute(X, target=classes))
    assert found.amax() > 0
    assert ScoreCAM(model.logits, model.map_layer).attribute(X[:1]).amax() > 0


@pytest.mark.parametrize("size", [SIZE, UNEVEN])
def test_grad_fam_of_a_pcb_part_in_closed_form(size):
    """ReLU(Σ_k g^k/‖g‖ A^k) / Z: the part's channels, wherever on the map they are active."""
    model, x = pcb(), images(3, size)
    features = model.features(x)
    for i, rows in enumerate(model.pool.rows(size[0] // 16)):
        part = functools.partial(model.part, index=i)
        found = GradFAM(part, model.map_layer).attribute(x, interpolate_mode=None)
        g = features[:, :, rows].mean((2, 3))
        weights = g / g.norm(dim=1, keepdim=True) / features[0, 0].numel()
        close(found[:, 0], torch.einsum("bk,bkij->bij", weights, features).relu())
        outside = [row for row in range(features.shape[2]) if row not in range(*rows.indices(99))]
        assert found[:, :, outside].amax() > 0


@pytest.mark.slow
@pytest.mark.parametrize("index", range(8))
def test_a_part_of_mgn_has_one_map_on_its_branch_and_on_all(index):
    model = mgn()
    part = functools.partial(model.part, index=index)
    own = next(layer for layer in model.branch_layers if model.part_names[index][:2] in layer)
    branch, whole = (GradFAM(part, layer).attribute(X) for layer in (own, model.map_layer))
    assert branch.amax() > 0
    close(branch, whole)


def test_grad_fam_has_nothing_to_explain_where_the_length_is_fixed():
    model, layer = pcb(), "backbone.layer4"
    own_length = pcb(normalize=False)
    own_length.load_state_dict(model.state_dict())
    close(model(X).norm(dim=1), torch.full((3,), 6**0.5, dtype=torch.float64))
    with pytest.raises(InputError, match="normalization"):
        GradFAM(model, layer).attribute(X)
    assert GradFAM(own_length, layer).attribute(X).amax() > 0


# Interpreted


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, UNEVEN])
@every_net
def test_the_interpreter_splits_what_a_part_network_embeds(name, size):
    """f^k = embed(F x A^k), through the user's seam alone."""
    torch.manual_seed(0)
    model, x = NETS[name](), images(2, size)
    interpreter = AMDInterpreter(model, ("hat", "bag", "upred"), spec=InputSpec(size))
    result = interpreter.network(x)
    features, shared = interpreter.network.target_features(x)
    maps = interpreter.network.head(interpreter.network.stages(shared))
    close(result.maps, maps)
    expected = [model.embed(features * maps[:, k : k + 1]) for k in range(3)]
    close(result.parts, torch.stack(expected, dim=1))
    close(result.embeddings, model(x))
    explanation = interpreter.explain(x[:1], x[1:])
    assert explanation.query_maps.shape == (1, 3, *size)
    close(explanation.contributions.sum(1), torch.ones(1, dtype=torch.float64))
    close(explanation.distance, (model(x[:1]) - model(x[1:])).norm(dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcb, own length", "mgn"])
def test_an_interpreter_of_a_part_network_learns(name):
    torch.manual_seed(0)
    model = NETS[name]().requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    interpreter = AMDInterpreter(model, ("hat", "bag", "upred"), spec=InputSpec(SIZE))
    labels = torch.tensor([[1, 2, 1], [2, 2, 1], [1, 1, 2]])
    optimizer = torch.optim.Adam(interpreter.network.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = sum(pair_terms(interpreter.network(X), labels, AMDLoss()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_normalised_target_cannot_be_split():
    """f^k is the same for A and for A / M, so that d̂ is about M d and not d."""
    for normalize, expected in ((True, 4.0), (False, 1.0)):
        model = pcb(normalize=normalize)
        features = model.features(X[:2])
        uniform = torch.full((2, 4, *features.shape[2:]), 1 / 4, dtype=torch.float64)
        parts = model.neck(model.pool.masked(features, uniform).flatten(0, 1)).view(2, 4, -1)
        target = model(X[:2])
        ratio = (parts[0] - parts[1]).norm(dim=1).sum() / (target[0] - target[1]).norm()
        assert ratio.item() == pytest.approx(expected)
