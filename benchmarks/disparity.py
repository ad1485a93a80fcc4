"""See ``reid_explain.benchmark.disparity``, or --help."""

from _script import run

if __name__ == "__main__":
    run("disparity")
