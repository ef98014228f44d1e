"""Any OpenAI-compatible server as a chat model, and as a scorer where it returns log-probabilities of prompts."""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Literal, TypeVar

from anytask.lm.accounts import Accounts, Budget
from anytask.lm.cache import ReplyCache
from anytask.lm.endpoint.transport import Transport, Unusable
from anytask.lm.endpoint.wire import body_of, choice_of, echoed
from anytask.lm.protocol import (
    BudgetExceeded,
    Capabilities,
    ChatReply,
    ChatRequest,
    Choice,
    Kind,
    LMError,
    MissingCapability,
    OptionScore,
    ReplyError,
    Usage,
)
from anytask.lm.structured import parse_reply, repair_request

__all__ = ["Endpoint"]


T = TypeVar("T")


class Endpoint:
    """A server that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, TGI, SGLang, transformers serve, a provider.

    Failures are retried or raised; a failure never becomes an empty reply. Replies come in the requests' order.

    Parameters
    ----------
    base_url : str
        Such as ``http://localhost:8000/v1``.
    model : str
        The model's name on the server.
    api_key : str, optional
        Default: the environment variable named by ``api_key_env``, or a placeholder where it is not set (local
        servers need none). It is never logged, cached, or shown.
    api_key_env : str, default "OPENAI_API_KEY"
    logprobs : {"none", "echo"}, default "none"
        "echo": the server's ``/completions`` returns log-probabilities of the prompt with ``echo=True`` (vLLM,
        llama-cpp-python), so :meth:`score` works.
    tools, json_schema, images, seed, n : bool
        What the server offers besides plain chat; a request that needs more raises :class:`MissingCapability`.
        ``json_schema=False`` still checks replies, but does not send the schema.
    budget : Budget, optional
        Checked before every request, retries included.
    cache : ReplyCache or path, optional
    accounts : Accounts, optional
    prices : (float, float), default (0, 0)
        Money per 1000 prompt tokens and per 1000 completion tokens.
    timeout : float, default 60
        Seconds for one attempt.
    deadline : float, default 600
        Seconds for one request with all of its attempts and waits.
    attempts : int, default 6
        Attempts in all. Retried: status 408, 409, 429 and 5xx, time-outs, broken connections, broken JSON, replies
        without choices. Final: other 4xx. Attempt k waits a random time up to 1 s * 2^k, at most 60 s, and never less
        than the server's ``Retry-After``.
    max_concurrency : int, default 8
        Most requests in flight, over all threads that use this object.
    extra_body : dict, optional
        Merged into every request's body last: server-specific fields such as ``top_k``.
    context_length : int, default 10**9
        For methods that fit prompts; the server itself refuses what is too long.
    count_tokens : callable, optional
        ``str -> int`` for budgets and :meth:`count_tokens`; default is one token per 4 UTF-8 bytes, rounded up.
    sleep, jitter : callable
        ``time.sleep`` and ``random.Random().random``; for tests.

    Attributes
    ----------
    usage : Accounts

    Examples
    --------
    >>> lm = Endpoint("http://localhost:8000/v1", "small", api_key="secret")
    >>> lm
    Endpoint('small', base_url='http://localhost:8000/v1')
    """

    kind: Kind = "http"

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        logprobs: Literal["none", "echo"] = "none",
        tools: bool = False,
        json_schema: bool = False,
        images: bool = False,
        seed: bool = True,
        n: bool = False,
        budget: Budget | None = None,
        cache: ReplyCache | str | os.PathLike[str] | None = None,
        accounts: Accounts | None = None,
        prices: tuple[float, float] = (0.0, 0.0),
        timeout: float = 60.0,
        deadline: float = 600.0,
        attempts: int = 6,
        max_concurrency: int = 8,
        extra_body: dict[str, Any] | None = None,
        context_length: int = 10**9,
        count_tokens: Callable[[str], int] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ImportError("endpoints need the openai client: pip install 'anytask[text]'") from error
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url starts with http:// or https://, and {base_url!r} was given")
        if not model:
            raise ValueError("an endpoint needs the name of a model on the server")
        if logprobs not in ("none", "echo"):
            raise ValueError(f"logprobs is 'none' or 'echo', and {logprobs!r} was given")
        if attempts < 1 or max_concurrency < 1:
            raise ValueError(f"attempts and max_concurrency are >= 1, and {attempts} and {max_concurrency} were given")
        self.base_url, self.name = base_url, model
        self.capabilities = Capabilities(
            logprobs=logprobs == "echo", tools=tools, json_schema=json_schema, seed=seed, images=images, n=n
        )
        self.budget = budget
        self.cache = cache if cache is None or isinstance(cache, ReplyCache) else ReplyCache(cache)
        self.usage = accounts if accounts is not None else Accounts()
        self.extra_body, self.context_length = dict(extra_body or {}), context_length
        self.max_concurrency = max_concurrency
        self._count = count_tokens
        key = api_key or os.environ.get(api_key_env) or "none"
        self._transport = Transport(
            OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=timeout),
            model,
            usage=self.usage,
            budget=budget,
            prices=prices,
            timeout=timeout,
            deadline=deadline,
            attempts=attempts,
            max_concurrency=max_concurrency,
            extra_body=self.extra_body,
            sleep=sleep,
            jitter=jitter if jitter is not None else random.Random().random,
        )

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, base_url={self.base_url!r})"

    # ---- chat

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises
        ------
        LMError
            When the last attempt failed, or the server refused the request.
        BudgetExceeded
            Before a request that could exceed the budget is sent.
        ReplyError
            When a reply does not have the form asked for, also after one request to correct it.
        MissingCapability
            When the request needs what the server does not offer.
        """
        self._check(request)
        fields = asdict(request) | {"extra_body": self.extra_body}
        began = time.perf_counter()
        tag = request.tag or "chat"
        stored = self._stored(fields, request.n)
        if stored is not None:
            self.usage.record(tag, cache_hits=1)
            return replace(stored, latency_s=time.perf_counter() - began)
        if request.n > 1 and not self.capabilities.n:
            singles = [
                self._ask(replace(request, n=1, seed=None if request.seed is None else request.seed + i), tag)
                for i in range(request.n)
            ]
            reply = ChatReply(
                tuple(one.choices[0] for one in singles),
                Usage(
                    sum(one.usage.prompt_tokens for one in singles),
                    sum(one.usage.completion_tokens for one in singles),
                    any(one.usage.estimated for one in singles),
                ),
                singles[0].model,
                attempts=sum(one.attempts for one in singles),
            )
        else:
            reply = self._ask(request, tag)
        if request.response_format is not None:
            reply = self._in_form(request, reply, tag)
        reply = replace(reply, latency_s=time.perf_counter() - began)
        self._store(fields, reply)
        return reply

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer many requests side by side, in their order.

        The first failure stops requests that have not started. :class:`BudgetExceeded` carries the replies so far in
        ``partial``: a list like the result, with None where there is no reply.
        """
        return self._many(self.chat, list(requests), max_concurrency)

    def _many(self, ask: Callable[[Any], T], items: list[Any], max_concurrency: int) -> list[T]:
        results: list[T | None] = [None] * len(items)
        failed = threading.Event()
        errors: dict[int, Exception] = {}

        def one(i: int) -> None:
            if failed.is_set():
                return
            try:
                results[i] = ask(items[i])
            except Exception as error:
                errors[i] = error
                failed.set()

        with ThreadPoolExecutor(max(1, min(max_concurrency, self.max_concurrency, len(items)))) as pool:
            list(pool.map(one, range(len(items))))
        if errors:
            first = errors[min(errors)]
            if isinstance(first, BudgetExceeded):
                first.partial = results
            raise first
        return [result for result in results if result is not None]

    def _check(self, request: ChatRequest) -> None:
        if request.n < 1 or request.max_tokens < 1:
            raise ValueError(f"n and max_tokens are >= 1, and {request.n} and {request.max_tokens} were given")
        images = any(
            isinstance(message.get("content"), list) and any(part.get("type") != "text" for part in message["content"])
            for message in request.messages
        )
        for wanted, name in ((bool(request.tools), "tools"), (images, "images"), (request.logprobs, "logprobs")):
            if wanted and not getattr(self.capabilities, name):
                raise MissingCapability(
                    f"the request needs {name}, and the endpoint {self.name!r} was set up without; "
                    f"construct it with {'logprobs=' + repr('echo') if name == 'logprobs' else name + '=True'} "
                    "if the server offers that"
                )

    def _ask(self, request: ChatRequest, tag: str) -> ChatReply:
        body = body_of(request, self.name, self.capabilities)
        prompt = sum(self.count_tokens(json.dumps(message, default=str)) + 4 for message in request.messages)
        prompt += self.count_tokens(json.dumps(request.tools)) if request.tools else 0

        def read(raw: dict[str, Any]) -> tuple[ChatReply, Usage]:
            choices = tuple(choice_of(choice) for choice in raw.get("choices") or ())
            if not choices:
                raise Unusable("a reply without choices")
            usage = self._usage(raw, prompt, "".join(choice.text for choice in choices))
            return ChatReply(choices, usage, raw.get("model") or self.name, raw=raw), usage

        reply, attempts = self._transport.post(
            "/chat/completions", body, read, prompt, request.max_tokens * request.n, tag
        )
        return replace(reply, attempts=attempts)

    def _in_form(self, request: ChatRequest, reply: ChatReply, tag: str) -> ChatReply:
        choices = []
        usage, attempts = reply.usage, reply.attempts
        for choice in reply.choices:
            try:
                parse_reply(choice.text, request.response_format)
            except ValueError as problem:
                repaired = self._ask(repair_request(request, choice.text, str(problem)), tag)
                usage = Usage(
                    usage.prompt_tokens + repaired.usage.prompt_tokens,
                    usage.completion_tokens + repaired.usage.completion_tokens,
                    usage.estimated or repaired.usage.estimated,
                )
                attempts += repaired.attempts
                choice = repaired.choices[0]
                try:
                    parse_reply(choice.text, request.response_format)
                except ValueError as error:
                    raise ReplyError(f"{self.name!r} did not correct its reply: {error}", choice.text) from error
            choices.append(choice)
        return replace(reply, choices=tuple(choices), usage=usage, attempts=attempts)

    # ---- scoring and continuing text

    def score(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], *, tag: str = "score"
    ) -> list[list[OptionScore]]:
        """Log-probability of every option given its prompt, from the server's echoed prompt log-probabilities.

        Every option is one request; the server's own prefix cache makes that cheap. Tokens that begin inside the
        option are its tokens; where one spans the border it is counted too, as in :class:`~anytask.lm.LocalLM`.
        """
        if not self.capabilities.logprobs:
            raise MissingCapability(
                f"the endpoint {self.name!r} was set up without log-probabilities; if its /completions supports echo, "
                "construct it with logprobs='echo', else use local weights"
            )
        if len(prompts) != len(options):
            raise ValueError(f"{len(prompts)} prompts and {len(options)} lists of options were given")
        for i, row in enumerate(options):
            if not row or any(not option for option in row):
                raise ValueError(f"prompt {i} has no options or an empty one: there is nothing to score")
        pairs = [(prompt, option, tag) for prompt, row in zip(prompts, options) for option in row]
        scores = iter(self._many(self._score_one, pairs, self.max_concurrency))
        return [[next(scores) for _ in row] for row in options]

    def _score_one(self, pair: tuple[str, str, str]) -> OptionScore:
        prompt, option, tag = pair
        body = {
            "model": self.name,
            "prompt": prompt + option,
            "max_tokens": 1,  # some servers refuse 0
            "temperature": 0.0,
            "top_p": 1.0,
            "n": 1,
            "echo": True,
            "logprobs": 1,
        }
        fields = body | {"extra_body": self.extra_body}
        stored = self.cache.get(self.name, fields, 0) if self.cache is not None else None
        if stored is not None:
            self.usage.record(tag, cache_hits=1)
        else:
            estimate = self.count_tokens(prompt + option)

            def read(raw: dict[str, Any]) -> tuple[dict[str, Any], Usage]:
                choices = raw.get("choices") or []
                logprobs = choices[0].get("logprobs") if choices else None
                if not logprobs or not logprobs.get("tokens"):
                    raise LMError(
                        f"the server of {self.name!r} sent no echoed log-probabilities; logprobs='echo' is wrong"
                    )
                return logprobs, self._usage(raw, estimate, choices[0].get("text") or "")

            new: dict[str, Any] = self._transport.post("/completions", body, read, estimate, 1, tag)[0]
            if self.cache is not None:
                self.cache.put(self.name, fields, 0, new)
            stored = new
        return echoed(stored, prompt, option)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = 32,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        beam_width: int = 1,
        length_penalty: float = 0.0,
        tag: str = "generate",
    ) -> list[str]:
        """Continue each prompt through ``/completions``."""
        if beam_width != 1:
            raise MissingCapability(f"the endpoint {self.name!r} has no beam search; use local weights")

        def one(prompt: str) -> str:
            body: dict[str, Any] = {
                "model": self.name,
                "prompt": prompt,
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "n": 1,
            }
            if stop:
                body["stop"] = list(stop)
            if self.capabilities.seed:
                body["seed"] = seed
            fields = body | {"extra_body": self.extra_body}
            stored = self.cache.get(self.name, fields, 0) if self.cache is not None else None
            if stored is not None:
                self.usage.record(tag, cache_hits=1)
                return str(stored["text"])
            estimate = self.count_tokens(prompt)

            def read(raw: dict[str, Any]) -> tuple[str, Usage]:
                choices = raw.get("choices") or []
                if not choices or not isinstance(choices[0].get("text"), str):
                    raise Unusable("a reply without choices")
                return choices[0]["text"], self._usage(raw, estimate, choices[0]["text"])

            text, _ = self._transport.post("/completions", body, read, estimate, max_tokens, tag)
            if self.cache is not None:
                self.cache.put(self.name, fields, 0, {"text": text})
            return text

        return self._many(one, list(prompts), self.max_concurrency)

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text``: the user's counter, or an estimate of one per 4 UTF-8 bytes."""
        return self._count(text) if self._count is not None else math.ceil(len(text.encode()) / 4)

    def encode(self, text: str) -> list[int]:
        """Not offered: the server keeps its tokenizer to itself."""
        raise MissingCapability(f"the endpoint {self.name!r} has no tokenizer here; use local weights")

    def decode(self, ids: Sequence[int]) -> str:
        """Not offered: the server keeps its tokenizer to itself."""
        raise MissingCapability(f"the endpoint {self.name!r} has no tokenizer here; use local weights")

    def _usage(self, raw: dict[str, Any], prompt_tokens: int, text: str) -> Usage:
        given = raw.get("usage") or {}
        if isinstance(given.get("prompt_tokens"), int) and isinstance(given.get("completion_tokens"), int):
            return Usage(given["prompt_tokens"], given["completion_tokens"])
        return Usage(prompt_tokens, self.count_tokens(text), estimated=True)

    # ---- cache

    def _stored(self, fields: dict[str, Any], n: int) -> ChatReply | None:
        if self.cache is None:
            return None
        parts = []
        for sample in range(n):
            part = self.cache.get(self.name, fields, sample)
            if part is None:
                return None
            parts.append(part)
        usage = Usage(**parts[0]["usage"])
        return ChatReply(
            tuple(Choice(**part["choice"]) for part in parts), usage, parts[0]["model"], cached=True, attempts=0
        )

    def _store(self, fields: dict[str, Any], reply: ChatReply) -> None:
        if self.cache is not None:
            for sample, choice in enumerate(reply.choices):
                part = {"choice": asdict(choice), "usage": asdict(reply.usage), "model": reply.model}
                self.cache.put(self.name, fields, sample, part)
