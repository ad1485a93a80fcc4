"""How other projects name the weights of the networks that this package has too.

A layout is data: regular expressions from the project's names to ours, and what its networks
have that weights do not show. That of a network with a module of its own is there; a plug-in
brings one by the entry point ``reid_explain.layouts``.

- ``"torchreid"`` (Zhou and Xiang): OSNet, -IBN and -AIN, MobileNetV2, ResNets with the last stride
  and no neck, resnet50_fc512 without that stride, and PCB.
- ``"reid-strong-baseline"`` (Luo et al., 2019): its plain ResNet has *no ReLU* after the first
  batch norm (its issues 4 and 117). With ``NECK_FEAT: before`` its embedding is ``pool(F)``.
- ``"fast-reid"`` (He et al., 2020): its first pooling rounds up, except before version 1.0
  (``heads.bnneck``). A generalized mean with a fixed exponent, or a maximum, leaves no trace in
  the weights: it loads as the mean. So do SBS and AGW, whose images are 384x128 and 256x128.
- ``"torchvision"``: ResNets, and timm's of the same names, with the classifier of ImageNet.
- ``"reid_explain"``: the names of this package, and any name that no other layout knows.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.registry import Registry

T = TypeVar("T")
Settings = Mapping[str, Any]
OWN = "reid_explain"
USUAL: Settings = {"last_stride": 1, "ceil_mode": False, "stem_relu": True, "padding": "zeros"}
TALL = InputSpec((384, 128))
FAST = InputSpec(
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), scale=255, interpolation="bicubic"
)
MGN_BACKBONE = ((0, "conv1"), (1, "bn1"), (4, "layer1"), (5, "layer2"), (6, "layer3"))
"""Places in fast-reid's sequence of layers, before MGN branches."""
STREAMS = ((1, "conv2b"), (2, "conv2c"), (3, "conv2d"))
"""Number of the streams of an OSNet-AIN in torchreid's files, and their names here."""


class Layout(NamedTuple):
    """The names of one project; every pattern is a regular expression, searched.

    Attributes:
        signature: a name that only files of this project have.
        renames: pairs of a pattern and its replacement; the first that is found renames.
        extras: entries of the file that are no weights of the network.
        zeros: our entries that the project's networks lack, which is as if they were 0.
        settings: pairs of a name and the arguments of ``build_model`` that weights do not show;
            those of the first name that the file has are the project's.
        inputs: pairs of a name and the images that the networks take, likewise; a network with a
            ``token_grid`` has a size of its own.
        architecture: of weights with our names, the arguments of ``build_model`` that they show;
            None where ``architecture_of`` knows without it.
    """

    signature: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    extras: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    settings: tuple[tuple[str, Settings], ...] = ()
    inputs: tuple[tuple[str, InputSpec], ...] = ()
    architecture: Callable[[Mapping[str, Tensor]], Settings] | None = None


