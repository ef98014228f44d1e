"""Trees survive the disk exactly, and a folder is never half written."""

import json
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.core import persistence
from anytask.core.persistence import load_tree, save_tree

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(tree=trees)
def test_plain_trees_round_trip(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    save_tree(folder, tree)
    assert load_tree(folder) == tree


def test_tensors_arrays_and_containers_keep_their_kind(tmp_path):
    tree = {
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "view": torch.arange(6).reshape(2, 3).T,
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "strings": np.array([["a", "bcd"]]),
        "deque": deque([1, 2], maxlen=4),
        "set": {3, 1},
        "scalar": np.float32(0.1),
        "empty": torch.zeros(0, 3),
    }
    save_tree(tmp_path / "m", tree)
    back = load_tree(tmp_path / "m")
    assert back["bf16"].dtype == torch.bfloat16 and torch.equal(back["bf16"], tree["bf16"])
    assert torch.equal(back["view"], tree["view"])
    assert back["array"].dtype == np.int16 and (back["array"] == tree["array"]).all()
    assert back["strings"].tolist() == [["a", "bcd"]]
    assert back["deque"] == deque([1, 2]) and back["deque"].maxlen == 4
    assert back["set"] == {1, 3}
    assert back["scalar"] == np.float32(0.1) and back["scalar"].dtype == np.float32
    assert back["empty"].shape == (0, 3)


def test_shared_storage_is_saved_once_per_name_without_aliasing(tmp_path):
    weights = torch.ones(3)
    save_tree(tmp_path, {"a": weights, "b": weights})
    back = load_tree(tmp_path)
    back["a"] += 1
    assert back["b"].tolist() == [1, 1, 1]


def test_what_cannot_be_saved_names_its_place_and_writes_nothing(tmp_path):
    with pytest.raises(TypeError, match="/layers/1"):
        save_tree(tmp_path / "m", {"layers": [1, object()]})
    assert not (tmp_path / "m").exists()


def test_an_interrupted_save_leaves_the_earlier_state(tmp_path, monkeypatch):
    save_tree(tmp_path, {"w": torch.zeros(2)})
    real = persistence.write_whole

    def dies_at_the_commit(path, data):
        if path.name == "state.json":
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(persistence, "write_whole", dies_at_the_commit)
    with pytest.raises(KeyboardInterrupt):
        save_tree(tmp_path, {"w": torch.ones(2)})
    monkeypatch.undo()
    assert load_tree(tmp_path)["w"].tolist() == [0, 0]
    save_tree(tmp_path, {"w": torch.ones(2)})
    assert load_tree(tmp_path)["w"].tolist() == [1, 1]
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 1


def test_missing_and_damaged_folders_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"state\.json is missing"):
        load_tree(tmp_path)
    save_tree(tmp_path, {"w": torch.zeros(2)})
    (tmp_path / json.loads((tmp_path / "state.json").read_text())["tensors"]).write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="damaged"):
        load_tree(tmp_path)


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(NotADirectoryError, match="it is a file"):
        save_tree(tmp_path / "m", {})
    assert (tmp_path / "m").read_text() == "mine"


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_one_flipped_bit_is_found(tmp_path, suffix):
    save_tree(tmp_path, {"w": torch.ones(64), "names": ["abc", "def"]})
    (file,) = tmp_path.glob(f"*{suffix}")
    data = bytearray(file.read_bytes())
    place = data.index(b"abc") if suffix == ".json" else len(data) - 7
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged: the checksum of .* is wrong"):
        load_tree(tmp_path)


def test_a_tensor_file_outside_the_folder_is_refused(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for folder in (inner, outer):
        save_tree(folder, {"w": torch.ones(1)})
    (name,) = [f.name for f in outer.glob("*.safetensors")]
    head = inner / "state.json"
    head.write_text(head.read_text().replace(name, f"../outer/{name}"))
    with pytest.raises(ValueError, match="no file that saving writes"):
        load_tree(inner)


def test_a_saved_folder_is_as_readable_as_any_new_file(tmp_path):
    save_tree(tmp_path / "model", {"w": torch.zeros(2)})
    plain = tmp_path / "plain"
    plain.touch()
    assert {file.stat().st_mode for file in (tmp_path / "model").iterdir()} == {plain.stat().st_mode}
