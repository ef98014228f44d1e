"""Endpoint against real HTTP servers on loopback."""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import pytest
from misbehaving import answer, serving

import anytask
from anytask.incontext import GPT3
from anytask.lm import (
    BadNumber,
    Budget,
    BudgetExceeded,
    Endpoint,
    LMError,
    LocalLM,
    MissingCapability,
    ReplyCache,
    ReplyError,
    load_lm,
)
from anytask.lm.protocol import ChatModel, ChatRequest, require
from anytask.lm.word_tokens import WordTokens
from anytask.lm.writing import choose, write
from anytask.prompts.parts.evaluators import ReasoningEvaluator

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def ask(text: str = "hello", **fields) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **fields)


def client(server, **options) -> tuple[Endpoint, list[float]]:
    waits: list[float] = []
    usual = {"logprobs": "none", "completions": options.get("logprobs") == "echo", "api_key": "key-123"}
    return Endpoint(server.url, "m", **usual | {"sleep": waits.append, "jitter": lambda: 1.0} | options), waits


@pytest.mark.parametrize(
    "fault", [("status", 429, {}), ("status", 500, {}), ("status", 408, {}), "broken", "reset", answer(), answer("")]
)
def test_passing_faults_are_retried_with_growing_waits(fault):
    with serving(fault, fault, answer("fine")) as server:
        lm, waits = client(server)
        reply = lm.chat(ask())
        assert (reply.text, reply.attempts, reply.kind) == ("fine", 3, "http")
        assert len(server.bodies) == 3
        assert waits == [1.0, 2.0]
        assert lm.usage.total.failures == 2 and lm.usage.total.calls == 1


def test_a_hanging_server_is_left_at_the_time_out():
    with serving("hang", answer("fine")) as server:
        lm, _ = client(server, timeout=1)
        assert lm.chat(ask()).text == "fine"
        assert server.most_in_flight >= 2, "the first request still hangs while the next one is answered"


def test_retry_after_is_the_least_wait_and_waits_stop_at_sixty_seconds():
    with serving(("status", 429, {"Retry-After": "7"}), answer("fine")) as server:
        lm, waits = client(server)
        lm.chat(ask())
        assert waits == [7.0]
    with serving(("status", 503, {})) as server:
        lm, waits = client(server, attempts=9)
        with pytest.raises(LMError, match="9 attempts; last: status 503"):
            lm.chat(ask())
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        assert len(server.bodies) == 9


def test_full_jitter_scales_the_wait():
    with serving(("status", 500, {}), answer("fine")) as server:
        lm, waits = client(server, jitter=lambda: 0.25)
        lm.chat(ask())
        assert waits == [0.25]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_final(status):
    with serving(("status", status, {})) as server:
        lm, waits = client(server)
        with pytest.raises(LMError, match=f"status {status}"):
            lm.chat(ask())
        assert len(server.bodies) == 1 and waits == []


def test_the_deadline_ends_the_attempts():
    with serving(("status", 500, {"Retry-After": "100"})) as server:
        lm, waits = client(server, deadline=90)
        with pytest.raises(LMError, match="within 90 s"):
            lm.chat(ask())
        assert waits == []


def test_an_empty_reply_never_passes_as_an_answer():
    with serving(answer("")) as server:
        lm, _ = client(server, attempts=2)
        with pytest.raises(LMError, match="without content"):
            lm.chat(ask())


def test_sampling_parameters_are_always_sent_and_extra_body_comes_last():
    with serving(answer("fine")) as server:
        lm, _ = client(server, extra_body={"top_k": 3, "top_p": 0.5})
        lm.chat(ask(seed=4, stop=("\n",), tag="planner", metadata={"id": 1}))
        body = server.bodies[0]
        assert body == {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0.0,
            "top_p": 0.5,
            "max_tokens": 512,
            "n": 1,
            "stop": ["\n"],
            "seed": 4,
            "top_k": 3,
        }
        assert server.paths == ["/v1/chat/completions"]


