"""Endpoint against real HTTP servers on loopback."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from misbehaving import answer, serving

from anytask.lm import Budget, BudgetExceeded, Endpoint, LMError, MissingCapability, ReplyCache, ReplyError
from anytask.lm.protocol import ChatModel, ChatRequest, require

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def ask(text: str = "hello", **fields) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **fields)


def client(server, **options) -> tuple[Endpoint, list[float]]:
    waits: list[float] = []
    options = {"sleep": waits.append, "jitter": lambda: 1.0, "api_key": "key-123"} | options
    return Endpoint(server.url, "m", **options), waits


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
        assert sum(reply is not None for reply in caught.value.partial) == 5
        assert len(caught.value.partial) == 12
        assert all(reply is None or reply.text == str(i) for i, reply in enumerate(caught.value.partial))


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


def test_samples_are_asked_one_by_one_where_the_server_has_no_n():
    with serving(lambda body: answer(str(body.get("seed")))) as server:
        lm, _ = client(server)
        assert [c.text for c in lm.chat(ask(n=3, seed=5, temperature=1.0)).choices] == ["5", "6", "7"]
        assert [b["n"] for b in server.bodies] == [1, 1, 1]


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
    for wrong in ({"base_url": "localhost:8000"}, {"model": ""}, {"attempts": 0}, {"logprobs": "yes"}):
        with pytest.raises(ValueError):
            Endpoint(**({"base_url": "http://localhost:1/v1", "model": "m"} | wrong))


@pytest.mark.slow
def test_transformers_serve_gives_the_same_greedy_text_as_the_local_model(tmp_path):
    from random_models import bpe_tokenizer, random_model

    from anytask.lm import LocalLM

    tokenizer = bpe_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATE
    random_model("llama", tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = str(tmp_path / "model")
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
        lm = Endpoint(f"http://127.0.0.1:{port}/v1", folder, attempts=2, sleep=lambda s: None)
        reply = lm.chat(ask("one two three", max_tokens=8))
        expected = LocalLM(folder).chat(ask("one two three", max_tokens=8))
        assert reply.text.strip() == expected.text.strip()
        assert reply.usage.prompt_tokens == expected.usage.prompt_tokens
    finally:
        process.kill()
        process.wait()
