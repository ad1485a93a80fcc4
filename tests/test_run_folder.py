"""The output folder: settings are held to, rows survive any interruption."""

import json
import math
import os
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid_explain import InputError
from reid_explain.benchmark.run import COLUMNS, Row, Rows, claim, write_json
from reid_explain.files import atomic


def row(case: str, method: str = "GradFAM", **values: float) -> Row:
    return Row(case, 7, method, values)


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_come_back_exactly(tmp_path):
    rows = Rows(tmp_path)
    rows.add(row('a,"\n.jpg', drop=0.1 + 0.2, area=math.nan))
    rows.add(row("c.jpg", area=1e-300, drop=-0.0))
    before = content(tmp_path)
    again = Rows(tmp_path)
    assert repr(again.values) == repr(rows.values)
    assert again.identities == {'a,"\n.jpg': 7, "c.jpg": 7}
    assert again.has("c.jpg", "GradFAM", ["drop", "area"])
    assert not again.has("c.jpg", "GradFAM", ["drop", "deletion"])
    assert not again.has("c.jpg", "CGRAM", ["drop"])
    assert content(tmp_path) == before  # reading changes nothing


def test_a_new_column_keeps_the_old_rows(tmp_path):
    Rows(tmp_path).add(row("a", drop=1.0, area=2.0))
    later = Rows(tmp_path)
    later.add(row("a", deletion=3.0, area=2.5))
    assert Rows(tmp_path).values == {("a", "GradFAM"): {"drop": 1.0, "area": 2.5, "deletion": 3.0}}
    assert len(list(tmp_path.iterdir())) == 2  # each start has a shard of its own


def test_the_frame_is_tidy():
    rows = Rows()
    for case in ("b", "a"):
        for method in ("RAM", "GradFAM"):
            rows.add(row(case, method, drop=1.0, area=math.nan))
    frame = rows.frame("faithfulness", ["a", "b"], ["GradFAM", "RAM"])
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["case"]) == [*"aaaabbbb"]
    assert list(frame["method"][:4]) == ["GradFAM", "GradFAM", "RAM", "RAM"]
    assert list(frame["metric"][:2]) == ["drop", "area"]
    assert set(frame["identity"]) == {7}
    assert frame["value"].isna().sum() == 4


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_shard_cut_or_damaged_anywhere_loses_only_the_rows_it_hits(tmp_path, data):
    for path in tmp_path.iterdir():
        path.unlink()
    rows = Rows(tmp_path)
    for i in range(4):
        rows.add(row(f"{i}.jpg", drop=i / 7, area=i * 1.5))
    (shard,) = tmp_path.iterdir()
    whole = shard.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
        damaged = whole[:at] + bytes([byte]) + whole[at + 1 :]
    shard.write_bytes(damaged)
    again = Rows(tmp_path)
    assert again.values.items() <= rows.values.items()
    assert len(again.values) >= damaged.count(b"\n") - (len(damaged) == len(whole))
    for (case, method), values in rows.values.items():
        if not again.has(case, method, values):
            again.add(row(case, method, **values))
    assert Rows(tmp_path).values == rows.values
    assert shard.read_bytes() == damaged  # never rewritten


def test_claim(tmp_path):
    folder = tmp_path / "run"
    claim(folder, {"seed": 0}, resume=False)
    assert json.loads((folder / "settings.json").read_text()) == {"seed": 0}
    claim(folder, {"seed": 0}, resume=True)
    with pytest.raises(InputError, match="output: got .* of an earlier run.*--resume"):
        claim(folder, {"seed": 0}, resume=False)
    for resume in (True, False):
        with pytest.raises(InputError, match=r"with other settings \(seed: 0 there, 1 here\)"):
            claim(folder, {"seed": 1}, resume=resume)
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.json.1f.partial").touch()  # of a process that was killed
    claim(other, {"seed": 0}, resume=False)
    (other / "settings.json").rename(other / "thesis.tex")
    with pytest.raises(InputError, match="output: got .* with other files in it"):
        claim(other, {"seed": 0}, resume=True)


def test_files_are_replaced_at_once(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, object())
    with suppress(KeyboardInterrupt), atomic(path) as partial:
        partial.write_text("[2")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes")
def test_a_full_disk_is_an_error_with_the_name_of_the_file(tmp_path):
    """A limit on the size of files stands in for the disk."""
    code = """
import resource, sys
from pathlib import Path
from reid_explain.benchmark.run import Row, Rows, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for write in (lambda: [Rows.add(rows, Row(str(i), 1, "m", {"drop": 1.0})) for i in range(999)],
              lambda: write_json(Path(sys.argv[1], "results.json"), "x" * 5000)):
    rows = Rows(Path(sys.argv[1]))
    try:
        write()
    except OSError as error:
        print(error)
print(len(Rows(Path(sys.argv[1])).values) > 30)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, kept = done.stdout.splitlines()
    assert "File too large" in first
    assert "rows-" in first
    assert "File too large" in second
    assert "results.json" in second
    assert kept == "True"
