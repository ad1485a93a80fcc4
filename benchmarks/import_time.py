"""Time of ``import reid_explain`` beside that of torch, torchvision and captum alone.

    python benchmarks/import_time.py --runs 7

Fresh interpreters take turns; the ratio is of the medians.
"""

import argparse
import subprocess
import sys
from statistics import median

PEERS = "import torch, torchvision, captum.attr"
STATEMENTS = {
    "torch, torchvision, captum": PEERS,
    "reid_explain": f"{PEERS}; import reid_explain",
    "every public name": f"{PEERS}; from reid_explain import *",
}


def seconds(statement: str) -> float:
    """Return the processor time of a fresh interpreter that runs a statement."""
    program = f"import time\n{statement}\nprint(time.process_time())"
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return float(run.stdout)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="of each, in turns")
    runs = parser.parse_args().runs
    turns = [{name: seconds(text) for name, text in STATEMENTS.items()} for _ in range(runs)]
    taken = {name: [turn[name] for turn in turns] for name in STATEMENTS}
    base = median(taken["torch, torchvision, captum"])
    for name, times in taken.items():
        print(f"{name:28}{median(times):6.2f} s  {median(times) / base:.3f}")


if __name__ == "__main__":
    main()
