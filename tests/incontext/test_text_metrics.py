import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytask.incontext.metrics import bleu, exact_match, token_f1


def test_exact_match_ignores_case_articles_and_punctuation():
    assert exact_match("The  cat.", ["a dog", "cat"]) == 1.0
    assert exact_match("cats", ["cat"]) == 0.0


def test_token_f1_counts_repeated_words_once_each():
    # common = {x: 1}; precision 1/3, recall 1/2
    assert token_f1("x x y", ["x z"]) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert token_f1("", [""]) == 1.0 and token_f1("x", [""]) == 0.0


@given(st.text(alphabet="ab ", min_size=1))
def test_f1_of_the_same_text_is_one(text):
    assert token_f1(text, ["other", text]) == 1.0


def test_bleu_of_a_worked_example():
    prediction, reference = "the cat sat on the rug", "the cat lay on the rug today"
    # unigrams: the cat on the rug = 5/6; bigrams: the-cat, on-the, the-rug = 3/5; trigrams: on-the-rug = 1/4
    expected = math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3)
    assert bleu([prediction], [[reference]], max_n=3) == pytest.approx(expected)
    assert bleu([prediction], [[reference]]) == 0.0  # no common 4-gram


def test_bleu_clips_repeated_words_and_takes_the_closest_reference_length():
    # "the the the": at most two of them are in a reference; closest length 3 -> no brevity penalty
    assert bleu(["the the the"], [["the cat the", "a b c d e f"]], max_n=1) == pytest.approx(2 / 3)


def test_bleu_sums_over_the_corpus_before_dividing():
    assert bleu(["a b", "c"], [["a x"], ["c"]], max_n=1) == pytest.approx(2 / 3)


def test_one_reference_may_be_a_string_and_none_is_refused():
    assert token_f1("x", "x y") == token_f1("x", ["x y"])
    with pytest.raises(ValueError, match="at least one"):
        exact_match("x", [])
    with pytest.raises(ValueError, match="got 0 for 1"):
        bleu(["x"], [])
