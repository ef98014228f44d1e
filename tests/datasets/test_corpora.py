"""Corpora out of files: documents, spans and triples, and what is wrong with them."""

import pytest

from anytask.core.errors import BadData
from anytask.datasets.corpora import TextCorpus, load_corpus


def test_a_folder_holds_documents_spans_and_triples(tmp_path):
    (tmp_path / "b.txt").write_text("Bob left.")
    (tmp_path / "a.txt").write_text("Ann lives in Oslo.")
    (tmp_path / "spans.csv").write_text("document,start,end\n0,4,12\n")
    rows = [
        '{"head": "Ann", "relation": "in", "tail": "Oslo"}',
        '{"head": "A", "relation": "r", "tail": "B", "sentence": "A B"}',
    ]
    (tmp_path / "triples.jsonl").write_text("\n".join(rows))
    corpus = load_corpus(tmp_path)
    assert corpus.documents == ("Ann lives in Oslo.", "Bob left.") and corpus.spans == ((0, 4, 12),)
    assert corpus.triples == (("Ann", "in", "Oslo"), ("A", "r", "B", "A B"))
    assert load_corpus(corpus) is corpus
    assert load_corpus(tmp_path, spans=[(1, 0, 3)]).spans == ((1, 0, 3),)


def test_documents_are_told_apart_by_blank_lines_or_rows(tmp_path):
    (tmp_path / "all.txt").write_text("One.\nTwo.\n\n \nThree.\n")
    assert load_corpus(tmp_path / "all.txt").documents == ("One.\nTwo.", "Three.")
    (tmp_path / "rows.csv").write_text("id,body\n1,One\n2,Two\n")
    assert load_corpus(str(tmp_path / "rows.csv"), text="body").documents == ("One", "Two")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"spans": [(2, 0, 1)]}, "in document 2, and there are 1"),
        ({"spans": [(0, 3, 3)]}, "from 3 to 3"),
        ({"spans": ["abc"]}, "three whole numbers"),
        ({"triples": [("Ann", "in")]}, "three or four texts"),
        ({"triples": [("Ann", " ", "Oslo")]}, "empty part"),
    ],
)
def test_what_does_not_fit_the_documents_is_refused(given, says):
    with pytest.raises(BadData, match=says):
        load_corpus(["Ann lives in Oslo."], **given)


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "spans.csv").write_text("document,start,end\n0,a,3\n")
    (tmp_path / "other.csv").write_text("x\n1\n")
    for source, given, says in (
        (tmp_path / "latin.txt", {}, "latin.txt: not UTF-8"),
        (tmp_path / "none.txt", {}, "none.txt"),
        (tmp_path / "other.csv", {}, "column 'text' is missing"),
        (["Ann"], {"spans": tmp_path / "spans.csv"}, "spans.csv: a span is three whole numbers"),
        ([], {}, "0 documents"),
        ("one text", {}, "one text"),
    ):
        with pytest.raises(BadData, match=says):
            load_corpus(source, **given)
    assert TextCorpus.of(["a"]).fingerprint != TextCorpus.of(["b"]).fingerprint
