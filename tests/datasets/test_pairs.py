"""Pairs out of tables, folders and objects in memory."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.pairs import load_pairs
from anytask.datasets.vacancies import vacancies

ROWS = [("nurse", "gives care", "job"), ("Nurse ", "draws blood", "job"), ("RN", "nurse", "alias"),
        ("welder", "joins metal", "job"), ("nurse", "gives  care", "job")]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_equal_texts_are_one_item_with_all_their_partners(tmp_path, suffix):
    frame, file = pd.DataFrame(ROWS, columns=["left", "right", "graph"]), tmp_path / f"edges.{suffix}"
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
    for found in (load_pairs(file), load_pairs(frame)):
        assert found.left == ["nurse", "welder", "RN"]
        assert found.right == ["gives care", "draws blood", "joins metal", "nurse"]
        assert {name: edges.tolist() for name, edges in found.edges.items()} == {
            "job": [[0, 0], [0, 1], [1, 2]], "alias": [[2, 3]]
        }  # fmt: skip
    assert load_pairs(file).fingerprint == load_pairs(frame).fingerprint
    assert load_pairs(frame.iloc[:-2]).fingerprint != load_pairs(frame).fingerprint


def test_graphs_in_memory_and_the_built_in_graph():
    found = load_pairs({"a": [("x", "y"), ("x", "z")], "b": (["y"], ["z"])})
    assert found.left == ["x", "y"] and found.right == ["y", "z"] and found.edges["b"].tolist() == [[1, 1]]
    graph = load_pairs("skills-jobs")
    assert len(graph.edges["job_skill"]) == 195 and graph.kinds == ("texts", "texts")


def test_captions_of_images_and_sequences(tmp_path):
    for place, color in enumerate(("red", "blue")):
        Image.new("RGB", (4, 4), color).save(tmp_path / f"{color}.png")
        np.savez(tmp_path / f"{place}.npz", vectors=np.full((place + 1, 3), place))
    (tmp_path / "captions.csv").write_text("file,text\nred.png,a red square\nred.png,warm\nblue.png,cold\n")
    images = load_pairs(tmp_path)
    assert images.kinds == ("arrays", "texts") and images.edges[""].tolist() == [[0, 0], [0, 1], [1, 2]]
    np.testing.assert_array_equal(images.left[[1]][0, :, 0, 0], [0, 0, 1])
    (tmp_path / "captions.csv").write_text("file,text\n0.npz,one\n1.npz,two\n1.npz,zwei\n")
    sequences = load_pairs(tmp_path)
    assert sequences.kinds == ("sequences", "texts") and sequences.edges[""].tolist() == [[0, 0], [1, 1], [1, 2]]
    assert [len(s) for s in sequences.left] == [1, 2]


def test_archives_that_hold_their_sentence(tmp_path):
    for place in range(3):
        np.savez(tmp_path / f"{place}.npz", vectors=np.ones((2, 3)) * place, text=f"sentence {place % 2}")
    found = load_pairs(tmp_path)
    assert found.right == ["sentence 0", "sentence 1"] and found.edges[""].tolist() == [[0, 0], [1, 1], [2, 0]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("left,right\nnurse,\n", "line 2.*'right' must hold a text"),
        ("left,target\na,b\n", "no column 'right'; its columns: left, target"),
        ("left,right\n", "no pairs"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, content, says):
    (tmp_path / "edges.csv").write_text(content)
    with pytest.raises(BadData, match=says) as caught:
        load_pairs(tmp_path / "edges.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ((["a"], ["b", "c"]), "left has 1 items and right 2"), ({"g": [("a", "b", "c")]}, "'g'.*no pair"),
        (3, "got 3"), ("nowhere.csv", "no such file"), ((["a", " "], ["b", "c"]), r"left\[1\]"), ({"g": []}, "'g'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_objects_is_said(source, says):
    with pytest.raises(BadData, match=says):
        load_pairs(source)


def test_files_outside_the_folder_and_vectors_of_nan_are_refused(tmp_path):
    (folder := tmp_path / "inside").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "out.png")
    (folder / "captions.csv").write_text("file,text\n../out.png,a\n")
    with pytest.raises(BadData, match=r"line 2.*out\.png"):
        load_pairs(folder)
    (folder / "captions.csv").unlink()
    np.savez(folder / "a.npz", vectors=np.full((1, 2), np.nan), text="a")
    with pytest.raises(BadData, match=r"a\.npz.*NaN"):
        load_pairs(folder)


def test_vacancies_ask_for_what_their_words_say():
    world = vacancies(3, n=30, tested=5)
    again = vacancies(3, n=30, tested=5)
    assert again.train[0] == world.train[0] and vacancies(4, n=30, tested=5).train[0] != world.train[0]
    for texts, asked in (world.train, world.tested, world.unseen):
        for text, row in zip(texts, asked):
            concepts = {word[:-1] for word in text.split() if word[0] == "c"}
            assert row.sum() == 3
            for name in np.array(world.skills)[row]:
                assert {word[:-1] for word in name.split()} <= concepts
    assert not world.train[1][:, ~world.known].any() and not world.unseen[1][:, world.known].any()


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (np.full((2, 3), np.nan), "left: distinct item 0 contains NaN"), ([object(), object()], "texts or numbers"),
        ([np.ones(2), np.ones(3)], r"item 1 has the shape \(3,\)"), ([np.ones((2, 3)), np.ones((2, 4))], r"\(2, 4\)"),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_used_are_refused(left, says):
    with pytest.raises(BadData, match=says):
        load_pairs((left, ["a", "b"]))
    with pytest.raises(BadData, match="no graphs"):
        load_pairs({})
