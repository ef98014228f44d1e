"""What runs will ask of a language model: entrants answer from one that only counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anytask.lm.accounts import Tally
from anytask.problems.base import Entrant
from anytask.problems.few_shot_text.data import FewShotData
from anytask.problems.few_shot_text.stages import learner_of, stage_of
from anytask.problems.rehearsal import Rehearsal, summed

#: Queries that are rehearsed, and prompts of a search: the rest costs as much in proportion.
QUERIES, PROMPTS = 24, 10


def foretold(entrants: Sequence[Entrant], data: FewShotData) -> Tally:
    """Return what one run of each of these entrants will use of the language model, but for learning a retriever."""

    def counted(entrant: Entrant) -> Tally:
        with warnings.catch_warnings(action="ignore"):  # a model that scores all alike is a strange one
            try:
                return _rehearsed(_plain(entrant), data)
            except Exception:  # its run will say what is wrong; an estimate stops nobody
                return Tally()

    return summed(entrants, counted)


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
