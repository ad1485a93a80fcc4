"""What torchrun starts as two processes, forked from a server that has imported the package."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHMARKS = ("train_target", "train_ssl", "attributes")


def two_processes(folder: Path, function: Callable[..., Any], *arguments: Any) -> str:
    """Call a function in two processes of one group; return what they print."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"reid_explain.benchmark.{name}" for name in BENCHMARKS])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_in_group, args=(folder, rank, port, function, arguments))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(300)
    finally:
        for process in processes:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0], _written(folder, "err")
    return _written(folder, "out")


def run_script(script: str, arguments: list[str]) -> None:
    """Run a script as a program of its own."""
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


def _in_group(
    folder: Path, rank: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})
    for descriptor, stream in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    function(*arguments)


def _written(folder: Path, stream: str) -> str:
    return "".join((folder / f"{rank}.{stream}").read_text() for rank in range(2))
