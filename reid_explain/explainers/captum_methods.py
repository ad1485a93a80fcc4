"""Captum's attributions by name, as explainers: ``captum:Occlusion(strides=(3, 8, 8))``."""

import ast
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import captum.attr
import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor, nn

from reid_explain.capture import ForwardFunc, capture, model_of, unwrapped
from reid_explain.errors import InputError
from reid_explain.explainers.base import Explainer, Images, logged
from reid_explain.fills import blurred, content_generator
from reid_explain.memory_format import images_per_forward
from reid_explain.objectives import Cosine, Logit, Objective, Projection

PREFIX = "captum:"
CELLS = 4
"""Cells of features along the shorter side of the image; windows are as wide."""
NEEDS = ((), ("references",), ("target",))
FAILURES = (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError)
"""What Captum raises of models and options that an attribution does not take."""
GIVEN = ("self", "inputs", "target", "additional_forward_args", "forward_func", "model", "layer")
_ATTRIBUTIONS: Mapping[str, Any] = {
    name: kind
    for name, kind in vars(captum.attr).items()
    if inspect.isclass(kind)
    and issubclass(kind, captum.attr.Attribution)
    and not re.search("Attribution$|^Neuron|LimeBase|Permutation|^ShapleyValues$", name)
}
"""Those of one image's whole result, by name.

Permutations shuffle a batch, and exact Shapley values take every order of the features.
"""
_LOCK = threading.Lock()
"""Captum's hooks see the passes of every thread, and its noise is the global one."""


