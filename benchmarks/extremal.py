"""See ``reid_explain.benchmark.extremal``, or --help."""

from _script import run

if __name__ == "__main__":
    run("extremal", "Extremal")
