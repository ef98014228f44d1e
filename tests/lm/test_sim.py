"""The simulator's marginals against its published formulas."""

from __future__ import annotations

import math
import random
import re

import pytest

from anytask.lm import SimulatedChat
from anytask.lm.protocol import ChatModel, ChatRequest
from anytask.lm.sim.skill import Ability


def ask(text: str, **fields) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **fields)


def sg(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def expression(rng: random.Random, n: int) -> str:
    text = str(rng.randint(11, 99))
    for _ in range(n):
        text += rng.choice([" + ", " - "]) + str(rng.randint(11, 99))
    return text


def accuracy(n: int, distractors: int = 0, suffix: str = "", level: str = "medium", items: int = 2000) -> float:
    lm, rng, right = SimulatedChat(level), random.Random(n), 0
    for i in range(items):
        task = expression(rng, n)
        noise = "".join(f"Box {i} holds {k + 2} pens. " for k in range(distractors))
        reply = lm.chat(ask(f"{noise}What is {task}?{suffix}", temperature=1.0)).text
        right += int(re.findall(r"-?\d+", reply)[-1]) == eval(task)
    return right / items


@pytest.mark.parametrize(("n", "d"), [(1, 0), (2, 0), (2, 8), (4, 0)])
def test_direct_accuracy_is_the_formula(n, d):
    assert accuracy(n, d) == pytest.approx(sg(1.2 - 0.9 * (n - 1) - 0.3 * d / 4), abs=0.02)


@pytest.mark.parametrize(("n", "d"), [(2, 0), (4, 0), (4, 8)])
def test_stepwise_accuracy_is_the_formula(n, d):
    expected = math.prod(sg(2.6 - 0.25 * i - 0.3 * d / 4) for i in range(n))
    assert accuracy(n, d, " Think step by step.") == pytest.approx(expected, abs=0.02)


def test_accuracy_falls_with_operations_and_distractors_and_rises_with_the_level():
    by_n = [accuracy(n, items=500) for n in (1, 2, 4)]
    assert by_n == sorted(by_n, reverse=True)
    by_d = [accuracy(2, d, items=500) for d in (0, 4, 12)]
    assert by_d == sorted(by_d, reverse=True)
    by_level = [accuracy(2, level=level, items=500) for level in ("weak", "medium", "strong")]
    assert by_level == sorted(by_level)


def test_temperature_zero_is_the_mode_and_repeats():
    lm = SimulatedChat()
    for n in (1, 2, 3, 5):
        request = ask(f"What is {expression(random.Random(n), n)}?")
        samples = [c.text for c in lm.chat(ask(request.messages[0]["content"], temperature=1.0, n=400)).choices]
        assert lm.chat(request).text == max(set(samples), key=samples.count) == SimulatedChat().chat(request).text


def test_gold_in_the_metadata_or_tag_changes_nothing():
    lm = SimulatedChat()
    for gold in ("1", "2"):
        request = ask("What is 4 + 5 - 2 + 8?", temperature=1.0, tag=gold, metadata={"gold": gold}, n=20)
        replies = [c.text for c in lm.chat(request).choices]
        assert replies == [c.text for c in lm.chat(ask("What is 4 + 5 - 2 + 8?", temperature=1.0, n=20)).choices]


def test_word_problems_are_solved_and_irrelevant_sentences_counted():
    lm = SimulatedChat("strong")
    text = (
        "Tom has 12 apples. Ann has 40 apples. He likes music. Tom buys 5 apples. He gives away 3 apples. "
        "How many apples does Tom have?"
    )
    samples = [c.text for c in lm.chat(ask(text, temperature=1.0, n=2000)).choices]
    p = sum(s == "The answer is 14." for s in samples) / 2000
    assert p == pytest.approx(sg(1.2 + 1 - 0.9 - 0.3 * 2 / 4), abs=0.03)


def test_self_check_and_judge_err_at_their_rates():
    lm = SimulatedChat()
    for text, expected in (
        ("What is 20 + 30?\nProposed answer: 50\nCheck the answer.", 0.9),
        ("What is 20 + 30?\nProposed answer: 51\nCheck the answer.", 0.3),
        ("What is 20 + 30?\nProposed answer: 50\nJudge the answer.", 0.95),
        ("What is 20 + 30?\nProposed answer: 51\nJudge the answer.", 0.25),
    ):
        samples = [c.text for c in lm.chat(ask(text, temperature=1.0, n=2000)).choices]
        assert sum("is correct" in s for s in samples) / 2000 == pytest.approx(expected, abs=0.02 + 0.01)


def test_a_calculator_is_called_and_its_result_read():
    lm = SimulatedChat()
    tools = ({"name": "calculator", "parameters": {}},)
    reply = lm.chat(ask("What is 20 + 30 * 2?", tools=tools))
    call = reply.choices[0].message["tool_calls"][0]
    assert call["function"] == {"name": "calculator", "arguments": '{"expression": "20 + 30 * 2"}'}
    messages = (
        {"role": "user", "content": "What is 20 + 30 * 2?"},
        reply.choices[0].message,
        {"role": "tool", "tool_call_id": call["id"], "content": "80"},
    )
    assert lm.chat(ChatRequest(messages, tools=tools)).text == "The answer is 80."


def test_facts_are_chained_through_the_prompt_and_missing_ones_are_not_known():
    lm = SimulatedChat()
    given = "The king of Arda is Bel. The home of Bel is Corin. The home of Dara is Elm. "
    question = "What is the home of the king of Arda?"
    assert lm.chat(ask(given + question)).text == "The answer is Corin."
    samples = [c.text for c in lm.chat(ask(given + question, temperature=1.0, n=2000)).choices]
    assert samples.count("The answer is Corin.") / 2000 == pytest.approx((0.98 * math.exp(-0.03)) ** 2, abs=0.02)
    samples = [c.text for c in lm.chat(ask("The home of Dara is Elm. " + question, temperature=1.0, n=500)).choices]
    assert "The answer is Corin." not in samples and "I am not sure." in samples


def test_compression_only_removes_words_except_for_the_published_share():
    lm = SimulatedChat()
    kept = 0
    for i in range(300):
        text = f"The meeting of group {i} was moved to the large room because it needed more chairs."
        words = lm.chat(ask(f"Compress the text by only removing words.\n\nText: {text}")).text.split()
        source = iter(text.split())
        kept += all(word in source for word in words)
        assert len(words) < len(text.split())
    assert 1 - kept / 300 == pytest.approx(0.1, abs=0.05)


def test_values_are_read_only_if_the_pair_survives():
    lm = SimulatedChat()
    context = "alpha: 17\nbeta: 23\ngamma: 5\n"
    assert lm.chat(ask(context + "What is the value of beta?")).text == "23"
    assert lm.chat(ask(context.replace("beta: 23\n", "") + "What is the value of beta?")).text != "23"


def test_similar_examples_help_and_wrong_ones_harm():
    lm = SimulatedChat()
    query = "Review: a wonderful plot\nSentiment:"
    right = "Review: a wonderful cast\nSentiment: positive\n\n"
    wrong = "Review: an awful cast\nSentiment: positive\n\n"
    other = "Review: dull songs\nSentiment: negative\n\n"

    def share(prompt: str) -> float:
        samples = [c.text for c in lm.chat(ask(prompt, temperature=1.0, n=3000)).choices]
        return samples.count("positive") / 3000

    assert share(query) == pytest.approx(sg(1.0), abs=0.025)
    assert share(other + query) == pytest.approx(sg(1.0), abs=0.025)
    assert share(right + query) == pytest.approx(sg(1.0 + 0.4 * math.log(2)), abs=0.025)
    assert share(wrong + query) == pytest.approx(sg(1.0 - 0.6), abs=0.025)


@pytest.mark.parametrize(
    "text", ["", "Write a poem.", "((((", "What is 1 +", "How many apples does Tom have?", "Compress"]
)
def test_unknown_text_gets_a_reply_and_never_a_crash(text):
    reply = SimulatedChat().chat(ask(text))
    assert reply.text and reply.kind == "sim"


@pytest.mark.parametrize("wrong", [{"direct": math.nan}, {"common": 1.5}, {"tool": math.inf}, {"read": 1}])
def test_an_error_model_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number"):
        Ability(**wrong)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a number"):
        SimulatedChat(ability=Ability().set_params(**wrong))


def test_the_protocol_and_the_published_parameters():
    lm = SimulatedChat("weak", seed=3)
    assert isinstance(lm, ChatModel)
    assert lm.error_model()["shift"] == -1.0 and lm.error_model()["common"] == 0.4
    with pytest.raises(ValueError, match="weak, medium, strong"):
        SimulatedChat("best")
