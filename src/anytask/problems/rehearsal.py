"""What runs will ask of a language model, before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anytask.core.progress import Progress
from anytask.lm.accounts import Accounts, Tally
from anytask.lm.metered import Around
from anytask.lm.protocol import ChatReply, ChatRequest, Choice, OptionScore, Sampling
from anytask.problems.base import Entrant


class Rehearsal(Around):
    """Stands in for a language model, answers anything, and counts in ``usage`` what the model would use.

    With ``timed``, a server that was asked nothing yet is asked as many questions as go side by side, to see how long
    they take.
    """

    def __init__(self, lm: Any, timed: bool = False) -> None:
        super().__init__(lm)
        self.usage, self._timed = Accounts(), timed and lm.kind == "http"

    @property
    def _first(self) -> int:
        """How many questions are asked in earnest."""
        return self.lm.options.max_concurrency if self._timed and not self.lm.usage.total.calls else 0

    def _count(self, tag: str, *asked: Any, **how: Any) -> None:
        told = self.lm.estimate(*asked, **how)
        self.usage.record(tag, **{name: getattr(told, name) for name in Tally.__dataclass_fields__})

    def _score(self, asked: dict[str, list[str]], tag: str, tell: Progress) -> list[dict[str, OptionScore]]:
        prompts, rows = list(asked), list(asked.values())
        if n := self._first:
            self.lm.score(prompts[:n], rows[:n], tag=tag)
        self._count(tag, prompts, rows)
        return [{option: OptionScore(-1.0, 1, 1) for option in row} for row in asked.values()]

    def _write(self, asked: list[tuple[str, int]], seed: int, how: Sampling, tag: str, tell: Progress) -> list[str]:
        prompts = [prompt for prompt, _ in asked]
        if n := self._first:
            self.lm.generate(prompts[:n], max_tokens=how.max_tokens, stop=how.stop, tag=tag)
        self._count(tag, prompts, max_tokens=how.max_tokens)
        return ["?"] * len(asked)

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> list[ChatReply]:
        if n := self._first:
            self.lm.chat_many(requests[:n], n)
        for request in requests:
            self._count(request.tag, [str(request.messages[-1]["content"])], max_tokens=request.max_tokens)
        return [ChatReply((Choice({"role": "assistant", "content": "?"}),))] * len(requests)


def summed(entrants: Sequence[Entrant], counted: Callable[[Entrant], Tally]) -> Tally:
    """Return the sum of what is counted for each entrant, of equal ones once."""
    known: dict[tuple[str, str], Tally] = {}
    for entrant in entrants:
        if (key := (entrant.entry, repr(entrant.settings))) not in known:
            known[key] = counted(entrant)
    return sum((known[entrant.entry, repr(entrant.settings)] for entrant in entrants), Tally())


def forecast(runs: int, lm: Any, told: Tally, jobs: int) -> str:
    """Return in words what runs will ask of a model, ``jobs`` of them at a time; nothing where they ask nothing."""
    if not told.calls:
        return ""
    money = f" for {told.money:.2f}" if told.money else ""
    seconds = told.seconds / (1 if lm.kind == "http" else min(jobs, runs))  # a server has one speed for all
    time = f", about {seconds:,.0f} s" if seconds < 120 else f", about {seconds / 60:,.0f} min"
    time = time if told.seconds else ""
    who = f"{runs} run{'s' if runs > 1 else ''} will ask"
    return f"{who} {lm.name} about {told.calls:,} times: {told.total_tokens:,} tokens{money}{time}."
