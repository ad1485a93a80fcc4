"""From a file of weights to the network that it is of."""

from pathlib import Path
from typing import Any

from reid_explain.errors import InputError
from reid_explain.inputs import InputSpec
from reid_explain.models.architecture import UNSEEN, architecture_of
from reid_explain.models.build import build_model
from reid_explain.models.checkpoints import load_entries, read_state_dict
from reid_explain.models.layouts import find_layout, input_spec_of, translate, unseen_settings
from reid_explain.models.network import EmbeddingNet


def open_checkpoint(
    path: str | Path,
    layout: str | None = None,
    *,
    input_spec: InputSpec | None = None,
    **options: Any,
) -> EmbeddingNet:
    """Return the network of a checkpoint, with its weights, in eval mode.

    The project, the architecture and the number of classes come from the file's names and
    shapes. What they do not show comes from the project: ``last_stride`` is 1, but 2 with
    torchreid's ResNets; ``ceil_mode`` is set with fast-reid, unless it has the heads of before
    version 1.0; ``stem_relu`` is off with the plain ResNets of reid-strong-baseline; so do the
    size, mean and deviation of the images (module ``layouts``).

    Args:
        path: a file that ``load_checkpoint`` reads.
        layout: the project, a key of ``layouts.LAYOUTS``; None recognises it.
        input_spec: the images that the network takes, in place of the project's.
        options: arguments of ``build_model`` that replace those found. With ``num_classes`` the
            classifier is a new one, or none with 0, and the file's is left out.

    Raises:
        InputError: as of ``load_checkpoint``; or the weights are of no network of this package;
            or neither file nor project tells all of it: ``last_stride`` and ``ceil_mode`` of
            files with our own names, which a card tells (``load_trained``); ``parts`` of a PCB
            without classifiers; ``reduction`` of an MGN of before version 1.0.
    """
    state = read_state_dict(path)
    layout = find_layout(state, layout)
    found = architecture_of(translate(state, layout).tensors)
    if found is None:
        names = ", ".join([*state][:8])
        expected = f"OSNet, {', '.join(UNSEEN)}, under names of {layout}"
        raise InputError("path", f"{path} with {names}, ...", expected)
    unseen = UNSEEN.get(found["name"], ())
    settings = unseen_settings(state, layout)
    found |= {key: settings[key] for key in unseen if key in settings}
    if unknown := [key for key in unseen if key not in found | options]:
        expected = "its card (load_trained), or these as options"
        raise InputError("path", f"{path}, which does not tell {', '.join(unknown)}", expected)
    model = build_model(**(found | options))
    load_entries(model, state, str(path), layout, ignore_classifier="num_classes" in options)
    spec = input_spec or input_spec_of(state, layout)
    if spec is not None:
        model.input_spec = spec
    return model.eval()
