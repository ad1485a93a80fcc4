"""See ``reid_explain.benchmark.sanity``, or --help."""

from _script import run

if __name__ == "__main__":
    run("sanity", "Sanity")
