"""Scripted, echoing and faulty models, and load_lm."""

from __future__ import annotations

import pytest
from doubles import EchoModel, FaultyModel, ScriptedModel

from anytask.lm import Endpoint, LMError, SimulatedChat, load_lm
from anytask.lm.protocol import ChatModel, ChatRequest


def ask(text: str, **fields) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **fields)


def test_a_script_is_given_in_order_recorded_and_ends_with_an_error():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    lm = ScriptedModel(["a", call, ["x", "y"], LMError("down")])
    assert lm.chat(ask("1")).text == "a"
    assert lm.chat(ask("2")).choices[0].finish_reason == "tool_calls"
    assert [c.text for c in lm.chat(ask("3", n=2)).choices] == ["x", "y"]
    with pytest.raises(LMError, match="down"):
        lm.chat(ask("4"))
    with pytest.raises(LMError, match=r"exhausted; request 5 .* was: 5"):
        lm.chat(ask("5"))
    assert [r.messages[0]["content"] for r in lm.requests] == list("12345")
    assert lm.remaining == 0 and isinstance(lm, ChatModel)


def test_a_callable_script_sees_the_request():
    lm = ScriptedModel(lambda request: request.tag.upper())
    assert [r.text for r in lm.chat_many([ask("", tag="a"), ask("", tag="b")])] == ["A", "B"]
    assert lm.usage["a"].calls == 1


def test_faults_come_at_their_rates_and_repeat():
    def outcomes() -> list[str]:
        lm, seen = FaultyModel(EchoModel(), p_timeout=0.2, p_garbage=0.2, p_truncate=0.2, seed=1), []
        for i in range(500):
            text = f"message number {i}"
            try:
                reply = lm.chat(ask(text))
            except LMError:
                seen.append("timeout")
                continue
            if reply.text == text:
                seen.append("fine")
            else:
                seen.append("cut" if text.startswith(reply.text) else "garbage")
        return seen

    seen = outcomes()
    assert seen == outcomes()
    for kind, rate in (("timeout", 0.2), ("garbage", 0.2), ("cut", 0.2), ("fine", 0.4)):
        assert seen.count(kind) / 500 == pytest.approx(rate, abs=0.06)
    with pytest.raises(ValueError, match="at most 1"):
        FaultyModel(EchoModel(), p_timeout=0.9, p_garbage=0.9)


def test_load_lm_understands_its_descriptions(tmp_path):
    endpoint = load_lm("http://localhost:1/v1#small", timeout=3)
    assert isinstance(endpoint, Endpoint) and endpoint.name == "small" and endpoint.base_url == "http://localhost:1/v1"
    assert load_lm("http://localhost:1/v1", model="other").name == "other"
    with pytest.raises(ValueError, match="#MODEL"):
        load_lm("http://localhost:1/v1")
    endpoint = load_lm("http://localhost:1/v1#small?logprobs=echo&timeout=3&tools=true&completions=false")
    assert endpoint.capabilities.logprobs and endpoint.capabilities.tools and not endpoint.capabilities.completions
    assert endpoint.options.timeout == 3 and endpoint.name == "small"
    for wrong in ("http://localhost:1/v1#small?api_key=secret", "sim:weak?seed"):
        with pytest.raises(ValueError, match="name=value") as caught:
            load_lm(wrong)
        assert "secret" not in str(caught.value)
    assert load_lm("sim:weak?seed=4").seed == 4
    assert isinstance(load_lm("sim:weak", seed=2), SimulatedChat)
    with pytest.raises(ValueError, match="weak, medium, strong"):
        load_lm("sim:genius")
    with pytest.raises(ValueError, match="no such folder"):
        load_lm(tmp_path / "nothing")
    with pytest.raises(ValueError, match="empty"):
        load_lm(" ")
