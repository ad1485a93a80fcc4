r"""
Explain an embedding
====================

What is this embedding looking at, and why did these two images match? Every explainer answers
with a map over the image, here side by side as in figure 4 of the FAM paper (Wu et al.,
CVPR 2022).

Without arguments this page draws its pedestrians and uses the model that comes with the package.
With your own files, and a checkpoint of torchreid, fast-reid or reid-strong-baseline::

    python examples/plot_explain_embedding.py \
        --image query.jpg --reference gallery_1.jpg gallery_2.jpg \
        --weights osnet_x0_25_market1501.pth --output figure.png

"""

# %%
# What to explain
# ---------------
# The methods differ in what they need. The class-based ones explain a training identity, the
# reference-based ones a match, and the last three the embedding by itself.
import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    GradCAM,
    GradFAM,
    GradRAM,
    InputError,
    ScoreCAM,
    ScoreFAM,
)
from reid_explain.datasets.synthetic import SyntheticReID
from reid_explain.inputs import load_image
from reid_explain.models.checkpoints import open_checkpoint
from reid_explain.models.pretrained import load_pretrained
from reid_explain.visualization import comparison_figure, explanation_figure, save_figure

CLASS_BASED = ("GradCAM", "ScoreCAM")
REFERENCE_BASED = ("RAM", "CGRAM", "GradRAM")
SINGLE_IMAGE = ("GradFAM", "ScoreFAM", "ActivationMean")
METHODS = (*CLASS_BASED, *REFERENCE_BASED, *SINGLE_IMAGE)

parser = argparse.ArgumentParser(description="Explain the embeddings of images, method by method.")
add = parser.add_argument
add("--image", type=Path, nargs="+", metavar="FILE", help="images to explain")
add("--reference", type=Path, nargs="+", metavar="FILE", help="gallery to find references in")
add("--weights", type=Path, metavar="FILE", help="checkpoint of your model")
add("--method", nargs="+", choices=("all", *METHODS), default=["all"], help="one, several or all")
add("--output", type=Path, metavar="PATH", help="a .png or .pdf file, or a folder")
args = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
if args.output and not args.output.suffix:
    args.output = args.output / "explanation.png"

methods = METHODS if "all" in args.method else args.method
if args.reference and not args.image:
    parser.error("--reference goes with --image")
if args.image and not args.reference:
    if set(args.method) & set(REFERENCE_BASED):
        parser.error(f"{', '.join(REFERENCE_BASED)} explain a match: give --reference")
    methods = [method for method in methods if method not in REFERENCE_BASED]

# %%
# A model and a layer
# -------------------
# A model is a function from images to embeddings; the maps are made of a layer's channels. Which
# network a checkpoint is of shows in the names and shapes of its weights.
try:
    model = open_checkpoint(args.weights) if args.weights else load_pretrained("synthetic")
except InputError as error:
    parser.error(f"--weights: {error}")
layer = model.get_submodule(model.map_layer)

# %%
# Images and their matches
# ------------------------
# The gallery is ranked by cosine similarity. The first in rank is the reference of its query.
if args.image:
    names = [path.name for path in args.image]
    pictures = [load_image(path) for path in args.image]
    candidates = [load_image(path) for path in args.reference or ()]
else:
    data = SyntheticReID(seed=0)
    query = data.query[0]
    others = [record for record in data.gallery if record.camera != query.camera]
    names = ["query"]
    pictures = [data.load(query)]
    candidates = [data.load(record) for record in others[:32]]

images = torch.stack([model.input_spec.to_tensor(picture) for picture in pictures])
if candidates:
    gallery = torch.stack([model.input_spec.to_tensor(picture) for picture in candidates])
    with torch.no_grad():
        cosine = F.normalize(model(images)) @ F.normalize(model(gallery)).T
    cosine, ranked = cosine.sort(descending=True)
    references = gallery[ranked[:, 0]]

# %%
# All methods side by side
# ------------------------
# Each explainer takes a function and a layer. Class-based ones take one that returns logits and
# explain the training identity that the image resembles most; RAM takes one that returns the
# pooled layer. ``ActivationMean`` is a control: it knows nothing of the embedding.


def logits(x):
    return model.classify(model(x))


def pooled(x):
    return model.features(x).mean((2, 3))


explainers = {
    "GradCAM": GradCAM(logits, layer),
    "ScoreCAM": ScoreCAM(logits, layer),
    "RAM": RAM(pooled, layer),
    "CGRAM": CGRAM(model, layer),
    "GradRAM": GradRAM(model, layer),
    "GradFAM": GradFAM(model, layer),
    "ScoreFAM": ScoreFAM(model, layer),
    "ActivationMean": ActivationMean(model, layer),
}
maps = {}
for method in methods:
    options = {}
    if method in REFERENCE_BASED:
        options["references"] = references
    if method in ("ScoreCAM", "ScoreFAM"):
        options["show_progress"] = True
    maps[method] = explainers[method].attribute(images, **options)


def save(figure, suffix=""):
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, args.output.with_stem(args.output.stem + suffix))


save(comparison_figure(model.input_spec.to_rgb(images), maps, titles=names, figure=plt.figure()))

# %%
# The matches of one query
# ------------------------
# A match has two sides. Here the query's map explains its similarity to the first in rank, and the
# map of each gallery image its similarity to the query, on one colour scale.
pairwise = [method for method in ("GradRAM", "CGRAM", "RAM") if method in methods]
if pairwise:
    top = ranked[0, :4]
    matches = explainers[pairwise[0]].attribute(gallery[top], references=images[:1])
    figure = explanation_figure(
        model.input_spec.to_rgb(torch.cat([images[:1], gallery[top]])),
        torch.cat([maps[pairwise[0]][:1], matches]),
        titles=["query", *(f"rank {i}\ncosine {c:.2f}" for i, c in enumerate(cosine[0, :4], 1))],
        shared_scale=True,
        figure=plt.figure(),
    )
    save(figure, "_ranks")

if not args.output:
    plt.show()
