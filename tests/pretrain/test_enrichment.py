"""Enrichment: who is asked about, with what, what is taken of an answer, and where a budget ends it."""

import re

import pytest

from anytask.lm.accounts import Accounts
from anytask.lm.base import LanguageModel
from anytask.lm.protocol import Capabilities, ChatReply, Choice, Usage
from anytask.pretrain import enrich

PAIRS = [("a", "common"), ("b", "common"), ("joins pipes", "welding"), ("welds", "Welding")]


class Writer(LanguageModel):
    """Answers every request with the same lines."""

    name, kind, context_length = "writer", "sim", 4096
    capabilities = Capabilities(chat=True)

    def __init__(self, text):
        self.usage = Accounts()
        self.text, self.asked = text, []

    def count_tokens(self, text):
        return len(text.split())

    def _chat(self, requests, max_concurrency, tell):
        self.asked += [request.messages[0]["content"] for request in requests]
        return [ChatReply((Choice({"content": self.text}),), Usage(10, 10), kind=self.kind) for _ in requests]


def test_rare_targets_are_asked_about_with_what_is_known_of_them():
    lm = Writer("- repairs hulls\n1. joins pipes\n* WELDING\n" + "word " * 50 + "\nlays beads\none more")
    found = enrich(PAIRS, lm, descriptions={"welding": "joining metal", "brazing": "joining with filler"}, least=4)
    assert len(lm.asked) == 3 and found.finished and found.kind == "sim"
    asked = next(text for text in lm.asked if "welding" in text.split("\n")[0])
    assert "joining metal" in asked and "- joins pipes" in asked and re.search(r"Write 2 different", asked)
    assert [text for text, target in found.pairs if target == "welding"] == ["repairs hulls", "lays beads"]
    assert {target for _, target in found.pairs} == {"common", "welding", "brazing"}
    assert found.refused["too long"] == 3 and {"known", "the target itself", "more than asked"} <= set(found.refused)


def test_nothing_is_asked_where_all_have_enough_and_a_budget_ends_the_asking():
    lm = Writer("x")
    assert enrich(PAIRS, lm, least=2).pairs == [] and not lm.asked
    found = enrich(PAIRS, lm, least=4, budget={"calls": 1})
    assert not found.finished and len(lm.asked) == 1 and len(found.pairs) == 1
    with pytest.raises(ValueError, match="least"):
        enrich(PAIRS, lm, least=0)


def test_targets_of_which_nothing_is_known_are_not_asked_about():
    found = enrich(PAIRS, Writer("x"), descriptions={"glazing": ""}, least=2)
    assert found.ungrounded == ["glazing"] and found.pairs == []
