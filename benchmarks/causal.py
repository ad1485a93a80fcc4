"""See ``reid_explain.benchmark.causal``, or --help."""

from _script import run

if __name__ == "__main__":
    run("causal", "Causal")
