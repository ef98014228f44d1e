"""Tables as other programs and other countries write them."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from anytask.core.errors import BadData
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import load_labelled


@pytest.fixture
def table(tmp_path):
    def write(text, **options):
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8")
        return load_labelled(path, **options)

    return write


def rows(header, *lines, ends=""):
    """Four rows of two classes out of one or two lines of features."""
    return f"{header}\n" + "".join(f"{lines[i % len(lines)]}{'pq'[i // 2]}{ends}\n" for i in range(4))


@pytest.mark.parametrize(
    ("lines", "separator", "value"),
    [
        (("0,4", "-0,3"), ";", 0.4),
        (('"0,4"', '"12,35"'), ",", 0.4),
        (('"2,400.0"', '"1,234,567.5"'), ",", 2400.0),
        (("2.400,5", "0,1"), ";", 2400.5),
        (("2 400,5", "1\u202f000,1"), "\t", 2400.5),
        (("18%", "8%"), ",", 0.18),
        (("$11", "-$3.5"), ",", 11.0),
        (("11 €", "1.100,50 €"), ";", 11.0),
        (("\u22121,5", "2,5"), ";", -1.5),
        (("1e3", "+2.5E-1"), ",", 1000.0),
    ],
)
def test_numbers_in_the_marks_of_their_country(table, lines, separator, value):
    data = table(rows(f"a{separator}label", *(f"{line}{separator}" for line in lines)))
    assert data.feature_names == ("a",)
    assert data.X[0, 0] == np.float32(value)
    assert any("was read as numbers" in note for note in data.notes) == (lines[0] != "1e3")


def test_a_mark_that_can_be_read_in_two_ways_is_settled_by_another_column_or_the_user(table):
    text = rows("a;label", "2,400;", "1,700;")
    with pytest.raises(BadData, match=r"column 'a', line 2: '2,400' can be read in two ways: say by decimal=, or"):
        table(text)
    assert table(text, decimal=",").X[0, 0] == np.float32(2.4)
    assert table(text, decimal=".").X[0, 0] == 2400
    assert table(rows("a;b;label", "2,400;0.5;", "1,700;0.25;")).X[0].tolist() == [2400, 0.5]
    assert table(rows("a;b;label", "2.400;0,5;", "1.700;0,25;")).X[0].tolist() == [2400, 0.5]
    assert table(rows("a,label", "2.400,", "1.700,")).X[0, 0] == np.float32(2.4)  # as programs write floats
    with pytest.raises(BadData, match="decimal must be auto"):
        table(text, decimal="x")


@pytest.mark.parametrize(("lines", "said"), [(("18%,", "0.2,"), "mixes"), (("$5,", "€5,"), r"mixes.*\$ and €")])
def test_units_that_are_mixed_are_refused(table, lines, said):
    with pytest.raises(BadData, match=said):
        table(rows("a,label", *lines))


def test_the_nameless_index_column_is_left_out(table, tmp_path):
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=12), "label": [0, 1] * 6})
    shuffled = frame.sample(frac=1, random_state=0)
    for kept in (frame, shuffled, frame[3:]):
        data = table(kept.to_csv())
        assert data.feature_names == ("a",) and "which numbers the rows" in data.notes[0]
        kept.to_parquet(tmp_path / "t.parquet")
        assert load_labelled(tmp_path / "t.parquet").feature_names == ("a",)
    frame.set_index("label").to_parquet(tmp_path / "t.parquet")  # an index with a name is a column
    assert load_labelled(tmp_path / "t.parquet").y.tolist() == [0, 1] * 6


def test_a_feature_that_follows_the_rows_is_warned_about(table):
    lines = "".join(f"{i},{i * 7 % 5},{'pq'[i // 10]}\n" for i in range(20))
    (note,) = table(f"id,a,label\n{lines}").notes
    assert "order of the rows" in note and note.endswith(": id.")


def test_a_name_that_appears_twice_is_refused(table):
    with pytest.raises(BadData, match="names the column 'label' more than once"):
        table("a,label,label\n1,0,0\n2,1,1\n")


@pytest.mark.parametrize("word", ["None", "NA", "nan", "null", "N/A"])
def test_words_are_texts_and_only_empty_cells_are_missing(table, word):
    data = table("a,b,label\n" + "".join(f"{i * 5 % 7},{w},{w}\n" for i, w in enumerate([word, "x", word, "x"])))
    assert sorted(set(data.y.tolist())) == sorted(["x", word])
    assert set(data.feature_names) == {"a", "b=x", f"b={word}"}
    with pytest.raises(BadData, match="column 'label', line 2: the value is missing"):
        table(f"a,label\n1,{word}\n2,x\n3,x\n", missing_marks=word)


def test_a_mark_among_numbers_is_asked_about(table, tmp_path):
    text = "a,label\n" + "".join(f"{v},{'pq'[i % 2]}\n" for i, v in enumerate([1, 2, "NA", 3, "NA", 4, 1, 2]))
    with pytest.raises(BadData, match=r"line 4: 'NA' is not a number; say missing_marks=NA if .* categorical=a if"):
        table(text)
    data = table(text, missing_marks="NA,?", missing="impute")
    assert data.X[:, 0].tolist() == [1, 2, 2, 3, 2, 4, 1, 2]
    assert table(text.replace("NA", "-999"), missing_marks=-999, missing="impute").X[:, 0].tolist()[2] == 2
    assert table(text, categorical="a").feature_names == ("a=1", "a=2", "a=3", "a=4", "a=NA")


def test_categories_that_are_mostly_numbers(table):
    values = ["2", "2", "4", "5more", "4", "2", "5more", "4"]
    data = table("doors,label\n" + "".join(f"{v},{'pq'[i % 2]}\n" for i, v in enumerate(values)))
    assert data.feature_names == ("doors=2", "doors=4", "doors=5more")
    assert "Most values of doors are numbers" in data.notes[1]


@pytest.mark.parametrize(
    "text",
    [
        '"weight, in kg";"height, in cm";label\n1.5;2;x\n2.5;3;x\n3;4;y\n4;5;y\n',
        "sep=;\na;b;label\n1.5;2;x\n2.5;3;x\n3;4;y\n4;5;y\n",
        "a;b;label;\n1.5;2;x;\n2.5;3;x;\n3;4;y;\n4;5;y;\n",
        "a;b;label\n1.5;2;x;\n2.5;3;x;\n3;4;y;\n4;5;y;\n",
        "a|b|label\n1.5|2|x\n2.5|3|x\n3|4|y\n4|5|y\n",
        "a\tb\tlabel\n1,5\t2\tx\n2,5\t3\tx\n3,0\t4\ty\n4,0\t5\ty\n",
    ],
)
def test_separators_are_told_from_the_rows(table, text):
    data = table(text)
    np.testing.assert_array_equal(data.X[:], [[1.5, 2], [2.5, 3], [3, 4], [4, 5]])
    assert data.y.tolist() == ["x", "x", "y", "y"]


def test_lines_are_counted_with_the_sep_line(table):
    with pytest.raises(BadData, match="column 'a', line 4: the value is missing"):
        table("sep=;\na;label\n1;x\n;x\n3;y\n4;y\n")


def test_decimal_columns_are_numbers(tmp_path):
    frame = pd.DataFrame({"a": [Decimal("1.50"), Decimal("2"), Decimal("3"), Decimal("4")], "label": [0, 0, 1, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert load_labelled(tmp_path / "t.parquet").X[:].tolist() == [[1.5], [2], [3], [4]]
    frame.assign(label=[Decimal(v) for v in (1, 1, 2, 2)]).to_parquet(tmp_path / "t.parquet")
    assert load_labelled(tmp_path / "t.parquet").y.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["x ", " x", "y", "y"], ["x", "y"]),
        (["007", "007", "7", "7"], ["007", "7"]),
        (["1e300", "1e300", "2e300", "2e300"], ["1e300", "2e300"]),
        (["9007199254740992", "9007199254740993"] * 2, [2**53, 2**53 + 1]),
        (["18446744073709551615", "1"] * 2, ["1", "18446744073709551615"]),
        (["1.0", "2.0"] * 2, [1, 2]),
        (["True", "False"] * 2, [0, 1]),
    ],
)
def test_labels_that_differ_stay_different(table, labels, classes):
    data = table("a,label\n" + "".join(f"{i * 3 % 4},{label}\n" for i, label in enumerate(labels)))
    assert sorted(set(data.y.tolist())) == classes
    assert any("Blanks" in note for note in data.notes) == (" x" in labels)


def test_labels_of_arrays_that_differ_stay_different():
    X = np.eye(4)
    assert load_labelled((X, np.array([2**64 - 1, 1, 1, 2**64 - 1], np.uint64))).y.tolist()[0] == str(2**64 - 1)
    assert load_labelled((X, np.array([2**53, 2**53 + 1] * 2, dtype=object))).y.tolist()[1] == 2**53 + 1
    with pytest.raises(BadData, match=r"row 0 .*1e\+300 is too large for a label"):
        load_labelled((X, np.array([1e300, 1e300, 2e300, 2e300])))


def test_inputs_beyond_single_precision(table):
    with pytest.raises(BadData, match="column 'a', line 3: the value is infinite"):
        table("a,label\n1,p\n1e300,p\n2e300,q\n3,q\n")
    data = table("a,label\n" + "".join(f"{2**53 + i % 2},{'pq'[i // 2]}\n" for i in range(4)))
    assert "Column a: 2 different values are 1 in single precision" in data.notes[0]


def test_empty_cells_are_refused_filled_in_or_kept(table, tmp_path):
    text = "a,c,label\n1,red,p\n,red,p\n3,,q\n9,blue,q\n"
    with pytest.raises(BadData, match=r"column 'a', line 3: the value is missing .*missing=impute fills it in"):
        table(text)
    filled = table(text, missing="impute")
    np.testing.assert_allclose(filled.X[:], [[1, 0, 1], [3, 0, 1], [3, 1 / 3, 2 / 3], [9, 1, 0]])
    assert "2 missing inputs" not in filled.notes[-1] and "3 missing inputs were filled in" in filled.notes[-1]
    native = table(text, missing="native")
    assert native.has_missing and np.isnan(native.X[:]).sum() == 3 and native.value_range == (0, 9)
    with pytest.raises(BadData, match="missing must be refuse, impute, native"):
        table(text, missing="drop")
    for data in (filled, native):
        Inputs.of(data).save(tmp_path / "best")
        np.testing.assert_array_equal(Inputs.load(tmp_path / "best")(tmp_path / "t.csv"), data.X[:])


def test_new_data_are_read_by_the_marks_of_the_old(table, tmp_path):
    data = table("a;rate;label\n1.400,5;5%;p\n0,5;6%;p\n2,5;7%;q\nNA;8%;q\n", missing_marks="NA", missing="impute")
    Inputs.of(data).save(tmp_path / "best")
    (tmp_path / "new.csv").write_text("rate;a\n5%;2.400\n10%;NA\n")  # alone it could be 2.4 too
    new = Inputs.load(tmp_path / "best")(tmp_path / "new.csv")
    np.testing.assert_allclose(new, [[2400, 0.05], [2.5, 0.1]], rtol=1e-6)
    with pytest.raises(BadData, match="line 2: 'x' is not a number"):
        (tmp_path / "new.csv").write_text("rate;a\n5%;x\n10%;1\n")
        Inputs.load(tmp_path / "best")(tmp_path / "new.csv")


def test_masked_values_are_missing(tmp_path):
    X = np.ma.masked_equal(np.array([[1.0, 2], [-9, 4], [5, 6], [7, 8]]), -9)
    with pytest.raises(BadData, match=r"X\[1, 0\]"):
        load_labelled((X, [0, 0, 1, 1]))
    data = load_labelled((X, [0, 0, 1, 1]), missing="impute")
    assert data.X[1].tolist() == [5, 4]
    np.testing.assert_array_equal(Inputs.of(data)(X), data.X[:])
    with pytest.raises(BadData, match=r"row 2 .*missing"):
        load_labelled((np.eye(4), np.ma.array([0, 0, 1, 1], mask=[0, 0, 1, 0])))


def _rows(n=40):
    """Two classes, a number that tells them apart, a color, and what each row counts."""
    y = np.arange(n) % 2
    return pd.DataFrame({
        "x": y + np.arange(n) % 7 / 10, "color": np.where(np.arange(n) % 3, "red", "blue"),
        "weight": 1 + np.arange(n) % 4, "label": np.where(y, "b", "a"),
    })  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_weights_are_no_feature_and_rows_without_any_are_left_out(tmp_path, suffix):
    frame = _rows()
    frame.loc[[3, 8], "weight"] = 0
    path = tmp_path / f"t{suffix}"
    if suffix == ".npz":
        np.savez(path, X=frame[["x"]].to_numpy(), y=frame.label.to_numpy().astype(str), weight=frame.weight.to_numpy())
    else:
        frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    data = load_labelled(path, weights="weight")
    kept = frame[frame.weight > 0]
    np.testing.assert_array_equal(data.weights, kept.weight)
    np.testing.assert_allclose(data.X[:, 0], kept.x, rtol=1e-6)
    assert data.y.tolist() == kept.label.tolist()
    assert "weight" not in (data.feature_names or ()) and any("2 rows of weight 0" in note for note in data.notes)
    plain = load_labelled(path, **({} if suffix == ".npz" else {"target": "label"}))
    assert plain.weights is None and plain.fingerprint != data.fingerprint


def test_weights_follow_the_decimal_mark_of_the_table(table):
    text = "x;w;label\n" + "\n".join(f"{k},25;{k % 3},5;{'ab'[k % 2]}" for k in range(12))
    assert table(text, weights="w").weights[:3].tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("-1", "line 4: a weight is a finite number of at least 0, got -1"),
        ("heavy", "line 4.*'heavy'"),
        ("", "line 4: a weight is a finite number of at least 0, got nan"),
        ("inf", "line 4.*infinite"),
    ],
)
def test_a_weight_that_is_none_is_named_with_its_row(table, value, says):
    rows = [f"{k},{k % 3 + 1},{'ab'[k % 2]}" for k in range(30)]
    rows[2] = f"2,{value},a"
    with pytest.raises(BadData, match=says):
        table("x,w,label\n" + "\n".join(rows), weights="w")


def test_weights_that_cannot_be_used_are_refused(table, tmp_path):
    with pytest.raises(BadData, match="all weights are 0"):
        table("x,w,label\n" + "\n".join(f"{k},0,{'ab'[k % 2]}" for k in range(12)), weights="w")
    with pytest.raises(BadData, match="one column cannot hold two of"):
        table("x,w,label\n1,1,a\n2,1,b", weights="label")
    with pytest.raises(BadData, match=r"no column 'weigth'.*did you mean 'weight'"):
        load_labelled(_rows(), weights="weigth")
    with pytest.raises(BadData, match="weights names a column"):
        load_labelled("digits", weights="w")
    np.savez(tmp_path / "t.npz", X=np.eye(4), y=[0, 1, 0, 1], w=[1, 2, np.nan, 1])
    with pytest.raises(BadData, match=r"column 'w', row 2 \(counted from 0\).*got nan"):
        load_labelled(tmp_path / "t.npz", weights="w")


@pytest.mark.parametrize(
    "index",
    [
        range(100, 60, -1), [0] * 40, pd.date_range("2020-01-01", periods=40), list("ab" * 20),
        pd.MultiIndex.from_product([range(8), range(5)]), pd.Index(range(40), name="label"),
    ],
    ids=["descending", "constant", "dates", "texts", "several levels", "named as a column"],
)  # fmt: skip
def test_data_frames_are_read_row_by_row_whatever_their_index(table, index):
    frame = _rows()
    want = table(frame.to_csv(index=False), weights="weight")
    odd = frame.set_axis(index)
    for source, options in (
        (odd, {"weights": "weight"}),
        ((odd[["x", "color"]], frame.label), {}),
        ((frame[["x", "color"]], odd.label), {}),
    ):
        got = load_labelled(source, **options)
        np.testing.assert_array_equal(got.X[:], want.X[:])
        assert got.y.tolist() == want.y.tolist() and got.feature_names == want.feature_names
    assert load_labelled(odd, weights="weight").fingerprint == want.fingerprint


def test_columns_of_every_dtype_of_a_data_frame_are_numbers_categories_or_refused():
    frame = _rows().assign(
        whole=pd.array(range(40), dtype="Int64"), flag=pd.array([True, False] * 20, dtype="boolean"),
        kind=pd.Categorical(list("uv") * 20), text=pd.array(["s", "t"] * 20, dtype="string"),
    )  # fmt: skip
    data = load_labelled(frame.set_axis([*frame.columns[:-1], 7], axis="columns"), target="label", weights="weight")
    assert data.feature_names == (
        "x", "whole", "flag", "color=blue", "color=red", "kind=u", "kind=v", "7=s", "7=t",
    )  # fmt: skip
    with pytest.raises(BadData, match="column 'when' holds dates"):
        load_labelled(frame.assign(when=pd.date_range("2020", periods=40)))
    with pytest.raises(BadData, match="column 'wave' holds complex"):
        load_labelled(frame.assign(wave=np.arange(40) * 1j))
    with pytest.raises(BadData, match="'x' more than once"):
        load_labelled(pd.concat([frame, frame[["x"]]], axis="columns"))
    with pytest.raises(BadData, match="a header and no row"):
        load_labelled(frame[:0])
    with pytest.raises(BadData, match="X has 40 rows, and the labels have the shape"):
        load_labelled((frame[["x"]], frame.label[:3]))
