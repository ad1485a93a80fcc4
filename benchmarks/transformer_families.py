r"""Vision transformers of five families, made small and trained on drawn people: one picture.

    python benchmarks/transformer_families.py --start runs/vit/model.json --root world \
        --goals runs/vit/goals.safetensors --output runs/families

Published weights are of real people and were not at hand. So each family's network is built small.
Its blocks begin as those of the hybrid transformer of ``--start``, which ``distill.py`` trained,
its patches as the affine function that comes closest to that one's stem (SOLIDER's windows begin
at random), and an epoch of distillation follows: of the shipped network's embeddings, and of the
hybrid's last tokens. Explained are people of another world. The output folder gets a folder for
each, whose training an interrupted run continues, and transformers.png; printed are Rank-1, mAP and
the share of the maps' energy on the person, with 95 % intervals over the images.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from reid_explain import GradRAM, InputSpec, PairRelevance, ScoreFAM
from reid_explain.datasets import Market1501, Record, ReIDDataset, SyntheticReID
from reid_explain.metrics.localization import area, energy_inside
from reid_explain.models import HuggingFaceNet, build_model, load_trained
from reid_explain.retrieval import Embedded, Gallery, RetrievalSummary, summarize
from reid_explain.statistics import bootstrap_mean
from reid_explain.training.distillation import DistillationStep
from reid_explain.training.images import Pixels, TrainingImages, cached_pixels, to_input
from reid_explain.training.loop import TrainingLoop
from reid_explain.training.sampling import ShuffledBatches
from reid_explain.training.schedule import learning_rate_factor
from reid_explain.visualization import overlay, picture_figure, save_figure

DRAWN, SIZE = (256, 128), (128, 64)
WIDTH, DEPTH, HEADS, PATCH = 128, 4, 2, 8
BATCH, RATE, DECAY = 16, 5e-4, 0.05
FITTED, RIDGE = 400, 1.0
"""Images that the patches are fitted to, and what is added to the squares."""
SHOWN = (0, 10)
"""Which of the explained images are in the picture."""
HYBRID = "hybrid ViT"


class Tower(HuggingFaceNet):
    """An image tower of transformers in two parts, as an ``EmbeddingNet`` is."""

    def features(self, x: Tensor) -> Tensor:
        """Return the last tokens (B, T, C) of images (B, 3, H, W)."""
        out: Tensor = self.tower(x, interpolate_pos_encoding=self.interpolates).last_hidden_state
        return out

    def embed(self, features: Tensor) -> Tensor:
        """Return the embeddings (B, D): what SigLIP's head reads, or the class token."""
        head: Any = getattr(self.tower, "head", None)
        out: Tensor = features[:, 0] if head is None else head(features)
        return out


def tower(kind: str) -> Tower:
    """Return a small image tower of transformers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=SIZE[0],
        patch_size=PATCH,
    )
    model = getattr(transformers, f"{kind}Model")(config)
    return Tower(model, InputSpec(SIZE, mean=(0.5,) * 3, std=(0.5,) * 3))


def patches(name: str) -> nn.Module:
    """Return a small network of overlapping patches."""
    return build_model(name, img_size=SIZE, stride=PATCH, embed_dim=WIDTH, depth=DEPTH)


def swin() -> nn.Module:
    """Return a small SOLIDER, whose windows are of 4 x 4 places."""
    model = build_model("solider", embed_dim=64, depths=(2, 2, 2), window=4)
    model.input_spec = model.input_spec.replace(size=SIZE)
    return model


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "TransReID": lambda: patches("transreid"),
    "CLIP-ReID": lambda: patches("clip_reid_vit"),
    "DINOv2": lambda: tower("Dinov2"),
    "SigLIP": lambda: tower("SiglipVision"),
    "SOLIDER": swin,
}
WINDOWED = ("SOLIDER",)
"""Families whose attention does not join all tokens."""
METHODS = ("Grad-RAM", "Score-FAM", "PairRelevance")
BLOCK = re.compile(r"(?:blocks|layers?)\.(\d+)\.(.*)\.(weight|bias)$")
PARTS = {
    **{"layer_norm1": "norm1", "layer_norm2": "norm2"},
    **{f"{name}.{i}_proj": f"attn.{i}" for name in ("attention", "self_attn") for i in "qkv"},
    **{"attention.o_proj": "attn.proj", "self_attn.out_proj": "attn.proj"},
}
"""Of a block's layers, the names in transformers and in timm."""
LAST_NORM = re.compile(r"^(?!.*head).*(?:layer|\.)norm\.(weight|bias)$")
POSITIONS = re.compile(r"(?:pos_embed|position_embeddings?(?:\.weight)?)$")


