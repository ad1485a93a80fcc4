"""The AMD interpreter: it splits the distance of two images into attributes.

Chen et al., "Explainable person re-identification with attribute-guided metric distillation",
ICCV 2021.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reid_explain.amd.decomposition import (
    attribute_distances,
    attribute_features,
    contributions,
    nearest_prototype,
)
from reid_explain.amd.network import AttributeHead, AttributeNetwork
from reid_explain.capture import evaluation, find_layer
from reid_explain.checks import (
    at_least_float32,
    check_choice,
    check_embeddings,
    check_images,
    described,
)
from reid_explain.errors import InputError
from reid_explain.explainers.base import INTERPOLATE_MODES
from reid_explain.explainers.layout import upsample
from reid_explain.models.checkpoints import load_state_dict
from reid_explain.models.pretrained import load_pretrained

SHIPPED = Path(__file__).parent / "weights"
FINGERPRINT = "target_fingerprint"
FINGERPRINT_TOLERANCE = 1e-2
METADATA = "amd_interpreter"
SETTINGS = ("attributes", "stages", "hidden", "image_size")


class Decomposed(NamedTuple):
    """What the interpreter makes of B images with M attributes.

    ``embeddings`` f, (B, D), the target's own; ``parts`` f^k, (B, M, D), the attribute-guided
    features; ``maps`` A^k, (B, M, h, w), positive. All in at least float32.
    """

    embeddings: Tensor
    parts: Tensor
    maps: Tensor


class PairExplanation(NamedTuple):
    """Why the images of each of B pairs are as far apart as they are.

    ``query_maps`` and ``gallery_maps`` A^k, (B, M, H, W), positive; ``distances`` d^k and
    ``contributions`` r^k = d^k / d̂, (B, M); ``distance`` d of the target and ``reconstructed``
    d̂ = Σ d^k, (B,).
    """

    query_maps: Tensor
    gallery_maps: Tensor
    distances: Tensor
    contributions: Tensor
    distance: Tensor
    reconstructed: Tensor


class AMDInterpreter(nn.Module):
    """Explains the distance of two images as a sum over attributes: which, how much, where.

    Grafted on a trained target: the target's first stages are shared with it, its last ones are
    copied and trained with a new head that gives one map A^k per attribute. An untrained
    interpreter explains nothing; ``load``, ``from_pretrained`` or ``benchmarks/amd.py train``
    give a trained one.

    The target stays in eval mode, whatever ``train`` says.

    Args:
        target: The embedding model: ``features(x)`` gives its last map F, (B, C, h, w),
            ``embed(F)`` the embedding, (B, D), by which it retrieves with the Euclidean
            distance; a model that retrieves with the cosine normalises in ``embed``. With
            ``pool.masked`` and ``neck`` as the models of this package have them, all attributes
            are pooled at once.
        attributes: The M names.
        stages: Dotted names of the target's last stages, which run one after the other and give
            F: copied, and trained. Those of ``target.own_stages`` by default.
        hidden: Channels between the two convolutions of the head, C/8 by default.
        image_size: Height and width of the images that the target is for.

    Raises:
        InputError: A target without the seam, repeated or no attributes, or stages that it does
            not have.

    Example:
        >>> import torch
        >>> from reid_explain import AMDInterpreter
        >>> from reid_explain.models import build_model
        >>> target = build_model("resnet18", width=0.125).eval()
        >>> interpreter = AMDInterpreter(target, ("hat", "bag", "hair"), image_size=(64, 32))
        >>> query, gallery = torch.rand(2, 1, 3, 64, 32)
        >>> explanation = interpreter.attribute(query, gallery)
        >>> explanation.query_maps.shape, explanation.contributions.shape
        (torch.Size([1, 3, 64, 32]), torch.Size([1, 3]))
        >>> torch.allclose(explanation.contributions.sum(1), torch.ones(1))
        True
    """

    def __init__(
        self,
        target: nn.Module,
        attributes: Sequence[str],
        stages: Sequence[str] | None = None,
        hidden: int | None = None,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        self.target: Any = check_target(target).eval()
        self.attributes = check_attributes(attributes)
        self.stages = default_stages(target) if stages is None else tuple(stages)
        self.image_size = (image_size[0], image_size[1])
        if not self.stages:
            raise InputError("stages", "none", "dotted names of the target's last stages")
        self.fingerprint = self._fingerprint()
        like = next(target.parameters())
        features, shared = self.target_features(probe_images(self.image_size, like))
        if features.dim() != 4:
            raise InputError("target", f"features {described(features)}", "maps (B, C, h, w)")
        copies = [copy.deepcopy(stage_of(target, name)) for name in self.stages]
        check_chain(self.stages, copies, shared, features)
        head = AttributeHead(features.shape[1], len(self.attributes), hidden)
        self.hidden = head.conv1.out_channels
        self.network = AttributeNetwork(copies, head, self.fingerprint.shape[1]).to(like.device)
        self.network.requires_grad_(True)
        self.train(False)

    def train(self, mode: bool = True) -> "AMDInterpreter":
        """Set the mode of the copied stages and the head; the target stays in eval mode."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, images: Tensor) -> Decomposed:
        """Return embeddings, attribute-guided features and maps of images (B, 3, H, W).

        Gradients reach the copied stages and the head, and what of the target requires them
        after F: freeze the target to train.
        """
        features, shared = self.target_features(images)
        maps = self.network(shared)
        if maps.shape[2:] != features.shape[2:]:
            raise InputError(
                "stages", f"maps of {tuple(maps.shape[2:])}", f"of {tuple(features.shape[2:])}"
            )
        with torch.autocast(images.device.type, enabled=False):
            features, maps = at_least_float32(features), at_least_float32(maps)
            parts = attribute_features(self.target, features, maps)
            with torch.no_grad():
                embeddings = self.target.embed(features)
        return Decomposed(embeddings, parts, maps)

    def attribute(
        self,
        query: Tensor,
        gallery: Tensor | None = None,
        *,
        target: str | int | None = None,
        interpolate_mode: str | None = "bilinear",
    ) -> "PairExplanation | Tensor":
        """Explain the distance of each query image to its gallery image.

        Args:
            query: Images (B, 3, H, W), normalised as the target wants them.
            gallery: Images (B, 3, H, W), the other one of each pair.
            target: An attribute, by name or index: return its map of the query images alone.
            interpolate_mode: How maps reach the size of the images; None keeps them at h x w.

        Returns:
            A ``PairExplanation``; with ``target`` the map A^k of that attribute, (B, 1, H, W),
            which needs no gallery image.

        Raises:
            InputError: Images that are no finite batch, pairs that do not match up, no gallery
                images, or an attribute that the interpreter does not know.
        """
        check_choice("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        query = check_images("query", query)
        if target is not None:
            k = self.index(target)
            return resized(self.decompose(query).maps[:, k : k + 1], query, interpolate_mode)
        gallery = check_images("gallery", gallery)
        if len(gallery) != len(query):
            raise InputError("gallery", described(gallery), f"one image for each of {len(query)}")
        first, second = self.decompose(query), self.decompose(gallery)
        distances = attribute_distances(first.parts, second.parts)
        return PairExplanation(
            resized(first.maps, query, interpolate_mode),
            resized(second.maps, gallery, interpolate_mode),
            distances,
            contributions(distances),
            (first.embeddings - second.embeddings).norm(dim=1),
            distances.sum(1),
        )

    def predict(self, parts: Tensor) -> Tensor:
        """Return the attributes of images as 1 or 2, (B, M), from their ``parts`` (B, M, D).

        Each is the label whose mean f^k over the training images is the nearer one.

        Raises:
            InputError: The interpreter was not trained: it has no such means.
        """
        if self.network.prototypes.isnan().any():
            raise InputError("interpreter", "one without prototypes", "a trained one")
        return nearest_prototype(parts, self.network.prototypes)

    def index(self, attribute: str | int) -> int:
        """Return the place of an attribute, by name or index, among the M.

        Raises:
            InputError: There is no such attribute.
        """
        names = self.attributes
        if isinstance(attribute, str):
            check_choice("target", attribute, names)
            return names.index(attribute)
        check_choice("target", attribute, range(len(names)))
        return int(attribute)

    def target_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target's map F and the input of its first copied stage, without gradients.

        Raises:
            InputError: That stage does not run, runs more than once or takes no tensor.
        """
        first = stage_of(self.target, self.stages[0])
        with torch.no_grad(), inputs_of(first) as given:
            features: Tensor = self.target.features(images)
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise InputError(
                "stages",
                repr(self.stages[0]),
                "a stage that runs once, on a tensor, in target.features",
            )
        return features, given[0]

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the interpreter without its target as one safetensors file; ``load`` reads it.

        Args:
            path: Of the file.
            dtype: Of the stored matrices and kernels; vectors and prototypes stay as they are.
        """
        own = self.network.state_dict()
        state = {key: value.cpu().contiguous() for key, value in own.items()}
        for key, value in state.items():
            if value.dim() > 1 and value.is_floating_point() and key != "prototypes":
                state[key] = value.to(dtype)
        settings = {name: getattr(self, name) for name in SETTINGS}
        state[FINGERPRINT] = self.fingerprint.cpu()
        save_file(state, path, {METADATA: json.dumps(settings)})

    @classmethod
    def load(cls, path: str | Path, target: nn.Module) -> "AMDInterpreter":
        """Return the interpreter that ``save`` wrote, grafted on ``target``, in eval mode.

        Args:
            path: The file.
            target: The model that the interpreter was trained for.

        Raises:
            InputError: No such file, a file of another kind or a damaged one, or a target that
                does not give the embeddings of the one that the interpreter was trained for.
        """
        settings, state = read_interpreter(path)
        fingerprint = state.pop(FINGERPRINT)
        interpreter = cls(target, **settings)
        check_fingerprint(path, fingerprint, interpreter.fingerprint)
        load_state_dict(interpreter.network, state, str(path))
        return interpreter

    @classmethod
    def from_pretrained(cls, name: str = "synthetic") -> "AMDInterpreter":
        """Return an interpreter that is shipped with this package, with its target.

        Args:
            name: ``"synthetic"``, trained on ``SyntheticReID`` for ``load_pretrained`` of the
                same name.

        Raises:
            InputError: No such interpreter, or a file of it is damaged.
        """
        check_choice("name", name, sorted(path.stem for path in SHIPPED.glob("*.safetensors")))
        return cls.load(SHIPPED / f"{name}.safetensors", load_pretrained(name))

    def decompose(self, images: Tensor) -> Decomposed:
        """Return what ``forward`` returns, in eval mode and without gradients.

        Args:
            images: (B, 3, H, W), on any device.
        """
        like = next(self.parameters())
        images = images.to(like.device)
        with torch.inference_mode(False), torch.no_grad(), evaluation(self, self.network):
            decomposed: Decomposed = self(images)
        return decomposed

    def _fingerprint(self) -> Tensor:
        """Return the target's embeddings of two fixed images, (2, D)."""
        probes = probe_images(self.image_size, next(self.target.parameters()))
        with torch.no_grad():
            embeddings = self.target.embed(self.target.features(probes))
        return check_embeddings("target", embeddings, rows=len(probes)).float()


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Yield a list that fills with the first argument of each call of ``module``, copied."""
    given: list[Any] = []

    def enter(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        # The module may work in place.
        given.append(first.clone() if isinstance(first, Tensor) else first)

    handle = module.register_forward_pre_hook(enter)
    try:
        yield given
    finally:
        handle.remove()


def check_chain(
    names: Sequence[str], copies: Sequence[nn.Module], shared: Tensor, features: Tensor
) -> None:
    """Raise unless the copied stages, one after the other, make F of what the first one takes."""
    try:
        with torch.no_grad():
            made = nn.Sequential(*copies)(shared.clone())
    except (RuntimeError, TypeError):  # What a stage raises that is given another one's input.
        made = None
    if not isinstance(made, Tensor) or made.shape != features.shape or not close(made, features):
        raise InputError(
            "stages",
            ", ".join(names),
            "stages of target that run one after the other, nothing between them, and give "
            "target.features(x)",
        )


def close(found: Tensor, expected: Tensor) -> bool:
    """Tell whether two tensors differ by no more than rounding."""
    return bool((found - expected).norm() <= 1e-3 * expected.norm())


def stage_of(target: nn.Module, name: str) -> nn.Module:
    """Return the stage of ``target`` that has this dotted name."""
    try:
        return find_layer(target, name)
    except InputError as error:
        raise InputError("stages", *error.args[1:]) from error


def default_stages(target: nn.Module) -> tuple[str, ...]:
    """Return the stages that ``target`` says an interpreter should make its own."""
    try:
        return tuple(target.own_stages)  # type: ignore[arg-type]
    except (AttributeError, TypeError) as error:
        raise InputError(
            "stages", f"none for a {type(target).__name__}", "dotted names of its last stages"
        ) from error


def check_target(target: object) -> nn.Module:
    """Return ``target`` if it is a module with the seam, ``features`` and ``embed``."""
    seam = all(callable(getattr(target, name, None)) for name in ("features", "embed"))
    if not (isinstance(target, nn.Module) and seam):
        raise InputError(
            "target", described(target), "a module with features(x) and embed(features)"
        )
    return target


def check_attributes(attributes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the attributes if there are some and no two are the same."""
    names = tuple(attributes)
    if isinstance(attributes, str) or not names or len(set(names)) < len(names):
        raise InputError("attributes", repr(attributes), "different names, at least one")
    return names


def probe_images(image_size: tuple[int, int], like: Tensor) -> Tensor:
    """Return two fixed images (2, 3, H, W) with structure at every scale."""
    height, width = image_size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = torch.arange(6, dtype=torch.float64).view(2, 3, 1, 1)
    waves = [
        torch.sin((rows * (1 + phase) + columns * (2 + phase)) / scale + phase)
        for scale in (2.0, 8.0, 32.0, 128.0)
    ]
    return torch.stack(waves).mean(0).to(like)


def check_fingerprint(path: str | Path, saved: Tensor, found: Tensor) -> None:
    """Raise unless a target gives the embeddings that it gave when the interpreter was made."""
    if saved.shape != found.shape:
        came = f"embeddings of {found.shape[-1]}"
        raise InputError("target", came, f"embeddings of {saved.shape[-1]}, as for {path}")
    difference = float((found.cpu() - saved).norm() / saved.norm())
    if not difference <= FINGERPRINT_TOLERANCE:
        raise InputError(
            "target",
            f"embeddings {100 * difference:.1f} % away from those that {path} was trained for",
            "that model",
        )


def read_interpreter(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and the tensors of a file that ``save`` wrote."""
    expected = "a file of AMDInterpreter.save"
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {})[METADATA])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError("path", f"{path} ({error})", expected) from error
    if FINGERPRINT not in state or not isinstance(settings, dict) or {*settings} != {*SETTINGS}:
        raise InputError("path", f"{path} without settings or fingerprint", expected)
    return settings, state


def resized(maps: Tensor, images: Tensor, interpolate_mode: str | None) -> Tensor:
    """Return maps (B, M, h, w) at the size of ``images``, or as they are."""
    if interpolate_mode is None:
        return maps
    return upsample(maps, (images.shape[2], images.shape[3]), interpolate_mode)
