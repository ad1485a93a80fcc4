"""See ``reid_explain.benchmark.causal_attributes``, or --help."""

from _script import run

if __name__ == "__main__":
    run("causal_attributes", "CausalAttributes")