def test_replies_keep_the_order_and_concurrency_is_limited():
    three = threading.Barrier(3)  # nobody is answered before three have asked

    def slow(body):
        text = body["messages"][0]["content"]
        three.wait(120)
        time.sleep(0.05 if int(text) % 2 else 0.01)
        return answer(text)

    with serving(slow) as server:
        lm, _ = client(server, max_concurrency=3)
        replies = lm.chat_many([ask(str(i)) for i in range(12)], max_concurrency=8)
        assert [r.text for r in replies] == [str(i) for i in range(12)]
        assert server.most_in_flight == 3


def test_a_budget_stops_before_it_is_exceeded_and_keeps_what_is_done():
    with serving(lambda body: answer(body["messages"][0]["content"])) as server:
        budget = Budget(calls=5)
        lm, _ = client(server, budget=budget)
        with pytest.raises(BudgetExceeded) as caught:
            lm.chat_many([ask(str(i)) for i in range(12)], max_concurrency=4)
        assert len(server.bodies) == 5 == budget.used_calls
        assert sum(reply is not None for reply in caught.value.finished) == 5
        assert len(caught.value.finished) == 12
        assert all(reply is None or reply.text == str(i) for i, reply in enumerate(caught.value.finished))


def test_token_budgets_hold_for_the_largest_possible_reply():
    with serving(answer("fine")) as server:
        lm, _ = client(server, budget=Budget(tokens=100))
        lm.chat(ask(max_tokens=50))  # used 15 of 100
        with pytest.raises(BudgetExceeded, match="85 of the budget's 100"):
            lm.chat(ask(max_tokens=90))
        assert len(server.bodies) == 1


def test_money_by_the_given_prices_and_usage_by_tag():
    with serving(answer("fine")) as server:
        lm, _ = client(server, prices=(1.0, 2.0))
        lm.chat(ask(tag="critic"))
        assert lm.usage["critic"].money == pytest.approx((10 * 1 + 5 * 2) / 1000)
        assert lm.usage["critic"].total_tokens == 15


def test_usage_is_estimated_where_the_server_does_not_say():
    with serving(answer("four", usage=None)) as server:
        reply = client(server)[0].chat(ask())
        assert reply.usage.estimated and reply.usage.completion_tokens == 1


def test_cached_replies_cost_no_request(tmp_path):
    with serving(lambda body: answer("a", "b", "c")) as server:
        lm, _ = client(server, n=True, cache=tmp_path / "replies.sqlite")
        first = lm.chat(ask(temperature=1.0, n=3, tag="one"))
        again = lm.chat(ask(temperature=1.0, n=3, tag="other"))
        assert [c.text for c in again.choices] == [c.text for c in first.choices] == ["a", "b", "c"]
        assert again.cached and not first.cached and len(server.bodies) == 1
        replay = Endpoint("http://127.0.0.1:9/v1", "m", cache=ReplyCache(tmp_path / "replies.sqlite", "replay-only"))
        assert replay.chat(ask(temperature=1.0, n=2)).text == "a"
        with pytest.raises(LMError, match="holds no reply"):
            replay.chat(ask("other"))


