"""See ``reid_explain.benchmark.localization``, or --help."""

from _script import run

if __name__ == "__main__":
    run("localization", "Localization")
