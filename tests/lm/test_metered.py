"""A model under a meter: asked once, within its budget, with the answers kept."""

import pytest

from anytask.lm import Endpoint, SimulatedChat, load_tiny
from anytask.lm.metered import Metered
from anytask.lm.protocol import BudgetExceeded, ChatRequest

PROMPTS, OPTIONS = ["a good storm", "a song"], [[" weather", " music"]] * 2


@pytest.fixture(scope="module")
def lm():
    return load_tiny("icl")


def test_scores_are_the_models_own_and_asked_for_once(lm):
    expected = lm.score(PROMPTS, OPTIONS)
    meter = Metered(lm)
    before = lm.usage.total.calls
    assert meter.score(PROMPTS, OPTIONS) == meter.score(PROMPTS, OPTIONS) == expected
    assert lm.usage.total.calls - before == meter.budget.used_calls == 2


def test_a_second_process_asks_nothing_again_and_spends_as_much(lm, tmp_path):
    first = Metered(lm, tmp_path / "answers.sqlite", {"calls": 10})
    expected, before = first.score(PROMPTS, OPTIONS), lm.usage.total.calls
    second = Metered(lm, tmp_path / "answers.sqlite", {"calls": 10})
    assert second.score(PROMPTS, OPTIONS) == expected
    assert lm.usage.total.calls == before
    assert second.budget.used_calls == first.budget.used_calls == 2
    assert second.budget.used_tokens == first.budget.used_tokens > 0


def test_another_model_or_another_way_to_read_is_asked_anew(lm, tmp_path):
    Metered(lm, tmp_path / "answers.sqlite").score(PROMPTS, OPTIONS)
    other = Metered(SimulatedChat("weak"), tmp_path / "answers.sqlite")
    assert other._stamp != Metered(SimulatedChat("strong"), tmp_path / "answers.sqlite")._stamp
    assert lm.in_chat_template(False).model is lm.model  # no second copy of the weights


def test_what_does_not_fit_into_the_budget_is_not_asked(lm):
    meter, before = Metered(lm, budget={"tokens": 3}), lm.usage.total.calls
    with pytest.raises(BudgetExceeded, match="tokens"):
        meter.score(PROMPTS, OPTIONS)
    assert lm.usage.total.calls == before


def test_chats_and_texts_are_kept_too(lm, tmp_path):
    request = ChatRequest(({"role": "user", "content": "What is 17 + 5?"},))
    for _ in range(2):
        sim = SimulatedChat("strong")
        assert Metered(sim, tmp_path / "a.sqlite").chat_many([request])[0].text == "The answer is 22."
    assert sim.usage.total.calls == 0
    before = lm.usage.total.calls
    texts = [Metered(lm, tmp_path / "b.sqlite").generate(["a good"], max_tokens=3) for _ in range(2)]
    assert texts[0] == texts[1] == lm.generate(["a good"], max_tokens=3)
    assert lm.usage.total.calls - before == 2  # once under the first meter, once without one


def test_an_endpoint_without_a_tokenizer_is_no_obstacle():
    meter = Metered(Endpoint("http://127.0.0.1:9/v1", "m", logprobs="none", completions=False))
    assert meter.count_tokens("12345678") == 2 and not meter.capabilities.logprobs
