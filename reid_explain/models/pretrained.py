"""Trained networks as two files: weights in safetensors and a card that says what they are.

The card ``NAME.json`` beside ``NAME.safetensors`` holds ``architecture`` (arguments of
``build_model``), ``sha256`` of the weights, and what its writer adds (recipe, figures).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from reid_explain.checks import check_choice
from reid_explain.errors import InputError
from reid_explain.models.build import build_model
from reid_explain.models.checkpoints import load_checkpoint
from reid_explain.models.network import EmbeddingNet

SHIPPED = Path(__file__).parent / "weights"


def load_pretrained(name: str) -> EmbeddingNet:
    """Return a network shipped with this package, with its weights, in eval mode.

    Args:
        name: ``"synthetic"``, trained on ``SyntheticReID``.

    Raises:
        InputError: no such network, or a file of it is damaged.
    """
    check_choice("name", name, sorted(path.stem for path in SHIPPED.glob("*.json")))
    return load_trained(SHIPPED / f"{name}.json")


def load_trained(card: str | Path) -> EmbeddingNet:
    """Return the network of a card that ``save_trained`` wrote, in eval mode.

    Raises:
        InputError: a file is absent, the card is no card, or the weights are not those that the
            card was written for.
    """
    card = Path(card)
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        architecture, expected = content["architecture"], content["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("card", f"{card} ({error})", "a card of save_trained") from error
    weights = card.with_suffix(".safetensors")
    if not weights.is_file():
        raise InputError("card", f"{card} without {weights.name}", "weights beside the card")
    if (found := _sha256(weights)) != expected:
        raise InputError("card", f"{weights} with sha256 {found}", f"sha256 {expected}")
    model = build_model(**architecture)
    load_checkpoint(model, weights)
    return model.eval()


def save_trained(
    model: nn.Module,
    card: str | Path,
    architecture: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    **facts: Any,
) -> None:
    """Write the weights of ``model`` and their card; ``load_trained(card)`` reads them.

    Args:
        model: what ``build_model(**architecture)`` builds, trained.
        card: path of the ``.json``; the weights go beside it.
        architecture: arguments of ``build_model``.
        dtype: of the stored matrices and kernels; vectors stay as they are.
        facts: what else the card says, as JSON has it.
    """
    card = Path(card)
    weights = card.with_suffix(".safetensors")
    state = {
        key: value.to("cpu", dtype if value.dim() > 1 else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    save_file(state, weights)
    content = {"architecture": dict(architecture), "sha256": _sha256(weights), **facts}
    card.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
