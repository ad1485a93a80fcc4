r"""
Explain an embedding
====================

What is this embedding looking at, and why did these two images match? Every explainer answers
with a map over the image, here side by side as in figure 4 of the FAM paper (Wu et al.,
CVPR 2022).

Without arguments this page draws its pedestrians and uses the model that comes with the package.
With your own files, and a checkpoint of your model::

    python examples/plot_explain_embedding.py \
        --image query.jpg --reference gallery_1.jpg gallery_2.jpg \
        --weights osnet_x0_25_market1501.pth --output figure.png

"""

import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import InputError
from reid_explain.benchmark.command_line import TargetOptions, one_line_errors, read
from reid_explain.benchmark.methods import Subject, all_methods, find_methods, method_names
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.inputs import load_image
from reid_explain.visualization import comparison_figure, explanation_figure, save_figure

# %%
# What to explain, and what with
# ------------------------------
# Whatever can be wrong is looked at before anything is computed: images, methods, output.

SCRIPT = "plot_explain_embedding.py"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is explained, and how.

    Args:
        image: images to explain; by default a drawn pedestrian
        reference: gallery to find their matches in
        method: names or module:Class, between spaces or commas; by default those of the papers
        ranks: how many of the gallery to draw
        output: a .png or .pdf file, or a folder
    """

    image: tuple[Path, ...] = ()
    reference: tuple[Path, ...] = ()
    method: tuple[str, ...] = ()
    ranks: int = 4
    output: Path | None = None


SHOWN = ["GradCAM", "ScoreCAM", "CGRAM", "GradRAM", "RAM", "GradFAM", "ScoreFAM", "ActivationMean"]


def where(output):
    """Return the file to write, in a folder that is there."""
    if output is None and plt.get_backend().lower() == "agg":
        output = Path("explanation.png")  # no display to show it on
    if output is None:
        return None
    path = output if output.suffix else output / "explanation.png"
    if path.suffix.lower() not in (".png", ".pdf") or path.is_dir():
        raise InputError("output", output, "a .png or .pdf file, or a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def chosen(names, has_references):
    """Return the methods of these names, or those of the papers that suit, and one control."""
    names = method_names(names)
    known = all_methods()
    if names:
        return find_methods(names, known)
    return {
        name: known[name]
        for name in SHOWN
        if has_references or "references" not in known[name].needs
    }


on_command_line = __name__ == "__main__" and "__file__" in globals()  # not in the gallery
fields = [("options", Options), ("target", TargetOptions)]
line = make_dataclass("Explain", fields, namespace={"__doc__": "Explain embeddings of images."})
settings = read(line, None if on_command_line else [], SCRIPT)
options = settings.options

with one_line_errors(SCRIPT):
    if options.ranks < 1:
        raise InputError("ranks", options.ranks, "at least 1")
    if options.reference and not options.image:
        raise InputError("image", "none beside --reference", "the images to explain")
    pictures = [load_image(path) for path in options.image]
    candidates = [load_image(path) for path in options.reference]
    methods = chosen(options.method, bool(candidates) or not pictures)
    matching = [name for name in methods if "references" in methods[name].needs]
    if matching and pictures and not candidates:
        raise InputError("reference", "none", f"images: {', '.join(matching)} explain a match")
    output = where(options.output) if on_command_line else None
    target = settings.target.open()

# %%
# Images and their matches
# ------------------------
# The gallery is ranked by cosine similarity. The first in rank is the reference of its query.
names, correct = [path.name for path in options.image], None
if not pictures:
    world = SyntheticReID(seed=0)
    query = world.query[115]
    people = range(query.identity - 3, query.identity + 4)
    others = [r for r in world.gallery if r.identity in people and r.camera != query.camera]
    pictures, candidates = [world.load(query)], [world.load(record) for record in others]
    names, correct = ["query"], [record.identity == query.identity for record in others]

spec = target.spec
images = torch.stack([spec.to_tensor(picture) for picture in pictures])
references = None
if candidates:
    gallery = torch.stack([spec.to_tensor(picture) for picture in candidates])
    cosines = F.normalize(target.embed(images)) @ F.normalize(target.embed(gallery)).T
    cosines, ranked = cosines.sort(descending=True)
    references = gallery[ranked[:, 0]]

# %%
# All methods side by side
# ------------------------
# A method says what it explains and needs: class-based ones explain the training identity that the
# image resembles most, others the match with the reference, or the embedding by itself.
# ``ActivationMean`` is a control: it knows nothing of the embedding.

subject = Subject(images, references, target.predicted(images))
explain, maps = {}, {}
with one_line_errors(SCRIPT):
    for name, method in methods.items():
        progress = {"show_progress": True} if method.takes("show_progress") else {}
        try:
            explain[name] = method.on(target)
            maps[name] = explain[name](subject, **progress)
        except InputError as error:
            if options.method:
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)


def save(figure, suffix=""):
    """Write a figure, and say where."""
    if output:
        path = output.with_stem(output.stem + suffix)
        save_figure(figure, path)
        print(path)


with one_line_errors(SCRIPT):
    save(comparison_figure(spec.to_rgb(images), maps, titles=names, figure=plt.figure()))

# %%
# The matches of a query
# ----------------------
# A match has two sides. Here the query's map explains its similarity to the first in rank, and the
# map of each gallery image its similarity to the query, on one color scale.

matching = [name for name in ("GradRAM", *matching) if name in maps][:1]
for number, name in [(number, name) for number in range(len(images)) for name in matching]:
    top = ranked[number, : options.ranks]
    matches = explain[name](Subject(gallery[top], images[number : number + 1]))
    figure = explanation_figure(
        spec.to_rgb(torch.cat([images[number : number + 1], gallery[top]])),
        torch.cat([maps[name][number : number + 1], matches]),
        titles=[
            names[number],
            *(f"rank {k}\n{c:.2f}" for k, c in enumerate(cosines[number, : len(top)], 1)),
        ],
        correct=correct and [None, *(correct[row] for row in top)],
        shared_scale=True,
        figure=plt.figure(),
    )
    with one_line_errors(SCRIPT):
        save(figure, "_ranks" if len(images) == 1 else f"_ranks_{number + 1}")

if not output:
    plt.show()
