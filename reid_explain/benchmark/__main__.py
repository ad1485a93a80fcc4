"""The benchmarks of an installed package: ``python -m reid_explain.benchmark faithfulness ...``."""

import sys

from reid_explain.benchmark import (
    Causal,
    CausalAttributes,
    Extremal,
    Faithfulness,
    Localization,
    Sanity,
    Speed,
)
from reid_explain.benchmark.command_line import main

TASKS = {
    task.name: task
    for task in (Faithfulness, Sanity, Localization, Causal, CausalAttributes, Extremal, Speed)
}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TASKS:
        sys.exit(f"python -m reid_explain.benchmark: got {name!r}, expected {', '.join(TASKS)}")
    main(TASKS[name], sys.argv[2:])
