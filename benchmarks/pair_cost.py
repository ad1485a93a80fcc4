"""See ``reid_explain.benchmark.pair_cost``, or --help."""

from _script import run

if __name__ == "__main__":
    run("pair_cost", "PairCost")
