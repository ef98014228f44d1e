"""Requests to a server: attempts, waits, deadlines, budgets and accounts."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from anytask.lm.accounts import Accounts, Budget
from anytask.lm.protocol import LMError, Usage

_log = logging.getLogger(__name__)
T = TypeVar("T")
_RETRIED = frozenset({408, 409, 429})


class Unusable(Exception):
    """A reply with status 200 that holds no answer."""


class Transport:
    """Posts JSON to a server until it answers, and keeps the accounts.

    Parameters
    ----------
    client : openai.OpenAI
        Without retries of its own.
    name : str
        The model's, for messages.
    usage, budget, prices, timeout, deadline, attempts, extra_body, sleep, jitter
        As in :class:`~anytask.lm.Endpoint`.
    max_concurrency : int
        Most requests in flight.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        usage: Accounts,
        budget: Budget | None,
        prices: tuple[float, float],
        timeout: float,
        deadline: float,
        attempts: int,
        max_concurrency: int,
        extra_body: dict[str, Any],
        sleep: Callable[[float], None],
        jitter: Callable[[], float],
    ) -> None:
        self._client, self.name, self.usage, self.budget, self.prices = client, name, usage, budget, prices
        self.timeout, self.deadline, self.attempts, self.extra_body = timeout, deadline, attempts, extra_body
        self._sleep, self._jitter = sleep, jitter
        self._slots = threading.BoundedSemaphore(max_concurrency)

    def post(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[dict[str, Any]], tuple[T, Usage]],
        prompt_tokens: int,
        completion_tokens: int,
        tag: str,
    ) -> tuple[T, int]:
        """Return what ``read`` makes of the server's reply, and the number of attempts.

        Parameters
        ----------
        path, body
            Of the request; ``extra_body`` is merged in last.
        read : callable
            Reply -> (result, usage); raises :class:`Unusable` for one that is worth another attempt.
        prompt_tokens, completion_tokens : int
            The most that the request may use, for the budget.
        tag : str
        """
        import openai

        body = body | self.extra_body
        most = self._money(prompt_tokens, completion_tokens)
        end = time.monotonic() + self.deadline
        problem = ""
        for attempt in range(1, self.attempts + 1):
            wait_for = 0.0
            held = self.budget.reserve(prompt_tokens + completion_tokens, most) if self.budget is not None else None
            began = time.perf_counter()
            try:
                limits = [self.timeout, end - time.monotonic()]
                if self.budget is not None and self.budget.seconds_left() is not None:
                    limits.append(self.budget.seconds_left() or 0.0)
                with self._slots:
                    response = self._client.post(
                        path,
                        body=body,
                        cast_to=object,
                        options={"timeout": max(0.01, min(limits))},
                    )
                if not isinstance(response, dict):
                    raise Unusable("a reply that is no JSON object")
                result, usage = read(response)
            except openai.APIStatusError as error:
                status = error.status_code
                if status not in _RETRIED and status < 500:
                    self._fail(tag, began, held)
                    raise LMError(f"{self.name!r} refused the request with status {status}: {_short(error)}") from error
                problem = f"status {status}"
                wait_for = _retry_after(error.response.headers.get("retry-after"))
            except openai.APITimeoutError:
                problem = "no answer in time"
            except openai.APIConnectionError as error:
                problem = f"a broken connection ({type(error.__cause__ or error).__name__})"
            except (json.JSONDecodeError, openai.APIResponseValidationError, UnicodeDecodeError):
                problem = "broken JSON"
            except Unusable as error:
                problem = str(error)
            except BaseException:
                self._fail(tag, began, held)
                raise
            else:
                money = self._money(usage.prompt_tokens, usage.completion_tokens)
                if held is not None:
                    held.settle(usage.total_tokens, money)
                self.usage.record(
                    tag,
                    calls=1,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens,
                    seconds=time.perf_counter() - began,
                    money=money,
                )
                return result, attempt
            self._fail(tag, began, held)
            if attempt == self.attempts:
                break
            wait = max(min(60.0, 2.0 ** (attempt - 1)) * self._jitter(), wait_for)
            if time.monotonic() + wait >= end:
                raise LMError(
                    f"{self.name!r} gave no reply within {self.deadline:g} s ({attempt} attempts; last: {problem})"
                )
            _log.info("%s: %s, attempt %d of %d, next in %.1f s", self.name, problem, attempt, self.attempts, wait)
            self._sleep(wait)
        raise LMError(f"{self.name!r} gave no reply in {self.attempts} attempts; last: {problem}")

    def _fail(self, tag: str, began: float, held: Any) -> None:
        self.usage.record(tag, failures=1, seconds=time.perf_counter() - began)
        if held is not None:
            held.settle(0)  # an attempt counts as a call, because servers count it

    def _money(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / 1000


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


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "..."