LAYOUTS: Registry[Layout] = Registry("reid_explain.layouts", package="reid_explain.models")
"""By the name of the project."""
_LAYOUTS = {
    "fast-reid": Layout(
        signature=r"^heads\.|^b1_head\.",
        renames=(
            (r"^backbone\.NL_(\d)\.(\d+)\.", r"backbone.layer\1.non_local_\2."),
            (r"^heads\.pool_layer\.(0\.)?p$", "pool.p"),
            (r"^heads\.(bnneck|bottleneck\.0)\.", "neck."),
            (r"^heads\.(classifier\.)?weight$", "classifier.weight"),
            *((rf"^backbone\.{i}\.", f"backbone.{name}.") for i, name in MGN_BACKBONE),
            (r"^(b[123])\.0\.", r"branches.\1.layer3."),
            (r"^(b[123])\.1\.", r"branches.\1.layer4."),
            (r"^(b\d+)_head\.pool_layer\.(0\.)?p$", r"pool.\1.p"),
            (r"^(b\d+)_head\.bottleneck\.", r"neck.\1."),
            (r"^(b\d+)_head\.bnneck\.", r"neck.\1.3."),
            (r"^(b\d+)_head\.(classifier\.)?weight$", r"classifier.\1.weight"),
        ),
        extras=(r"^pixel_(mean|std)$",),
        zeros=("classifier.bias",),
        settings=((r"heads?\.bnneck\.", USUAL), (r"", {**USUAL, "ceil_mode": True})),
        inputs=((r"\.NL_\d\.|^b1_head\.", FAST.replace(size=(384, 128))), (r"", FAST)),
    ),
    "reid-strong-baseline": Layout(
        signature=r"^base\.(conv1|layer1)\.",
        renames=((r"^base\.", "backbone."), (r"^bottleneck\.", "neck.")),
        # Its ResNet with IBN keeps the classifier of ImageNet, unused.
        extras=(r"^base\.fc\.",),
        settings=((r"\.IN\.", USUAL), (r"", {**USUAL, "stem_relu": False})),
        inputs=((r"", InputSpec()),),
    ),
    "torchvision": Layout(
        signature=r"^fc\.weight$",
        renames=((r"^fc\.", "classifier."), (r"^(conv1|bn1|layer[1-4])\.", r"backbone.\1.")),
        settings=((r"", {**USUAL, "last_stride": 2}),),
        inputs=((r"", InputSpec((224, 224))),),
    ),
    "torchreid": Layout(
        signature=r"^(layer1\.0|conv1)\.conv",
        renames=(
            (r"^(conv1\.weight$|bn1\.|layer[1-4]\.)", r"backbone.\1"),
            (r"^conv5\.layers\.", "conv5."),
            (r"^fc\.", "neck."),
            # OSNet-AIN's blocks have other names than OSNet's.
            (r"^(conv[2-4]\.\d\.)conv2\.0\.layers\.0\.", r"\1conv2a."),
            *((rf"^(conv[2-4]\.\d\.)conv2\.{i}\.layers\.", rf"\1{n}.") for i, n in STREAMS),
            (r"^pool([23])\.", r"conv\1.2."),
        ),
        settings=((r"^fc\.0\.", USUAL), (r"", {**USUAL, "last_stride": 2})),
        inputs=((r"^conv5\.layers\.", TALL), (r"", InputSpec())),
    ),
    OWN: Layout(settings=((r"", {"stem_relu": True}),)),
}
for _name, _layout in _LAYOUTS.items():
    LAYOUTS.register(_layout, name=_name)


def find_layout(names: Iterable[str], layout: str | None = None) -> str:
    """Return the layout whose signature one of ``names`` has, or ``layout`` if it is given.

    Names that have no signature are those of this package.
    """
    if layout is not None:
        check_choice("layout", layout, tuple(LAYOUTS))
        return layout
    signatures = ((value.signature, key) for key, value in LAYOUTS.items() if value.signature)
    return first_of(signatures, names) or OWN


def sources_of(names: Iterable[str], layout: Layout) -> dict[str, str]:
    """Return a file's names by ours, without the extras; raise if two entries are the same one."""
    sources: dict[str, str] = {}
    for key in names:
        if any(re.search(extra, key) for extra in layout.extras):
            continue
        renamed = (re.subn(pattern, new, key) for pattern, new in layout.renames)
        ours = next((name for name, found in renamed if found), key)
        if ours in sources:
            raise InputError("path", f"{sources[ours]} and {key}", f"one of them, as {ours}")
        sources[ours] = key
    return sources


def first_of(pairs: Iterable[tuple[str, T]], names: Iterable[str]) -> T | None:
    """Return the value of the first pattern that one of ``names`` has."""
    names = tuple(names)
    return next((value for pattern, value in pairs if _any_has(names, pattern)), None)


def _any_has(names: Iterable[str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)
