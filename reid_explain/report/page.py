"""What a report shows, and the page that shows it."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid_explain.errors import InputError
from reid_explain.explainers.pairs import Matches, PairExplanation
from reid_explain.files import atomic
from reid_explain.visualization.colors import (
    GLOW,
    SIGNED_GLOW,
    color_scale,
    image_pixels,
    map_values,
)

MOST_CELLS = 64
"""Rows and columns of a stored map; a larger one is averaged."""
QUALITY = 90
"""Of images as JPEG."""
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"sort_keys": False}


class Link(NamedTuple):
    """Which places of a query and of a gallery image go together.

    ``there``: for each place of the query, (h, w), the number of its best place in the gallery
    image, row by row; ``back`` (h', w'), the reverse; ``matches``, the strongest of both.
    """

    there: Tensor
    back: Tensor
    matches: Matches

    @classmethod
    def of(cls, explained: PairExplanation, k: int = 10, apart: int = 1) -> "list[Link]":
        """Return the links of B explained pairs; ``k`` and ``apart`` as of ``top``."""
        _, h, w, height, width = explained.affinity.shape
        table = explained.affinity.reshape(-1, h * w, height * width)
        there = table.argmax(dim=2).view(-1, h, w)
        back = table.argmax(dim=1).view(-1, height, width)
        return [cls(*each) for each in zip(there, back, explained.top(k, apart), strict=True)]


@dataclass(frozen=True)
class Entry:
    """An image of the list: by itself, or what was found for the query.

    Args:
        name: what it is called.
        image: (3, H, W), RGB in [0, 1].
        maps: by method, its map (1, h, w) over this image, or None where a method has none.
        query_maps: likewise over the query, for this pair.
        similarity: to the query.
        correct: whether it shows whom the query shows, if that is known.
        link: which places go together.
        shares: by attribute, its share of the distance, with the maps over both images.
    """

    name: str
    image: Tensor
    maps: Mapping[str, Tensor | None] = field(default_factory=dict)
    query_maps: Mapping[str, Tensor | None] = field(default_factory=dict)
    similarity: float | None = None
    correct: bool | None = None
    link: Link | None = None
    shares: Mapping[str, tuple[float, Tensor | None, Tensor | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What one page shows.

    Args:
        title: of the page.
        entries: images, in the order of the list.
        query: its name and image (3, H, W), RGB in [0, 1], if the entries are what it found.
        notes: by method, one sentence on what its map says.
        facts: settings and versions, by name.
    """

    title: str
    entries: Sequence[Entry]
    query: tuple[str, Tensor] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_report(report: Report, path: str | Path) -> Path:
    """Write a report as one HTML file, whole or not at all, and return its path.

    Raises:
        InputError: There is no entry, an image or a map does not fit, or the file cannot be
            written.
    """
    path, html = Path(path), as_html(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            partial.write_text(html, encoding="utf-8")
    except OSError as error:
        raise InputError("output", f"{path} ({error})", "a file that can be written") from error
    return path


def as_html(report: Report) -> str:
    """Return the page of a report.

    Raises:
        InputError: There is no entry, or an image or a map does not fit.
    """
    if not report.entries:
        raise InputError("entries", "none", "at least one")
    return rendered("page.html", title=report.title, facts=report.facts, data=as_json(report))


def rendered(template: str, **values: Any) -> str:
    """Return a template of this folder with its values, escaped."""
    return TEMPLATES.get_template(template).render(**values)


def as_json(report: Report) -> dict[str, Any]:
    """Return what the page draws."""
    asked = image_pixels(report.query[1], "query") if report.query else None
    entries = []
    for number, entry in enumerate(report.entries):
        own = image_pixels(entry.image, f"entries[{number}].image")
        other = own if asked is None else asked
        sides = {"maps": (entry.maps, own), "queryMaps": (entry.query_maps, other)}
        entries.append(
            {
                "name": entry.name,
                "similarity": entry.similarity,
                "correct": entry.correct,
                **picture(own),
                **{
                    side: {name: heat(map_, pixels) for name, map_ in maps.items()}
                    for side, (maps, pixels) in sides.items()
                },
                "link": entry.link and linked(entry.link),
                "shares": [
                    {"name": name, "share": share, "map": heat(b, own), "queryMap": heat(a, other)}
                    for name, (share, a, b) in entry.shares.items()
                ],
            }
        )
    tables = {"glow": GLOW, "signed": SIGNED_GLOW}
    steps = np.linspace(0, 1, 256)
    colors = {name: encoded(255 * table(steps)[:, :3]) for name, table in tables.items()}
    query = None
    if report.query and asked is not None:
        query = {"name": report.query[0], **picture(asked)}
    return {"query": query, "entries": entries, "notes": dict(report.notes), "colors": colors}


def picture(pixels: NDArray[np.float64]) -> dict[str, Any]:
    """Return an image (H, W, 3) as the page has it."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"src": source, "size": pixels.shape[:2]}


def heat(map_: Tensor | None, pixels: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return a map as bytes between the limits of its colors."""
    if map_ is None:
        return None
    scale = color_scale([map_values(map_, pixels, "maps")])
    height, width = map_.shape[-2:]
    values = map_.detach().cpu().double().reshape(1, 1, height, width)
    if max(height, width) > MOST_CELLS:
        values = F.adaptive_avg_pool2d(values, (min(height, MOST_CELLS), min(width, MOST_CELLS)))
    places = (values[0, 0].numpy() - scale.low) / (scale.high - scale.low)
    return {
        "size": places.shape,
        "signed": scale.signed,
        "data": encoded(255 * places.clip(0, 1)),
        "limits": [scale.low, scale.high],
    }


def linked(link: Link) -> dict[str, Any]:
    """Return a link as the page has it."""
    query, gallery, contributions = (column.tolist() for column in link.matches)
    top = [[*a, *b, share] for a, b, share in zip(query, gallery, contributions, strict=True)]
    return {"there": link.there.tolist(), "back": link.back.tolist(), "top": top}


def encoded(values: NDArray[np.float64]) -> str:
    """Return numbers from 0 to 255 as bytes in base 64."""
    return base64.b64encode(np.round(values).astype(np.uint8).tobytes()).decode()
