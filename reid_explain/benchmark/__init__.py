"""The benchmarks as a library.

In a few lines an explainer of one's own is measured on a model and a folder of one's own::

    from reid_explain.benchmark import Faithfulness, Target
    from reid_explain.datasets import FolderDataset
    from reid_explain.inputs import InputSpec

    frame = Faithfulness(queries=20).run(
        Target(model, "layer4", InputSpec((224, 224))),
        FolderDataset("people"),
        methods=[MyExplainer, "ScoreFAM"],
        output="outputs/mine",
    )

``frame`` is a pandas frame with a number in each row: task, case, identity, method, metric, value.
"""

from typing import TYPE_CHECKING, Any

from reid_explain import imported

if TYPE_CHECKING:
    from reid_explain.benchmark.agreement import Agreement as Agreement
    from reid_explain.benchmark.causal import Causal as Causal
    from reid_explain.benchmark.causal_attributes import CausalAttributes as CausalAttributes
    from reid_explain.benchmark.extremal import Extremal as Extremal
    from reid_explain.benchmark.faithfulness import Faithfulness as Faithfulness
    from reid_explain.benchmark.localization import Localization as Localization
    from reid_explain.benchmark.metrics import METRICS as METRICS
    from reid_explain.benchmark.metrics import Metric as Metric
    from reid_explain.benchmark.pair_cost import PairCost as PairCost
    from reid_explain.benchmark.pair_faithfulness import PairFaithfulness as PairFaithfulness
    from reid_explain.benchmark.part_to_part import PartToPart as PartToPart
    from reid_explain.benchmark.sanity import Sanity as Sanity
    from reid_explain.benchmark.speed import Speed as Speed
    from reid_explain.benchmark.target import Target as Target
    from reid_explain.benchmark.task import Task as Task

_HOMES = {
    "Agreement": "agreement",
    "Causal": "causal",
    "CausalAttributes": "causal_attributes",
    "Extremal": "extremal",
    "Faithfulness": "faithfulness",
    "Localization": "localization",
    "METRICS": "metrics",
    "Metric": "metrics",
    "PairCost": "pair_cost",
    "PairFaithfulness": "pair_faithfulness",
    "PartToPart": "part_to_part",
    "Sanity": "sanity",
    "Speed": "speed",
    "Target": "target",
    "Task": "task",
}
"""Name -> the module that has it, imported when it is asked for: a command needs one of them."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    return imported(__name__, _HOMES, name)
