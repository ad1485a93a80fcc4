"""See ``reid_explain.benchmark.train_amortized``, or --help."""

from _script import run

if __name__ == "__main__":
    run("train_amortized")
