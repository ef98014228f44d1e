"""Rows with several labels at once, out of tables, arrays and folders."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.labelled import load_labelled

Y = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])


def table(**columns):
    frame = pd.DataFrame({"size": np.arange(5.0), **dict(zip(("cat", "dog", "ox"), Y.T))})
    return frame.assign(**columns)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", None])
def test_several_columns_of_a_table_are_a_matrix_and_no_inputs(suffix, tmp_path):
    source, kept = table(cat=Y[:, 0].astype(bool)), tmp_path / f"mine{suffix}"
    if suffix:
        source.to_csv(kept, index=False) if suffix == ".csv" else source.to_parquet(kept)
    data = load_labelled(kept if suffix else source, "cat, ox", several=True)
    assert data.classes.tolist() == ["cat", "ox"] and np.array_equal(data.y, Y[:, [0, 2]])
    assert data.feature_names == ("size", "dog")
    assert data.fingerprint != load_labelled(source, "cat,dog", several=True).fingerprint
    with pytest.raises(BadData, match="no column 'cat, ox'"):
        load_labelled(kept if suffix else source, "cat, ox")


def test_a_matrix_is_read_beside_arrays_and_files(tmp_path):
    X = np.arange(10.0).reshape(5, 2)
    np.save(tmp_path / "X.npy", X), np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "mine.npz", X=X, y=Y)
    for source in ((X, Y), tmp_path / "X.npy", tmp_path / "mine.npz"):
        data = load_labelled(source, several=True)
        assert np.array_equal(data.y, Y) and data.classes.tolist() == [0, 1, 2]
        with pytest.raises(BadData, match=r"shape \(5, 3\)"):
            load_labelled(source)


def folder(path, listing):
    (path / "images").mkdir()
    for i in range(5):
        Image.new("L", (4, 3), i).save(path / "images" / f"{i}.png")
    (path / "labels.csv").write_text(listing)
    return path


def test_a_folder_names_its_images_and_their_labels_in_a_file(tmp_path):
    rows = "\n".join(f"images/{i}.png,{a},{b}" for i, (a, b, _) in reversed(list(enumerate(Y))))
    data = load_labelled(folder(tmp_path, f"file,cat,dog\n{rows}\n"), several=True)
    assert data.classes.tolist() == ["cat", "dog"] and np.array_equal(data.y, Y[::-1, :2])
    assert data.X[[0]].ravel()[0] == np.float32(4 / 255) and data.X.shape == (5, 1, 3, 4)


@pytest.mark.parametrize(
    ("listing", "says"),
    [
        ("file,cat\nimages/0.png,1\n", "wanted are a column 'file'"),
        ("file,cat,dog\nimages/9.png,1,0\n", "line 2: no such image in the folder: 9.png"),
        ("file,cat,dog\n../labels.csv,1,0\n", "no such image"),
        ("file,cat,dog\nimages/0.png,1,0\nimages/1.png,2,1\n", "label 'cat', line 3: with several .* got 2"),
    ],
)
def test_bad_label_files_name_the_line(listing, says, tmp_path):
    with pytest.raises(BadData, match=says):
        load_labelled(folder(tmp_path, listing), several=True)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([0, 0, 3, 0, 1], r"label 'ox', row 2 \(counted from 0\).* got 3"),
        ([0, 0, 1, 0, 0], "label 'ox' has 1 example, and at least 2"),
        ([1] * 5, "label 'ox': all rows have it"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(column, says):
    with pytest.raises(BadData, match=says):
        load_labelled(table(ox=column), "cat,dog,ox", several=True)


def test_rows_are_drawn_by_their_rarest_label():
    assert load_labelled((np.eye(5), Y), several=True).strata.tolist() == [0, 0, 1, -1, 2]
