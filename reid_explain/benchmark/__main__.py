"""The benchmarks of an installed package: ``python -m reid_explain.benchmark faithfulness ...``."""

import sys
from collections.abc import Sequence

from reid_explain.benchmark import (
    Agreement,
    Causal,
    CausalAttributes,
    Extremal,
    Faithfulness,
    Localization,
    PairFaithfulness,
    PartToPart,
    Sanity,
    Speed,
)
from reid_explain.benchmark.command_line import main

TASKS = {
    task.name: task
    for task in (
        Faithfulness,
        Sanity,
        Agreement,
        Localization,
        PartToPart,
        PairFaithfulness,
        Causal,
        CausalAttributes,
        Extremal,
        Speed,
    )
}


def run(arguments: Sequence[str], program: str) -> None:
    """Run the task that the first of the arguments names."""
    name = arguments[0] if arguments else ""
    if name not in TASKS:
        sys.exit(f"{program}: got {name!r}, expected {', '.join(TASKS)}")
    main(TASKS[name], arguments[1:])


if __name__ == "__main__":
    run(sys.argv[1:], "python -m reid_explain.benchmark")
