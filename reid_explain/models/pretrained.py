"""Trained networks as two files: weights in safetensors and a card that says what they are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.build import build_model, network_of
from reid_explain.models.checkpoints import load_checkpoint
from reid_explain.models.network import EmbeddingNet
from reid_explain.models.timm_models import PREFIX

SHIPPED = Path(__file__).parent / "weights"
REQUIRED = {"architecture", "sha256", "input"}


@dataclass(frozen=True)
class Card:
    """The content of ``NAME.json`` beside ``NAME.safetensors``; a card has no other keys.

    Args:
        architecture: ``name`` and arguments of ``build_model``, none but ``card_settings``.
        sha256: of the weights.
        input: the images that the network takes, as ``InputSpec.to_json`` writes it.
        recipe, training, results, epoch, notes: for people; nothing here reads them.
    """

    architecture: Mapping[str, Any]
    sha256: str
    input: Mapping[str, Any]
    recipe: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    results: Mapping[str, Any] | None = None
    epoch: int | None = None
    notes: str | None = None


def shipped_names() -> list[str]:
    """Return the names of the networks that are shipped with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def load_pretrained(name: str) -> EmbeddingNet:
    """Return a network shipped with this package, with its weights, in eval mode.

    ``"synthetic"``, a ResNet, is trained on ``SyntheticReID``; ``"synthetic_vit"``, a vision
    transformer on its first stages, learned to embed as it does. Another name and a damaged file
    raise ``InputError``.
    """
    check_choice("name", name, shipped_names())
    return load_trained(SHIPPED / f"{name}.json")


def load_trained(card: str | Path) -> EmbeddingNet:
    """Return the network of a card that ``save_trained`` wrote, in eval mode.

    Nothing in a card or beside it is executed or downloaded.

    Raises:
        InputError: a file is absent; the card has unknown or missing keys, or an architecture
            that its network does not allow; or the weights are not those of the card.
    """
    path = Path(card)
    content, weights = _read(path), path.with_suffix(".safetensors")
    if not weights.is_file():
        raise InputError("card", f"{path} without {weights.name}", "weights beside the card")
    if (found := _sha256(weights)) != content.sha256:
        raise InputError("card", f"{weights} with sha256 {found}", f"sha256 {content.sha256}")
    spec, model = InputSpec.from_json(content.input), _build(content.architecture, path)
    load_checkpoint(model, weights)
    model.input_spec = spec
    return model.eval()


def save_trained(
    model: EmbeddingNet,
    card: str | Path,
    architecture: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    **facts: Any,
) -> None:
    """Write the weights of ``model`` and their card; ``load_trained(card)`` reads them.

    Args:
        model: what ``build_model(**architecture)`` builds, trained; its ``input_spec`` is kept.
        card: path of the ``.json``; the weights go beside it.
        architecture: arguments of ``build_model``.
        dtype: of the stored matrices and kernels; vectors stay as they are.
        facts: further keys of ``Card``: recipe, training, results, epoch, notes.
    """
    path, weights = Path(card), Path(card).with_suffix(".safetensors")
    state = {
        key: value.to("cpu", dtype if value.dim() > 1 else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(state, weights)
    content = asdict(Card(architecture, _sha256(weights), model.input_spec.to_json(), **facts))
    told = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> Card:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("card", f"{path} ({error})", "a card of save_trained") from error
    known = [field.name for field in fields(Card)]
    keys = {*content} if isinstance(content, dict) else set()
    if keys - {*known} or REQUIRED - keys:
        faults = (", ".join(sorted(some)) or "none" for some in (keys - {*known}, REQUIRED - keys))
        got = f"{path} with unknown keys: {'; missing: '.join(faults)}"
        raise InputError("card", got, f"the keys {', '.join(known)}")
    return Card(**content)


def _build(architecture: Any, path: Path) -> EmbeddingNet:
    if not isinstance(architecture, dict) or not isinstance(architecture.get("name"), str):
        raise InputError("card", f"{path} with architecture {architecture!r}", "one with a name")
    allowed = ("name", *network_of(architecture["name"]).card_settings)
    refused = [k for k, v in architecture.items() if k not in allowed or not _is_plain(v)]
    if refused:
        got = f"{path} with {', '.join(map(repr, refused))} in architecture"
        raise InputError("card", got, f"numbers and words for {', '.join(allowed)}")
    if architecture["name"].startswith(PREFIX):
        architecture = {**architecture, "pretrained": False}
    try:
        return build_model(**architecture)
    except InputError:
        raise
    except Exception as error:  # What garbage raises in a constructor is anybody's guess.
        raise InputError("card", f"{path} ({error})", "an architecture of build_model") from error


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, bool | int | float | str) for item in items)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
