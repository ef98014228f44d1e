"""Reading labelled texts: what is read, and one clear line for what cannot be."""

import json

import numpy as np
import pandas as pd
import pytest

from anytask.core.errors import BadData
from anytask.datasets.labelled_vectors import load_vectors
from anytask.datasets.questions import load_questions
from anytask.datasets.text import load_text


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_jsonl_and_csv_give_the_same_data(tmp_path):
    rows = [{"text": "good, film", "label": "pos"}, {"text": 'a "bad"\nfilm', "label": "neg"}]
    jsonl = load_text(_write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
    table = load_text(_write(tmp_path / "a.csv", 'text,label\n"good, film",pos\n"a ""bad""\nfilm",neg\n'))
    tabs = load_text(_write(tmp_path / "a.tsv", 'label\ttext\npos\tgood, film\nneg\t"a ""bad""\nfilm"\n'))
    memory = load_text((["good, film", 'a "bad"\nfilm'], ["pos", "neg"]))
    assert jsonl.texts == table.texts == tabs.texts == memory.texts == ("good, film", 'a "bad"\nfilm')
    assert jsonl.labels == table.labels == tabs.labels == ("pos", "neg")
    assert jsonl.classes == ("neg", "pos") and len(jsonl) == 2
    assert load_text(jsonl) is jsonl
    assert jsonl.describe() == {"source": "a.jsonl", "texts": 2, "classes": 2}


def test_columns_can_be_named_and_numbers_are_labels(tmp_path):
    data = load_text(_write(tmp_path / "a.jsonl", '{"q": "2+2", "a": 4, "id": "x"}\n'), text="q", label="a")
    assert (data.texts, data.labels, data.ids) == (("2+2",), ("4",), ("x",))


def test_choices_come_as_list_or_joined(tmp_path):
    jsonl = load_text(_write(tmp_path / "a.jsonl", '{"text": "t", "label": "b", "choices": ["a", "b"]}'))
    table = load_text(_write(tmp_path / "a.csv", "text,label,choices\nt,b,a|b\n"))
    assert jsonl.choices == table.choices == (("a", "b"),)


def test_fingerprint_follows_the_content(tmp_path):
    a, b, c = (load_text((["x", "y"], labels)).fingerprint for labels in (["1", "2"], ["1", "2"], ["2", "1"]))
    assert a == b != c


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\ncafé,x\n".encode("utf-8-sig"))
    assert load_text(path).texts == ("café",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a", "label"}', r"a\.jsonl, line 2, character 22: not JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl, line 1: a JSON object is wanted, got \[1\]"),
        ("a.jsonl", '\n{"text": "a"}', r"line 2: column 'label' is missing; there are 'text'"),
        ("a.jsonl", '{"text": "", "label": "b"}', r"line 1, column 'text': a text is wanted"),
        ("a.jsonl", '{"text": 3, "label": "b"}', r"line 1, column 'text': a text is wanted, got 3"),
        ("a.jsonl", '{"text": "a", "label": null}', r"column 'label': a word or a whole number is wanted, got null"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', r"column 'label': a word or a whole number is wanted, got 0\.5"),
        ("a.jsonl", '{"text": "a", "label": "b", "choices": ["c", "d"]}', r"'b' is not one of the choices"),
        ("a.jsonl", '{"text": "a", "label": "b", "choices": ["b"]}', r"at least two choices"),
        ("a.csv", "", r"a\.csv: the file is empty"),
        ("a.csv", "text,label\n", r"a\.csv: 0 rows, and at least 1"),
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv, line 3: 1 values for the 2 columns"),
        ("a.csv", "text,text\n", r"the header names the column 'text' more than once"),
        ("a.csv", 'text,label\n"a\nb",c\n,d\n', r"a\.csv, line 4, column 'text': a text is wanted"),
        ("a.csv", "id,text,label\n1,a,b\n1,c,d\n", r"column 'id': '1' appears more than once"),
        ("a.csv", "text,label,choices\na,b,b|c\nd,e,\n", r"only 1 of 2 rows have choices"),
        ("a.xlsx", "", r"a \.jsonl, \.ndjson, \.csv or \.tsv file is wanted"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, content, message):
    with pytest.raises(BadData, match=message):
        load_text(_write(tmp_path / name, content))


def test_other_faults(tmp_path):
    with pytest.raises(BadData, match="there is no such file"):
        load_text(tmp_path / "none.csv")
    path = tmp_path / "latin.csv"
    path.write_bytes("text,label\na,b\ncafé,x\n".encode("latin-1"))
    with pytest.raises(BadData, match="line 3: not UTF-8"):
        load_text(path)
    with pytest.raises(BadData, match="differ in length: 1 and 2"):
        load_text((["a"], ["b", "c"]))
    with pytest.raises(BadData, match="1 rows, and at least 4"):
        load_text((["a"], ["b"]), min_rows=4)


LOVE, BAD = "Love it 😍, really", "سيئ; سيئ"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f'text;label\n{LOVE};👍\n"{BAD}";سلبي\n'),
        ("a.csv", f'sep=;\r\ntext;label\r\n{LOVE};👍\r\n"{BAD}";سلبي\r\n'),
        ("a.csv", f"text\tlabel\n{LOVE}\t👍\n{BAD}\tسلبي\n"),
        ("a.csv", f"text|label|\n{LOVE}|👍|\n{BAD}|سلبي|\n"),
        ("a.csv", f';text;label\n0;{LOVE};👍\n1;"{BAD}"; سلبي \n'),
        ("a.tsv", f"text\tlabel\n{LOVE}\t👍\n{BAD}\tسلبي\n"),
    ],
)
def test_separators_are_told_from_the_rows(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8-sig", newline="")
    data = load_text(path)
    assert (data.texts, data.labels) == ((LOVE, BAD), ("👍", "سلبي"))
    assert data.notes == (("Blanks around the values of column label were removed.",) if " سلبي " in content else ())


GOOD = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]