@dataclass(frozen=True)
class Settings:
    """What to train and explain.

    Args:
        start: card of a hybrid_vit as wide and deep as these, with 16 x 8 patches.
        root: the drawn people to train on, a Market-1501 folder.
        goals: what the shipped network makes of them, a file that ``distill.py`` wrote.
        output: folder of the networks and of the picture.
        families: which, by default all; the hybrid comes first.
        epochs: of each training.
        images: test images that are explained, spread over the identities.
        seed: of every random choice.
    """

    start: Path
    root: Path
    goals: Path
    output: Path
    families: tuple[str, ...] = tuple(FAMILIES)
    epochs: int = 1
    images: int = 20
    seed: int = 0


@dataclass
class People:
    """Records of a data set with their pixels, (N, 3, H, W) uint8."""

    records: Sequence[Record]
    pixels: Pixels

    @classmethod
    def of(cls, dataset: ReIDDataset, records: Sequence[Record], path: Path) -> "People":
        """Load them once, into a file."""
        return cls(records, cached_pixels(dataset, records, InputSpec(DRAWN), path))

    def some(self, indices: Sequence[int]) -> Tensor:
        """Return the pixels of some."""
        return torch.from_numpy(self.pixels[list(indices)])

    def embedded(self, model: Any) -> Embedded:
        """Return what a model in eval mode makes of them."""
        every, ready = range(len(self.records)), inputs(model)
        with torch.no_grad():
            rows = [model(ready(self.some(every[i : i + 64]))) for i in every[::64]]
        return Embedded.of(torch.cat(rows), self.records)


