"""See ``reid_explain.benchmark.attributes``, or --help."""

from _script import run

if __name__ == "__main__":
    run("attributes")
