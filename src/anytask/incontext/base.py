"""The in-context family's protocol: conditioning instead of training.

* a learner is conditioned on a context by ``fit`` (no weight moves) and answers by ``predict``;
* a selector chooses from a pool what is worth annotating or showing: ``select(pool, budget)``;
* a retriever finds the demonstrations for one query: ``retrieve(query, k)``, most similar first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from anytask.core.settings import whole
from anytask.lm.prompting import Prompt, PromptTemplate


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


def shots(**how: Any) -> Any:
    """Return the field of the number of demonstrations, alike wherever prompts are made."""
    return whole(8, "most demonstrations in a prompt, 'max': as many as fit", at_least=0, words=("max",), **how)


def check_choices(choices: Any) -> None:
    """Raise a ``ValueError`` unless ``choices`` is None or at least two different labels."""
    listed = isinstance(choices, Sequence) and not isinstance(choices, (str, bytes))
    if choices is not None and not (listed and len(set(choices)) >= max(2, len(choices))):
        raise ValueError(f"choices must name at least 2 labels, all different, got {choices!r}")


def check_template(template: Any) -> None:
    """Raise a ``TypeError`` unless ``template`` says how examples are written."""
    if not isinstance(template, PromptTemplate):
        raise TypeError(f"template must be a PromptTemplate, got {template!r}")
