"""Answers in words: texts from whatever a model has, and choices where it scores none."""

from __future__ import annotations

import json

import pytest
from doubles import ScriptedModel
from misbehaving import answer, serving

from anytask.lm import Endpoint, MissingCapability
from anytask.lm.protocol import Capabilities
from anytask.lm.writing import choose, named, write

LABELS = ["positive", "negative"]


def test_a_model_that_only_chats_writes_too_and_equal_prompts_are_sent_once():
    with serving(lambda body: answer(body["messages"][0]["content"].upper())) as server:
        lm = Endpoint(server.url, "m", logprobs="none", completions=False)
        assert write(lm, ["a", "b", "a"], max_tokens=5, stop=["\n"], beam_width=1) == ["A", "B", "A"]
        assert len(server.bodies) == 2 and lm.usage["write"].calls == 2
        assert {(body["max_tokens"], *body["stop"], body["temperature"]) for body in server.bodies} == {(5, "\n", 0.0)}


def test_a_model_that_continues_text_is_given_the_text():
    with serving({"choices": [{"text": "x"}]}) as server:
        assert write(Endpoint(server.url, "m"), ["a"]) == ["x"]
        assert server.bodies[-1]["prompt"] == "a"


def test_a_model_that_does_neither_is_refused():
    lm = ScriptedModel([])
    lm.capabilities = Capabilities(chat=False)
    with pytest.raises(MissingCapability, match="reader needs a model with chat"):
        write(lm, ["a"], tag="reader")


def test_a_choice_is_read_out_of_what_was_written_and_asked_again_once():
    lm = ScriptedModel(["Positive!", "I would say: negative.", "no idea", "maybe", "still none", "**negative**"])
    lm.capabilities = Capabilities()
    assert choose(lm, ["a", "b", "c", "d"], [LABELS] * 4) == ["positive", "negative", "no idea", "negative"]
    assert lm.remaining == 0
    first, *_, last = lm.requests
    assert "positive, negative" in first.messages[0]["content"] and len(last.messages) == 3


def test_a_model_that_continues_text_goes_on_from_the_prompt_and_is_told_where_it_strays():
    def reply(body):
        if "prompt" in body:
            return {"choices": [{"text": " Negative" if "dull" in body["prompt"] else " neutral"}]}
        assert "positive, negative" in body["messages"][0]["content"]
        return answer("positive")

    with serving(reply) as server:
        lm = Endpoint(server.url, "m", logprobs="none", completions=True)
        assert choose(lm, ["dull ->", "odd ->", "dull ->"], [LABELS] * 3) == ["negative", "positive", "negative"]
        assert len(server.bodies) == 3 == lm.usage["choose"].calls


def test_a_server_that_takes_schemas_is_held_to_the_options():
    with serving(answer(json.dumps({"answer": "negative"}))) as server:
        lm = Endpoint(server.url, "m", logprobs="none", completions=False, json_schema=True)
        assert choose(lm, ["a"], [LABELS]) == ["negative"]
        schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["answer"]["enum"] == LABELS


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("10", ["1", "10"], "10"),
        ("card lost or stolen?", ["card", "card lost"], "card lost"),
        ("It is 1.", ["1", "10"], "1"),
        ("unpositive", LABELS, None),
        ("positive and negative", ["negative", "neutral"], "negative"),
        ("", LABELS, None),
    ],
)
def test_an_option_is_named_by_whole_words(text, options, wanted):
    assert named(text, options) == wanted
