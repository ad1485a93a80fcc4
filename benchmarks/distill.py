"""See ``reid_explain.benchmark.distill``, or --help."""

from _script import run

if __name__ == "__main__":
    run("distill")
