"""Files as people have them: what a spreadsheet, a data frame or a camera writes is read right, or refused."""

import numpy as np
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.labelled import load_labelled

LABELS = ["a", "b", "a", "b", "a", "b"]


def load(folder, text, target="label", **options):
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return load_labelled(str(path), target, **options)


def table(values, separator=";", header="x;label"):
    rows = [f"{value}{separator}{label}" for value, label in zip(values, LABELS)]
    return "\n".join([header.replace(";", separator), *rows]) + "\n"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["0,4", "1,5", "2", "3,25", "-1,5", "0,1"], [0.4, 1.5, 2, 3.25, -1.5, 0.1]),
        (["1.234,5", "2.000,0", "3,5", "10.000,25", "4,0", "5,5"], [1234.5, 2000, 3.5, 10000.25, 4, 5.5]),
        (["1,234.5", "2,000.0", "3.5", "10,000.25", "4.0", "5.5"], [1234.5, 2000, 3.5, 10000.25, 4, 5.5]),
        (["$1.5", "$2", "$3", "$4", "$5", "$6"], [1.5, 2, 3, 4, 5, 6]),
    ],
)
def test_numbers_with_commas_marks_and_currency_are_numbers(tmp_path, values, wanted):
    data = load(tmp_path, table(values))
    assert data.X.shape == (6, 1)
    np.testing.assert_allclose(data.X[np.arange(6)][:, 0], wanted, rtol=1e-6)


def test_percent_signs_are_read_or_named(tmp_path):
    data = load(tmp_path, table(["10%", "20%", "30%", "40%", "50%", "60%"]))
    values = data.X[np.arange(6)][:, 0]
    assert np.allclose(values / values[0], [1, 2, 3, 4, 5, 6])


def test_a_nameless_index_is_left_out_and_said(tmp_path):
    rows = [f"{i},{v},{label}" for i, (v, label) in enumerate(zip([3, 1, 4, 1, 5, 9], LABELS))]
    data = load(tmp_path, "\n".join([",x,label", *rows]))
    assert data.X.shape == (6, 1) and any("index" in note or "nameless" in note for note in data.notes)


def test_a_column_that_counts_the_rows_is_warned_about(tmp_path):
    rows = [f"{i},{v},{label}" for i, (v, label) in enumerate(zip([3, 1, 4, 1, 5, 9] * 2, LABELS * 2))]
    data = load(tmp_path, "\n".join(["number,x,label", *rows]))
    assert data.X.shape == (12, 2) and any("number" in note for note in data.notes)


def test_texts_such_as_na_and_none_stay_texts_unless_they_are_named(tmp_path):
    data = load(tmp_path, "x,label\n1,None\n2,NA\n3,None\n4,NA\n")
    assert sorted(set(data.y.tolist())) == ["NA", "None"]
    text = "x,z,label\n1,NA,a\n2,brick,b\n3,NA,a\n4,brick,b\n"
    assert load(tmp_path, text).X.shape == (4, 3)  # x, and one column for each of NA and brick
    with pytest.raises(BadData, match=r"column 'z', line 2"):
        load(tmp_path, text, missing_marks="NA")


def test_empty_cells_are_refused_or_filled_in(tmp_path):
    text = "x,label\n1,a\n,b\n3,a\n8,b\n"
    with pytest.raises(BadData, match=r"column 'x', line 3.*missing=impute"):
        load(tmp_path, text)
    np.testing.assert_allclose(load(tmp_path, text, missing="impute").X[np.arange(4)][:, 0], [1, 3, 3, 8])


def test_a_category_of_numbers_and_a_text_names_the_option_that_settles_it(tmp_path):
    text = table(["2", "4", "5more", "2", "4", "2"])
    with pytest.raises(BadData, match=r"'5more' is not a number; .*categorical=x"):
        load(tmp_path, text)
    assert load(tmp_path, text, categorical="x").X.shape == (6, 3)


@pytest.mark.parametrize(
    "text",
    [
        '"a, in kg";"b, in cm";label\n0,5;1;x\n1,5;2;y\n2,5;3;x\n3,5;1;y\n',
        "sep=;\na;b;label\n0.5;1;x\n1.5;2;y\n2.5;3;x\n3.5;1;y\n",
        "a,b,label,\n0.5,1,x,\n1.5,2,y,\n2.5,3,x,\n3.5,1,y,\n",
        "a\tb\tlabel\n0.5\t1\tx\n1.5\t2\ty\n2.5\t3\tx\n3.5\t1\ty\n",
    ],
)
def test_the_separator_is_told_from_the_rows(tmp_path, text):
    data = load(tmp_path, text)
    np.testing.assert_allclose(data.X[np.arange(4)], [[0.5, 1], [1.5, 2], [2.5, 3], [3.5, 1]])
    assert data.y.tolist() == ["x", "y", "x", "y"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(BadData, match=r"'label' more than once"):
        load(tmp_path, "a,label,label\n1,x,y\n2,y,x\n")


@pytest.mark.parametrize(("kind", "dtype", "top"), [("png", np.uint16, 65535), ("tiff", np.float32, 1.0)])
@pytest.mark.parametrize("size", [None, 4])
def test_deep_images_keep_their_classes_apart(tmp_path, kind, dtype, top, size):
    for name, level in (("dark", 0.25), ("bright", 0.75)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8), level * top, dtype=dtype)).save(tmp_path / name / f"{i}.{kind}")
    data = load_labelled(str(tmp_path), image_size=size)
    X = data.X[np.arange(6)]
    means = {name: X[data.y == name].mean() for name in ("dark", "bright")}
    assert means["dark"] == pytest.approx(0.25, abs=0.01) and means["bright"] == pytest.approx(0.75, abs=0.01)


def test_masked_values_are_missing(tmp_path):
    X = np.ma.masked_array(np.ones((4, 2)), mask=np.eye(4, 2, dtype=bool))
    with pytest.raises(BadData, match=r"X\[0, 0\]"):
        load_labelled((X, np.array([0, 1, 0, 1])))
