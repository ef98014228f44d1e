"""Any OpenAI-compatible server as a chat model, and as a scorer where it returns log-probabilities of prompts."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from anytask.core.progress import Progress
from anytask.lm.accounts import Accounts, Tally
from anytask.lm.base import LanguageModel
from anytask.lm.cache import ReplyCache
from anytask.lm.codec import codec_of
from anytask.lm.endpoint.transport import Options, Refused, Transport
from anytask.lm.endpoint.wire import body_of, choice_of, choices_of, echoed, usage_of
from anytask.lm.protocol import (
    Capabilities,
    ChatReply,
    ChatRequest,
    Choice,
    Kind,
    LMError,
    MissingCapability,
    OptionScore,
    ReplyError,
    Sampling,
    Usage,
    require,
)
from anytask.lm.structured import misfit, repair_request

__all__ = ["Endpoint"]


T = TypeVar("T")


class Endpoint(LanguageModel):
    """A server that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama, TGI, SGLang, transformers serve, a provider.

    Failures are retried or raised; a failure never becomes an empty reply. Replies come in the requests' order.

    Parameters
    ----------
    base_url : str
        Such as ``http://localhost:8000/v1``.
    model : str
        The model's name on the server.
    api_key : str, optional
        Default: the environment variable named by ``api_key_env``, or none where it is not set (local servers need
        none). It is never logged, shown, or part of an error, even where the server sends it back.
    api_key_env : str, default "OPENAI_API_KEY"
        This and all that follows are given by name.
    logprobs : {"probe", "none", "echo"}, default "probe"
        "echo": the server's ``/completions`` returns log-probabilities of the prompt with ``echo=True`` (vLLM,
        llama-cpp-python), so :meth:`score` works. "probe": a request of two words finds out when it is first asked.
    completions : bool or "probe", default "probe"
        The server has ``/completions``, so :meth:`generate` works; "echo" says so too. False on a server that has it:
        methods that write send chat messages, to which the server puts its chat template.
    tools, json_schema, images, seed, n : bool
        What the server offers besides plain chat; a request that needs more raises :class:`MissingCapability`.
        ``json_schema=False`` still checks replies, but does not send the schema.
    budget : Budget or mapping of its limits, optional
        Checked before every request, retries included.
    cache : ReplyCache or path, optional
    accounts : Accounts, optional
    prices : (float, float), default (0, 0)
        Money per 1000 prompt tokens and per 1000 completion tokens.
    timeout : float, default 60
        Seconds for one attempt.
    deadline : float, default 600
        Seconds for one request with all of its attempts and waits, also where a server sends byte by byte.
    attempts : int, default 6
        Attempts in all. Retried: status 408, 409, 429 and 5xx, time-outs, broken connections, broken JSON, replies
        without choices or of another form. Final: other 4xx, and redirects, which would send prompts elsewhere.
        Attempt k waits a random time up to 1 s * 2^k, at most 60 s, and never less than the server's ``Retry-After``.
    max_concurrency : int, default 8
        Most requests in flight, over all threads that use this object.
    max_reply_bytes : int, default 2**26
        A longer reply is refused; compressed ones are measured as they unfold.
    extra_body : dict, optional
        Merged into every request's body last: server-specific fields such as ``top_k``.
    context_length : int, default 10**9
        For methods that fit prompts; the server itself refuses what is too long.
    tokenizer : str, path or tokenizer, optional
        The model's: a Hugging Face name or folder, or an object with ``encode`` and ``decode``. It counts tokens
        exactly and lets methods take prompts apart; without it a token is 4 UTF-8 bytes, rounded up.
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

    def __init__(self, base_url: str, model: str, api_key: str | None = None, **options: Any) -> None:
        for name, value in (("base_url", base_url), ("model", model), ("api_key", api_key)):
            if not isinstance(value, str) and not (name == "api_key" and value is None):
                raise TypeError(f"{name} must be a string, got a {type(value).__name__}")
        place = urlsplit(base_url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError(f"base_url starts with http:// or https:// and a host, and {base_url!r} was given")
        if "@" in place.netloc or place.query or place.fragment:
            raise ValueError(f"base_url of {place.hostname} ends with its path and holds no password: give api_key")
        if not model:
            raise ValueError("an endpoint needs the name of a model on the server")
        self.options = o = Options(**options)
        self.base_url, self.name = base_url, model
        self._codec = None if o.tokenizer is None else codec_of(o.tokenizer)
        self._found: tuple[bool, bool] | None = None
        self._probing = threading.Lock()
        self.cache = ReplyCache(o.cache) if isinstance(o.cache, (str, os.PathLike)) else o.cache
        self.usage = o.accounts if o.accounts is not None else Accounts()
        self.extra_body, self.context_length = dict(o.extra_body or {}), o.context_length
        key = (api_key or os.environ.get(o.api_key_env) or "").strip()
        self._transport = Transport(base_url, key, model, self.usage, o)

    @property
    def settings(self) -> str:
        """What of the server is used, in words."""
        offers = self.capabilities
        way = "log-probabilities" if offers.logprobs else "continued text" if offers.completions else "chats"
        kept = f"replies kept in {self.cache.path}" if self.cache is not None else "no reply cache"
        return f"{self.name}: {way}, {self.options.max_concurrency} requests side by side, {kept}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r}, base_url={self.base_url!r})"

    @property
    def capabilities(self) -> Capabilities:
        """What the server offers: what was said at construction, and what a probe found of the rest.

        Raises
        ------
        LMError
            If the server has to be probed and cannot be reached.
        """
        o = self.options
        with self._probing:
            if self._found is None:
                self._found = o.completions is True or o.logprobs == "echo", o.logprobs == "echo"
                if "probe" in (o.logprobs, o.completions) and not self._found[1]:
                    self._found = self._probe()
        texts, echoes = self._found
        return Capabilities(
            logprobs=echoes,
            completions=o.completions is True or (texts and o.completions is not False),
            tools=o.tools,
            json_schema=o.json_schema,
            seed=o.seed,
            images=o.images,
            n=o.n,
        )

    def _probe(self) -> tuple[bool, bool]:
        """Ask the server to go on from two words: whether it does, and whether it gives their log-probabilities."""
        o, plain = self.options, {"model": self.name, "prompt": "one two", "max_tokens": 1, "temperature": 0.0}
        bodies = [plain | {"echo": True, "logprobs": 1}, plain]

        def read(raw: dict[str, Any]) -> tuple[bool, Usage]:
            (choice,) = choices_of(raw, 1)
            try:
                echoed(choice["logprobs"], "one", " two")
            except (LMError, LookupError, TypeError, ValueError, AttributeError):
                return False, Usage()
            return True, Usage()

        for body in bodies[o.logprobs != "probe" : 1 + (o.completions == "probe")]:
            try:
                echoes, _, _ = self._transport.post("/completions", body, read, Usage(2, 1), "probe", attempts=2)
            except Refused as error:
                if error.status in (401, 403):
                    raise
            else:
                return True, echoes
        return False, False

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
        began = time.perf_counter()
        tag = request.tag or "chat"
        parts = [self._recall(request, sample) for sample in range(request.n)]
        if None not in parts:
            self.usage.record(tag, cache_hits=1)
        elif request.n == 1 or self.options.n:
            parts = [self._asked(request, 0, tag)]
        else:
            for sample, known in enumerate(parts):
                seed = None if request.seed is None else request.seed + sample
                try:
                    parts[sample] = known or self._asked(request, sample, tag, n=1, seed=seed)
                except LMError as error:
                    error.finished = parts
                    raise
        done = [part for part in parts if part is not None]
        return ChatReply(
            tuple(choice for part in done for choice in part.choices),
            sum((part.usage for part in done), Usage()),
            done[0].model,
            latency_s=time.perf_counter() - began,
            cached=all(part.cached for part in done),
            attempts=sum(part.attempts for part in done),
            raw=done[0].raw,
        )

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> Sequence[ChatReply]:
        return self._many(self.chat, requests, tell, most)

    def _many(self, ask: Callable[[Any], T], items: Sequence[Any], tell: Progress, most: int = 10**9) -> list[T]:
        """Ask side by side; the first failure stops what has not started."""
        results: list[T | None] = [None] * len(items)
        failed = threading.Event()
        errors: dict[int, Exception] = {}
        told = threading.Lock()

        def one(i: int) -> None:
            if failed.is_set():
                return
            try:
                results[i] = ask(items[i])
                with told:
                    tell(sum(result is not None for result in results) / len(items))
            except Exception as error:
                errors[i] = error
                failed.set()

        with ThreadPoolExecutor(max(1, min(most, self.options.max_concurrency, len(items)))) as pool:
            list(pool.map(one, range(len(items))))
        if errors:
            first = errors[min(errors)]
            if isinstance(first, LMError):
                first.finished = results
            raise first
        return [result for result in results if result is not None]

    def _check(self, request: ChatRequest) -> None:
        images = any(
            isinstance(message.get("content"), list) and any(part.get("type") != "text" for part in message["content"])
            for message in request.messages
        )
        asked = {"tools": bool(request.tools), "images": images, "logprobs": request.logprobs}
        if needed := [name for name, wanted in asked.items() if wanted]:
            require(self, *needed, method="the request")

    def _asked(self, request: ChatRequest, sample: int, tag: str, **changes: Any) -> ChatReply:
        """Ask the server, correct a reply out of form, and store the choices from place ``sample`` on."""
        asked = replace(request, **changes)
        reply = self._ask(asked, tag)
        if request.response_format is not None:
            reply = self._in_form(asked, reply, tag)
        if self.cache is not None:
            usage = reply.usage  # of all choices: stored with the first
            for place, choice in enumerate(reply.choices, start=sample):
                part = {"choice": asdict(choice), "usage": asdict(usage), "model": reply.model}
                self.cache.put(self.name, self._fields(asdict(request)), place, part)
                usage = Usage()
        return reply

    def _ask(self, request: ChatRequest, tag: str) -> ChatReply:
        prompt = sum(self.count_tokens(json.dumps(message, default=str)) + 4 for message in request.messages)
        prompt += self.count_tokens(json.dumps(request.tools)) if request.tools else 0

        def read(raw: dict[str, Any]) -> tuple[ChatReply, Usage]:
            choices = tuple(choice_of(choice) for choice in choices_of(raw, request.n))
            usage = usage_of(raw, prompt, self.count_tokens("".join(choice.text for choice in choices)))
            return ChatReply(choices, usage, str(raw.get("model") or self.name), raw=raw), usage

        body = body_of(request, self.name, self.options)
        most = Usage(prompt, request.max_tokens * request.n)
        reply, usage, attempts = self._transport.post("/chat/completions", body, read, most, tag)
        self._count(tag, usage)
        return replace(reply, attempts=attempts)

    def _count(self, tag: str, usage: Usage) -> None:
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self.usage.record(tag, calls=1, **tokens)

    def _in_form(self, request: ChatRequest, reply: ChatReply, tag: str) -> ChatReply:
        for place, choice in enumerate(reply.choices):
            problem = misfit(choice.text, request.response_format)
            if problem is None:
                continue
            again = self._ask(repair_request(request, choice.text, problem), tag)
            problem = misfit(again.text, request.response_format)
            if problem is not None:
                hide = self._transport.hide
                raise ReplyError(hide(f"{self.name!r} did not correct its reply: {problem}"), hide(again.text))
            choices = (*reply.choices[:place], again.choices[0], *reply.choices[place + 1 :])
            attempts = reply.attempts + again.attempts
            reply = replace(reply, choices=choices, usage=reply.usage + again.usage, attempts=attempts)
        return reply

    def _recall(self, request: ChatRequest, sample: int) -> ChatReply | None:
        if self.cache is None:
            return None

        def read(part: dict[str, Any]) -> ChatReply:
            choice, usage = Choice(**part["choice"]), Usage(**part["usage"])
            return ChatReply((choice,), usage, part["model"], cached=True, attempts=0)

        return self.cache.get(self.name, self._fields(asdict(request)), sample, read)

    def _fields(self, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"extra_body": self.extra_body}

    # ---- scoring and continuing text

    def _score(self, asked: dict[str, list[str]], tag: str, tell: Progress) -> Sequence[dict[str, OptionScore]]:
        """Score by the server's echoed prompt log-probabilities, every option by one request.

        Tokens that begin inside the option are its tokens; where one spans the border it is counted too, as in
        :class:`~anytask.lm.LocalLM`.
        """
        return self._many(lambda item: self._score_all(item[0], item[1], tag), list(asked.items()), tell)

    def _score_all(self, prompt: str, options: list[str], tag: str) -> dict[str, OptionScore]:
        """Score the options of a prompt one after the other, which lets the server read the prompt once."""
        scores: dict[str, OptionScore] = {}
        billed: list[Usage] = []
        for option in options:
            scores[option], usage = self._score_one(prompt, option, tag, calls=not billed)
            if usage is not None:  # the server counts the prompt with every option
                n = scores[option].n_tokens
                billed.append(Usage(max(0, usage.prompt_tokens - n), n))
        if billed:
            read = max(usage.prompt_tokens for usage in billed)
            self._count(tag, Usage(read, sum(usage.completion_tokens for usage in billed)))
        else:
            self.usage.record(tag, cache_hits=1)
        return scores

    def _score_one(self, prompt: str, option: str, tag: str, calls: int) -> tuple[OptionScore, Usage | None]:
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

        def keep(choice: dict[str, Any]) -> dict[str, Any]:
            if not choice.get("logprobs"):
                raise LMError(f"the server of {self.name!r} sent no echoed log-probabilities; logprobs='echo' is wrong")
            return dict(choice["logprobs"])

        return self._complete(body, keep, lambda kept: echoed(kept, prompt, option), tag, calls)

    def _complete(
        self,
        body: dict[str, Any],
        keep: Callable[[dict[str, Any]], dict[str, Any]],
        read: Callable[[dict[str, Any]], T],
        tag: str,
        calls: int = 1,
    ) -> tuple[T, Usage | None]:
        """Ask ``/completions``, or the cache (usage None): ``keep`` says what of a choice is stored, ``read`` what it
        means.
        """
        fields = self._fields(body)
        if self.cache is not None:
            stored = self.cache.get(self.name, fields, 0, read)
            if stored is not None:
                return stored, None
        prompt = self.count_tokens(body["prompt"])

        def take(raw: dict[str, Any]) -> tuple[tuple[dict[str, Any], T], Usage]:
            (choice,) = choices_of(raw, 1)
            kept = keep(choice)
            return (kept, read(kept)), usage_of(raw, prompt, self.count_tokens(str(choice.get("text") or "")))

        most = Usage(prompt, body["max_tokens"])
        (kept, result), usage, _ = self._transport.post("/completions", body, take, most, tag, calls=calls)
        if self.cache is not None:
            self.cache.put(self.name, fields, 0, kept)
        return result, usage

    def _write(self, asked: list[tuple[str, int]], seed: int, how: Sampling, tag: str, tell: Progress) -> Sequence[str]:
        if how.beam_width != 1:
            raise MissingCapability(f"the endpoint {self.name!r} has no beam search; use local weights")

        def one(item: tuple[str, int]) -> str:
            prompt, occurrence = item
            body: dict[str, Any] = {
                "model": self.name,
                "prompt": prompt,
                "max_tokens": how.max_tokens,
                "temperature": how.temperature,
                "top_p": how.top_p,
                "n": 1,
            }
            if how.stop:
                body["stop"] = list(how.stop)
            if self.options.seed:
                body["seed"] = seed + occurrence
            text, usage = self._complete(body, lambda choice: {"text": choice["text"]}, _text, tag)
            if usage is None:
                self.usage.record(tag, cache_hits=1)
            else:
                self._count(tag, usage)
            return text

        return self._many(one, asked, tell)

    @property
    def codec(self) -> Any:
        """The tokenizer that was given; the server keeps its own to itself."""
        if self._codec is None:
            raise MissingCapability(
                f"the endpoint {self.name!r} has no tokenizer here: give Endpoint(tokenizer=), or use local weights"
            )
        return self._codec

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text``: by the tokenizer, or an estimate of one per 4 UTF-8 bytes."""
        if self._codec is None:
            return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 4)
        return super().count_tokens(text)

    def _expense(self, asked: Mapping[str, Sequence[str]], tokens: Usage, *, continued: bool) -> Tally:
        so_far, requests = self.usage.total, sum(map(len, asked.values()))
        seconds = (so_far.seconds - self.usage["probe"].seconds) / so_far.calls if so_far.calls else 0.0
        return Tally(seconds=seconds * requests / self.options.max_concurrency, money=self._transport.money(tokens))


def _text(kept: dict[str, Any]) -> str:
    if not isinstance(kept["text"], str):
        raise ValueError("a text that is no string")
    return kept["text"]
