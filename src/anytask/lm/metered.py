"""A language model that is asked each question once, within a budget, with the answers kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anytask.core.progress import Progress
from anytask.lm.accounts import Budget, Tally
from anytask.lm.base import LanguageModel
from anytask.lm.cache import ReplyCache, ScoreCache
from anytask.lm.protocol import Capabilities, ChatReply, ChatRequest, Choice, OptionScore, Sampling


class Around(LanguageModel):
    """Base of what stands between a caller and a model: all but the answers is the model's own."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.name, self.kind, self.context_length = lm, lm.name, lm.kind, lm.context_length

    @property
    def codec(self) -> Any:
        """Encodes and decodes text, where the model has a tokenizer."""
        return self.lm.codec

    @property
    def capabilities(self) -> Capabilities:
        """What the model offers."""
        offers: Capabilities = self.lm.capabilities
        return offers

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text``, by the model's own count."""
        return int(self.lm.count_tokens(text))

    def estimate(self, prompts: Sequence[str], options: Sequence[Sequence[str]] = (), *, max_tokens: int = 32) -> Tally:
        """Return what the model says that it will use."""
        told: Tally = self.lm.estimate(prompts, options, max_tokens=max_tokens)
        return told


class Metered(Around):
    """Ask a model every question once, refuse what would exceed a budget, and keep the answers on disk.

    Whatever the model is - local weights, an endpoint, a simulator -, a process that is stopped and started again finds
    its answers in the file. What it finds there counts in the budget like what it asks, so that it stops where one
    that was never interrupted would.

    Parameters
    ----------
    lm : anytask.lm.base.LanguageModel
    path : path, default ":memory:"
        The SQLite file of the answers, by a digest of the model and the question.
    budget : Budget or mapping of its limits, optional

    Attributes
    ----------
    budget : Budget
        With what was used of it.

    Examples
    --------
    >>> from anytask.lm import load_tiny
    >>> lm = Metered(load_tiny("icl"), budget={"calls": 1})
    >>> _ = lm.score(["a storm"], [[" weather", " music"]])
    >>> _ = lm.score(["a storm"], [[" weather", " music"]])
    >>> lm.budget.used_calls
    1
    >>> lm.score(["a song"], [[" music"]])
    Traceback (most recent call last):
        ...
    anytask.lm.protocol.BudgetExceeded: the next call could use 1 calls, and 0 of the budget's 1 are left
    """

    def __init__(
        self,
        lm: Any,
        path: str | os.PathLike[str] = ":memory:",
        budget: Budget | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(lm)
        self.budget, self.usage = Budget.of(budget), lm.usage
        self._scores, self._replies = ScoreCache(path), ReplyCache(path)
        self._known: dict[Any, Any] = {}
        weights = lm.fingerprint() if hasattr(lm, "fingerprint") else getattr(lm, "base_url", "")
        self._stamp = f"{lm.kind}:{lm.name}:{weights}:{getattr(lm, 'chat_template', False)}"

    def _score(self, asked: dict[str, list[str]], tag: str, tell: Progress) -> list[dict[str, OptionScore]]:
        todo: dict[str, list[str]] = {}
        for prompt, option in ((p, option) for p, row in asked.items() for option in row):
            if (prompt, option) not in self._known:
                todo.setdefault(prompt, []).append(option)
        if todo:
            told = self.estimate(list(todo), list(todo.values()))
            with self.budget.reserve(told.total_tokens, told.money, len(todo)) as settle:
                pairs = [(prompt, option) for prompt, row in todo.items() for option in row]
                found = self._scores.get_many(self._stamp, pairs)
                new = {p: row for p, row in todo.items() if any((p, option) not in found for option in row)}
                scored = self.lm.score(list(new), list(new.values()), tag=tag, progress=tell) if new else []
                fresh = {(p, o): s for (p, row), line in zip(new.items(), scored) for o, s in zip(row, line)}
                self._scores.put_many(self._stamp, fresh)
                self._known |= found | fresh
                settle(told.total_tokens, told.money)
        tell(1.0)
        return [{option: self._known[prompt, option] for option in row} for prompt, row in asked.items()]

    def _write(self, asked: list[tuple[str, int]], seed: int, how: Sampling, tag: str, tell: Progress) -> list[str]:
        fields = [{"prompt": p, "occurrence": n, "seed": seed, "how": asdict(how)} for p, n in asked]

        def ask(places: list[int]) -> list[dict[str, str]]:
            told = self.lm._write([asked[i] for i in places], seed, how, tag, tell)
            return [{"text": text} for text in told]

        told = self.estimate([prompt for prompt, _ in asked], max_tokens=how.max_tokens)
        return [reply["text"] for reply in self._recalled(fields, told, ask)]

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> list[ChatReply]:
        def ask(places: list[int]) -> list[dict[str, str]]:
            replies = self.lm.chat_many([requests[i] for i in places], most, progress=tell)
            return [{"text": reply.text} for reply in replies]

        told = sum(
            (self.estimate([str(r.messages[-1]["content"])], max_tokens=r.max_tokens) for r in requests), Tally()
        )
        found = self._recalled([asdict(request) for request in requests], told, ask)
        return [
            ChatReply((Choice({"role": "assistant", "content": one["text"]}),), model=self.name, kind=self.kind)
            for one in found
        ]

    def _recalled(
        self, fields: list[dict[str, Any]], told: Tally, ask: Callable[[list[int]], list[dict[str, str]]]
    ) -> list[dict[str, str]]:
        keys = [repr(sorted(one.items())) for one in fields]
        todo = [i for i, key in enumerate(keys) if key not in self._known]
        if todo:
            share = len(todo) / len(keys)
            tokens, money = round(told.total_tokens * share), told.money * share
            with self.budget.reserve(tokens, money, len(todo)) as settle:
                for i in todo:
                    if (reply := self._replies.get(self._stamp, fields[i], 0)) is not None:
                        self._known[keys[i]] = reply
                new = [i for i in todo if keys[i] not in self._known]
                for i, reply in zip(new, ask(new) if new else []):
                    self._replies.put(self._stamp, fields[i], 0, reply)
                    self._known[keys[i]] = reply
                settle(tokens, money)
        return [self._known[key] for key in keys]
