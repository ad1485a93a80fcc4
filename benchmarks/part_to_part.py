"""See ``reid_explain.benchmark.part_to_part``, or --help."""

from _script import run

if __name__ == "__main__":
    run("part_to_part", "PartToPart")