class Spec(NamedTuple):
    """An attribution of Captum: its name, its options, and the one that it smooths, if any."""

    name: str
    options: Mapping[str, Any]
    inner: "Spec | None" = None

    @property
    def kind(self) -> Any:
        """Its class."""
        return _ATTRIBUTIONS[self.name]

    @property
    def constructor(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its constructor."""
        return inspect.signature(self.kind.__init__).parameters

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of its method ``attribute``."""
        return inspect.signature(self.kind.attribute).parameters

    def gradients(self) -> bool:
        """Tell whether it follows gradients."""
        of = self.inner.kind if self.inner else self.kind
        return issubclass(of, captum.attr.GradientAttribution)

    def looks_inside(self) -> bool:
        """Tell whether it wants the model as a module, whose layers it changes for a time."""
        return "model" in (self.inner or self).constructor


def captum_explainer(name: str) -> type["CaptumExplainer"]:
    """Return the explainer class of ``captum:NAME`` or ``captum:NAME(option=literal, ...)``.

    Args:
        name: Such as ``captum:Occlusion``, ``captum:IntegratedGradients(n_steps=20)`` or
            ``captum:NoiseTunnel(Saliency, nt_samples=8)``. Options are those of the class and of
            its ``attribute``, as Python literals, and those of :class:`CaptumExplainer`.

    Raises:
        InputError: Captum has no such attribution of one image, or it has no such option.
    """
    try:
        spec = _parsed(name, ast.parse(name.removeprefix(PREFIX), mode="eval").body)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        expected = "captum:NAME or captum:NAME(option=literal, ...)"
        raise InputError("methods", name, expected) from error
    options = dict(spec.options)
    needs = options.pop("needs", ())
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    if needs not in NEEDS:
        raise InputError("needs", repr(needs), "'references' or 'target'")
    facts = {
        "spec": spec._replace(options=options),
        "needs": needs,
        "explains": "logits" if "target" in needs else "embedding",
        "cost": "pass" if spec.gradients() else "masks",
        "looks_inside": spec.looks_inside(),
        "__doc__": f"{name}, as :class:`CaptumExplainer` has it.",
    }
    return type(name, (CaptumExplainer,), facts)


def _parsed(name: str, node: ast.expr) -> Spec:
    """Return the attribution of a name or a call."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    kind = call.func.id if isinstance(call.func, ast.Name) else ""
    if kind not in _ATTRIBUTIONS:
        raise InputError("methods", name, f"captum:NAME of {', '.join(sorted(_ATTRIBUTIONS))}")
    inner = [_parsed(name, each) for each in call.args]
    options = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    spec = Spec(kind, options)
    if "attribution_method" in spec.constructor:
        spec = spec._replace(inner=inner.pop(0) if inner else Spec("Saliency", {}))
    known = {*spec.constructor, *spec.parameters, "needs", "cells"} - {*GIVEN, "kwargs"}
    if unknown := [*map(str, inner), *(options.keys() - known)]:
        expected = f"options of {kind}: {', '.join(sorted(known))}"
        raise InputError("methods", f"{name} with {', '.join(unknown)}", expected)
    return spec


class CaptumExplainer(Explainer):
    """An attribution of Captum to an objective; :func:`captum_explainer` makes its classes.

    Attributions are added up over the channels, of the image or of the layer: a map keeps the
    sign, and the sum, of what Captum gives. Noise depends on the image's values alone.

    Where Captum wants an argument, or a default of its own is for other data:

    - ``baselines`` is 0, the mean color of normalized images; DeepLiftShap's are 0 and the blur.
    - Ablation, Lime and Shapley values have the cells of a grid as features, ``cells`` (4) along
      the shorter side; Lime and KernelShap draw 500 samples, and Lime fits a ridge, as in the code
      of its paper.
    - Occlusion has windows as wide as a cell, moved by half of that.
    - LayerFeatureAblation takes away one place of the layer at a time.
    - NoiseTunnel has 20 samples and a noise of 15 % of the image's range, as SmoothGrad's paper.

    ``needs="references"`` explains the similarity to a reference, ``needs="target"`` a class, in
    the place of the embedding.

    Raises:
        InputError: As every :class:`.Explainer`; also where Captum refuses the model.
    """

    on_request = True
    spec: ClassVar[Spec]

    def __init__(
        self,
        forward_func: ForwardFunc,
        layer: nn.Module | str,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(unwrapped(forward_func), layer, reshape_transform)

    @logged
    def attribute(
        self,
        inputs: Images,
        objective: Objective | None = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        references: Any = None,
        target: Any = None,
    ) -> Images:
        """Explain the objective of each image.

        Args:
            inputs: Images (B, C, H, W), as the model takes them; one after the other.
            objective: What is explained, from :mod:`reid_explain.objectives`. None for the
                projection on the references, or the class, that a class of ``needs`` is given,
                or else on the image's own embedding; methods that mask have the cosine.
            additional_forward_args: As in :meth:`.GradientWeighting.attribute`.
            interpolate_mode: As there; a map of pixels has the size of the images anyway.
            references: Images or embeddings, as in :class:`.Projection`.
            target: A class, or one for each image; None for that of the largest logit.

        Returns:
            Maps (B, 1, H, W), signed where the attribution is.

        Raises:
            InputError: If an argument does not fit, or Captum refuses the model.
        """
        similarity = Projection if self.spec.gradients() else Cosine
        default = Logit(target) if "target" in self.needs else similarity(references)
        return self._explain(
            inputs, objective or default, additional_forward_args, interpolate_mode
        )

    def _map(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        with _LOCK:
            return self._maps(images, args, objective)

    def _maps(self, images: Tensor, args: tuple[Any, ...], objective: Objective) -> Tensor:
        batch = self._batch(images, args)
        score = objective.prepare(batch)
        own = objective.check(batch.embed(images, None))

        def one(row: int) -> Tensor:
            def scores(shown: Tensor) -> Tensor:
                rows = torch.full((len(shown),), row, device=images.device)
                result = self._results(shown.to(images), rows, args, len(images))
                return score(result, own[rows], rows)

            return self._attributed(images[row : row + 1], scores)

        return torch.cat([one(row) for row in range(len(images))])

    def _attributed(self, image: Tensor, scores: Any) -> Tensor:
        """Return the map (1, 1, h, w) of an image (1, C, H, W), whose scores (n,) are these."""
        function = Function(scores, model_of(self.forward_func))
        image = image.clone().requires_grad_(self.spec.gradients())
        try:
            with self._setting(image):
                found = self._built(self.spec, function).attribute(
                    image, **self._options(self.spec, image, function)
                )
        except FAILURES as error:
            if isinstance(error, InputError | torch.OutOfMemoryError):
                raise
            came = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            expected = f"a model and options that Captum's {self.spec.name} takes"
            raise InputError(type(self).__name__, came, expected) from error
        found = found[0] if isinstance(found, tuple) else found
        whole = found.shape[2:] == image.shape[2:]
        return (found if whole else self._as_map(found, image)).sum(dim=1, keepdim=True).detach()

    @contextmanager
    def _setting(self, image: Tensor) -> Iterator[None]:
        """Run Captum with gradients where it wants them, and noise of the image's own."""
        seed = content_generator(image[0], 0).initial_seed()
        devices = [image.device] if image.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            torch.set_grad_enabled(self.spec.gradients()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(seed)
            state = np.random.get_state()  # noqa: NPY002
            np.random.seed(seed)  # noqa: NPY002
            try:
                yield
            finally:
                np.random.set_state(state)  # noqa: NPY002

    def _built(self, spec: Spec, function: "Function") -> Any:
        """Return Captum's attribution."""
        settings = {key: value for key, value in spec.options.items() if key in spec.constructor}
        if spec.inner:
            return spec.kind(self._built(spec.inner, function), **settings)
        if "model" in spec.constructor and function.model is None:
            came = "a function that hides its model"
            expected = f"the model or a method of it, whose layers {spec.name} changes"
            raise InputError("forward_func", came, expected)
        place = (self.layer,) if "layer" in spec.constructor else ()
        if spec.name == "Lime":
            settings = {"interpretable_model": SkLearnRidge(alpha=1.0), **settings}
        return spec.kind(function, *place, **settings)

    def _options(self, spec: Spec, image: Tensor, function: "Function") -> dict[str, Any]:
        """Return the options of the method ``attribute``."""
        per_forward = images_per_forward(image)
        cells = spec.options.get("cells", CELLS)
        window = max(1, min(image.shape[2:]) // cells)
        of_lime = issubclass(spec.kind, captum.attr.Lime)
        defaults: dict[str, Any] = {
            "baselines": lambda: torch.zeros_like(image),
            "internal_batch_size": lambda: per_forward,
            "perturbations_per_eval": lambda: per_forward,
            "feature_mask": lambda: grid_of_cells(image, cells),
            "layer_mask": lambda: places(capture(function, self.layer, image, ())[0]),
            "sliding_window_shapes": lambda: (image.shape[1], window, window),
            "strides": lambda: (image.shape[1], max(1, window // 2), max(1, window // 2)),
            "nt_samples": lambda: 20,
            "nt_samples_batch_size": lambda: per_forward,
            "stdevs": lambda: 0.15 * float(image.max() - image.min()) if spec.inner else 0.0,
            **({"n_samples": lambda: 500} if of_lime else {}),
        }
        if issubclass(spec.kind, captum.attr.DeepLiftShap):
            defaults["baselines"] = lambda: torch.cat([0 * image, blurred(image)]).detach()
        taken = {key: value for key, value in spec.options.items() if key in spec.parameters}
        inner = self._options(spec.inner, image, function) if spec.inner else {}
        own = {
            key: make() for key, make in defaults.items() if key in {*spec.parameters} - {*taken}
        }
        return inner | own | taken


class Function(nn.Module):
    """A function as the module that Captum wants, over the model whose layers it changes."""

    def __init__(self, function: Any, model: nn.Module | None) -> None:
        super().__init__()
        self.function = function
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Return the function's values."""
        return self.function(images)


def grid_of_cells(images: Tensor, cells: int) -> Tensor:
    """Return the number of the cell that each pixel of images (B, C, H, W) is in, (1, 1, H, W).

    There are ``cells`` along the shorter side, and they are about as high as wide.
    """
    sides = images.shape[2:]
    y, x = (
        torch.arange(side, device=images.device) * (cells * side // min(sides)) // side
        for side in sides
    )
    return (y[:, None] * (x.max() + 1) + x)[None, None]


def places(activation: Tensor) -> Tensor:
    """Return the number of the place of each value of a map (1, C, h, w) or of tokens (1, T, C)."""
    of_one = activation[:, :1] if activation.dim() == 4 else activation[:, :, :1]
    numbers = torch.arange(of_one.numel(), device=activation.device).view(of_one.shape)
    return numbers.expand(activation.shape)
