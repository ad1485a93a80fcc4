"""The commands that explain: each writes one page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from reid_explain.benchmark.command_line import SHIPPED, TargetOptions
from reid_explain.benchmark.methods import Method, all_methods, find_methods, method_names
from reid_explain.benchmark.target import Target
from reid_explain.checks import check_at_least
from reid_explain.cli import views
from reid_explain.cli.index import index_folder
from reid_explain.datasets.registry import SYNTHETIC, open_dataset
from reid_explain.errors import InputError
from reid_explain.inputs import load_image
from reid_explain.report import Report, write_report

Image = Annotated[Path, tyro.conf.Positional]
Images = Annotated[tuple[Path, ...], tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """The page.

    Args:
        methods: names or module:Class, between spaces or commas; by default those that take seconds
        output: the .html file
    """

    methods: tuple[str, ...] = ()
    output: Path = Path("explanation.html")

    def chosen(self, *default: str) -> dict[str, Method]:
        """Return the methods that are wanted, by name, if the output can be a page."""
        if self.output.suffix.lower() not in (".html", ".htm") or self.output.is_dir():
            raise InputError("output", self.output, "an .html file")
        names = method_names(self.methods)
        return find_methods(names or default, all_methods())

    def write(self, report: Report) -> None:
        """Write a report and say where."""
        print(write_report(report, self.output))


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Explain what the embeddings of images look at.

    Args:
        images: image files
    """

    images: Images
    page: PageOptions = field(default_factory=PageOptions)
    target: TargetOptions = field(default_factory=TargetOptions)

    def run(self) -> None:
        """Explain, write the page."""
        self.page.write(self.report())

    def report(self) -> Report:
        """Explain."""
        methods = self.page.chosen(*views.SINGLE)
        if paired := [name for name, method in methods.items() if "references" in method.needs]:
            raise InputError("methods", ", ".join(paired), "methods of one image; see match")
        target, images = opened(self.target, images=self.images)
        names = [path.name for path in self.images]
        return views.explained(target, methods, images, names)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Explain why images match a query: place to place, margins, for and against.

    Args:
        query: an image file
        gallery: image files
        threshold: similarity from which a pair is accepted; adds the view for and against
    """

    query: Image
    gallery: Images
    threshold: float | None = None
    page: PageOptions = field(default_factory=PageOptions)
    target: TargetOptions = field(default_factory=TargetOptions)

    def run(self) -> None:
        """Explain, write the page."""
        check_threshold(self.threshold)
        methods = self.page.chosen(*views.PAIRS)
        target, images = opened(self.target, query=[self.query], gallery=self.gallery)
        names = [path.name for path in (self.query, *self.gallery)]
        self.page.write(views.matched(target, methods, images, names, threshold=self.threshold))


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Rank a folder by similarity to a query and explain the first.

    The folder is embedded once: FOLDER.index beside it keeps the embeddings.

    Args:
        query: an image file
        gallery: a folder of images, and of folders of them
        top: how many to explain
        threshold: similarity from which a pair is accepted; adds the view for and against
    """

    query: Image
    gallery: Path
    top: int = 10
    threshold: float | None = None
    page: PageOptions = field(default_factory=PageOptions)
    target: TargetOptions = field(default_factory=TargetOptions)

    def run(self) -> None:
        """Embed, rank, explain, write the page."""
        report = self.report()
        for entry in report.entries:
            print(f"{entry.similarity:.4f}  {entry.name}")
        self.page.write(report)

    def report(self) -> Report:
        """Embed, rank, explain."""
        check_at_least("top", self.top, 1)
        check_threshold(self.threshold)
        methods = self.page.chosen(*views.PAIRS)
        target, image = opened(self.target, query=[self.query])
        index = index_folder(self.gallery, target)
        own = self.query.resolve()
        rows = [row for row, path in enumerate(index.paths) if path.resolve() != own]
        if not rows:
            raise InputError("gallery", self.gallery, "a folder with another image than the query")
        similarity = F.cosine_similarity(target.embed(image), index.embeddings[rows])
        order = similarity.argsort(descending=True, stable=True)[: self.top].tolist()
        paths = [index.paths[rows[place]] for place in order]
        names = [path.relative_to(self.gallery).as_posix() for path in paths]
        images = torch.cat([image, tensors(target, loaded("gallery", paths))])
        names = [self.query.name, *names]
        return views.matched(target, methods, images, names, threshold=self.threshold)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Split the distance of a query to images into attributes: which, how much, where.

    With the package's own model attributes are edited in the query, one by one, and the model says
    how much nearer that brings the two. Another model needs an interpreter that was trained for it.

    Args:
        query: an image file
        gallery: image files
        interpreter: a file of benchmarks/amd.py train
    """

    query: Image
    gallery: Images
    interpreter: Path | None = None
    page: PageOptions = field(default_factory=PageOptions)
    target: TargetOptions = field(default_factory=TargetOptions)

    def run(self) -> None:
        """Explain, write the page."""
        self.page.chosen(*views.SINGLE)
        if self.interpreter is None and (self.target.weights or self.target.model != SHIPPED):
            expected = "the file of one that was trained for this model: benchmarks/amd.py train"
            raise InputError("interpreter", "none", expected)
        target, images = opened(self.target, query=[self.query], gallery=self.gallery)
        names = [path.name for path in (self.query, *self.gallery)]
        self.page.write(views.split(target, images, names, self.interpreter))


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Explain the rank list of a drawn person: the package's own model, nothing to download."""

    page: PageOptions = field(default_factory=PageOptions)

    def run(self) -> None:
        """Draw, explain, write the page."""
        methods = self.page.chosen(*views.PAIRS)
        target = TargetOptions().open()
        world: Any = open_dataset(SYNTHETIC, test_identities=20, distractors=40)
        query = world.query[37]
        others = [record for record in world.gallery if record.camera != query.camera]
        pictures = [world.load(record) for record in (query, *others)]
        images = tensors(target, pictures)
        similarity = torch.tensor(views.cosines(target, images))
        order = similarity.argsort(descending=True)[:8].tolist()
        report = views.matched(
            target,
            methods,
            images[[0, *(place + 1 for place in order)]],
            ["drawn person", *(f"camera {others[place].camera}" for place in order)],
            correct=[others[place].identity == query.identity for place in order],
            attributes=True,
        )
        self.page.write(report)


def check_threshold(threshold: float | None) -> None:
    """Raise unless a threshold is None or a cosine."""
    if threshold is not None and not -1 <= threshold <= 1:
        raise InputError("threshold", threshold, "a similarity, from -1 to 1")


def opened(options: TargetOptions, **files: Sequence[Path]) -> tuple[Target, Tensor]:
    """Return a model and its input (N, 3, H, W), the images of files by argument."""
    pictures = [picture for each in files.items() for picture in loaded(*each)]
    target = options.open()
    images = tensors(target, pictures)
    target.check(images[:1])
    return target, images


def loaded(argument: str, paths: Sequence[Path]) -> list[Any]:
    """Return the images of files, at least one; errors name the argument."""
    if not paths:
        raise InputError(argument, "none", "at least one image file")
    try:
        return [load_image(path) for path in paths]
    except InputError as error:
        raise InputError(argument, *error.args[1:]) from error


def tensors(target: Target, pictures: Sequence[Any]) -> Tensor:
    """Return images as a model takes them, (N, 3, H, W)."""
    return torch.stack([target.spec.to_tensor(picture) for picture in pictures])