@pytest.mark.parametrize(
    ("row", "column", "cut"),
    [
        ({"text": "half \ud83d pair", "label": "a"}, "text", ("half  pair", "a")),
        ({"text": "nul\0", "label": "b"}, "text", ("nul", "b")),
        ({"text": "x", "label": "a\udc00"}, "label", ("x", "a")),
        ({"text": "\ud83d", "label": "a"}, "text", None),
    ],
)
def test_characters_that_no_model_reads_are_refused_left_out_or_cut(tmp_path, row, column, cut):
    content = "\n".join(json.dumps(one) for one in [*GOOD[:2], row, *GOOD[2:]])
    path = _write(tmp_path / "a.jsonl", content)
    with pytest.raises(BadData, match=rf"a\.jsonl, line 3, column '{column}': NUL or half.*bad_rows=skip leaves"):
        load_text(path)
    skipped = load_text(path, bad_rows="skip")
    assert skipped.texts == tuple(one["text"] for one in GOOD) and skipped.ids == ("1", "2", "4", "5")
    assert skipped.notes[0].startswith("1 row was left out (bad_rows=skip), the first: a.jsonl, line 3")
    if cut is None:  # nothing is left of the text
        with pytest.raises(BadData, match="line 3, column 'text': a text is wanted"):
            load_text(path, bad_rows="cut")
    else:
        data = load_text(path, bad_rows="cut")
        assert (data.texts[2], data.labels[2]) == cut and len(data) == 5
        assert data.notes[0].startswith("1 row was cut (bad_rows=cut), the first: a.jsonl, line 3")
    assert json.dumps(skipped.texts).isascii() and "".join(skipped.texts).encode()


def test_any_row_that_cannot_be_used_can_be_left_out(tmp_path):
    bad = ["{", "[1]", '{"text": "t"}', '{"text": "", "label": "a"}', '{"text": "t", "label": null}']
    path = _write(tmp_path / "a.jsonl", "\n".join([*map(json.dumps, GOOD), *bad]))
    data = load_text(path, bad_rows="skip")
    assert len(data) == 4 and data.notes[0].startswith("5 rows were left out (bad_rows=skip), the first: a.jsonl, li")
    table = _write(tmp_path / "a.csv", "text,label\na,b\nc\nd,e\n")
    assert load_text(table, bad_rows="skip").texts == ("a", "d")
    with pytest.raises(BadData, match=r"0 rows, and at least 1 are needed\. 4 rows were left out.*column 'lable'"):
        load_text(_write(tmp_path / "b.jsonl", "\n".join(map(json.dumps, GOOD))), label="lable", bad_rows="skip")
    with pytest.raises(BadData, match="bad_rows must be one of refuse, skip, cut, got 'drop'"):
        load_text(path, bad_rows="drop")


def test_texts_that_do_not_fit_are_refused_left_out_or_cut():
    texts = ["one two", "w " * 500, "three"]
    data = load_text((texts, list("aba")))

    def fits(text):
        return len(text.split()) <= 7

    with pytest.raises(BadData, match="texts, row 1: a text of 500 words does not fit into 7 words; bad_rows=skip"):
        data.fitting(fits, "7 words")
    skipped, cut = (data.fitting(fits, "7 words", bad_rows) for bad_rows in ("skip", "cut"))
    assert (skipped.texts, skipped.labels, skipped.ids) == (("one two", "three"), ("a", "a"), ("0", "2"))
    assert cut.texts == ("one two", "w w w w w w w", "three") and cut.labels == data.labels
    assert skipped.notes[0].startswith("1 row was left out") and cut.notes[0].startswith("1 row was cut")
    assert len({data.fingerprint, skipped.fingerprint, cut.fingerprint}) == 3
    assert skipped.fitting(fits, "7 words") == skipped


def test_texts_of_data_frames_are_read_row_by_row_whatever_their_index():
    frame = pd.DataFrame({"text": ["good film", "bad film", "fine"], "label": ["pos", "neg", "pos"]})
    for index in ([5, 5, 5], ["c", "b", "a"], pd.date_range("2020", periods=3)):
        odd = frame.set_axis(index)
        whole, pair = load_text(odd), load_text((odd["text"], odd["label"]))
        assert (whole.texts, whole.labels) == (pair.texts, pair.labels) == (tuple(frame.text), tuple(frame.label))
        assert load_questions(odd["text"]).items == load_questions(list(frame.text)).items
        vectors = load_vectors((pd.DataFrame(np.eye(4, 3)).set_axis([index[0]] * 4), [0, 1, 0, 1]))
        np.testing.assert_array_equal(vectors.vectors, np.eye(4, 3, dtype=np.float32))
    with pytest.raises(BadData, match="the table, row 1, column 'text': a text is wanted, got null"):
        load_text(frame.assign(text=["a", None, "b"]))
    with pytest.raises(BadData, match="a path or a data frame is wanted, got int"):
        load_text(3)


def test_the_written_texts_are_vectors_by_name():
    few = load_vectors("topics", readable=lambda data: load_text((data.texts[:4], data.labels[:4])))
    assert few.texts == load_text("topics").texts[:4] and few.vectors.shape == (4, 384)
