"""Reading labelled data: what comes out of each kind of source, and the one line that each bad source gets."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.arrays import MappedArray
from anytask.datasets.builtin import BUILTIN
from anytask.datasets.images import ImageFiles
from anytask.datasets.labelled import load_labelled

RNG = np.random.default_rng(0)
X6 = RNG.random((6, 3)).astype(np.float32)
Y6 = np.array([0, 0, 0, 1, 1, 1])


def refused(*args: object, **kwargs: object) -> str:
    with pytest.raises(BadData) as caught:
        load_labelled(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def csv(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text).lstrip())
    return path


def image(path: Path, size: tuple[int, int] = (4, 3), value: int = 128, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)  # size is (width, height)


# -- good sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "n_classes"),
    [
        ("digits", (1797, 64), 10),
        ("digits-images", (1797, 1, 8, 8), 10),
        ("wine", (178, 13), 3),
        ("iris", (150, 4), 3),
        ("breast-cancer", (569, 30), 2),
    ],
)
def test_builtin_data(name: str, shape: tuple[int, ...], n_classes: int) -> None:
    data = load_labelled(name)
    assert data.X.shape == shape and data.X[np.arange(2)].dtype == np.float32
    assert len(np.unique(data.y)) == n_classes and data.task is None
    assert name in BUILTIN
    if name.startswith("digits"):
        assert data.value_range == (0.0, 1.0)


def test_csv_keeps_numbers_and_encodes_texts(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        """
        size,colour,label,site
        1.5,red,a,north
        2,blue,a,south
        -3,red,b,north
        4,blue,b,south
        """,
    )
    data = load_labelled(path, task="site")
    assert data.feature_names == ("size", "colour=blue", "colour=red")
    np.testing.assert_array_equal(data.X[:], [[1.5, 0, 1], [2, 1, 0], [-3, 0, 1], [4, 1, 0]])
    assert data.y.tolist() == ["a", "a", "b", "b"] and data.task is not None
    assert data.task.tolist() == ["north", "south", "north", "south"]
    assert data.notes == ("Text columns were one-hot encoded: colour (2 values).",)


def test_csv_with_semicolons_byte_order_mark_and_blank_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfy;a\n0;1\n0;2\n1;3\n1;4\n\n\n")
    data = load_labelled(path)
    assert data.X[:].tolist() == [[1], [2], [3], [4]] and data.y.tolist() == [0, 0, 1, 1]


def test_parquet_in_several_batches_equals_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(8.0), "t": list("xyxyxyzz"), "label": [0, 1] * 4})
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=3)
    frame.to_csv(tmp_path / "t.csv", index=False)
    parquet, table = load_labelled(tmp_path / "t.parquet"), load_labelled(tmp_path / "t.csv")
    np.testing.assert_array_equal(parquet.X[:], table.X[:])
    assert parquet.feature_names == table.feature_names and parquet.fingerprint == table.fingerprint


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_a_task_key(tmp_path: Path, save: object) -> None:
    save(tmp_path / "d.npz", X=X6, y=Y6, task=np.array(list("aabbab")))  # type: ignore[operator]
    data = load_labelled(tmp_path / "d.npz")
    np.testing.assert_array_equal(data.X[np.array([5, 0])], X6[[5, 0]])
    assert data.task is not None and data.task.tolist() == list("aabbab")
    assert isinstance(data.X, MappedArray) == (save is np.savez)
    save(tmp_path / "e.npz", X=X6, other=Y6)  # type: ignore[operator]
    assert load_labelled(tmp_path / "e.npz", target="other").y.tolist() == Y6.tolist()


@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_arrays_in_either_order_give_the_rows_of_the_array(tmp_path: Path, order: str) -> None:
    X = np.asarray(RNG.random((7, 2, 3)), order=order)  # type: ignore[call-overload]
    np.savez(tmp_path / "d.npz", first=np.zeros(3), X=X, y=[0, 0, 0, 0, 1, 1, 1])
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", [0, 0, 0, 0, 1, 1, 1])
    for name in ("d.npz", "X.npy"):
        data = load_labelled(tmp_path / name)
        assert isinstance(data.X, MappedArray) and len(data.X) == 7
        np.testing.assert_array_equal(data.X[np.array([6, 2])], X[[6, 2]].astype(np.float32))


def test_npy_labels_and_tasks_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "inputs.npy", X6)
    np.save(tmp_path / "answers.npy", Y6)
    np.save(tmp_path / "when.npy", Y6 * 2)
    data = load_labelled(tmp_path / "inputs.npy", target="answers.npy", task="when.npy")
    assert data.task is not None and data.task.tolist() == [0, 0, 0, 2, 2, 2]
    assert "name the file with the labels" in refused(tmp_path / "inputs.npy")


def test_tuples_of_arrays_and_maps(tmp_path: Path) -> None:
    assert load_labelled((X6, Y6)).fingerprint == load_labelled((X6.tolist(), Y6.tolist())).fingerprint
    assert load_labelled((X6, Y6, Y6)).fingerprint != load_labelled((X6, Y6)).fingerprint
    np.save(tmp_path / "m.npy", X6)
    mapped = load_labelled((np.load(tmp_path / "m.npy", mmap_mode="r"), Y6))
    assert isinstance(mapped.X, MappedArray) and mapped.fingerprint == load_labelled((X6, Y6)).fingerprint
    view = load_labelled((np.load(tmp_path / "m.npy", mmap_mode="r")[::-1], Y6))
    np.testing.assert_array_equal(view.X[:], X6[::-1])


def test_fingerprint_follows_content() -> None:
    changed = X6.copy()
    changed[5, 2] += 1
    prints = {load_labelled(pair).fingerprint for pair in [(X6, Y6), (changed, Y6), (X6, 1 - Y6), (X6.T.copy().T, Y6)]}
    assert len(prints) == 3


def test_uint8_arrays_are_images_with_channels_first(tmp_path: Path) -> None:
    X = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    data = load_labelled((X, Y6))
    assert data.kind == "images" and data.X.shape == (6, 3, 5, 4)
    np.testing.assert_allclose(data.X[np.array([2])][0, 1], X[2, :, :, 1] / 255, rtol=1e-6)
    np.savez(tmp_path / "d.npz", X=X[..., 0], y=Y6)
    gray = load_labelled(tmp_path / "d.npz")
    assert gray.X.shape == (6, 1, 5, 4) and gray.kind == "images"
    np.testing.assert_allclose(gray.X[np.array([3])][0, 0], X[3, :, :, 0] / 255, rtol=1e-6)


def test_folder_of_images(tmp_path: Path) -> None:
    for i, value in enumerate((0, 51, 102, 255)):
        image(tmp_path / ("cat" if i < 2 else "dog") / f"{i}.png", value=value)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    data = load_labelled(tmp_path)
    assert isinstance(data.X, ImageFiles) and data.X.shape == (4, 1, 3, 4)
    assert data.y.tolist() == ["cat", "cat", "dog", "dog"] and data.task is None
    np.testing.assert_allclose(data.X[np.array([3, 1])][:, 0, 0, 0], [1.0, 0.2])
    assert data.X[1].shape == (1, 3, 4)
    assert "1 files in the folder" in data.notes[0]
    resized = load_labelled(tmp_path, image_size="6x8")
    assert resized.X.shape == (4, 1, 6, 8) and resized.fingerprint != data.fingerprint
    image(tmp_path / "dog" / "red.png", mode="RGB", value=255)
    color = load_labelled(tmp_path)
    np.testing.assert_array_equal(color.X[np.array([4])][0, :, 0, 0], [1, 0, 0])


def test_folder_of_tasks_of_classes(tmp_path: Path) -> None:
    for task in ("day", "night"):
        for label in ("cat", "dog"):
            for i in range(2):
                image(tmp_path / task / label / f"{i}.png")
    data = load_labelled(tmp_path)
    assert data.task is not None and data.task.tolist() == ["day"] * 4 + ["night"] * 4
    assert data.y.tolist() == ["cat", "cat", "dog", "dog"] * 2


# -- data that stay on disk ---------------------------------------------------------------------------------------


def test_pickles_of_data_on_disk_hold_no_content(tmp_path: Path) -> None:
    X = RNG.random((4000, 50)).astype(np.float32)  # 800 kB
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.arange(4000) % 2)
    data = load_labelled(tmp_path / "X.npy")
    assert len(pickle.dumps(data.X)) < 1000
    copy = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(copy.X[np.array([7])], X[[7]])
    assert copy.fingerprint == data.fingerprint


def test_a_file_larger_than_the_memory_allowed_is_read(tmp_path: Path) -> None:
    n, d = 40_000, 2_000  # 640 MB of float64, nearly all of it a hole in the file
    X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.float64, shape=(n, d))
    X[n - 1] = 1
    del X
    np.save(tmp_path / "y.npy", np.arange(n) % 2)
    script = """
        import re, sys, numpy as np
        from anytask.datasets.labelled import load_labelled
        data = load_labelled(sys.argv[1])
        private = int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
        print(private, float(data.X[np.array([data.X.shape[0] - 1])].sum()), len(data.X))
    """
    if sys.platform != "linux":
        pytest.skip("private memory is read from /proc")
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "X.npy")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert float(out[1]) == d and int(out[2]) == n
    assert int(out[0]) < 320_000  # kB; half the file, and Python with its libraries takes about 150 MB


def test_images_are_decoded_when_asked_for(tmp_path: Path) -> None:
    for i in range(4):
        image(tmp_path / "ab"[i % 2] / f"{i}.png", value=10 * i)
    data = load_labelled(tmp_path)
    os.remove(tmp_path / "a" / "2.png")
    assert data.X[np.array([0])].shape == (1, 1, 3, 4)
    with pytest.raises(BadData, match=r"2\.png: cannot be read"):
        data.X[np.array([1])]


# -- bad sources --------------------------------------------------------------------------------------------------


def test_missing_file_and_near_names(tmp_path: Path) -> None:
    csv(tmp_path, "a,y\n1,0\n", "sales.csv")
    message = refused(tmp_path / "sale.csv")
    assert str(tmp_path / "sale.csv") in message and "did you mean 'sales.csv'?" in message
    assert "did you mean 'digits'?" in refused("digts")
    assert "files of kind '.xlsx' are not read; save the data as .csv" in refused(csv(tmp_path, "x", "t.xlsx"))
    assert "got int" in refused(3)
    assert "leave target and task out" in refused("iris", target="y")


def test_empty_files(tmp_path: Path) -> None:
    for name in ("e.csv", "e.npz", "e.npy", "e.parquet"):
        assert refused(csv(tmp_path, "", name)) == f"{tmp_path / name}: the file is empty"
    assert "there is a header and no row" in refused(csv(tmp_path, "a,y\n", "h.csv"))
    (tmp_path / "folder").mkdir()
    assert "one subfolder per class" in refused(tmp_path / "folder")


@pytest.mark.parametrize("suffix", ["npz", "npy", "parquet", "csv"])
def test_corrupt_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(b"\xff\xfe\x00corrupt" * 10)
    message = refused(path, target="c.npy" if suffix == "npy" else "y")
    assert message.startswith(f"{path}: not a readable .{suffix} file")


def test_damaged_npz_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, X=np.full((50, 3), 7.0), y=np.arange(50) % 2)
    raw = bytearray(path.read_bytes())
    place = raw.find(np.full(3, 7.0).tobytes())
    raw[place + 100] ^= 0xFF
    path.write_bytes(bytes(raw))
    assert "'X' is damaged" in refused(path)


def test_missing_column_names_near_ones(tmp_path: Path) -> None:
    path = csv(tmp_path, "size,Label\n1,0\n2,0\n3,1\n4,1\n")
    message = refused(path, target="lable")
    assert message == f"{path}: no column 'lable' (did you mean 'Label'?); its columns: size, Label"
    assert "no column 'site'" in refused(path, task="site")
    assert "at once" in refused(path, task="Label")
    np.savez(tmp_path / "d.npz", X=X6, labels=Y6)
    assert "no array 'label' (did you mean 'labels'?)" in refused(tmp_path / "d.npz", target="label")


def test_which_column_holds_the_labels(tmp_path: Path) -> None:
    assert "columns: a, b" in refused(csv(tmp_path, "a,b\n1,0\n2,1\n"))
    assert "label, y could all be it" in refused(csv(tmp_path, "a,label,y\n1,0,0\n2,1,1\n"))
    assert "no column is left for the inputs" in refused(csv(tmp_path, "y\n1\n2\n"))


def test_missing_values_name_column_and_line(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,y\n1,1,0\n2,,0\n3,1,1\n4,1,1\n")
    assert refused(path) == f"{path}: column 'b', line 3: the value is missing (or NaN); missing=impute fills it in"
    path = csv(tmp_path, 'a,b,y\n"first\nsecond",1,0\nx,1,0\nx,1,\n')  # a text over two lines moves the others down
    assert refused(path) == f"{path}: column 'y', line 5: the value is missing (or NaN)"
    path = csv(tmp_path, "a,y\n1,0\n\n2,1\n")
    assert "line 3: the value is missing" in refused(path)
    path = csv(tmp_path, "a,y\n1,0\n2,0\ninf,1\n4,1\n")
    assert "column 'a', line 4: the value is infinite" in refused(path)
    pd.DataFrame({"a": [1.0, 2, None, 4], "y": [0, 0, 1, 1]}).to_parquet(tmp_path / "t.parquet", row_group_size=2)
    assert "column 'a', row 2 (counted from 0): the value is missing" in refused(tmp_path / "t.parquet")


def test_nan_in_arrays_names_the_place(tmp_path: Path) -> None:
    bad = X6.copy()
    bad[4, 1] = np.nan
    assert "X[4, 1] (counted from 0) is missing, NaN or infinite" in refused((bad, Y6))
    np.savez(tmp_path / "d.npz", X=bad, y=Y6)
    assert refused(tmp_path / "d.npz") == f"{tmp_path / 'd.npz'}: X[4, 1] (counted from 0) is missing, NaN or infinite"
    assert "row 1 (counted from 0): the value is missing" in refused((X6, [0, np.nan, 0, 1, 1, 1]))
    assert "row 1 (counted from 0): the value is missing" in refused(
        (X6, np.array([0, None, 0, 1, 1, 1], dtype=object))
    )


def test_a_stray_text_among_numbers_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,y\n1,0\n2,0\n3x,1\n4,1\n")
    told = refused(path)
    assert told.startswith(f"{path}: column 'a', line 4: '3x' is not a number; ") and "categorical=a" in told


def test_free_text_and_dates_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"word{i},{i % 2}\n" for i in range(50))
    assert "column 'a' holds 50 different texts in 50 rows" in refused(csv(tmp_path, "a,y\n" + rows))
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=4), "y": [0, 0, 1, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert "column 'when' holds dates" in refused(tmp_path / "t.parquet")


def test_rows_of_another_length(tmp_path: Path) -> None:
    assert "line 3 has 3 columns, and 2 are expected" in refused(csv(tmp_path, "a,y\n1,0\n2,0,5\n3,1\n"))
    assert "line 2 has 3 columns, and 2 are expected" in refused(csv(tmp_path, "a,y\n1,0,9\n2,0,5\n3,1,7\n"))


def test_labels_that_are_none(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,y\n1,0.5\n2,0.7\n")
    assert "column 'y', line 2: 0.5 is not whole" in refused(path)
    assert "holds one class only (3)" in refused(csv(tmp_path, "a,y\n1,3\n2,3\n"))
    assert "class 'b' has 1 example" in refused(csv(tmp_path, "a,y\n1,a\n2,a\n3,b\n"))
    many = "".join(f"{i},{i}\n" for i in range(30))
    assert "are the 30 different values of this column really labels?" in refused(csv(tmp_path, "a,y\n" + many))


def test_bad_arrays(tmp_path: Path) -> None:
    assert "X has 6 rows, and y has the shape (5,)" in refused((X6, Y6[:5]))
    assert "got 1 items" in refused((X6,))
    assert "must have the shape (n, features...)" in refused((X6[:, 0], Y6))
    assert "X is empty" in refused((X6[:0], Y6[:0]))
    assert "X must hold numbers" in refused((X6.astype(str), Y6))
    np.savez(tmp_path / "o.npz", X=np.array([{}, {}], dtype=object), y=[0, 1])
    assert "not a readable .npz file" in refused(tmp_path / "o.npz")


def test_bad_folders(tmp_path: Path) -> None:
    for i in range(4):
        image(tmp_path / "ab"[i % 2] / f"{i}.png")
    image(tmp_path / "b" / "9.png", size=(5, 3))
    message = refused(tmp_path)
    assert re.search(r"9\.png: the image is 3x5, and .*0\.png is 3x4: make them equal, or give image_size", message)
    assert load_labelled(tmp_path, image_size=4).X.shape == (5, 1, 4, 4)
    assert "image_size must be" in refused(tmp_path, image_size="big")
    assert "leave target and task out" in refused(tmp_path, target="y")
    raw = (tmp_path / "b" / "3.png").read_bytes()
    (tmp_path / "b" / "3.png").write_bytes(raw[: len(raw) // 2])
    assert "3.png: not a readable image" in refused(tmp_path)
    (tmp_path / "c").mkdir()
    assert f"{tmp_path / 'c'}: no image in this class folder" in refused(tmp_path)
