"""What runs will ask of a language model, before it is asked: entrants answer from one that only counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anytask.core.progress import Progress
from anytask.lm.accounts import Accounts, Tally
from anytask.lm.metered import Around
from anytask.lm.protocol import ChatReply, ChatRequest, Choice, OptionScore, Sampling
from anytask.problems.base import Entrant
from anytask.problems.few_shot_text.data import FewShotData
from anytask.problems.few_shot_text.stages import learner_of, stage_of

#: Queries that are rehearsed, and prompts of a search: the rest costs as much in proportion.
QUERIES, PROMPTS = 24, 10


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


def foretold(entrants: Sequence[Entrant], data: FewShotData) -> Tally:
    """Return what one run of each of these entrants will use of the language model, but for learning a retriever."""
    known: dict[tuple[str, str], Tally] = {}
    for entrant in entrants:
        key = entrant.entry, repr(entrant.settings)
        if key not in known:
            with warnings.catch_warnings(action="ignore"):  # a model that scores all alike is a strange one
                try:
                    known[key] = _rehearsed(_plain(entrant), data)
                except Exception:  # its run will say what is wrong; an estimate stops nobody
                    known[key] = Tally()
    return sum((known[entrant.entry, repr(entrant.settings)] for entrant in entrants), Tally())


def _plain(entrant: Entrant) -> Entrant:
    """Return the entrant without what is slow and asks the model little: how labels and demonstrations are chosen."""
    if stage_of(entrant.load()) in ("select", "retrieve"):
        return Entrant(entrant.name, "anytask.incontext:Pipeline", {"retrieve": "random"})
    if entrant.class_name != "Pipeline":
        return entrant
    params: dict[str, Any] = {name: value for name, value in entrant.params.items() if name != "select"}
    return replace(entrant, params=params | {"retrieve": "random"})


def _rehearsed(entrant: Entrant, data: FewShotData) -> Tally:
    o, source = data.options, data.source
    lm = Rehearsal(o.model, timed=True)
    learner = learner_of(entrant, replace(data, options=o.evolve(search_budget=PROMPTS)), lm, 0)
    if not hasattr(learner, "answer"):
        return Tally()
    pool, test = data.split(0)
    shown, asked = pool[: o.labels], test[:QUERIES]
    known = {"options": data.choices} if not hasattr(learner, "stages_") and entrant.class_name == "GPT3" else {}
    learner.fit([source.texts[i] for i in shown], [source.labels[i] for i in shown], **known)
    prepared = lm.usage.total
    own = [source.choices[i] for i in asked] if source.choices and o.kind == "multiple-choice" else None
    learner.answer([source.texts[i] for i in asked], options=own)
    tested = lm.usage.total - prepared
    queries = len(test) + (5 * len(shown) / 2 if o.k == "auto" else 0)  # five values of k, half as many tokens
    return prepared.times(o.search_budget / PROMPTS) + tested.times(queries / len(asked))


def sentence(entrants: Sequence[Entrant], data: FewShotData, jobs: int) -> str:
    """Return what runs of these entrants will ask of a real model, in words; nothing where it is none."""
    lm = data.options.model
    if lm.kind not in ("local", "http") or not hasattr(lm, "estimate"):
        return ""
    told = foretold(entrants, data)
    if not told.calls:
        return ""
    money = f" for {told.money:.2f}" if told.money else ""
    seconds = told.seconds / (1 if lm.kind == "http" else min(jobs, len(entrants)))  # a server has one speed for all
    time = f", about {seconds:,.0f} s" if seconds < 120 else f", about {seconds / 60:,.0f} min"
    time = time if told.seconds else ""
    runs = f"{len(entrants)} run{'s' if len(entrants) > 1 else ''} will ask"
    return f"{runs} {lm.name} about {told.calls:,} times: {told.total_tokens:,} tokens{money}{time}."
