"""Explainers as the benchmarks use them: by name, on a target, whatever they need."""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from reid_explain.benchmark.target import Target
from reid_explain.checks import describe
from reid_explain.errors import InputError
from reid_explain.explainers.captum_methods import PREFIX, captum_explainer
from reid_explain.explainers.registry import EXPLAINERS

Explainable = str | Callable[..., Any]
"""A registered name, also with settings, ``"NAME(setting=literal)"``; ``"module:Class"``,
``"captum:NAME"``, an explainer class or a partial of one, or a function: see :func:`explainer_of`.
"""
NO_SETTINGS = {"forward_func", "layer", "model", "target", "settings"}
"""What a target gives an explainer."""
Explain = Callable[..., Any]
"""Of a subject and options of ``attribute``, to maps (B, 1, h, w)."""


class Subject(NamedTuple):
    """Images (B, 3, H, W), the references of methods of pairs, the classes (B,) of class-based."""

    images: Tensor
    references: Tensor | None = None
    target: Tensor | None = None


class FullImage:
    """The control that keeps the whole image: it has no map."""

    is_control = True

    def __init__(self, forward_func: Any, layer: Any) -> None:
        pass

    def attribute(self, inputs: Tensor) -> None:
        """Return no map."""


@dataclass(frozen=True)
class Method:
    """An explainer class, or a partial of one with settings, under the name of a table's row.

    A class says what it is, as ``Explainer`` has it: ``explains``, ``needs``, ``cost``,
    ``is_control``. One that does not explains the embedding, in one pass, and needs what its
    ``attribute`` has of "references" and "target". Maps may have any size.
    """

    name: str
    explainer: Callable[..., Any]

    def fact(self, name: str, default: Any = None) -> Any:
        """Return what the class says of itself."""
        return getattr(getattr(self.explainer, "func", self.explainer), name, default)

    def takes(self, option: str) -> bool:
        """Tell whether ``attribute`` has an option."""
        return option in inspect.signature(self.fact("attribute", id)).parameters

    @property
    def explains(self) -> str:
        """Which function of a target it explains."""
        return str(self.fact("explains", "embedding"))

    @property
    def needs(self) -> tuple[str, ...]:
        """Keywords that ``attribute`` needs beside the images."""
        implied = (name for name in ("references", "target") if self.takes(name))
        return tuple(self.fact("needs", implied))

    @property
    def of_places(self) -> bool:
        """Whether it explains pairs of places."""
        return self.fact("_pairs") is not None

    @property
    def by_default(self) -> bool:
        """Whether it runs unnamed: not where it takes minutes, or says ``on_request``."""
        return self.fact("cost") not in ("masks", "descent") and not self.fact("on_request")

    def on(self, target: Target, **settings: Any) -> Explain:
        """Return the function that explains subjects to a target.

        Raises:
            InputError: If the explainer does not suit the target.
        """
        attribute, needs = self.build(target, **settings).attribute, self.needs
        resizes = "interpolate_mode" in inspect.signature(attribute).parameters

        def explain(subject: Subject, **options: Any) -> Any:
            if not resizes:
                options.pop("interpolate_mode", None)
            given = {name: getattr(subject, name) for name in needs} | options
            for name, value in given.items():
                given[name] = value.to(target.device) if isinstance(value, Tensor) else value
            found = attribute(subject.images.to(target.device), **given)
            maps, *more = found if isinstance(found, tuple) else (found,)
            if isinstance(maps, Tensor) and maps.dim() == 4 and maps.shape[1] == 1:
                maps = maps.detach().cpu()
            elif maps is not None:
                raise InputError(f"map of {self.name}", describe(maps), "maps (B, 1, h, w)")
            return (maps, *more) if more else maps

        return explain

    def tried_on(self, target: Target, subject: Subject) -> Explain:
        """Return the same; a method of one pass has explained a subject.

        Raises:
            InputError: If the explainer does not suit the target.
        """
        explain = self.on(target)
        if self.fact("cost", "pass") == "pass":
            explain(subject)
        return explain

    def build(self, target: Target, **settings: Any) -> Any:
        """Return the explainer of a target.

        Raises:
            InputError: If it does not suit the target.
        """
        if not target.has_classes and (self.explains == "logits" or "target" in self.needs):
            came = f"{self.name} of a model without a classifier"
            raise InputError("methods", came, "methods that explain no class")
        if for_target := self.fact("for_target"):
            settings = {**getattr(self.explainer, "keywords", {}), **settings}
            return for_target(target, **settings)
        return self.explainer(getattr(target, self.explains), target.layer, **settings)


