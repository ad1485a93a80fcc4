"""Train an editor of attributes on interventions of a drawn world.

python benchmarks/train_editor.py --output runs/editor
python benchmarks/train_editor.py --output runs/editor --resume
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from reid_explain.benchmark.causal_attributes import groups_of
from reid_explain.benchmark.command_line import TargetOptions, one_line_errors, read
from reid_explain.benchmark.run import claim
from reid_explain.benchmark.target import Target
from reid_explain.checks import check_at_least
from reid_explain.counterfactual import AttributeEditor, save_editor
from reid_explain.counterfactual.editor import SIZE
from reid_explain.counterfactual.trainer import (
    EditStep,
    Interventions,
    Scales,
    balanced,
    values_of,
)
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.files import atomic
from reid_explain.training.schedule import learning_rate_factor

GIVERS = 3
"""People whose color of each garment a person is given."""
MEASURED = 8
"""Sheets that the scales are measured on."""
LARGEST_GRADIENT = 5.0
FILE = "editor.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainEditor:
    """Train an editor of attributes on interventions of a drawn world.

    Sheets of people are drawn once, each person with every attribute changed; they stay in the
    folder. Then come epochs that look at pixels alone, and epochs that also ask the target what it
    makes of the edits.

    Args:
        output: folder of this run
        resume: go on with the run in --output
        world: seed of the world, neither that of the target (100) nor one that is tested
        sheets: how many; one is a step of the training
        people: on a sheet
        pixel_epochs: epochs of pixels alone
        epochs: epochs after them
        pixel_edits: edits of a step of pixels alone
        edits: edits of a step with the target
        learning_rate: of AdamW, of both parts, with a cosine to 0 each
        weight_decay: of AdamW
        seed: of every random choice
    """

    target: TargetOptions = field(default_factory=TargetOptions)
    output: Path
    resume: bool = False
    world: int = 200
    sheets: int = 32
    people: int = 48
    pixel_epochs: int = 16
    epochs: int = 24
    pixel_edits: int = 288
    edits: int = 96
    learning_rate: tuple[float, float] = (3e-3, 1e-3)
    weight_decay: float = 0.02
    seed: int = 0

    def run(self) -> None:
        """Draw, train, save."""
        for name in ("sheets", "people", "pixel_epochs", "epochs", "edits"):
            check_at_least(name, getattr(self, name), 0 if "epochs" in name else 1)
        target = self.target.open()
        count = self.sheets * self.people
        settings: dict[str, Any] = {"seed": self.world, "train_identities": count}
        world: Any = open_dataset(SYNTHETIC, test_identities=0, distractors=0, **settings)
        free = {name: v for name, v in asdict(self).items() if name not in ("output", "resume")}
        claim(self.output, {**free, "target": target.settings()}, resume=self.resume)
        sheets = []
        for number in tqdm(range(self.sheets), desc="interventions", unit="sheet"):
            path = self.output / f"sheet-{number:04d}.safetensors"
            if not path.is_file():
                with atomic(path) as part:
                    save_file(draw(world, target, number, self.people, self.seed)._asdict(), part)
            sheets.append(path)
        editor = self._train(sheets, groups_of(world), target)
        with atomic(self.output / FILE) as part:
            save_editor(editor, part)

    def _train(self, sheets: Sequence[Path], groups: Any, target: Target) -> AttributeEditor:
        """Train epoch by epoch; the folder keeps the state after the last one."""
        torch.manual_seed(self.seed)
        editor = AttributeEditor(groups).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(editor.parameters(), weight_decay=self.weight_decay)
        scales = Scales.of([read_sheet(path) for path in sheets[:MEASURED]], len(groups))
        state, done = self.output / "state.pt", 0
        if state.is_file():
            saved = torch.load(state, weights_only=True)
            editor.load_state_dict(saved["editor"])
            optimizer.load_state_dict(saved["optimizer"])
            done = saved["epochs"]
        for epoch in range(done, self.pixel_epochs + self.epochs):
            torch.manual_seed(self.seed + epoch)
            random.seed(self.seed + epoch)
            embed = None if epoch < self.pixel_epochs else partial(embedded, target)
            self._epoch(epoch, EditStep(editor, scales, embed).train(), optimizer, sheets)
            content = {"editor": editor.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic(state) as part:
                torch.save({**content, "epochs": epoch + 1}, part)
        return editor

    def _epoch(self, epoch: int, step: EditStep, optimizer: Any, sheets: Sequence[Path]) -> None:
        """Take a step for each sheet, in random order."""
        count = self.pixel_edits if step.embed is None else self.edits
        bar = tqdm(torch.randperm(len(sheets)).tolist(), desc=f"epoch {epoch + 1}", unit="sheet")
        for number, sheet in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = self._rate(epoch + number / len(sheets))
            batch = read_sheet(sheets[sheet])
            terms = step(batch.some(balanced(batch.group, count)))
            loss: Any = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(step.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            bar.set_postfix({name: f"{value.item():.2f}" for name, value in terms.items()})

    def _rate(self, epoch: float) -> float:
        """Return the learning rate at a (fractional) epoch."""
        first, second = self.learning_rate
        if epoch < self.pixel_epochs:
            return first * learning_rate_factor(epoch, self.pixel_epochs, 1, "cosine", 0.02)
        epoch -= self.pixel_epochs
        return second * learning_rate_factor(epoch, self.epochs, 1, "cosine", 0.02)


def embedded(target: Target, images: Tensor) -> Tensor:
    """Return a target's embeddings of RGB images, with gradients, in mixed precision."""
    with torch.autocast("cpu", torch.bfloat16):
        found: Tensor = target.embedding(target.spec.from_rgb(images))
    return found.float()


