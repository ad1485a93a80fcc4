"""Runs of many processes, killed at random and resumed: no row is lost, the table is that of one.

KILL_TRIALS=20 KILL_PROCESSES=8 python -m pytest -m slow -s tests/test_interruptions.py
"""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_world import Brightness, TinyWorld, tiny_target
from tqdm.auto import tqdm

from reid_explain.benchmark import Faithfulness
from reid_explain.benchmark.run import Rows
from reid_explain.benchmark.task import Report

TRIALS = int(os.environ.get("KILL_TRIALS", "2"))
PROCESSES = int(os.environ.get("KILL_PROCESSES", "3"))
WORLD = TinyWorld(identities=40)


class Quick(Faithfulness):
    """Without figures, which take longer than all the rest."""

    def report(self, *_: object) -> Report:
        return Report({}, "")


def work(output: Path) -> None:
    task = Quick(metrics=("as_drop", "ap_drop", "kept_area"))
    task.run(tiny_target(), WORLD, methods=["GradFAM", Brightness], output=output, resume=True)


def process(rank: int, output: Path) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # forked processes share tqdm's: who is killed keeps it
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    errors = os.open(f"{output}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    work(output)


def start(output: Path) -> list[multiprocessing.Process]:
    context = multiprocessing.get_context("fork")  # importing torch takes longer than the run
    processes = [context.Process(target=process, args=(r, output)) for r in range(PROCESSES)]
    for one in processes:
        one.start()
    return processes


def table(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "rows.csv")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_killed_and_resumed(tmp_path):
    torch.set_num_threads(1)
    work(tmp_path / "one")
    chance = random.Random(0)
    started = time.perf_counter()
    for one in start(tmp_path / "timed"):
        one.join()
    duration = time.perf_counter() - started
    pd.testing.assert_frame_equal(table(tmp_path / "timed"), table(tmp_path / "one"))
    kills = lost = crashes = 0
    for trial in range(TRIALS):
        output = tmp_path / f"trial-{trial}"
        for _ in range(chance.randint(1, 4)):
            processes = start(output)
            before = dict(Rows(output).values) if output.is_dir() else {}
            time.sleep(chance.uniform(0, duration / 2))
            for one in chance.sample(processes, chance.randint(1, PROCESSES)):
                if one.is_alive():
                    os.kill(one.pid, signal.SIGKILL)
                    kills += 1
            time.sleep(chance.uniform(0, duration / 4))  # the others go on
            for one in processes:
                one.kill()
                one.join()
            crashes += sum(one.exitcode not in (0, -signal.SIGKILL) for one in processes)
            after = Rows(output).values if output.is_dir() else {}
            lost += sum(key not in after for key in before)
        processes = start(output)
        for one in processes:
            one.join()
        crashes += sum(one.exitcode != 0 for one in processes)
        pd.testing.assert_frame_equal(table(output), table(tmp_path / "one"))
    print(f"\n{TRIALS} trials of {PROCESSES} processes: {kills} killed, {lost} rows lost, ", end="")
    print(f"{crashes} crashes; every final table equals that of one process, bit for bit")
    assert lost == crashes == 0
    assert kills > 0
