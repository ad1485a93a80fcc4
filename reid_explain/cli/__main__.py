"""``reid-explain COMMAND ...``, also ``python -m reid_explain.cli``."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from reid_explain.benchmark.command_line import one_line_errors, read
from reid_explain.cli.app import App
from reid_explain.cli.explain import Attributes, Demo, Explain, Match, Rank
from reid_explain.cli.inspect import Doctor, Models

PROGRAM = "reid-explain"
COMMANDS = {
    command.__name__.lower(): command
    for command in (Explain, Match, Rank, Attributes, Demo, App, Models, Doctor)
}
BENCHMARK = "benchmark"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [BENCHMARK]:
        from reid_explain.benchmark import __main__ as benchmarks  # here: the others need none

        benchmarks.run(given[1:], f"{PROGRAM} {BENCHMARK}")
        return
    kinds: Any = None
    for name, command in COMMANDS.items():
        kind = Annotated[command, tyro.conf.subcommand(name)]  # type: ignore[valid-type]
        kinds = kind if kinds is None else kinds | kind
    command = read(
        kinds,
        given or ["--help"],
        PROGRAM,
        description="Attribution for embedding models: one image, a match, a rank list. "
        "``reid-explain benchmark TASK ...`` runs the benchmarks.",
    )
    with one_line_errors(PROGRAM, "goes on"):
        command.run()


if __name__ == "__main__":
    main()
