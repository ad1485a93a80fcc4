"""The output folder: settings are held to, rows survive any interruption."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folder import Rows, claim, write_json

from reid_explain import InputError


def rows_at(path):
    return Rows(path, key=("image", "method"), figures=("drop", "area"))


def test_rows_come_back_exactly(tmp_path):
    path = tmp_path / "rows.csv"
    rows = rows_at(path)
    rows.add(("a,b.jpg", 'say "x"'), {"drop": 0.1 + 0.2, "area": float("nan")})
    rows.add(("c.jpg", "GradFAM"), {"area": 1e-300, "drop": -0.0})
    again = rows_at(path)
    assert repr(again.rows) == repr(rows.rows)
    assert ("c.jpg", "GradFAM") in again
    assert ("c.jpg", "CGRAM") not in again


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_file_cut_or_damaged_anywhere_loses_only_the_rows_it_hits(tmp_path, data):
    path = tmp_path / "rows.csv"
    path.unlink(missing_ok=True)
    rows = rows_at(path)
    for i in range(4):
        rows.add((f"{i}.jpg", "GradFAM"), {"drop": i / 7, "area": i * 1.5})
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
        damaged = whole[:at] + bytes([byte]) + whole[at + 1 :]
    path.write_bytes(damaged)
    again = rows_at(path)
    for key, figures in again.rows.items():
        assert rows.rows[key] == figures
    for key, figures in rows.rows.items():
        if key not in again:
            again.add(key, figures)
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_claim(tmp_path):
    folder = tmp_path / "run"
    claim(folder, {"seed": 0}, resume=False)
    assert json.loads((folder / "settings.json").read_text()) == {"seed": 0}
    claim(folder, {"seed": 0}, resume=True)
    with pytest.raises(InputError, match="--output: got .* of an earlier run.*--resume"):
        claim(folder, {"seed": 0}, resume=False)
    for resume in (True, False):
        with pytest.raises(InputError, match="--output: got .* with other settings"):
            claim(folder, {"seed": 1}, resume=resume)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(InputError, match="--output: got .* with other files in it"):
        claim(other, {"seed": 0}, resume=True)


def test_write_json_replaces_the_file_at_once(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, object())
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