def main(settings: Settings) -> None:
    """Train, evaluate and draw."""
    settings.output.mkdir(parents=True, exist_ok=True)
    market, world = Market1501(settings.root), SyntheticReID()
    people = People.of(market, market.train, settings.output / "train.npy")
    query = People.of(world, world.query, settings.output / "query.npy")
    gallery = People.of(world, world.gallery, settings.output / "gallery.npy")
    chosen = [i * len(query.records) // settings.images for i in range(settings.images)]
    matches = [first_match(query.records[i], gallery.records) for i in chosen]
    scenes = [world.render(query.records[i]).person for i in chosen]
    masks = torch.stack([torch.as_tensor(mask)[None] for mask in scenes])
    print(f"chance    {100 * area(masks).mean():.1f} % of the image is the person")
    start: Any = load_trained(settings.start)
    taught = lessons(start, people, settings) if settings.families else {}
    rows, titles = [], []
    for name in (HYBRID, *settings.families):
        model = start if name == HYBRID else trained(name, start, people, taught, settings)
        found = summarize(Gallery(gallery.embedded(model)).ranks(query.embedded(model)))
        ready = inputs(model)
        maps = explained(name, model, ready(query.some(chosen)), ready(gallery.some(matches)))
        maps = {key: functional.interpolate(map_, DRAWN) for key, map_ in maps.items()}
        report(name, found, {key: energy_inside(value, masks) for key, value in maps.items()})
        rows.append(row(query.some(chosen) / 255, maps))
        titles.append(f"{name}\nRank-1 {found.cmc[1]:.0f} %")
        columns = ["", *METHODS] * len(SHOWN)
        figure = picture_figure(rows, titles=columns, row_titles=titles)
        save_figure(figure, settings.output / "transformers.png")


def inputs(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from drawn images (N, 3, 256, 128) uint8 to what a model takes."""
    spec = model.input_spec

    def ready(pixels: Tensor) -> Tensor:
        images: Tensor = to_input(spec)(pixels)
        return images if spec.size == DRAWN else functional.avg_pool2d(images, 2)

    return ready


def lessons(start: Any, people: People, settings: Settings) -> dict[str, Tensor]:
    """Return ``goals``, ``maps`` and ``patches`` by name, from the file if it is there.

    The first are the shipped network's embeddings (N, D), the others tokens of the hybrid as maps
    (N, C, 16, 8): behind its blocks, and before them.
    """
    path = settings.output / "lessons.safetensors"
    if not path.is_file():
        ready, every = inputs(start), range(len(people.records))
        behind, before = [], []
        with torch.no_grad():
            for i in every[::64]:
                map_ = start.stem(ready(people.some(every[i : i + 64])))
                behind.append(as_map(start.vit.forward_features(map_)[:, 1:]))
                before.append(as_map(start.vit.patch_embed(map_)))
        found = {"maps": torch.cat(behind), "patches": torch.cat(before)}
        save_file({**found, "goals": load_file(settings.goals)["goals"]}, path)
    return load_file(path)


def as_map(tokens: Tensor) -> Tensor:
    """Return patches (N, 128, C) as maps (N, C, 16, 8) float16."""
    rows, columns = (side // PATCH for side in SIZE)
    return tokens.transpose(1, 2).unflatten(2, (rows, columns)).half().contiguous()


def on_patches(maps: Tensor, features: Tensor) -> Tensor:
    """Return maps (N, C, 16, 8) as means over the patches of features (B, C', h, w) or tokens."""
    if features.dim() == 4:
        return functional.adaptive_avg_pool2d(maps.float(), features.shape[2:]).half()
    overlap = features.shape[1] < maps.shape[2] * maps.shape[3]
    return functional.avg_pool2d(maps.float(), 2, stride=1).half() if overlap else maps


def inherit(model: Any, start: Any) -> None:
    """Begin blocks, last norm, class token and positions as those of a hybrid transformer."""
    given = dict(start.vit.state_dict())
    for key in [key for key in given if ".qkv." in key]:
        parts = zip("qkv", given[key].chunk(3), strict=True)
        given |= {key.replace("qkv", name): third for name, third in parts}
    for key, value in model.state_dict().items():
        if found := BLOCK.search(key):
            number, part, kind = found.groups()
            value.copy_(given[f"blocks.{number}.{PARTS.get(part, part)}.{kind}"])
        elif found := LAST_NORM.search(key):
            value.copy_(given[f"norm.{found[1]}"])
        elif key.endswith("cls_token"):
            value.copy_(given["cls_token"])
        elif POSITIONS.search(key):
            grid = getattr(model, "token_grid", None) or own_grid(value)
            value.copy_(resampled(given["pos_embed"], grid, value).view_as(value))


def own_grid(positions: Tensor) -> tuple[int, int]:
    """Return rows and columns of positions (..., T, C): 16 x 8, or a square of transformers."""
    rows, columns = (side // PATCH for side in SIZE)
    return (rows, columns) if positions.shape[-2] <= 1 + rows * columns else (rows, rows)


def resampled(positions: Tensor, grid: tuple[int, int], like: Tensor) -> Tensor:
    """Return positions (1, 1 + h w, C) for another grid, without the class token's if need be."""
    rows, columns = (side // PATCH for side in SIZE)
    places = positions[0, 1:].T.reshape(1, -1, rows, columns)
    places = functional.interpolate(places, grid, mode="bicubic").flatten(2)[0].T
    fits = places.numel() == like.numel()
    return places if fits else torch.cat([positions[0, :1], places])


def fit_patches(model: Any, targets: Tensor, pixels: Tensor) -> None:
    """Make patches the affine function of pixels that comes closest to another one's tokens.

    Args:
        model: its convolution makes the patches.
        targets: (N, C, 16, 8), the tokens.
        pixels: of the same images, (N, 3, H, W) uint8.
    """
    conv = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    images = inputs(model)(pixels)
    seen = functional.unfold(images, conv.kernel_size, stride=conv.stride).transpose(1, 2)
    wanted = on_patches(targets, seen).flatten(2).transpose(1, 2).float().flatten(0, 1)
    known = conv.weight[0].numel()
    one = torch.ones(len(wanted), 0 if conv.bias is None else 1)
    design = torch.cat([seen.flatten(0, 1), one], dim=1)
    squares = design.T @ design + RIDGE * torch.eye(design.shape[1])
    solution = torch.linalg.solve(squares, design.T @ wanted)
    conv.weight.data = solution[:known].T.reshape(conv.weight.shape).contiguous()
    if conv.bias is not None:
        conv.bias.data = solution[known].clone()


def trained(
    name: str, start: Any, people: People, taught: Mapping[str, Tensor], settings: Settings
) -> Any:
    """Return a family's network after its training, in eval mode."""
    set_seed(settings.seed)
    model = FAMILIES[name]()
    with torch.no_grad():
        features = model.eval().features(torch.zeros(1, 3, *SIZE))
        width = model.embed(features).shape[1]
    if name not in WINDOWED:
        with torch.no_grad():
            inherit(model, start)
            some = range(0, len(people.records), max(len(people.records) // FITTED, 1))
            fit_patches(model, taught["patches"][list(some)], people.some(some))
    maps = on_patches(taught["maps"], features)
    channels = features.shape[1 if features.dim() == 4 else 2]
    step = DistillationStep(model, width, taught["goals"], maps, channels)
    every = range(len(people.records))
    images = TrainingImages(people.pixels, every, settings.seed, inputs(model))
    batches = ShuffledBatches(len(images), BATCH, settings.seed)
    loader: Any = DataLoader(images, batch_sampler=batches)
    folder = settings.output / name.replace(" ", "_")
    folder.mkdir(exist_ok=True)

    def rate(epoch: float) -> float:
        return RATE * learning_rate_factor(epoch, settings.epochs, 0.2, "cosine")

    adam = torch.optim.AdamW(step.parameters(), RATE, weight_decay=DECAY)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    parts = (accelerator, step, [adam], loader, folder, settings.epochs, rate, settings.seed)
    TrainingLoop(*parts).fit()
    return accelerator.unwrap_model(step, keep_fp32_wrapper=False).model.eval()


def explained(name: str, model: Any, images: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Return maps (N, 1, h, w) by method."""
    pair = {"references": references}
    maps = {
        "Grad-RAM": GradRAM(model, model.map_layer).attribute(images, **pair),
        "Score-FAM": ScoreFAM(model, model.map_layer).attribute(images),
    }
    if name in WINDOWED:
        return maps
    return {**maps, "PairRelevance": PairRelevance(model).attribute(images, **pair)}


def report(name: str, found: RetrievalSummary, energy: Mapping[str, Tensor]) -> None:
    """Print a line for the network and one for each method."""
    print(f"{name}: Rank-1 {found.cmc[1]:.1f} %, mAP {found.mean_ap:.1f} %", flush=True)
    for method, values in energy.items():
        mean, low, high = bootstrap_mean(100 * values)
        print(f"    {method:19}{mean:.1f} % [{low:.1f}, {high:.1f}] of its energy is on the person")


def row(rgb: Tensor, maps: Mapping[str, Tensor]) -> list[Any]:
    """Return the pictures of one network: of each image shown, itself and its maps."""
    pictures: list[Any] = []
    for i in SHOWN:
        over = [overlay(rgb[i], value[i]) for value in maps.values()]
        pictures += [rgb[i], *over, *[None] * (len(METHODS) - len(over))]
    return pictures


def first_match(query: Record, gallery: Sequence[Record]) -> int:
    """Return the index of the first image of the same person from another camera."""
    return next(
        i
        for i, record in enumerate(gallery)
        if record.identity == query.identity and record.camera != query.camera
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
