"""Networks of timm by name, with the seam ``features`` / ``embed`` (extra: timm)."""

import difflib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from reid_explain.capture import evaluation
from reid_explain.checks import check_at_least, check_choice, check_rows, describe
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.layouts import LAYOUTS, OWN, Layout
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.pooling import POOLINGS, GlobalAveragePool

PREFIX = "timm/"
"""What stands before timm's name where ``build_model`` takes one."""
LARGEST_OWN_MAP = 2
"""Trainable stages make maps of at most this many times the last map's height."""
SOURCES = {"hf-hub": "load_model_config_from_hf", "local-dir": "load_model_config_from_path"}
"""What stands before the colon of a name, and timm's function that reads ``config.json``."""
MIEW_ID = (
    (r"^(backbone\.)?(global_pool|pooling)\.p$", "pool.p"),
    (r"^backbone\.", "net."),
    (r"^bn\.", "reduction.norm."),
)
MIEW_ID_IMAGES = ((r"", InputSpec((440, 440))),)
FREE_SIZE = ("dynamic_img_size", "strict_img_size")


class TimmNet(EmbeddingNet):
    """A network of timm; its embedding is what timm's head makes before its classifier.

    ``features`` is timm's ``forward_features``, ``embed`` its ``forward_head(pre_logits=True)``;
    ``input_spec`` is timm's ``pretrained_cfg``, without its central crop.

    Maps: F comes out as (B, C, h, w), also where timm has the channels last. Where the head begins
    with the mean over the map (most convolutional networks), ``pool`` is that mean and ``neck``
    the rest of the head; otherwise ``pool`` is the whole head.

    Tokens: F is (B, T, C), ``pool`` is the whole head, and ``map_layer`` is the last block's first
    norm: after the last block the patches reach a class token no more, and have no gradient. A
    last layer norm that training has hardly changed gives all embeddings nearly one length, which
    leaves Grad-FAM little to explain.

    Args:
        name: one of ``timm.list_models()``, with a tag of its weights if need be; or, as timm has
            it, ``"hf-hub:OWNER/NAME"`` or ``"local-dir:FOLDER"``, where ``config.json`` names the
            network and its images.
        num_classes: training identities; 0 builds no classifier. It is not timm's classifier.
        pretrained: whether timm downloads its weights for ``name``, or reads those of the folder.
        pooling: ``"timm"``, its head; or in its place ``"avg"``, the mean over the map or the
            patches, ``"gem"``, the generalized mean over the map, or ``"token"``, the class token.
        reduced: width of a linear layer behind the pooling; 0 for none.
        neck: ``"batch_norm"`` behind these, as MiewID has it, or ``"none"``.
        options: of ``timm.create_model``, such as ``img_size=(H, W)`` of a network of fixed size.

    Raises:
        InputError: timm is not installed or has no such network, the network does not have such
            options, or it gives neither one map nor tokens.
    """

    card_settings = (
        *("num_classes", "img_size", "dynamic_img_size", "patch_size", "window_size"),
        *("embed_dim", "depth", "depths", "num_heads", "global_pool", "output_stride"),
        *("pooling", "reduced", "neck"),
    )

    def __init__(
        self,
        name: str,
        num_classes: int = 0,
        pretrained: bool = False,
        pooling: str = "timm",
        reduced: int = 0,
        neck: str = "none",
        **options: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_classes", num_classes, 0)
        check_at_least("reduced", reduced, 0)
        check_choice("neck", neck, ("batch_norm", "none"))
        self.name = name
        self.fixed_size = has_fixed_size(name) and not {*FREE_SIZE} & {*options}
        self.net = _create(name, pretrained, options)
        self.input_spec = _input_spec(self.net.pretrained_cfg, options.get("img_size"))
        self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        self.last_map = Permute([0, 3, 1, 2]) if self.channels_last else nn.Identity()
        with torch.no_grad(), evaluation(self, self):
            features = self._probe()
            self.gives_tokens = features.dim() == 3
            self.mean_first = False
            if pooling == "timm":
                check_rows("options: what the head makes of F", self._head(features))
                self.mean_first = not self.gives_tokens and _begins_with_mean(self._head, features)
                self.pool = GlobalAveragePool() if self.mean_first else self._head
            else:
                self.pool = self._pooling(pooling)
            pooled = self.pool(features)
            self.channels = pooled.shape[1]
            width = self._behind(pooled).shape[1]
        self.reduction = _reduction(width, reduced, neck)
        self.embedding_dim = reduced or width
        norms = [layer for layer, _ in self.named_modules() if layer.endswith(".norm1")]
        self.map_layer = norms[-1] if self.gives_tokens and norms else "last_map"
        if num_classes:
            self.classifier = nn.Linear(self.embedding_dim, num_classes)

    @property
    def trainable_stages(self) -> tuple[str, ...]:  # type: ignore[override]
        """The last modules that run one after the other and give F, at up to twice its height.

        ``InputError`` if F is tokens, or nothing that can be trained gives it alone.
        """
        got = f"a {type(self.net).__name__}{', which gives tokens' if self.gives_tokens else ''}"
        names: list[str] = []
        if not self.gives_tokens:
            features, calls = self._calls()
            wanted, height = features, LARGEST_OWN_MAP * features.shape[2]
            for name, given, made in reversed(calls):
                if made is wanted and (made is features or self._height(made) <= height):
                    names.insert(0, name)
                    wanted = given
        if not any(True for name in names for _ in self.get_submodule(name).parameters()):
            expected = "a network whose last map comes out of stages, one after the other"
            raise InputError("target", got, expected)
        return tuple(names)

    def features(self, x: Tensor) -> Tensor:
        """Return F, (B, C, h, w) or tokens (B, T, C), of images (B, 3, H, W).

        A network of fixed size raises ``InputError`` for images of another.
        """
        height, width = self.input_spec.size
        if self.fixed_size and x.shape[2:] != (height, width):
            expected = f"(B, 3, {height}, {width}), or a network built with img_size="
            raise InputError("inputs", describe(x), expected)
        out: Tensor = self.last_map(self.net.forward_features(x))
        return out

    def neck(self, pooled: Tensor) -> Tensor:
        """Return the embedding (B, D) of pooled maps or tokens (B, C)."""
        out: Tensor = self.reduction(self._behind(pooled))
        return out

    def resampled(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights whose position embeddings, of a square of patches, fit this network."""
        key, own = "net.pos_embed", getattr(self.net, "pos_embed", None)
        if key not in state or own is None or state[key].shape == own.shape:
            return dict(state)
        prefix = 0 if self.net.no_embed_class else self.net.num_prefix_tokens
        places = state[key].shape[1] - prefix
        if round(places**0.5) ** 2 != places:
            return dict(state)
        resample = timm_module().layers.resample_abs_pos_embed
        grid = list(self.net.patch_embed.grid_size)
        return {**state, key: resample(state[key], grid, num_prefix_tokens=prefix)}

    def _head(self, features: Tensor) -> Tensor:
        """Return what timm's head makes of F before its classifier, (B, D)."""
        if self.channels_last:
            features = features.permute(0, 2, 3, 1)
        out: Tensor = self.net.forward_head(features, pre_logits=True)
        return out

    def _behind(self, pooled: Tensor) -> Tensor:
        """Return what timm's head makes of means (B, C), as of maps of one place, if it is left."""
        return self._head(pooled[:, :, None, None]) if self.mean_first else pooled

    def _pooling(self, kind: str) -> nn.Module:
        """Return a pooling in the place of timm's head."""
        prefix = getattr(self.net, "num_prefix_tokens", 0)
        known: dict[str, Callable[[], nn.Module]] = {**POOLINGS}
        if self.gives_tokens:
            known = {"avg": partial(PatchMean, prefix)} | ({"token": ClassToken} if prefix else {})
        check_choice("pooling", kind, ("timm", *known))
        return known[kind]()

    def _probe(self) -> Tensor:
        """Return F of one gray image."""
        like = next(self.parameters())
        features = self.features(like.new_full((1, 3, *self.input_spec.size), 0.5))
        if not isinstance(features, Tensor) or features.dim() not in (3, 4):
            got = f"a {type(self.net).__name__}, which gives {describe(features)}"
            raise InputError("name", got, "a network that gives one map or tokens")
        return features

    def _height(self, made: Any) -> float:
        """Return h of a module's output; an output that is no map is infinitely high."""
        if not isinstance(made, Tensor) or made.dim() != 4:
            return float("inf")
        return made.shape[1 if self.channels_last else 2]

    def _calls(self) -> tuple[Tensor, list[tuple[str, Any, Any]]]:
        """Return F of a gray image and (name, input, output) of each call of a stage for it."""
        calls: list[tuple[str, Any, Any]] = []

        def note(name: str) -> Callable[..., None]:
            return lambda _, given, made: calls.append((name, given[0] if given else None, made))

        with torch.no_grad(), evaluation(self, self), ExitStack() as hooks:
            for name, stage in [*_stages("net", self.net), ("last_map", self.last_map)]:
                hooks.callback(stage.register_forward_hook(note(name)).remove)
            return self._probe(), calls


def has_fixed_size(name: str) -> bool:
    """Tell whether a network of timm takes images of one size, which ``img_size`` sets."""
    return bool(timm_config(name).get("fixed_input_size"))


def timm_layout(name: str, names: Iterable[str], *, classes: bool = True) -> Layout:
    """Return how a file of a network of timm names its weights, ``classes`` or not among them.

    They may also be MiewID's: a network of timm, a generalized mean and a batch norm.
    """
    names = tuple(names)
    if any(key.startswith("net.") for key in names):
        return LAYOUTS[OWN]
    classifier = timm_config(name).get("classifier")
    own = rf"^(backbone\.)?{re.escape(classifier)}\." if isinstance(classifier, str) else r"^$"
    if any(key.startswith("backbone.") for key in names):
        return Layout(renames=MIEW_ID, extras=(own, r"^(final|fc)\."), inputs=MIEW_ID_IMAGES)
    if classes:
        return Layout(renames=((own, "classifier."), (r"^", "net.")))
    return Layout(renames=((r"^", "net."),), extras=(own,))


def timm_settings(names: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of a ``TimmNet`` that names of ours show."""
    told = {
        "pool.p": {"pooling": "gem"},
        "reduction.norm.weight": {"neck": "batch_norm"},
    }
    return {key: value for name in names for key, value in told.get(name, {}).items()}


def timm_config(name: str) -> dict[str, Any]:
    """Return timm's configuration of a network's weights, from a hub or folder if the name says so.

    ``InputError`` if there is none.
    """
    timm, (source, colon, place) = timm_module(), name.partition(":")
    if not colon:
        check_timm_name(name)
        return dict(timm.get_pretrained_cfg(name).to_dict())
    check_timm_name(name)
    try:
        config, architecture, _ = getattr(timm.models._hub, SOURCES[source])(place)
    except Exception as error:  # What a network or a garbled file raises is anybody's guess.
        expected = "a repository or folder with timm's config.json"
        raise InputError("name", f"{name!r} ({error})", expected) from error
    return {**timm_config(architecture), **config}


def check_timm_name(name: str) -> None:
    """Raise unless ``name`` is a network of timm, with a tag of its weights or without.

    What comes from a hub or a folder is not looked up.
    """
    if ":" in name:
        source = name.partition(":")[0]
        check_choice("name: what stands before the colon", source, tuple(SOURCES))
        return
    if not timm_module().is_model(name):
        close = difflib.get_close_matches(name, timm_module().list_models(), n=5)
        such = f", such as {', '.join(map(repr, close))}" if close else ""
        raise InputError("name", repr(name), f"one of timm.list_models(){such}")


def timm_module() -> ModuleType:
    """Return timm; ``InputError`` without it."""
    try:
        import timm
    except ImportError as error:
        got = "a network of timm, which is not here"
        raise InputError("name", got, "pip install timm") from error
    return timm


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    """Return a network of timm without classifier."""
    try:
        return timm_module().create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        if ":" not in name:
            raise
        expected = "a repository or folder with timm's config.json, and weights if pretrained"
        raise InputError("name", f"{name!r} ({error})", expected) from error
    except TypeError as error:
        raise InputError("options", f"{options} ({error})", f"options of {name}") from error


class ClassToken(nn.Module):
    """The first of tokens (B, T, C): (B, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool ``tokens``."""
        return tokens[:, 0]


class PatchMean(nn.Module):
    """The mean of tokens (B, T, C) behind the first ``prefix``: (B, C)."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool ``tokens``."""
        return tokens[:, self.prefix :].mean(dim=1)


def _reduction(width: int, reduced: int, neck: str) -> nn.Sequential:
    """Return what stands between the pooled vector (B, width) and the embedding."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if reduced:
        layers["linear"] = nn.Linear(width, reduced)
    if neck == "batch_norm":
        layers["norm"] = nn.BatchNorm1d(reduced or width)
    return nn.Sequential(layers)


def _input_spec(config: Mapping[str, Any], img_size: Any) -> InputSpec:
    """Return the images of timm's configuration, at a size of one's own if there is one."""
    size = config["input_size"][1:] if img_size is None else img_size
    return InputSpec(
        (size, size) if isinstance(size, int) else size,
        config["mean"],
        config["std"],
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )


def _begins_with_mean(head: Callable[[Tensor], Tensor], features: Tensor) -> bool:
    """Tell whether a head makes of maps like F, (1, C, h, w), what it makes of their means."""
    noise = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    means = noise.mean(dim=(2, 3), keepdim=True).expand_as(noise)
    return torch.allclose(head(noise), head(means), rtol=1e-3, atol=1e-5)


def _stages(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children of a module with their dotted names, those of a sequence in its place."""
    for child_name, child in module.named_children():
        dotted = f"{name}.{child_name}"
        if isinstance(child, nn.Sequential):
            yield from _stages(dotted, child)
        else:
            yield dotted, child
