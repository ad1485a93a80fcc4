"""See ``reid_explain.benchmark.faithfulness``, or --help."""

from _script import run

if __name__ == "__main__":
    run("faithfulness", "Faithfulness")