def draw(world: Any, target: Target, number: int, people: int, seed: int) -> Interventions:
    """Draw a sheet: people, one image each, and every group of attributes changed.

    A garment gets the colors of three other people of the sheet; an attribute with two values the
    other one. Interventions that change no pixel are left out.
    """
    chance = random.Random(f"{seed} {number}")
    by_identity: dict[int, list[Any]] = {}
    for record in world.train:
        by_identity.setdefault(record.identity, []).append(record)
    identities = sorted(by_identity)[number * people : (number + 1) * people]
    records = [chance.choice(by_identity[identity]) for identity in identities]
    groups, names = groups_of(world), list(world.attribute_names)
    labels = torch.from_numpy(np.stack([world.labels[i] for i in identities])).long()
    values = values_of(labels, names, groups)
    originals = [world.render(record).image for record in records]
    rows, edits = [], []
    for query, record in enumerate(records):
        for group, (name, members) in enumerate(groups.items()):
            others = [o for o in range(len(records)) if values[o, group] != values[query, group]]
            wanted = GIVERS if len(members) > 1 else 1
            for gallery in chance.sample(others, min(wanted, len(others))):
                image = world.intervene(record, {name: records[gallery]}).image
                if (image != originals[query]).any():
                    rows.append((query, gallery, group))
                    edits.append(target.spec.fit(Image.fromarray(image)))
    images = pixels([target.spec.fit(Image.fromarray(image)) for image in originals])
    changed = pixels(edits)
    own, moved = (target.embed(target.spec.from_rgb(each / 255)) for each in (images, changed))
    small = F.interpolate(changed.float(), SIZE, mode="area").round().byte()
    ways = [torch.tensor(column) for column in zip(*rows, strict=True)]
    return Interventions(images, small, values, *ways, own, moved)  # type: ignore[call-arg]


def read_sheet(path: Path) -> Interventions:
    """Return a sheet that was drawn before."""
    return Interventions(**load_file(path))


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images as uint8, (N, 3, H, W)."""
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with one_line_errors("train_editor.py"):
        read(TrainEditor, arguments, "train_editor.py").run()
