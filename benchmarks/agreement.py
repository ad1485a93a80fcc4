"""See ``reid_explain.benchmark.agreement``, or --help."""

from _script import run

if __name__ == "__main__":
    run("agreement", "Agreement")