def all_methods(*extra: type) -> dict[str, Method]:
    """Return every registered explainer, AMD's and ``extra`` ones too.

    Class-based ones come first, then those of pairs, of single images, and controls.
    """
    import_module("reid_explain.amd")  # It registers its interpreter.
    found = {**EXPLAINERS, **{kind.__name__: kind for kind in extra}}
    methods = [Method(name, explainer) for name, explainer in found.items()]

    def place(method: Method) -> tuple[bool, bool, bool, str]:
        control = bool(method.fact("is_control"))
        return control, method.explains != "logits", "references" not in method.needs, method.name

    return {method.name: method for method in sorted(methods, key=place)}


def pair_methods(*extra: type) -> dict[str, Method]:
    """Return those of ``all_methods`` that explain pairs of places."""
    return {name: method for name, method in all_methods(*extra).items() if method.of_places}


def controls() -> set[str]:
    """Return the names of those of ``all_methods`` that know nothing of the embedding."""
    return {name for name, method in all_methods().items() if method.fact("is_control")}


def left_out(reasons: Mapping[str, str]) -> str:
    """Return why methods are left out, a line for each reason; names of methods are no part of it.

    Example:
        >>> print(left_out({"A": "no classes for A", "B": "no head", "C": "no classes for C"}))
        A, C are left out: no classes for A
        B is left out: no head
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason.replace(name, ""), []).append(name)
    return "\n".join(
        f"{', '.join(own)} {'is' if len(own) == 1 else 'are'} left out: {reasons[own[0]]}"
        for own in names.values()
    )


def method_names(given: Sequence[str]) -> list[str]:
    """Return the names in texts that have one or, between commas outside brackets, several."""
    names: list[str] = []
    for text in given:
        depth, names = 0, [*names, ""]
        for character in text:
            depth += (character in "([") - (character in ")]")
            if character == "," and depth == 0:
                names.append("")
            else:
                names[-1] += character
    return [name.strip() for name in names if name.strip()]


def find_methods(wanted: Sequence[Explainable], known: Mapping[str, Method]) -> dict[str, Method]:
    """Return the methods that are wanted, by name.

    Raises:
        InputError: If a name is unknown, or two methods have the same.
    """
    found: dict[str, Method] = {}
    for item in wanted:
        if isinstance(item, str) and item.startswith(PREFIX):
            item = captum_explainer(item)
        elif isinstance(item, str) and ":" in item:
            item = EXPLAINERS.resolve(item)
        if isinstance(item, str):
            method = known.get(item) or with_settings(item, known)
        else:
            method = Method(getattr(item, "func", item).__name__, explainer_of(item))
        if method is None or method.name in found:
            expected = f"names among {', '.join(known)}, or module:Class, or captum:NAME, each once"
            raise InputError("methods", item, expected)
        found[method.name] = method
    return found


def with_settings(text: str, known: Mapping[str, Method]) -> Method | None:
    """Return the method of ``NAME(setting=literal, ...)`` under this text; None for another text.

    Raises:
        InputError: If it has no such setting, or one is no Python literal.
    """
    name, bracket, _ = text.partition("(")
    if not bracket or name not in known:
        return None
    explainer = known[name].explainer
    makers = (explainer, getattr(explainer, "for_target", explainer))
    own = {each for maker in makers for each in inspect.signature(maker).parameters} - NO_SETTINGS
    try:
        call: Any = ast.parse(text, mode="eval").body
        settings = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise InputError("methods", text, f"{name}(setting=literal, ...)") from error
    if call.args or not settings.keys() <= own:
        raise InputError("methods", text, f"settings of {name}: {', '.join(sorted(own))}")
    return Method(text, partial(explainer, **settings))


def explainer_of(item: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes explainers of ``(forward_func, layer)``, or of a target.

    A function is one of these three, as the names of its parameters say:

    - ``(forward_func, layer)`` returns an explainer.
    - ``(target)`` returns a function of images (B, 3, H, W) to maps (B, 1, h, w). The
      :class:`.Target` has ``model`` and ``layer``, for packages that want modules.
    - Any other, such as ``(images)`` or ``(images, references)``, is a function to maps itself.

    Its attributes are the facts of an explainer: ``needs``, ``is_control`` and so on.
    """
    names = [*inspect.signature(item).parameters] if inspect.isfunction(item) else ["layer"]
    if "layer" in names:
        return item

    def for_target(target: Target) -> SimpleNamespace:
        return SimpleNamespace(attribute=item(target) if names == ["target"] else item)

    facts = {"for_target": staticmethod(for_target), **vars(item)}
    if names != ["target"]:
        facts["attribute"] = staticmethod(item)
    return type(item.__name__, (), facts)
