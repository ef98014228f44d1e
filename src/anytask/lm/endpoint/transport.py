"""Requests to a server: attempts, waits, deadlines, limits, budgets and accounts.

The openai package gives the HTTP client (connections, proxies, TLS). Its own attempts know no budget and no deadline
over all of them, post a prompt again wherever a redirect points, and read replies of any length, so attempts are made
here.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anytask.core.errors import instance_of
from anytask.core.settings import Settings, choice, flag, free, numbers, real, text, whole
from anytask.lm.accounts import Accounts, Budget
from anytask.lm.cache import ReplyCache
from anytask.lm.codec import check_tokenizer
from anytask.lm.protocol import BadNumber, LMError, Usage

_log = logging.getLogger(__name__)
T = TypeVar("T")
_RETRIED = frozenset({408, 409, 429})
#: Encodings whose largest expansion of one network read is some 64 MiB.
_ENCODINGS = ("identity", "gzip", "deflate")


class Unusable(Exception):
    """A failure that is worth another attempt, after ``wait`` seconds at least."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class Refused(LMError):
    """The server refuses the request, with a status that another attempt would not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Options(Settings):
    """What an :class:`~anytask.lm.Endpoint` is told beside server, model and key."""

    api_key_env: str = text("OPENAI_API_KEY", "environment variable of the key")
    logprobs: str = choice(
        "probe", ("probe", "none", "echo"), "how the server returns log-probabilities of prompts, 'probe': ask it once"
    )
    completions: bool | str = flag("probe", "the server continues text, 'probe': ask it once", words=("probe",))
    tools: bool = flag(False, "the server calls tools")
    json_schema: bool = flag(False, "the server takes a schema")
    images: bool = flag(False, "the server reads images")
    seed: bool = flag(True, "the server takes a seed")
    n: bool = flag(False, "the server gives several samples at once")
    budget: Budget | Mapping[str, float] | None = free(
        None, "checked before every request: calls, tokens, money, seconds", instance_of("budget", Budget, Mapping)
    )
    cache: Any = free(None, "where replies are kept", instance_of("cache", ReplyCache, str, os.PathLike))
    accounts: Accounts | None = free(None, "counters to add to, None: new ones", instance_of("accounts", Accounts))
    prices: tuple[float, float] = numbers((0.0, 0.0), "money per 1000 prompt, completion tokens", at_least=0, length=2)
    timeout: float = real(60.0, "seconds for one attempt", above=0)
    deadline: float = real(600.0, "seconds for one request with all attempts", above=0, at_most=threading.TIMEOUT_MAX)
    attempts: int = whole(6, "attempts in all")
    max_concurrency: int = whole(8, "requests in flight")
    max_reply_bytes: int = whole(2**26, "longest reply")
    extra_body: dict[str, Any] | None = free(None, "merged into every body last", instance_of("extra_body", Mapping))
    context_length: int = whole(10**9, "tokens of a prompt")
    tokenizer: Any = free(None, "the model's tokenizer, None: a token is 4 bytes", check_tokenizer)
    sleep: Any = free(time.sleep, "waits some seconds", instance_of("sleep", Callable, optional=False))
    jitter: Any = free(
        random.Random().random, "a random share of a wait", instance_of("jitter", Callable, optional=False)
    )


@dataclass
class Transport:
    """Posts JSON to a server until it answers, and keeps the accounts.

    Attributes
    ----------
    base_url, key, name : str
        The server, the secret it is sent ("" for none), and the model's name, for messages.
    usage : Accounts
    options : Options
    """

    base_url: str
    key: str = field(repr=False)
    name: str
    usage: Accounts
    options: Options

    def __post_init__(self) -> None:
        try:
            from openai import DefaultHttpxClient
        except ImportError as error:
            raise ImportError("endpoints need the openai client: pip install 'anytask[text]'") from error
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("api_key must be one line of ASCII characters, and another text was given")
        self._client = DefaultHttpxClient(follow_redirects=False)
        self._slots = threading.BoundedSemaphore(self.options.max_concurrency)
        self._budget = Budget.of(self.options.budget)

    def post(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[dict[str, Any]], tuple[T, Usage]],
        most: Usage,
        tag: str,
        *,
        calls: int = 1,
        attempts: int = 10**9,
    ) -> tuple[T, Usage, int]:
        """Return what ``read`` makes of the server's reply, the tokens billed, and the number of attempts.

        Seconds, money and failures are recorded here; calls and tokens by who knows what was asked.

        Parameters
        ----------
        path, body
            Of the request; ``extra_body`` is merged in last.
        read : callable
            Reply -> (result, usage); raises :class:`Unusable` for one that is worth another attempt.
        most : Usage
            The most that the request may use, for the budget.
        tag : str
        calls : int, default 1
            What the request takes from a budget of calls.
        attempts : int
            Most attempts, where fewer than usual will do.
        """
        o, budget = self.options, self._budget
        data = json.dumps(body | dict(o.extra_body or {})).encode()
        end = time.monotonic() + o.deadline
        last = min(o.attempts, attempts)
        for attempt in range(1, last + 1):
            with budget.reserve(most.total_tokens, self.money(most), calls) as settle:
                settle(0)  # an attempt counts as a call, because servers count it
                began, failures, money = time.perf_counter(), 1, 0.0
                try:
                    with self._slots:
                        left = budget.seconds_left()
                        seconds = min(o.timeout, end - time.monotonic(), o.timeout if left is None else left)
                        reply = self._exchange(path, data, max(0.01, seconds))
                    result, usage = self._understood(reply, read)
                    failures, money = 0, self.money(usage)
                    settle(usage.total_tokens, money)
                    return result, usage, attempt
                except Unusable as error:
                    problem, least = self.hide(str(error)), error.wait
                finally:
                    self.usage.record(tag, seconds=time.perf_counter() - began, failures=failures, money=money)
            if attempt == last:
                break
            wait = max(min(60.0, 2.0 ** (attempt - 1)) * o.jitter(), least)
            if time.monotonic() + wait >= end:
                raise LMError(
                    f"{self.name!r} gave no reply within {o.deadline:g} s ({attempt} attempts; last: {problem})"
                )
            _log.info("%s: %s, attempt %d of %d, next in %.1f s", self.name, problem, attempt, o.attempts, wait)
            o.sleep(wait)
        raise LMError(f"{self.name!r} gave no reply in {last} attempts; last: {problem}")

    def hide(self, told: str) -> str:
        """Return a text without the key, which a server may send back, as it is or as JSON writes it."""
        for form in (self.key, json.dumps(self.key)[1:-1]):
            told = told.replace(form, "***") if form else told
        return told

    def _exchange(self, path: str, data: bytes, seconds: float) -> Any:
        """Return the JSON of one reply, or say what is wrong with it."""
        end = time.monotonic() + seconds
        headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"

        def talk() -> tuple[int, Any, bytes]:
            url = self.base_url.rstrip("/") + path
            with self._client.stream("POST", url, content=data, headers=headers, timeout=seconds) as response:
                encoding = response.headers.get("content-encoding", "identity")
                if encoding.lower() not in _ENCODINGS:
                    told = self.hide(encoding)[:40]
                    raise LMError(f"{self.name!r} sent a reply encoded as {told!r}, which was not asked for")
                read = bytearray()
                for part in response.iter_bytes():
                    read += part
                    if len(read) > self.options.max_reply_bytes:
                        raise LMError(f"{self.name!r} sent a reply of more than {self.options.max_reply_bytes} bytes")
                    if time.monotonic() > end:
                        raise TimeoutError
                return response.status_code, response.headers, bytes(read)

        try:
            status, answered, read = _within(seconds, talk)
        except LMError:
            raise
        except Exception as error:  # of the HTTP library below the openai package
            kind = type(error).__name__
            raise Unusable("no answer in time" if "Timeout" in kind else f"a broken connection ({kind})") from None
        if status in _RETRIED or status >= 500:
            raise Unusable(f"status {status}", _retry_after(answered.get("retry-after")))
        if 300 <= status < 400:
            place = self.hide(answered.get("location", "nowhere"))[:200]
            raise LMError(
                f"{self.name!r} redirects to {place!r}, and prompts are not sent on to where a server points: "
                "give that address as base_url, if you trust it"
            )
        if status >= 400:
            told = self.hide(" ".join(read.decode(errors="replace").split()))
            raise Refused(f"{self.name!r} refused the request with status {status}: {told[:300]}", status)
        try:
            return json.loads(read)
        except (ValueError, RecursionError):
            raise Unusable("broken JSON") from None

    def _understood(self, reply: Any, read: Callable[[dict[str, Any]], tuple[T, Usage]]) -> tuple[T, Usage]:
        if not isinstance(reply, dict):
            raise Unusable("a reply that is no JSON object")
        try:
            return read(reply)
        except BadNumber as error:
            raise BadNumber(f"the server of {self.name!r} sent a number that cannot be: {error}") from None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise Unusable(f"a reply of another form ({error})") from None

    def money(self, usage: Usage) -> float:
        """Return what a server asks for these tokens."""
        prices = self.options.prices
        return (usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1000


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what ``call`` returns, or leave it behind: a server may keep each single read from timing out."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(seconds)


def _retry_after(value: str | None) -> float:
    """Seconds to wait by a Retry-After header, which is a number or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
