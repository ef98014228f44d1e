import numpy as np
import pytest

from anytask.incontext.article_test import Article, article_test
from anytask.incontext.contamination import choose_n, clean_corpus, contamination_report, find_dirty, mean_interval

LEAK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu"  # 13 words


def test_overlap_ignores_case_and_punctuation_and_needs_n_words_in_a_row():
    item = LEAK + " and more"
    assert find_dirty([item], [LEAK.upper().replace(" ", ", ")], n=13) == [True]
    assert find_dirty([item], [LEAK.replace("eta theta", "eta so theta")], n=13) == [False]
    assert find_dirty([item], [LEAK.replace("eta theta", "eta so theta")], n=5) == [True]


@pytest.mark.parametrize(
    "typeset",
    [
        "It\u2019s a \u201cwell\u2011known\u201d rule \u2014 the 1914\u20131918 caf\u00e9 didn\u2018t reopen\u2026",
        "It's a \u00abwell\u2010known\u00bb rule\u2014the 1914-1918 cafe\u0301 didn't reopen...",
        "\u201eIt`s a well-known rule -- the\u00a01914-1918 caf\u00e9 didn\u00b4t re\u200bopen",
    ],
)
def test_overlap_ignores_how_quotes_and_dashes_are_typeset(typeset):
    item = "It's a \"well-known\" rule--the 1914-1918 caf\u00e9 didn't reopen"
    assert find_dirty([item], [f"Before. {typeset} After."], n=9) == [True]
    around = "a" * 300
    assert list(clean_corpus([f"{around} {typeset} {around}"], [item], n=9, min_length=1)) == ["a" * 101] * 2


def test_item_shorter_than_n_counts_as_a_whole():
    assert find_dirty(["beta gamma delta", "gamma delta beta"], [LEAK], n=8) == [True, False]


def test_n_is_the_fifth_percentile_of_the_lengths():
    items = ["w " * n for n in range(1, 101)]  # 5th percentile of 1..100 is 5.95
    assert choose_n(items, low=1, high=100) == 5
    assert choose_n(items) == 8


def test_report_separates_clean_from_dirty():
    items = [LEAK] * 5 + [f"question {i} nobody has ever seen before in any text" for i in range(15)]
    scores = [1.0] * 5 + [0.6] * 15
    report = contamination_report(items, scores, ["x " + LEAK], n=9)
    assert report.dirty == (True,) * 5 + (False,) * 15
    assert report.score_all == pytest.approx(0.7)
    assert report.score_clean == pytest.approx(0.6) and report.score_dirty == pytest.approx(1.0)
    assert report.relative_difference == pytest.approx(-1 / 7) and report.flagged
    assert "FLAGGED" in report.table()
    even = contamination_report(items, [0.5] * 20, ["x " + LEAK], n=9)
    assert even.relative_difference == 0 and not even.flagged


def test_corpus_cleaning_cuts_200_characters_around_and_drops_short_pieces():
    document = "a" * 300 + " " + LEAK + " " + "b" * 450
    pieces = list(clean_corpus([document, "untouched"], [LEAK]))
    # 301 characters before the match: 101 remain (< 200: dropped); 451 after it: 251 remain
    assert [len(p) for p in pieces] == [251, len("untouched")]


def test_much_cut_documents_and_commonplaces():
    gap = " " + "c" * 500 + " "
    many = gap.join([LEAK] * 10)  # ten matches at least: nine gaps of 102, edges empty
    assert list(clean_corpus([gap + gap.join([LEAK] * 10) + gap], [LEAK], min_length=1)) == []  # 11 pieces
    assert len(list(clean_corpus([many], [LEAK], min_length=1))) == 9
    assert list(clean_corpus([LEAK] * 11, [LEAK])) == [LEAK] * 11  # in 11 documents: ignored
    assert list(clean_corpus([LEAK] * 10, [LEAK])) == []


def test_mean_interval_of_two_values():
    # t_{0.975, 1} = 12.7062; s / sqrt(2) = 0.5
    interval = mean_interval([0.0, 1.0])
    assert interval.high - interval.mean == pytest.approx(6.3531, abs=1e-4)


def raters(sharpness, n=20):
    """Readers who notice bad articles and are right about good ones by chance."""

    def make(i):
        rng = np.random.default_rng(i)

        def rate(article):
            assert not article.machine  # nothing is given away
            if "bad" in article.text:
                return 5
            return 1 if rng.random() < sharpness else 5

        return rate

    return [make(i) for i in range(n)]


def test_article_test_tells_a_good_model_from_the_control():
    people = [Article("t", "s", f"report {i}") for i in range(12)]
    good = [Article("t", "s", f"report {i}", machine=True) for i in range(12)]
    bad = [Article("t", "s", f"bad {i}", machine=True) for i in range(12)]
    outcome = article_test(people, good, bad, raters(0.5))
    assert outcome.accuracy.low < 0.5 < outcome.accuracy.high
    assert outcome.control_accuracy.mean > 0.65
    assert outcome.t < 0 and outcome.p < 0.001
    same = article_test(people, bad, bad, raters(0.5), seed=1)
    assert same.p > 0.01


def test_article_test_refuses_bad_answers_and_too_few_raters():
    one = [Article("t", "s", "x")]
    with pytest.raises(ValueError, match="1 to 5"):
        article_test(one, one, one, [lambda a: 0] * 4)
    with pytest.raises(ValueError, match="got 2 raters"):
        article_test(one, one, one, [lambda a: 1] * 2)
