"""See ``reid_explain.benchmark.fit_directions``, or --help."""

from _script import run

if __name__ == "__main__":
    run("fit_directions")
