"""See ``reid_explain.benchmark.speed``, or --help."""

from _script import run

if __name__ == "__main__":
    run("speed", "Speed")
