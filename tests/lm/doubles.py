"""Stand-ins for language models in tests: scripted, echoing, and failing on purpose."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from anytask.core.rng import derive
from anytask.lm.accounts import Accounts
from anytask.lm.protocol import Capabilities, ChatReply, ChatRequest, Choice, Kind, LMError, Usage


class _Double:
    kind: Kind = "sim"

    def __init__(self, name: str, accounts: Accounts | None = None) -> None:
        self.name = name
        self.capabilities = Capabilities(tools=True, json_schema=True, seed=True, n=True)
        self.usage = accounts if accounts is not None else Accounts()

    def chat(self, request: ChatRequest) -> ChatReply:
        raise NotImplementedError

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer the requests one after the other, so that scripts stay in order."""
        return [self.chat(request) for request in requests]

    def _reply(self, request: ChatRequest, messages: Sequence[dict[str, Any]], began: float) -> ChatReply:
        prompt = sum(len(str(m.get("content") or "").split()) for m in request.messages)
        completion = sum(len(str(m.get("content") or "").split()) for m in messages)
        seconds = time.perf_counter() - began
        self.usage.record(
            request.tag or "chat", calls=1, prompt_tokens=prompt, completion_tokens=completion, seconds=seconds
        )
        choices = tuple(Choice(m, "tool_calls" if m.get("tool_calls") else "stop") for m in messages)
        return ChatReply(choices, Usage(prompt, completion, estimated=True), self.name, self.kind, seconds)


class ScriptedModel(_Double):
    """Gives the replies of a script, and records what it was asked.

    Parameters
    ----------
    script : iterable, or callable
        Replies in order: a str, an assistant message (dict), a sequence of these for ``n`` samples, or an exception
        to raise. Or ``request -> reply``, which never runs out.
    name : str, default "scripted"

    Attributes
    ----------
    requests : list of ChatRequest
        Everything asked so far.

    Raises
    ------
    LMError
        When the script is exhausted.

    Examples
    --------
    >>> lm = ScriptedModel(["4"])
    >>> question = ChatRequest(({"role": "user", "content": "2 + 2"},), tag="solver")
    >>> lm.chat(question).text, lm.requests[0].tag
    ('4', 'solver')
    >>> lm.chat(question)
    Traceback (most recent call last):
        ...
    anytask.lm.protocol.LMError: the script of 1 replies is exhausted; request 2 (tag 'solver') was: 2 + 2
    """

    def __init__(
        self,
        script: Iterable[Any] | Callable[[ChatRequest], Any],
        *,
        name: str = "scripted",
        accounts: Accounts | None = None,
    ) -> None:
        super().__init__(name, accounts)
        self._answer = script if callable(script) else None
        self._script = [] if callable(script) else list(script)
        self.requests: list[ChatRequest] = []
        self._lock = threading.Lock()

    @property
    def remaining(self) -> int:
        """Replies not yet given."""
        return max(0, len(self._script) - len(self.requests))

    def chat(self, request: ChatRequest) -> ChatReply:
        """Give the next reply of the script."""
        began = time.perf_counter()
        with self._lock:
            self.requests.append(request)
            place = len(self.requests)
        if self._answer is not None:
            item = self._answer(request)
        elif place > len(self._script):
            last = request.messages[-1].get("content") if request.messages else ""
            raise LMError(
                f"the script of {len(self._script)} replies is exhausted; request {place} (tag {request.tag!r}) was: "
                f"{str(last)[:200]}"
            )
        else:
            item = self._script[place - 1]
        if isinstance(item, BaseException):
            raise item
        items = list(item) if isinstance(item, (list, tuple)) else [item] * request.n
        if len(items) != request.n:
            raise LMError(f"the script gives {len(items)} samples for request {place}, which asks for {request.n}")
        return self._reply(request, [_message(one) for one in items], began)


class EchoModel(_Double):
    """Replies with the last message's text.

    Examples
    --------
    >>> EchoModel().chat(ChatRequest(({"role": "user", "content": "hello"},))).text
    'hello'
    """

    def __init__(self, *, name: str = "echo", accounts: Accounts | None = None) -> None:
        super().__init__(name, accounts)

    def chat(self, request: ChatRequest) -> ChatReply:
        """Reply with the last message's text."""
        began = time.perf_counter()
        if not request.messages:
            raise ValueError("a request has no messages")
        text = str(request.messages[-1].get("content") or "")
        return self._reply(request, [_message(text)] * request.n, began)


class FaultyModel:
    """Another model that fails now and then: time-outs, garbage, and replies cut short.

    What happens to a request depends on ``seed``, the request and how often it was asked, not on the order of calls.

    Parameters
    ----------
    model : ChatModel
    p_timeout : float, default 0.1
        Raises :class:`LMError`.
    p_garbage : float, default 0.1
        Replaces the text by one of the same length without structure.
    p_truncate : float, default 0.1
        Keeps the first half, with finish reason "length".
    seed : int, default 0

    Examples
    --------
    >>> lm = FaultyModel(EchoModel(), p_timeout=0, p_garbage=0, p_truncate=1.0)
    >>> lm.chat(ChatRequest(({"role": "user", "content": '{"answer": 4}'},))).text
    '{"answ'
    """

    def __init__(
        self, model: Any, *, p_timeout: float = 0.1, p_garbage: float = 0.1, p_truncate: float = 0.1, seed: int = 0
    ) -> None:
        shares = (p_timeout, p_garbage, p_truncate)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"the probabilities are >= 0 and sum to at most 1, and {shares} were given")
        self.model, self.seed = model, seed
        self.p_timeout, self.p_garbage, self.p_truncate = shares
        self.name, self.kind, self.capabilities, self.usage = model.name, model.kind, model.capabilities, model.usage
        self._asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def chat(self, request: ChatRequest) -> ChatReply:
        """Ask the model, then spoil the reply with the given probabilities."""
        key = repr((request.messages, request.temperature, request.seed, request.n))
        with self._lock:
            times = self._asked[key] = self._asked.get(key, 0) + 1
        rng = random.Random(derive(self.seed, key, times))
        chance = rng.random()
        if chance < self.p_timeout:
            raise LMError(f"{self.name!r} gave no answer in time (on purpose)")
        reply = self.model.chat(request)
        if chance < self.p_timeout + self.p_garbage:
            return replace(reply, choices=tuple(_garble(choice, rng) for choice in reply.choices))
        if chance < self.p_timeout + self.p_garbage + self.p_truncate:
            return replace(reply, choices=tuple(_cut(choice) for choice in reply.choices))
        return reply

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer the requests one after the other."""
        return [self.chat(request) for request in requests]


def _message(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else {"role": "assistant", "content": str(item)}


def _garble(choice: Choice, rng: random.Random) -> Choice:
    text = "".join(rng.choice('abcdefghij {}[]<>":,\n') for _ in range(max(1, len(choice.text))))
    return replace(choice, message={"role": "assistant", "content": text})


def _cut(choice: Choice) -> Choice:
    text = choice.text[: len(choice.text) // 2]
    return replace(choice, message=choice.message | {"content": text}, finish_reason="length")
