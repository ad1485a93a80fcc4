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

from reid_explain.benchmark.agreement import Agreement
from reid_explain.benchmark.causal import Causal
from reid_explain.benchmark.causal_attributes import CausalAttributes
from reid_explain.benchmark.extremal import Extremal
from reid_explain.benchmark.faithfulness import Faithfulness
from reid_explain.benchmark.localization import Localization
from reid_explain.benchmark.metrics import METRICS, Metric
from reid_explain.benchmark.pair_cost import PairCost
from reid_explain.benchmark.pair_faithfulness import PairFaithfulness
from reid_explain.benchmark.part_to_part import PartToPart
from reid_explain.benchmark.sanity import Sanity
from reid_explain.benchmark.speed import Speed
from reid_explain.benchmark.target import Target
from reid_explain.benchmark.task import Task

__all__ = [
    "METRICS",
    "Agreement",
    "Causal",
    "CausalAttributes",
    "Extremal",
    "Faithfulness",
    "Localization",
    "Metric",
    "PairCost",
    "PairFaithfulness",
    "PartToPart",
    "Sanity",
    "Speed",
    "Target",
    "Task",
]
