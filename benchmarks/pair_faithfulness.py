"""See ``reid_explain.benchmark.pair_faithfulness``, or --help."""

from _script import run

if __name__ == "__main__":
    run("pair_faithfulness", "PairFaithfulness")
