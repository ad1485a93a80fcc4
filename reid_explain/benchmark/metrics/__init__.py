"""What is measured of a map: a registry that every table reads.

A metric from outside the package is one file: a function, registered under a name. The package
declares its entry point (group ``reid_explain.metrics``), or a command line names it
(``--metrics module:SHARPNESS``)::

    from reid_explain.benchmark import METRICS, Metric

    def sharpness(view):
        return 100 * float(view.map.amax() / view.map.sum())

    SHARPNESS = METRICS.register(Metric("sharpness", sharpness, better="higher"))
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reid_explain.errors import InputError
from reid_explain.registry import Registry


@dataclass(frozen=True)
class Metric:
    """One column of a table, or several columns that are measured together.

    Args:
        name: Of its column.
        measure: From a view of one method's map on one case to a number, or to a number for each
            of ``columns``; NaN for none.
        unit: Of the numbers: "%" (0 to 100), "s", "".
        chance: What a map without knowledge reaches: a number, or the column that has it.
        better: "lower", "higher" or "".
        needs: What the view has to have, such as "map", "matches" or "person". A task measures
            the metrics of which it has everything.
        title: Of its column on the screen; by default the name.
        columns: Names, if there are others than its own.
        by_name: Whether it is measured only where it is named: it takes many passes.
    """

    name: str
    measure: Callable[[Any], float | Mapping[str, float]]
    unit: str = "%"
    chance: float | str | None = None
    better: Literal["lower", "higher", ""] = ""
    needs: tuple[str, ...] = ("map",)
    title: str = ""
    columns: tuple[str, ...] = ()
    by_name: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name.replace("_", " "))
        object.__setattr__(self, "columns", self.columns or (self.name,))

    def __call__(self, view: Any) -> dict[str, float]:
        """Return the numbers by column; NaN where the view has no map and one is needed."""
        if "map" in self.needs and view.map is None:
            return dict.fromkeys(self.columns, float("nan"))
        value = self.measure(view)
        return dict(value) if isinstance(value, Mapping) else {self.name: float(value)}


METRICS: Registry[Metric] = Registry("reid_explain.metrics", "reid_explain.benchmark.metrics")


def find_metrics(names: Sequence[str], offers: Collection[str]) -> list[Metric]:
    """Return the registered metrics that a task can measure, or those of ``names``.

    Args:
        names: Registered or ``"module:Attribute"``; empty for all but those ``by_name``.
        offers: What the task's views have.

    Raises:
        InputError: If a name is unknown, or needs what the task does not have.
    """
    usual = [metric for metric in METRICS.values() if not metric.by_name]
    found = [METRICS.resolve(name) for name in names] or usual
    suited = [metric for metric in found if {*metric.needs} <= {*offers}]
    if names and len(suited) < len(found):
        needs = ", ".join({need for metric in found for need in metric.needs} - {*offers})
        raise InputError("metrics", f"{', '.join(names)}, which need {needs}", "others")
    return suited


def columns_of(metrics: Iterable[Metric]) -> list[str]:
    """Return the names of all columns."""
    return [column for metric in metrics for column in metric.columns]


def measure_all(metrics: Iterable[Metric], view: Any) -> dict[str, float]:
    """Return the numbers of all metrics by column."""
    return {column: value for metric in metrics for column, value in metric(view).items()}
