"""The AMD interpreter: it splits the distance of two images into attributes.

Chen et al., "Explainable person re-identification with attribute-guided metric distillation",
ICCV 2021.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from reid_explain.amd.decomposition import attribute_distances, contributions
from reid_explain.amd.network import AMDNetwork, Decomposed
from reid_explain.amd.seam import check_model, check_stages
from reid_explain.capture import evaluation
from reid_explain.checks import check_choice, check_images, describe
from reid_explain.errors import InputError
from reid_explain.explainers import base
from reid_explain.explainers.layout import upsample
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.fingerprints import check_fingerprint
from reid_explain.inputs import InputSpec
from reid_explain.models.pretrained import load_pretrained
from reid_explain.models.state_dicts import load_state_dict
from reid_explain.tensor_files import read_tensors, write_tensors

SHIPPED = Path(__file__).parent / "weights"
FINGERPRINT = "target_fingerprint"
KIND = "amd_interpreter"


class PairExplanation(NamedTuple):
    """Why the images of each of B pairs are as far apart as they are.

    ``query_maps`` and ``gallery_maps`` A^k, (B, M, H, W), positive; ``distances`` d^k and
    ``contributions`` r^k = d^k / d̂, (B, M); ``distance`` d of the model and ``reconstructed``
    d̂ = Σ d^k, (B,).
    """

    query_maps: Tensor
    gallery_maps: Tensor
    distances: Tensor
    contributions: Tensor
    distance: Tensor
    reconstructed: Tensor


@EXPLAINERS.register
class AMDInterpreter(base.Explainer):
    """Explains the distance of two images as a sum over attributes: which, how much, where.

    It shares the first stages of a trained model, copies the last ones and trains them with a
    new head that gives one map A^k per attribute. An untrained interpreter explains nothing;
    ``load``, ``from_pretrained`` or ``benchmarks/amd.py train`` give a trained one. The model is
    left as it is; ``network`` is what is trained, on the model's device and of its dtype.

    Args:
        model: The embedding model: ``features(x)`` gives its last map F, (B, C, h, w),
            ``embed(F)`` the embedding, (B, D), by which it retrieves with the Euclidean
            distance; a model that retrieves with the cosine normalizes in ``embed``.
        attributes: The M names.
        stages: Dotted names of the model's last stages, which run one after the other and give
            F; ``model.trainable_stages`` by default.
        hidden: Channels between the two convolutions of the head, C/8 by default.
        spec: The images that the model takes, ``model.input_spec`` by default.

    Raises:
        InputError: A model without the seam, repeated or no attributes, or stages that it does
            not have.

    Example:
        >>> import torch
        >>> from reid_explain import AMDInterpreter, InputSpec
        >>> from reid_explain.models import build_model
        >>> model = build_model("resnet18", width=0.125).eval()
        >>> interpreter = AMDInterpreter(model, ("hat", "bag"), spec=InputSpec(size=(64, 32)))
        >>> query, gallery = torch.rand(2, 1, 3, 64, 32)
        >>> explanation = interpreter.explain(query, gallery)
        >>> explanation.query_maps.shape, explanation.contributions.shape
        (torch.Size([1, 2, 64, 32]), torch.Size([1, 2]))
        >>> interpreter.attribute(query, references=gallery).shape
        torch.Size([1, 1, 64, 32])
    """

    needs: ClassVar[tuple[str, ...]] = ("references",)
    of_distance: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        attributes: Sequence[str],
        stages: Sequence[str] | None = None,
        hidden: int | None = None,
        spec: InputSpec | None = None,
    ) -> None:
        names = self.attributes = tuple(attributes)
        if isinstance(attributes, str) or not names or len({*names}) < len(names):
            raise InputError("attributes", repr(attributes), "different names, at least one")
        self.model = check_model(model)
        self.stages = check_stages(self.model, stages)
        self.spec: InputSpec = spec or getattr(self.model, "input_spec", None) or InputSpec()
        self.network = AMDNetwork(self.model, self.stages, len(names), hidden, self.spec.size)
        self.hidden = self.network.head.conv1.out_channels
        super().__init__(self.model, self.stages[-1])

    @base.logged
    def attribute(
        self,
        inputs: base.Images,
        references: Tensor | None = None,
        attribute: str | int | None = None,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        reference_forward_args: Any = None,
    ) -> base.Images:
        r"""Explain where each image differs from its reference, or where an attribute is read.

        .. math:: L = \sum_k r^k A^k, \quad r^k = d^k / \hat d

        Args:
            inputs: Images (B, 3, H, W), as the model takes them.
            references: Images (N, 3, H', W') with N = B, 1, or a divisor of B: then each
                reference serves B / N images in a row, as Captum repeats its inputs.
            attribute: Name or index: return A^k alone, which needs no references.
            additional_forward_args: Further arguments of ``model.features``; one or a tuple.
            interpolate_mode: ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` to the size of the
                images; None for the model's own h x w.
            reference_forward_args: Those of the references; by default those of the images that
                they serve.

        Returns:
            Maps (B, 1, H, W), positive, without a fixed scale.

        Raises:
            InputError: An argument does not fit, or there are neither references nor attribute.
        """
        images, args = self._begin(inputs, additional_forward_args, interpolate_mode)
        if attribute is None:
            references = base.only_tensor("references", references)
            pair = self._pair(images, args, references, reference_forward_args, "references")
            shares = contributions(attribute_distances(*(side.parts for side in pair)))
            maps = (shares[..., None, None] * pair[0].maps).sum(dim=1, keepdim=True)
        else:
            k = self.index(attribute)
            maps = self.decompose(images, *args).maps[:, k : k + 1]
        return self._finish(maps, inputs, interpolate_mode)

    def explain(
        self,
        query: Tensor,
        gallery: Tensor,
        additional_forward_args: Any = None,
        interpolate_mode: str | None = "bilinear",
        *,
        reference_forward_args: Any = None,
    ) -> PairExplanation:
        """Explain the distance of each query image to its gallery image.

        Args:
            query: Images (B, 3, H, W), as the model takes them.
            gallery: Images (N, 3, H', W'), paired as ``references`` of :meth:`attribute`.
            additional_forward_args: As of :meth:`attribute`.
            interpolate_mode: As of :meth:`attribute`, for both sides.
            reference_forward_args: As of :meth:`attribute`.

        Raises:
            InputError: Images that are no finite batch, or pairs that do not match up.
        """
        check_choice("interpolate_mode", interpolate_mode, base.INTERPOLATE_MODES)
        query, args = check_images("query", query), base.as_args(additional_forward_args)
        first, second = self._pair(query, args, gallery, reference_forward_args, "gallery")
        query_maps, gallery_maps = (
            side.maps
            if interpolate_mode is None
            else upsample(side.maps, (images.shape[2], images.shape[3]), interpolate_mode)
            for side, images in ((first, query), (second, gallery))
        )
        distances = attribute_distances(first.parts, second.parts)
        distance = (first.embeddings - second.embeddings).norm(dim=1)
        shares, total = contributions(distances), distances.sum(1)
        return PairExplanation(query_maps, gallery_maps, distances, shares, distance, total)

    def decompose(self, images: Tensor, *args: Any) -> Decomposed:
        """Decompose images (B, 3, H, W), on any device, in eval mode and without gradients.

        ``args`` are further arguments of ``model.features``.
        """
        images = images.to(next(self.network.parameters()).device)
        with torch.inference_mode(False), torch.no_grad(), evaluation(self.network, self.network):
            parts = [
                self.network(images[rows], *base.rows_of(args, rows, len(images)))
                for rows in base.parts_of(images)
            ]
            return Decomposed(*map(torch.cat, zip(*parts, strict=True)))

    def predict(self, parts: Tensor) -> Tensor:
        """Return the attributes of images, 1 or 2, (B, M), from their ``parts`` (B, M, D).

        Each is the label whose mean f^k over the training images is the nearer one; an
        interpreter that is not trained raises ``InputError``.
        """
        prototypes = self.network.scale * self.network.prototypes
        if prototypes.isnan().any():
            raise InputError("interpreter", "one without prototypes", "a trained one")
        distances: Tensor = (parts[:, None] - prototypes).norm(dim=-1)
        return distances.argmin(dim=1) + 1

    def index(self, attribute: str | int) -> int:
        """Return the index of an attribute among the M; ``InputError`` if there is none such."""
        names = self.attributes
        choices: Any = names if isinstance(attribute, str) else range(len(names))
        check_choice("attribute", attribute, choices)
        return int(choices.index(attribute))

    def to(self, *args: Any, **kwargs: Any) -> "AMDInterpreter":
        """Move the model and the network as ``torch.nn.Module.to`` does."""
        self.model.to(*args, **kwargs)
        self.network.to(*args, **kwargs)
        return self

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the interpreter without its model as one safetensors file; ``load`` reads it.

        Matrices and kernels are stored in ``dtype``; vectors and prototypes stay as they are. A
        file that cannot be written raises ``InputError``.
        """
        state = {FINGERPRINT: self.network.fingerprint, **self.network.state_dict()}
        settings = {name: getattr(self, name) for name in ("attributes", "stages", "hidden")}
        settings["input_spec"] = self.spec.to_json()
        write_tensors(path, state, KIND, settings, dtype=dtype, whole=(FINGERPRINT, "prototypes"))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> "AMDInterpreter":
        """Return the interpreter that ``save`` wrote, for the ``model`` that it was trained for.

        Raises:
            InputError: No such file, a file of another kind or a damaged one, or a model that
                does not give the embeddings of the one that the interpreter was trained for.
        """
        settings, state = read_interpreter(path)
        saved = state.pop(FINGERPRINT)
        interpreter = cls(model, **settings)
        dtype = next(interpreter.model.parameters()).dtype
        check_fingerprint(path, saved, interpreter.network.fingerprint, dtype)
        load_state_dict(interpreter.network, state, str(path))
        return interpreter

    @classmethod
    def from_pretrained(cls, name: str = "synthetic") -> "AMDInterpreter":
        """Return an interpreter that is shipped with this package, with its model.

        ``"synthetic"`` is that of ``load_pretrained("synthetic")``. Another name and a damaged
        file raise ``InputError``.
        """
        check_choice("name", name, sorted(path.stem for path in SHIPPED.glob("*.safetensors")))
        return cls.load(SHIPPED / f"{name}.safetensors", load_pretrained(name))

    @classmethod
    def for_target(  # type: ignore[override]
        cls, target: Any, interpreter: str | Path | None = None
    ) -> "AMDInterpreter":
        """Return the interpreter of a benchmark's target, which has ``model`` and ``spec``.

        ``interpreter`` is a file of :meth:`save`; without one, the model has to be the shipped
        one. One for another model or other images raises ``InputError``.
        """
        try:
            found = cls.load(interpreter or SHIPPED / "synthetic.safetensors", target.model)
        except InputError as error:
            if interpreter is not None:
                raise
            came = f"none for this {type(target.model).__name__}"
            expected = "the file of one that was trained for it: python benchmarks/amd.py train"
            raise InputError("interpreter", came, expected) from error
        if found.spec != target.spec:
            raise InputError("spec", target.spec, f"{found.spec}, as the interpreter was trained")
        return found

    def _pair(
        self, images: Tensor, args: tuple[Any, ...], references: Any, own: Any, argument: str
    ) -> tuple[Decomposed, Decomposed]:
        """Decompose images (B, 3, H, W) and their references, repeated to B rows."""
        references = check_images(argument, references).to(images.dtype)
        batch, repeats = len(images), len(images) // len(references)
        if repeats * len(references) != batch:
            expected = f"1 or {batch} images, or a number that divides {batch}"
            raise InputError(argument, describe(references), expected)
        if own is None and any(base.per_image(arg, batch) for arg in args):
            references, repeats = references.repeat_interleave(repeats, dim=0), 1
        others = self.decompose(references, *(args if own is None else base.as_args(own)))
        repeated = (part.repeat_interleave(repeats, dim=0) for part in others)
        return self.decompose(images, *args), Decomposed(*repeated)


def read_interpreter(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the constructor's settings and the tensors of a file that ``save`` wrote."""
    expected = "a file of AMDInterpreter.save"
    state, settings = read_tensors(path, KIND, expected)
    state.setdefault("scale", torch.ones(()))  # Files of before calibration.
    try:
        if "image_size" in settings:  # Files of version 0.1.
            settings["input_spec"] = {"size": settings.pop("image_size")}
        spec = InputSpec.from_json(settings.pop("input_spec"))
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError("path", f"{path} ({error})", expected) from error
    if FINGERPRINT not in state or {*settings} != {"attributes", "stages", "hidden"}:
        raise InputError("path", f"{path} without settings or fingerprint", expected)
    return {**settings, "spec": spec}, state