def test_a_reply_out_of_form_is_repaired_once_and_then_an_error():
    schema = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}
    with serving(answer("no json"), answer('{"x": 1}')) as server:
        lm, _ = client(server)
        assert lm.chat(ask(response_format=schema)).text == '{"x": 1}'
        assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "no json"}
        assert "not JSON" in server.bodies[1]["messages"][2]["content"]
        assert "response_format" not in server.bodies[0]
    with serving(answer('{"x": "one"}')) as server:
        lm, _ = client(server, json_schema=True)
        with pytest.raises(ReplyError) as caught:
            lm.chat(ask(response_format=schema))
        assert caught.value.raw == '{"x": "one"}' and len(server.bodies) == 2
        assert server.bodies[0]["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize("text", ['{"x": NaN}', '{"x": -Infinity}', "[" * 100_000])
def test_numbers_that_json_does_not_have_never_become_an_answer(text):
    with serving(answer(text)) as server:
        lm, _ = client(server)
        with pytest.raises(ReplyError, match="not JSON"):
            lm.chat(ask(response_format={"type": "object", "properties": {"x": {"type": "number"}}}))


def test_samples_are_asked_one_by_one_where_the_server_has_no_n():
    with serving(lambda body: answer(str(body.get("seed")))) as server:
        lm, _ = client(server)
        assert [c.text for c in lm.chat(ask(n=3, seed=5, temperature=1.0)).choices] == ["5", "6", "7"]
        assert [b["n"] for b in server.bodies] == [1, 1, 1]


def echoing(body):
    """A server whose tokens are words: the k-th has log-probability -k; it counts the prompt with every option."""
    words = re.findall(r"\s*\S+", body["prompt"])
    logprobs = {"tokens": [*words, "!"], "token_logprobs": [None, *(-float(k) for k in range(1, len(words))), -9.0]}
    usage = {"prompt_tokens": len(words), "completion_tokens": 1}
    return {
        "choices": [{"text": body["prompt"] + "!", "logprobs": logprobs if "echo" in body else None}],
        "usage": usage,
    }


@pytest.mark.parametrize(
    ("replies", "completions", "logprobs"),
    [
        ([echoing], True, True),
        ([{"choices": [{"text": " three", "logprobs": None}]}], True, False),
        ([("status", 400, {}, "echo is not supported"), {"choices": [{"text": " three"}]}], True, False),
        ([{"choices": [{"text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [float("nan")]}}]}], True, False),
        ([("status", 404, {})], False, False),
    ],
)
def test_what_a_server_offers_is_found_by_one_probe(replies, completions, logprobs):
    with serving(*replies) as server:
        lm, _ = client(server, logprobs="probe", completions="probe")
        offers = [lm.capabilities for _ in range(3)]
        assert {(o.completions, o.logprobs) for o in offers} == {(completions, logprobs)}
        assert len(server.bodies) == len(replies) + (replies == [("status", 404, {})])
        assert lm.usage.total.calls == 0, "a probe is no answer"


def test_a_server_that_cannot_be_asked_is_one_line_before_the_first_call():
    with serving(("status", 401, {}, "wrong key")) as server:
        lm, _ = client(server, logprobs="probe", completions="probe")
        with pytest.raises(LMError, match="status 401: wrong key"):
            GPT3(lm, k=0)
    lm = Endpoint("http://127.0.0.1:9/v1", "m", sleep=lambda s: None)
    with pytest.raises(LMError, match="'m' gave no reply in 2 attempts"):
        GPT3(lm, k=0)


def test_what_was_said_of_a_server_is_not_probed():
    with serving(echoing) as server:
        for options, completions, logprobs in (
            ({"logprobs": "none", "completions": True}, True, False),
            ({"logprobs": "echo", "completions": False}, False, True),
        ):
            offers = client(server, **options)[0].capabilities
            assert (offers.completions, offers.logprobs) == (completions, logprobs)
        assert server.bodies == []


def test_equal_questions_are_sent_once_and_counted_once_and_options_are_one_call(tmp_path):
    prompts, options = ["a b", "c d e", "a b"], [[" x", " y z"], [" x"], [" y z", " x"]]
    with serving(echoing) as server:
        lm, _ = client(server, logprobs="echo", cache=tmp_path / "c.sqlite")
        shares: list[float] = []
        rows = lm.score(prompts, options, progress=shares.append)
        assert sorted(body["prompt"] for body in server.bodies) == ["a b x", "a b y z", "c d e x"]
        assert [[score.logprob for score in row] for row in rows] == [[-2, -5], [-3], [-5, -2]]
        used = lm.usage["score"]
        assert (used.calls, used.prompt_tokens, used.completion_tokens) == (2, 2 + 3, 1 + 2 + 1)
        assert shares == sorted(shares) and shares[-1] == 1
        lm.score(prompts, options)
        assert (lm.usage["score"].calls, lm.usage["score"].cache_hits, len(server.bodies)) == (2, 2, 3)
        lm.generate(["a b", "c", "a b"])
        assert len(server.bodies) == 5 and lm.usage["generate"].calls == 2
        lm.generate(["q", "q"], temperature=1.0, seed=3)
        assert sorted(body["seed"] for body in server.bodies[5:]) == [3, 4]
    with serving(lambda body: answer(body["messages"][0]["content"])) as server:
        lm, _ = client(server)
        replies = lm.chat_many([ask("a"), ask("b", metadata={"id": 1}), ask("a", metadata={"id": 2})])
        assert [reply.text for reply in replies] == ["a", "b", "a"]
        assert len(server.bodies) == 2 == lm.usage.total.calls
        lm.chat_many([ask("a", temperature=1.0)] * 2)
        assert len(server.bodies) == 4, "samples without a seed are different questions"


def test_a_budget_of_calls_takes_the_options_of_a_prompt_for_one():
    with serving(echoing) as server:
        lm, _ = client(server, logprobs="echo", budget=Budget(calls=2))
        lm.score(["a", "b"], [[" x", " y", " z"]] * 2)
        with pytest.raises(BudgetExceeded):
            lm.score(["c"], [[" x"]])
        assert len(server.bodies) == 6


def test_an_estimate_says_what_questions_will_cost():
    with serving(echoing) as server:
        lm, _ = client(server, logprobs="probe", prices=(1000.0, 2000.0), max_concurrency=2, tokenizer=WordTokens())
        assert lm.capabilities.logprobs
        told = lm.estimate(["a b", "c d e", "a b"], [[" x", " y z"], [" x"], [" x"]])
        assert (told.calls, told.prompt_tokens, told.completion_tokens, told.money) == (2, 5, 4, 5 + 2 * 4)
        assert told.seconds == 0 and len(server.bodies) == 1
        lm.score(["a"], [[" x"]])
        again = lm.estimate(["a b", "c d e", "a b"], [[" x", " y z"], [" x"], [" x"]])
        assert again.seconds == pytest.approx(lm.usage["score"].seconds * 3 / 2)


def test_a_tokenizer_counts_and_takes_text_apart(tmp_path):
    from random_models import bpe_tokenizer

    tokenizer = bpe_tokenizer(bos=True)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("The film was good", add_special_tokens=False)["input_ids"]
    for given in (tokenizer, str(tmp_path), tmp_path, WordTokens()):
        lm = Endpoint("http://localhost:1/v1", "m", tokenizer=given)
        wanted = 4 if isinstance(given, WordTokens) else len(ids)
        assert len(lm.encode("The film was good")) == lm.count_tokens("The film was good") == wanted
        assert lm.decode(lm.encode("The film was good")) == "The film was good"
    with pytest.raises(MissingCapability, match=r"Endpoint\(tokenizer=\)"):
        Endpoint("http://localhost:1/v1", "m").encode("x")


def test_echoed_logprobs_score_options():
    def echo(body):
        # "ab cd" as tokens "ab", " c", "d", and one generated token behind them
        assert body["echo"] is True and body["prompt"] == "ab cd"
        logprobs = {
            "tokens": ["ab", " c", "d", "!"],
            "token_logprobs": [None, -1.0, -0.5, -9.0],
            "text_offset": [0, 2, 4, 5],
        }
        return {"choices": [{"text": "ab cd!", "logprobs": logprobs}], "usage": None}

    with serving(echo) as server:
        lm, _ = client(server, logprobs="echo")
        (score,) = lm.score(["ab"], [[" cd"]])[0]
        assert (score.logprob, score.n_tokens, score.n_bytes) == (-1.5, 2, 3)
        (score,) = lm.score(["ab c"], [["d"]])[0]
        assert (score.logprob, score.n_tokens) == (-0.5, 1)
        (score,) = lm.score(["ab "], [["cd"]])[0]  # " c" spans the border
        assert (score.logprob, score.n_bytes) == (-1.5, 3)
        assert server.paths[0] == "/v1/completions"


def test_a_missing_capability_is_named():
    with serving(answer("fine")) as server:
        lm, _ = client(server)
        with pytest.raises(MissingCapability, match="logprobs='echo'"):
            lm.score(["a"], [["b"]])
        with pytest.raises(MissingCapability, match="VoteK needs a model with logprobs"):
            require(lm, "logprobs", method="VoteK")
        with pytest.raises(MissingCapability, match="tools"):
            lm.chat(ask(tools=({"name": "f", "parameters": {}},)))
        assert server.bodies == []


def test_tools_go_out_and_tool_calls_come_back():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    reply = answer("x")
    reply["choices"][0] = {
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": "tool_calls",
    }
    with serving(reply) as server:
        lm, _ = client(server, tools=True)
        choice = lm.chat(ask(tools=({"name": "f", "parameters": {}},), tool_choice="f")).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message["tool_calls"] == [call]
        assert server.bodies[0]["tool_choice"] == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_prompt_is_not_sent_on_to_where_a_server_points(status):
    with serving(answer("stolen")) as thief:
        for place in (thief.url + "/chat/completions", "//evil.example/v1", "/v1/elsewhere"):
            with serving(("status", status, {"Location": place})) as server:
                lm, waits = client(server)
                with pytest.raises(LMError, match="redirects to") as caught:
                    lm.chat(ask("private"))
                assert place in str(caught.value) and len(server.bodies) == 1 and waits == []
        assert thief.bodies == []


@pytest.mark.parametrize("how", ["drip", "drip headers"])
def test_the_deadline_holds_against_a_server_that_sends_byte_by_byte(how):
    with serving(how) as server:
        lm, _ = client(server, deadline=2, timeout=60, attempts=2)
        began = time.monotonic()
        with pytest.raises(LMError, match="no answer in time"):
            lm.chat(ask())
        assert time.monotonic() - began < 30  # the server would go on for a minute
        assert len(server.bodies) == 1


@pytest.mark.parametrize("squeezed", [False, True])
def test_replies_have_a_size_limit_compressed_ones_too(squeezed):
    long = json.dumps(answer("a" * 200_000)).encode()
    item = ("raw", gzip.compress(long), {"Content-Encoding": "gzip"}) if squeezed else long
    with serving(item) as server:
        assert client(server)[0].chat(ask()).text == "a" * 200_000
        lm, _ = client(server, max_reply_bytes=100_000)
        with pytest.raises(LMError, match="more than 100000 bytes"):
            lm.chat(ask())
        assert lm.usage.total.failures == 1, "a reply of that length is not asked for again"


def test_the_text_of_an_error_has_the_size_limit_too():
    bomb = gzip.compress(b"a" * 10**7)
    with serving(("raw", bomb, {"Content-Encoding": "gzip, gzip"}), ("status", 400, {}, "x" * 10**6)) as server:
        lm, _ = client(server, max_reply_bytes=10**5)
        with pytest.raises(LMError, match="encoded as 'gzip, gzip'"):
            lm.chat(ask())
        with pytest.raises(LMError, match="more than 100000 bytes"):
            lm.chat(ask())


NUMBERS = [
    ({"usage": {"prompt_tokens": -5, "completion_tokens": 1}}, "prompt_tokens is -5"),
    ({"usage": {"prompt_tokens": 5, "completion_tokens": 1.5}}, "completion_tokens is 1.5"),
    ({"usage": {"prompt_tokens": True, "completion_tokens": 1}}, "prompt_tokens is True"),
    ({"usage": {"prompt_tokens": 10**400, "completion_tokens": 1}}, "prompt_tokens is 1000"),
    ({"usage": {"prompt_tokens": "5", "completion_tokens": 1}}, "prompt_tokens is a str"),
]


@pytest.mark.parametrize(("fields", "message"), NUMBERS)
def test_usage_that_cannot_be_is_refused_by_name(fields, message, tmp_path):
    with serving(answer("fine", **fields)) as server:
        lm, _ = client(server, cache=tmp_path / "c.sqlite")
        with pytest.raises(BadNumber, match=f"the server of 'm' sent .*{message}"):
            lm.chat(ask())
        assert len(server.bodies) == 1 and len(lm.cache) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.5, "x", None, True])
def test_logprobs_that_cannot_be_are_refused_by_name(value, tmp_path):
    logprobs = {"tokens": ["a", " b", "!"], "token_logprobs": [None, value, -1.0]}
    chat = answer("fine")
    chat["choices"][0]["logprobs"] = {"content": [{"token": "fine", "logprob": value}]}
    wanted = {"x": "a str", None: "a NoneType"}.get(value, "NaN" if value != value else repr(value))
    beside = answer("fine")
    token = {"token": "fine", "logprob": -1.0, "top_logprobs": [{"token": "good", "logprob": value}]}
    beside["choices"][0]["logprobs"] = {"content": [token]}
    with serving({"choices": [{"text": "a b!", "logprobs": logprobs}]}, chat, beside) as server:
        lm, _ = client(server, logprobs="echo", cache=tmp_path / "c.sqlite")
        with pytest.raises(LMError, match="no log-probability" if value is None else f"'m' sent .* is {wanted}"):
            lm.score(["a"], [[" b"]])
        for _ in range(2):
            with pytest.raises(BadNumber, match=f"'m' sent .* is {wanted}"):
                lm.chat(ask(logprobs=True))
        assert len(server.bodies) == 3 and len(lm.cache) == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"choices": 3}, "choices is 3, and a list"),
        ({"choices": "3"}, "choices is a str, and a list"),
        ({"choices": [{"message": {"tool_calls": [3]}}]}, "a tool call that is no object"),
        ({"choices": [3]}, "a list of objects"),
        ({"choices": {"0": {}}}, "choices is a dict, and a list of objects"),
        (answer("a", "b"), "2 choices, and 1 were asked for"),
        ({"choices": [{"message": "hello"}]}, "without content"),
        ({"choices": [{"message": {"content": ["a"]}}]}, "no string"),
        (answer("fine", usage=3), "another form"),
        ([1, 2], "no JSON object"),
        (b"[" * 100_000, "broken JSON"),
    ],
)
def test_replies_of_another_form_are_refused_by_name(reply, message):
    with serving(reply if isinstance(reply, (dict, bytes)) else json.dumps(reply).encode()) as server:
        lm, _ = client(server, attempts=2)
        with pytest.raises(LMError, match=f"2 attempts; last: .*{message}"):
            lm.chat(ask())


def test_echoes_that_do_not_fit_together_are_refused():
    logprobs = {"tokens": ["a", " b", "!"], "token_logprobs": [None, -1.0]}
    with serving({"choices": [{"text": "a b!", "logprobs": logprobs}]}) as server:
        lm, _ = client(server, logprobs="echo", attempts=1)
        with pytest.raises(LMError, match="of one length"):
            lm.score(["a"], [[" b"]])


def told_by(error: BaseException | None) -> str:
    """Everything that an exception and those behind it show: message, representation and attributes."""
    told = ""
    while error is not None:
        told += f"{error} {error!r} {vars(error)} {getattr(error, 'doc', '')}\n"
        error = error.__cause__ or error.__context__
    return told


def test_an_error_never_contains_the_key():
    key = 'sk-"very-secret'
    echo = f"wrong key {key} for the request"
    script = [
        ("status", 401, {}, echo),
        ("status", 401, {}, json.dumps({"error": echo})),
        ("status", 307, {"Location": f"http://evil.example/?key={key}"}),
        ("status", 307, {"Location": "x" * 195 + key}),
        ("raw", b"{}", {"Content-Encoding": "x" * 35 + key}),
        {"choices": "x" * 50 + key},
        answer("x", usage={"prompt_tokens": key, "completion_tokens": 1}),
        {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"logprob": key}]}}]},
        json.dumps({"choices": key}).encode()[:-2],
        answer(json.dumps({"x": key})),
    ]
    with serving(*script) as server:
        lm, _ = client(server, api_key=key, attempts=1)
        schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
        for place in range(len(script)):
            with pytest.raises(LMError) as caught:
                lm.chat(ask(response_format=schema if place == 9 else None))
            told = "".join(traceback.format_exception(caught.value)) + told_by(caught.value)
            assert "secret" not in told.replace(f"key = {key!r}", ""), place
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {key}"}
    with pytest.raises(ValueError, match="one line of ASCII") as caught:
        Endpoint("http://localhost:1/v1", "m", api_key="a\nb-secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("place", ["user:secret@localhost:1/v1", "localhost:1/v1?key=secret", "localhost/v1#secret"])
def test_an_address_that_holds_a_secret_is_refused_without_showing_it(place):
    with pytest.raises(ValueError, match=r"base_url of localhost .* give api_key") as caught:
        Endpoint(f"http://{place}", "m")
    assert "secret" not in str(caught.value)


def test_an_error_carries_what_was_finished_before_it():
    def reply(body):
        text = body.get("prompt") or body["messages"][0]["content"]
        if text == "5" or text.endswith("bad"):
            return ("status", 400, {})
        logprobs = {"tokens": [text[0], text[1:]], "token_logprobs": [None, -1.0]}
        return {"choices": [{"text": text, "message": {"content": text}, "logprobs": logprobs}]}

    with serving(reply) as server:
        lm, _ = client(server, logprobs="echo", max_concurrency=1)
        with pytest.raises(LMError, match="status 400") as caught:
            lm.chat_many([ask(str(i)) for i in range(8)])
        assert [reply and reply.text for reply in caught.value.finished] == [*"01234", None, None, None]
        with pytest.raises(LMError) as caught:
            lm.generate([str(i) for i in range(3, 7)])
        assert caught.value.finished == ["3", "4", None, None]
        with pytest.raises(LMError) as caught:
            lm.score(["a", "b", "c"], [[" b", " c"], [" d", " bad"], [" e"]])
        (first, *rest) = caught.value.finished
        assert [score.logprob for score in first] == [-1.0, -1.0] and rest == [None, None]


def test_samples_that_were_paid_for_are_not_asked_again(tmp_path):
    def reply(body):
        return ("status", 400, {}) if body["seed"] == 7 and len(server.bodies) == 3 else answer(str(body["seed"]))

    with serving(reply) as server:
        lm, _ = client(server, cache=tmp_path / "c.sqlite")
        request = ask(n=3, seed=5, temperature=1.0)
        with pytest.raises(LMError) as caught:
            lm.chat(request)
        assert [part and part.text for part in caught.value.finished] == ["5", "6", None]
        assert [choice.text for choice in lm.chat(request).choices] == ["5", "6", "7"]
        assert len(server.bodies) == 4


def test_generation_needs_a_server_with_completions():
    with serving({"choices": [{"text": "x"}]}) as server:
        lm, _ = client(server, completions=False)
        with pytest.raises(MissingCapability, match=r"generate needs .*completions.*completions=True"):
            lm.generate(["a"])
        assert server.bodies == []
        assert client(server, completions=True)[0].generate(["a"]) == ["x"]


def test_a_method_that_writes_asks_a_server_for_what_it_has():
    with serving(answer("yes"), {"choices": [{"text": "yes"}]}) as server:
        for options, path in (({}, "chat/completions"), ({"completions": True}, "completions")):
            lm, _ = client(server, **options)
            method = GPT3(lm, k=0, scoring="generate", budget=100)
            assert method.fit([], []).predict(["x"]).tolist() == ["yes"]
            assert server.paths[-1] == f"/v1/{path}"
        with pytest.raises(MissingCapability, match="logprobs"):
            GPT3(client(server)[0], k=0, scoring="mean")
        with pytest.raises(MissingCapability, match="completions=True"):
            ReasoningEvaluator(client(server)[0])
        assert len(server.bodies) == 2


def test_a_method_that_chooses_asks_a_server_for_what_it_has():
    X, y = ["fine", "dull", "good", "bad"], ["positive", "negative"] * 2
    with serving(echoing) as server:
        scored = GPT3(client(server, logprobs="probe", completions="probe")[0], k=2).fit(X, y)
        assert scored.how == "mean" and set(scored.answer(["so so"])[0].scores) == set(y)

    def chatting(body):
        if "prompt" in body:
            return ("status", 404, {})
        return answer("I take Negative." if "so so" in body["messages"][0]["content"] else "positive")

    with serving(chatting) as server:
        chosen = GPT3(client(server, logprobs="probe", completions="probe")[0], k=2).fit(X, y)
        assert chosen.how == "choose" and chosen.predict(["so so", "well"]).tolist() == ["negative", "positive"]
        assert server.bodies[-1]["messages"][0]["content"].count("Input:") == 3
        assert chosen.cost_.calls == 2
        with pytest.raises(ValueError, match="calibrate corrects the scores of options, and scoring='choose' has none"):
            GPT3(chosen.lm, calibrate=True)


def test_a_cache_that_was_changed_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "replies.sqlite"
    with serving(answer("fine")) as server:
        lm, _ = client(server, cache=path)
        lm.chat(ask())
        with sqlite3.connect(path) as db:
            db.execute("UPDATE replies SET reply = replace(reply, 'fine', 'evil')")
        with pytest.raises(ValueError, match="was changed or is damaged: the checksum") as caught:
            lm.chat(ask())
        assert str(path) in str(caught.value) and len(server.bodies) == 1


def test_the_key_is_sent_but_never_shown(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("MY_KEY", "very-secret")
    caplog.set_level(logging.INFO, logger="anytask")
    with serving(("status", 500, {}), answer("fine")) as server:
        lm = Endpoint(server.url, "m", api_key_env="MY_KEY", sleep=lambda s: None, cache=tmp_path / "c.sqlite")
        lm.chat(ask())
        assert server.headers[0]["Authorization"] == "Bearer very-secret"
        assert "very-secret" not in repr(lm) and "very-secret" not in caplog.text and caplog.text
        assert b"very-secret" not in (tmp_path / "c.sqlite").read_bytes()
        assert isinstance(lm, ChatModel)


def test_bad_settings_are_refused():
    for wrong in (
        *({"base_url": "localhost:8000"}, {"model": ""}, {"attempts": 0}, {"logprobs": "yes"}, {"timeout": math.nan}),
        *({"deadline": 0}, {"prices": (math.nan, 0)}, {"prices": (-1, 0)}, {"max_reply_bytes": 0}),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Endpoint(**({"base_url": "http://localhost:1/v1", "model": "m"} | wrong))


@pytest.fixture
def served(tmp_path):
    """A random Llama behind `transformers serve` on loopback: its folder and the server's address."""
    from random_models import bpe_tokenizer, random_model

    tokenizer = bpe_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATE
    folder = str(tmp_path / "model")
    random_model("llama", tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.3)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_transformers_serve_answers_as_the_local_model_does(served):
    folder, url = served
    local = LocalLM(folder)
    lm = load_lm(f"{url}#{folder}?attempts=2", tokenizer=folder)
    offers = lm.capabilities
    assert offers.completions and not offers.logprobs
    with pytest.raises(MissingCapability, match="logprobs"):
        lm.score(["a"], [[" b"]])

    reply, expected = (one.chat(ask("one two three", max_tokens=8)) for one in (lm, local))
    assert reply.text.strip() == expected.text.strip()
    assert reply.usage.prompt_tokens == expected.usage.prompt_tokens

    prompts = ["The film was", "one two", "The film was"]
    for one in (lm, local):
        one.usage.reset()
    texts = write(lm, prompts, max_tokens=6)
    assert [text.strip() for text in texts] == [text.strip() for text in write(local, prompts, max_tokens=6)]
    assert lm.usage["write"].calls == local.usage["write"].calls == 2
    assert lm.usage["write"].prompt_tokens == local.usage["write"].prompt_tokens

    labels = ["positive", "negative"]
    chosen = choose(lm, ["Review: fine"], [labels]), choose(local, ["Review: fine"], [labels])
    assert chosen[0] == chosen[1]
    X, y = ["fine", "dull", "good", "bad"], labels * 2
    said = [GPT3(one, k=2, scoring="choose").fit(X, y).predict(["old", "new"]).tolist() for one in (lm, local)]
    assert said[0] == said[1] and GPT3(lm).how == "choose" and GPT3(local).how == "mean"
    assert GPT3(lm, k=2, scoring="generate", max_tokens=4).fit(X, y).predict(["old"]).shape == (1,)


@pytest.mark.slow
def test_a_prompt_is_tuned_on_transformers_serve(served, tmp_path):
    folder, url = served
    texts = [f"{'a fine' if i % 2 else 'a dull'} film, number {i}" for i in range(12)]
    labels = ["good" if i % 2 else "bad" for i in range(12)]

    def tuned():
        never_silent = {"generation_config": json.dumps({"min_new_tokens": 2})}  # a random model may end at once
        lm = load_lm(f"{url}#{folder}?attempts=2", extra_body=never_silent)
        return lm, anytask.tune_prompt((texts, labels), lm=lm, labels=4, max_k=1, store=tmp_path / "answers.sqlite")

    lm, found = tuned()
    assert lm.usage.total.calls > 10 and found.best.asked == 4
    again, same = tuned()
    assert again.usage.total.calls == 0 and same.table().equals(found.table())
    found.save(tmp_path / "found")
    body = (tmp_path / "found" / "request.json").read_bytes()
    place = "chat/completions" if "messages" in json.loads(body) else "completions"
    asked = urllib.request.Request(f"{url}/{place}", body, {"Content-Type": "application/json"})
    assert json.loads(urllib.request.urlopen(asked, timeout=60).read())["choices"]
