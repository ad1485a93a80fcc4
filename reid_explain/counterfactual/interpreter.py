"""The interpreter that intervenes: it edits an attribute and asks the model what that did."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reid_explain.capture import ForwardFunc, evaluation, model_of
from reid_explain.checks import at_least_float32, check_choice, check_images, check_rows, describe
from reid_explain.counterfactual.editor import AttributeEditor, Reading
from reid_explain.directions import CounterfactualDirections, decomposed
from reid_explain.errors import InputError
from reid_explain.explainers.base import INTERPOLATE_MODES, only_tensor, parts_of
from reid_explain.inputs import InputSpec
from reid_explain.models.state_dicts import load_state_dict
from reid_explain.tensor_files import read_tensors, write_tensors

SHIPPED = Path(__file__).parent / "weights"
KIND = "attribute_editor"


class CounterfactualPair(NamedTuple):
    """What each of G groups of attributes does to the distance of each of B pairs.

    ``contributions`` (B, G), shares of the distance, negative where the two would move apart;
    ``remainder`` (B,), what no group explains: with the contributions it sums to 1; ``distance``
    (B,); ``differs`` (B, G), the probability that the two people differ in the group; ``maps``
    (B, G, H, W), 0 to 1: how much the query's pixels would change; ``images`` (B, G, 3, H, W),
    the query with each change, as the model takes it.
    """

    contributions: Tensor
    remainder: Tensor
    distance: Tensor
    differs: Tensor
    maps: Tensor
    images: Tensor


class CounterfactualInterpreter:
    r"""Explains the distance of two people by edits: what each would leave of it.

    .. math:: c_k = p_k \, \frac{d(X, Y) - d(X_{k \leftarrow Y}, Y)}{d(X, Y)}

    An editor gives the query X the gallery person's value of attribute k (a garment's color; a
    hat, or none), and the model itself says how much nearer that brings the two; :math:`p_k` is the
    probability that they differ in k at all. Nothing is asked of the model but embeddings, so it
    may be a black box, and contributions need not sum to 1: the remainder has a name.

    The editor is trained where interventions are known, on drawn people. What it does to a
    photograph is to be looked at: ``images``. Directions that were fitted to interventions on this
    very model estimate the same contributions in another way: with them the two are averaged.

    Args:
        forward_func: The model, or any function of images (B, 3, H, W) to embeddings (B, D). A
            module runs in eval mode and gets its modes back.
        editor: The editor, the shipped one by default.
        spec: The images that the model takes, its ``input_spec`` by default.
        directions: A second estimate, of the same groups.

    Raises:
        InputError: Directions of other groups.

    Example:
        >>> import torch
        >>> from reid_explain import CounterfactualInterpreter
        >>> from reid_explain.models import load_pretrained
        >>> interpreter = CounterfactualInterpreter(load_pretrained("synthetic"))
        >>> query, gallery = torch.rand(2, 1, 3, 256, 128)
        >>> found = interpreter.explain(query, gallery)
        >>> found.contributions.shape, found.images.shape
        (torch.Size([1, 11]), torch.Size([1, 11, 3, 256, 128]))
    """

    def __init__(
        self,
        forward_func: ForwardFunc,
        editor: AttributeEditor | None = None,
        spec: InputSpec | None = None,
        directions: CounterfactualDirections | None = None,
    ) -> None:
        self.forward_func = forward_func
        self.directions = directions
        self.editor = (load_editor() if editor is None else editor).eval()
        self.groups = tuple(self.editor.groups)
        own = getattr(model_of(forward_func), "input_spec", None)
        self.spec: InputSpec = spec or own or InputSpec()
        if directions is not None and directions.groups != self.groups:
            raise InputError("directions", f"groups {directions.groups}", f"{self.groups}")

    def explain(self, query: Tensor, gallery: Tensor) -> CounterfactualPair:
        """Explain the distance of each query image to its gallery image.

        Args:
            query: Images (B, 3, H, W), as the model takes them.
            gallery: Images (B, 3, H', W'), or (1, 3, H', W') for all.

        Raises:
            InputError: Images that are no finite batch, or pairs that do not match up.
        """
        query, gallery = check_images("query", query), check_images("gallery", gallery)
        if len(gallery) not in (1, len(query)):
            raise InputError("gallery", describe(gallery), f"1 or {len(query)} images")
        gallery = gallery.expand(len(query), -1, -1, -1)
        with self._evaluation():
            one, other = (self._read(images) for images in (query, gallery))
            differs = self.editor.differs(one, other)
            rgb = self._rgb(query)
            groups = range(len(self.groups))
            edits = [self.editor.edit(rgb, one, other, group).clamp(0, 1) for group in groups]
            edited = torch.stack(edits, dim=1)
            images = self.spec.from_rgb(edited).to(query.dtype)
            own, goal = self._embed(query), self._embed(gallery)
            moved = self._embed(images.flatten(0, 1)).view(*images.shape[:2], -1)
        shares, _, distance = decomposed(own - goal, moved - own[:, None])
        shares = differs.to(shares) * shares
        if self.directions is not None:
            shares = (shares + self.directions.explain(own, goal).contributions) / 2
        maps = (edited - rgb[:, None]).abs().mean(dim=2)
        maps = differs.to(maps)[..., None, None] * maps
        return CounterfactualPair(shares, 1 - shares.sum(1), distance, differs, maps, images)

    def attribute(
        self,
        inputs: Tensor,
        references: Tensor,
        attribute: str | None = None,
        interpolate_mode: str | None = "bilinear",
    ) -> Tensor:
        r"""Explain where each image differs from its reference.

        .. math:: L = \sum_k |c_k| A_k

        with the maps A_k of :meth:`explain`, each scaled to a sum of 1.

        Args:
            inputs: Images (B, 3, H, W), as the model takes them.
            references: Images (B, 3, H', W'), or (1, 3, H', W') for all.
            attribute: A group: return its map A_k alone.
            interpolate_mode: Kept for the common form; maps have the size of the images.

        Returns:
            Maps (B, 1, H, W), nonnegative.

        Raises:
            InputError: As of :meth:`explain`, or an unknown group.
        """
        check_choice("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        found = self.explain(only_tensor("inputs", inputs), references)
        if attribute is not None:
            check_choice("attribute", attribute, self.groups)
            index = self.groups.index(attribute)
            return found.maps[:, index : index + 1]
        total = found.maps.sum(dim=(2, 3), keepdim=True)
        maps = found.maps / total.where(total > 0, torch.ones_like(total))
        return (found.contributions.abs()[..., None, None] * maps).sum(dim=1, keepdim=True)

    @classmethod
    def for_target(cls, target: Any, **settings: Any) -> "CounterfactualInterpreter":
        """Return the interpreter of a benchmark's target, which has ``embed`` and ``spec``."""
        return cls(target.model, spec=target.spec, **settings)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Evaluate without gradients, the model in eval mode."""
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            evaluation(self.forward_func, self.editor),
        ):
            yield

    def _rgb(self, images: Tensor) -> Tensor:
        return self.spec.to_rgb(at_least_float32(images))

    def _read(self, images: Tensor) -> Reading:
        parts = [self.editor.read(self._rgb(images[rows])) for rows in parts_of(images)]
        return Reading(*map(torch.cat, zip(*parts, strict=True)))

    def _embed(self, images: Tensor) -> Tensor:
        found = [self.forward_func(images[rows]) for rows in parts_of(images)]
        return at_least_float32(check_rows("forward_func", torch.cat(found), rows=len(images)))


def save_editor(editor: AttributeEditor, path: str | Path) -> None:
    """Write an editor as one safetensors file, in float16; ``load_editor`` reads it.

    Raises:
        InputError: The file cannot be written.
    """
    write_tensors(path, editor.state_dict(), KIND, editor.groups, dtype=torch.float16)


def load_editor(path: str | Path | None = None) -> AttributeEditor:
    """Return an editor that ``save_editor`` wrote, in eval mode; by default the shipped one.

    Raises:
        InputError: No such file, or one of another kind.
    """
    path = SHIPPED / "synthetic.safetensors" if path is None else path
    state, groups = read_tensors(path, KIND, "a file of save_editor")
    editor = AttributeEditor(groups)
    load_state_dict(editor, state, str(path))
    return editor.eval()
