"""See ``reid_explain.benchmark.leaderboard``, or --help."""

from _script import run

if __name__ == "__main__":
    run("leaderboard")
