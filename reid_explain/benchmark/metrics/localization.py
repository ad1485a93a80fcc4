"""Does a map point at what is known to be there: its energy and its peak inside a region."""

from functools import partial
from typing import Any

from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.metrics.localization import area, energy_inside, pointing_game

FIGURES = {"energy": energy_inside, "pointing": pointing_game}


def _inside(view: Any, region: str, maps: str, figure: str) -> dict[str, float]:
    """Return a figure of maps in a region, beside the share of the image that it covers."""
    inside = getattr(view, region)
    value = FIGURES[figure](getattr(view, maps), inside)
    return {f"{region}_{figure}": 100 * value.item(), f"{region}_area": 100 * area(inside).item()}


for _region, _maps in (("person", "map"), ("change", "difference")):
    for _figure in FIGURES:
        METRICS.register(
            Metric(
                f"{_region}_{_figure}",
                partial(_inside, region=_region, maps=_maps, figure=_figure),
                chance=f"{_region}_area",
                better="higher",
                needs=(_maps, _region),
                title=f"{_region}: {_figure}",
                columns=(f"{_region}_{_figure}", f"{_region}_area"),
            )
        )
