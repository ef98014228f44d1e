"""New data become inputs as the data of the comparison did."""

import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.inputs import Inputs
from anytask.problems.task_stream import Stream, TaskStream


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": 10 * rng.normal(size=24), "color": rng.choice(["red", "blue"], 24)})
    frame["label"] = np.repeat(["p", "q"], 12)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return tmp_path / "mine.csv"


def test_a_table_is_encoded_and_scaled_as_in_the_stream(table, tmp_path):
    data = TaskStream().load(str(table))
    stream = data.stream(0)
    Inputs.of(data.source, stream.statistics).save(tmp_path / "best")
    inputs = Inputs.load(tmp_path / "best")
    expected = stream.inputs(np.arange(24), 0)
    frame = pd.read_csv(table)
    np.testing.assert_array_equal(inputs(table), expected)
    np.testing.assert_array_equal(inputs(frame[["color", "size"]][5:7]), expected[5:7])
    frame.drop(columns="label").to_parquet(tmp_path / "new.parquet")
    np.testing.assert_array_equal(inputs(tmp_path / "new.parquet"), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="color"), "no column 'color'"),
        (lambda f: f.assign(color="green"), "holds 'green'; known are blue, red"),
        (lambda f: f.assign(size="large"), r"column 'size', row 0.*'large' is not a number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, change, words):
    inputs = Inputs.of(TaskStream().load(str(table)).source)
    with pytest.raises(BadData, match=words):
        inputs(change(pd.read_csv(table)))


def test_array_files_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    inputs = Inputs((3,))
    X = np.random.default_rng(0).random((4, 3))
    np.savez(tmp_path / "no_x.npz", Y=X)
    np.save(tmp_path / "short.npy", X)
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-8])
    (tmp_path / "text.npz").write_text("no archive")
    os.mkfifo(tmp_path / "pipe.npy")
    told = {
        "no_x.npz": "no array 'X'; its arrays: Y",
        "short.npy": "not a readable",
        "text.npz": "np.savez",
        "pipe.npy": "not a regular file",
    }
    for name, words in told.items():
        with pytest.raises(BadData, match=words):
            inputs(tmp_path / name)
    np.savez(tmp_path / "x.npz", X=X)
    np.testing.assert_array_equal(inputs(tmp_path / "x.npz"), X.astype(np.float32))


@pytest.mark.parametrize("X", [[["a", "b", "c"]], [[1, 2, 3], [4]], np.array([[None, {}, 3]]), 5])
def test_what_holds_no_numbers_is_refused_in_one_line(X):
    with pytest.raises(BadData) as told:
        Inputs((3,))(X)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "spoil", [lambda t: t[:-9], lambda t: "[]", lambda t: t.replace("kind", "sort"), lambda t: "{}"]
)
def test_damaged_inputs_name_their_folder(tmp_path, spoil):
    inputs = Inputs((3,), fill=np.zeros(3, np.float32), ranges=((0.0, 1.0), (0.0, 2.0)))
    inputs.save(tmp_path)
    loaded = Inputs.load(tmp_path)
    assert loaded.input_shape == (3,) and loaded.ranges == inputs.ranges and loaded.fill.tolist() == [0, 0, 0]
    (tmp_path / "inputs.json").write_text(spoil((tmp_path / "inputs.json").read_text()))
    with pytest.raises(ValueError, match=f"the inputs saved in {tmp_path} are damaged"):
        Inputs.load(tmp_path)


def test_images_come_out_alike_from_files_and_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "data" / "ab"[i // 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    inputs = Inputs.of(TaskStream().load(str(tmp_path / "data"), n_tasks=2).source)
    np.testing.assert_array_equal(inputs(tmp_path / "data" / "a"), pixels[:2, None] / np.float32(255))
    np.testing.assert_array_equal(inputs(pixels), pixels[:, None] / np.float32(255))
    with pytest.raises(BadData, match="the model was trained on"):
        inputs(pixels[:, :3])
    Image.fromarray(pixels[0, :3]).save(tmp_path / "data" / "a" / "9.png")
    with pytest.raises(BadData, match="must be 6x5"):
        inputs(tmp_path / "data" / "a")


def test_without_holding_out_every_row_is_trained_on_and_the_tasks_stay():
    data = TaskStream().load("iris", epochs=1, scenario="class", n_tasks=3, identity="none")
    held_out, whole = data.stream(4), Stream(data, 4, hold_out=False)
    assert [t.classes.tolist() for t in whole.tasks] == [t.classes.tolist() for t in held_out.tasks]
    shown = np.concatenate([rows for rows, _ in whole.batches])
    assert sorted(shown.tolist()) == list(range(150))
