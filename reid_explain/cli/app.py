"""A viewer in the browser: drop a query, choose a folder and a model, look at the page."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from reid_explain.benchmark.command_line import SHIPPED, TargetOptions
from reid_explain.cli import views
from reid_explain.cli.explain import Explain, PageOptions, Rank
from reid_explain.errors import InputError
from reid_explain.explainers.registry import EXPLAINERS
from reid_explain.models.build import MODELS
from reid_explain.models.pretrained import shipped_names
from reid_explain.report import as_html

FRAME = '<iframe srcdoc="{}" style="width: 100%; height: 85vh; border: 0"></iframe>'
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
"""Of the machine: by default gradio asks Google for its fonts."""


@dataclass(frozen=True, kw_only=True)
class App:
    """Open a viewer in the browser: drop a query, choose a folder and a model. Extra: app.

    It is served to this machine alone.

    Args:
        port: where it listens; by default the first free one from 7860
        browser: open the browser
    """

    port: int | None = None
    browser: bool = True

    def run(self) -> None:
        """Serve until Ctrl-C."""
        viewer().launch(
            server_name="127.0.0.1",
            server_port=self.port,
            inbrowser=self.browser,
            share=False,
            **appearance(),
        )


def viewer() -> Any:
    """Return the viewer, a ``gradio.Blocks``."""
    gradio: Any = import_module("gradio")  # here: the other commands do without
    single = [name for name in EXPLAINERS if name != views.MATCH]
    with gradio.Blocks(title="reid_explain", analytics_enabled=False) as blocks:
        with gradio.Row():
            query = gradio.Image(type="filepath", label="query", height=240)
            with gradio.Column():
                gallery = gradio.Textbox(label="folder of images to rank", placeholder="none")
                top = gradio.Slider(1, 50, 10, step=1, label="how many of them")
            with gradio.Column():
                names = [*shipped_names(), *MODELS]
                model = gradio.Dropdown(
                    names, value=SHIPPED, allow_custom_value=True, label="model, or timm/NAME"
                )
                weights = gradio.Textbox(label="file of weights", placeholder="none")
                methods = gradio.Dropdown(
                    [views.MATCH, *single],
                    multiselect=True,
                    label="methods; by default those that take seconds",
                )
        button = gradio.Button("Explain", variant="primary")
        page = gradio.HTML()

        def explain(*values: Any) -> str:
            try:
                return FRAME.format(html.escape(explanation(*values)))
            except (InputError, ImportError, OSError) as error:
                raise gradio.Error(str(error), duration=None) from error

        button.click(explain, [query, gallery, top, model, weights, methods], page)
    return blocks


def explanation(
    query: str | None, gallery: str, top: int, model: str, weights: str, methods: Sequence[str]
) -> str:
    """Return the page of a query, by itself or with the images of a folder that are nearest.

    Raises:
        InputError: As ``reid-explain explain`` and ``rank`` say it.
    """
    if not query:
        raise InputError("query", "none", "an image")
    page = PageOptions(methods=tuple(methods))
    target = TargetOptions(model=model, weights=Path(weights) if weights else None)
    command: Explain | Rank
    if gallery:
        found = Path(gallery)
        command = Rank(query=Path(query), gallery=found, top=int(top), page=page, target=target)
    else:
        command = Explain(images=(Path(query),), page=page, target=target)
    return as_html(command.report())


def appearance() -> dict[str, Any]:
    """Return the theme of the viewer, with fonts of the machine."""
    gradio: Any = import_module("gradio")
    return {"theme": gradio.themes.Default(**FONTS)}
