"""What language models cost: counters by tag, and a budget that stops before it is exceeded."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

from anytask.core.errors import instance_of
from anytask.lm.protocol import BudgetExceeded

__all__ = ["Accounts", "Budget"]


@dataclass(frozen=True)
class Tally:
    """Sums of what was used.

    Attributes
    ----------
    calls : int
        Answered questions, equal ones once: a chat request, a prompt with all of its options, a continued prompt.
    prompt_tokens, completion_tokens : int
        Tokens read, a prompt once whatever the number of its options, and tokens written or scored.
    forward_tokens : int
        Tokens that went through local weights; fewer than the two above when prefixes are shared.
    seconds : float
        Time inside the model or waiting for it. Calls that run side by side add up.
    failures, cache_hits : int
        Requests given up, and answers taken from a cache (these are not calls).
    money : float
        By the prices the user gave, for everything that a server billed.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    forward_tokens: int = 0
    seconds: float = 0.0
    failures: int = 0
    cache_hits: int = 0
    money: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def times(self, factor: float) -> Tally:
        """Return so many times as much, counts rounded."""
        scaled = {f.name: getattr(self, f.name) * factor for f in fields(self)}
        return Tally(**{n: value if n in ("seconds", "money") else round(value) for n, value in scaled.items()})

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Accounts:
    """Thread-safe counters by tag. One may be shared by several models.

    Examples
    --------
    >>> accounts = Accounts()
    >>> accounts.record("planner", calls=1, prompt_tokens=20, completion_tokens=5)
    >>> accounts.record("critic", calls=2, prompt_tokens=8)
    >>> accounts.total.calls, accounts["planner"].total_tokens, accounts["nobody"].calls
    (3, 25, 0)

    The cost of one step is a difference:

    >>> before = accounts.total
    >>> accounts.record("critic", calls=1)
    >>> (accounts.total - before).calls
    1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def record(self, tag: str, **used: Any) -> None:
        """Add to the counters of ``tag``; ``used`` names fields of :class:`Tally`."""
        instance_of("tag", str, optional=False)(tag)
        with self._lock:
            self._tallies[tag] = self._tallies.get(tag, Tally()) + Tally(**used)

    @contextmanager
    def timed(self, tag: str) -> Iterator[dict[str, Any]]:
        """Record the wall time of the block and what it puts into the dict, if it does not fail.

        Examples
        --------
        >>> accounts = Accounts()
        >>> with accounts.timed("critic") as used:
        ...     used.update(calls=2, prompt_tokens=8)
        >>> accounts["critic"].calls, accounts["critic"].seconds > 0
        (2, True)
        """
        began = time.perf_counter()
        used: dict[str, Any] = {}
        yield used
        self.record(tag, seconds=time.perf_counter() - began, **used)

    def __getitem__(self, tag: str) -> Tally:
        with self._lock:
            return self._tallies.get(tag, Tally())

    @property
    def total(self) -> Tally:
        """The sum over all tags."""
        with self._lock:
            return sum(self._tallies.values(), Tally())

    def by_tag(self) -> dict[str, Tally]:
        """A copy of all counters."""
        with self._lock:
            return dict(self._tallies)

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The counters as plain numbers, for JSON."""
        return {tag: asdict(tally) for tag, tally in self.by_tag().items()}

    def reset(self) -> None:
        """Set every counter to zero."""
        with self._lock:
            self._tallies.clear()

    def __repr__(self) -> str:
        return f"Accounts({self.by_tag()})"


class Budget:
    """Limits on calls, tokens, money and wall time that stop a run before it exceeds them.

    Every request first reserves the most it could use; a reservation that does not fit beside what is used and what
    other requests in flight hold is refused, so the limits hold under concurrency too.

    Parameters
    ----------
    calls : int, optional
        Most calls.
    tokens : int, optional
        Most prompt and completion tokens together. A call reserves its estimated prompt plus its whole
        ``max_tokens``, and gives back what it did not use.
    money : float, optional
        Most money, in the currency of the prices given to the endpoint.
    seconds : float, optional
        Most wall time since the first reservation. Calls in flight get what is left as their time-out.
    clock : callable, default time.monotonic
        For tests.

    Attributes
    ----------
    used_calls, used_tokens, used_money
        What was settled so far.

    Raises
    ------
    BudgetExceeded
        From :meth:`reserve`, naming the limit.

    Examples
    --------
    >>> budget = Budget(tokens=100)
    >>> with budget.reserve(tokens=80) as settle:
    ...     settle(tokens=30)
    >>> with budget.reserve(tokens=80):
    ...     pass
    Traceback (most recent call last):
        ...
    anytask.lm.protocol.BudgetExceeded: the next call could use 80 tokens, and 70 of the budget's 100 are left
    """

    def __init__(
        self,
        *,
        calls: int | None = None,
        tokens: int | None = None,
        money: float | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = {"calls": calls, "tokens": tokens, "money": money, "seconds": seconds}
        for name, value in limits.items():
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool) or not value >= 0):
                raise ValueError(f"a budget of {name} is a number >= 0, and {value!r} was given")
        if not callable(clock):
            raise TypeError(f"clock must be callable, got {clock!r}")
        self._limits = {name: value for name, value in limits.items() if value is not None}
        self.seconds = seconds
        self._used: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._clock = clock
        self._started: float | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, limits: Budget | Mapping[str, float] | None) -> Budget:
        """Return a budget, that of a mapping of limits, or for None one without limits."""
        if isinstance(limits, Budget):
            return limits
        instance_of("limits", Mapping)(limits)
        given: dict[str, Any] = dict(limits or {})
        return cls(**given)

    @property
    def used_calls(self) -> int:
        return int(self._used["calls"])

    @property
    def used_tokens(self) -> int:
        return int(self._used["tokens"])

    @property
    def used_money(self) -> float:
        return float(self._used["money"])

    @contextmanager
    def reserve(self, tokens: int, money: float = 0.0, calls: int = 1) -> Iterator[Callable[..., None]]:
        """Hold at most ``tokens``, ``money`` and ``calls`` for a block, or raise :class:`BudgetExceeded`.

        The block books what it really used by ``settle(tokens, money)``, which the last call of counts; one that does
        not books nothing.
        """
        wanted = {"calls": calls, "tokens": tokens, "money": money}
        with self._lock:
            now = self._clock()
            if self._started is None:
                self._started = now
            if self.seconds is not None and now - self._started >= self.seconds:
                raise BudgetExceeded(f"the budget's {self.seconds:g} seconds are over")
            for name, most in wanted.items():
                left = self._limits.get(name, math.inf) - self._used[name] - self._held[name]
                if most > left:
                    raise BudgetExceeded(
                        f"the next call could use {round(most, 6)} {name}, and {round(left, 6)} of the budget's "
                        f"{self._limits[name]} are left"
                    )
            self._held.update(wanted)
        used: dict[str, float] = {}

        def settle(tokens: int, money: float = 0.0) -> None:
            used.update(calls=calls, tokens=tokens, money=money)

        try:
            yield settle
        finally:
            with self._lock:
                self._held.subtract(wanted)
                self._used.update(used)

    def seconds_left(self) -> float | None:
        """Wall time left, or None without a limit."""
        if self.seconds is None:
            return None
        with self._lock:
            return self.seconds if self._started is None else self._started + self.seconds - self._clock()

    def __repr__(self) -> str:
        used = f"used_calls={self.used_calls}, used_tokens={self.used_tokens}, used_money={self.used_money:g}"
        return f"Budget({', '.join([*(f'{k}={v}' for k, v in self._limits.items()), used])})"
