"""The in-context family's protocol: conditioning instead of training.

* a learner is conditioned on a context by ``fit`` (no weight moves) and answers by ``predict``;
* a selector chooses from a pool what is worth annotating or showing: ``select(pool, budget)``;
* a retriever finds the demonstrations for one query: ``retrieve(query, k)``, most similar first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from anytask.core.checks import is_missing
from anytask.core.settings import choice, of_kind, texts, whole
from anytask.lm.option_scoring import RULES
from anytask.lm.prompting import Prompt, PromptTemplate
from anytask.lm.protocol import check_sequence, check_texts


@runtime_checkable
class InContextLearner(Protocol):
    """Answers queries from a context of worked examples."""

    def fit(self, X: Sequence[str], y: Sequence[str]) -> Any:
        """Store inputs and their right outputs as the context; returns the learner."""
        ...

    def predict(self, X: Sequence[str]) -> Sequence[Any]:
        """Answer each query."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Chooses items of a pool."""

    def select(self, pool: Any, budget: int) -> Sequence[int]:
        """Return ``budget`` distinct places in ``pool``."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Finds demonstrations for one query."""

    def retrieve(self, query: str, k: int) -> Sequence[int]:
        """Return at most ``k`` distinct places in the retriever's pool, most similar first."""
        ...


@dataclass(frozen=True)
class Answer:
    """One answered query and what it took.

    Attributes
    ----------
    output : str
        The chosen option or the generated text.
    scores : dict of str to float
        Option -> rank value (empty for generated answers).
    demos : tuple of int
        Places in the context of the demonstrations shown, in the order of the prompt.
    prompt : Prompt
        What the model read.
    kind : str
        Kind of model that answered: http, local, tiny or sim.
    """

    output: str
    prompt: Prompt
    demos: tuple[int, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    kind: str = ""


def check_queries(texts: Iterable[str], name: str) -> list[str]:
    """Return the texts to answer as a list, or say that there are none."""
    if not (queries := check_texts(texts, name)):
        raise ValueError(f"{name} is empty: there is nothing to answer")
    return queries


def check_places(found: Any, n: int, source: str) -> list[int]:
    """Return what a selector or a retriever gave as distinct places in [0, n), or say what is wrong with it."""
    places = [int(i) for i in getattr(found, "indices", found)]
    if len(set(places)) < len(places) or not all(0 <= place < n for place in places):
        raise ValueError(f"{source} must return distinct places in [0, {n - 1}], got {places}")
    return places


def check_answers(values: Iterable[Any], name: str) -> list[Any]:
    """Return labels of any kind as a list, or say which of them is missing."""
    answers = list(check_sequence(values, name))
    for i, answer in enumerate(answers):
        if is_missing(answer) or np.ndim(answer):
            raise ValueError(f"{name} must be one for each item, got {answer!r} at place {i}")
    return [str.__str__(answer) if isinstance(answer, str) else answer for answer in answers]


def shots(default: int | Literal["max"] = 8) -> Any:
    """Return the field of the number of demonstrations, alike wherever prompts are made."""
    return whole(default, "most demonstrations in a prompt, 'max': as many as fit", at_least=0, words=("max",))


def scoring_field(*more: str) -> Any:
    """Return the field of how options are ranked, alike wherever a model answers; ``more`` are further ways."""
    ways = ("auto", *RULES, "choose", "generate", *more)
    return choice("auto", ways, "how options are ranked, or that answers are written")


def beams_field() -> Any:
    """Return the field of the beams of an answer that is written."""
    return whole("auto", "beams of a written answer, 'auto': 4 where the model has beams, else 1", words=("auto",))


def template_field(default: PromptTemplate, help: str = "how examples are written") -> Any:
    """Return the field of how demonstrations and queries are written."""
    return of_kind(default, (PromptTemplate,), "a PromptTemplate", help)


def choices_field(help: str) -> Any:
    """Return the field of the possible answers."""
    return texts(None, help, at_least=2, distinct=True, optional=True)
