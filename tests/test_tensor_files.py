import pytest
import torch
from safetensors.torch import load_file

from reid_explain.errors import InputError
from reid_explain.tensor_files import read_tensors, write_tensors

STATE = {
    "matrix": torch.rand(2, 3),
    "exact": torch.rand(2, 3),
    "vector": torch.rand(3),
    "count": torch.arange(6).view(2, 3),
}


def test_tensors_and_what_is_known_of_them_come_back(tmp_path):
    write_tensors(tmp_path / "file", STATE, "kind", {"names": ["a"]})
    state, about = read_tensors(tmp_path / "file", "kind", "one")
    assert about == {"names": ["a"]}
    assert state.keys() == STATE.keys()
    assert all(state[name].equal(value) for name, value in STATE.items())


def test_matrices_are_stored_in_a_dtype_and_nothing_else(tmp_path):
    write_tensors(tmp_path / "file", STATE, "kind", [], dtype=torch.float16, whole=["exact"])
    stored = load_file(tmp_path / "file")
    assert stored["matrix"].equal(STATE["matrix"].half())
    assert all(stored[name].equal(STATE[name]) for name in ("exact", "vector", "count"))


@pytest.mark.parametrize("content", [None, b"", b"text", "another kind"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file"
    if content == "another kind":
        write_tensors(path, STATE, "other", [])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"path: got .*file.*, expected one of mine"):
        read_tensors(path, "kind", "one of mine")


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="a file that can be written"):
        write_tensors(tmp_path / "absent" / "file", STATE, "kind", [])
