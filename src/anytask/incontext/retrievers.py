"""Which of the labelled examples a query is shown: two retrievers that need no training, and one that learns.

All follow the family's protocol: ``index(inputs, outputs)`` takes the labelled examples, ``retrieve(query, k)``
returns their places, best first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.exceptions import NotFittedError

from anytask.core.checks import check_counts
from anytask.core.progress import Progress
from anytask.core.settings import Settings, free, positional, text
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.incontext.base import choices_field
from anytask.incontext.feedback import LMFeedback
from anytask.incontext.pool import embed, embedder_field
from anytask.lm.bm25 import BM25Index
from anytask.lm.protocol import check_lm, check_text
from anytask.lm.search import unit


class SimilarRetriever(Settings):
    """The examples whose embeddings are nearest to the query's, by cosine.

    Parameters
    ----------
    embedder : str, path or anytask.lm.Embedder, default "minilm"
        The packaged MiniLM, or see :class:`~anytask.lm.Embedder`.

    Examples
    --------
    >>> retriever = SimilarRetriever().index(["a sad film", "a new phone", "a gloomy movie"])
    >>> retriever.retrieve("a melancholy picture at the cinema", 2)
    [2, 0]
    """

    embedder: Any = positional(embedder_field, default="minilm", kw_only=False)

    def index(self, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> Self:
        """Embed the examples; their outputs are not looked at."""
        self._vectors = unit(embed(self.embedder, inputs))  # (n, d)
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of the ``k`` nearest examples, nearest first."""
        _check_indexed(self, "_vectors", k)
        cosine = self._vectors @ unit(embed(self.embedder, [check_text(query, "query")]))[0]
        return np.argsort(-cosine, kind="stable")[:k].tolist()


class BM25Retriever(Settings):
    """The examples with the best BM25 score for the query's words; examples without a common word come last.

    Examples
    --------
    >>> BM25Retriever().index(["a sad film", "a new phone", "a gloomy movie"]).retrieve("this phone", 1)
    [1]
    """

    def index(self, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> Self:
        """Count the words of the examples; their outputs are not looked at."""
        self._index = BM25Index(inputs)
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of the ``k`` best examples, best first."""
        _check_indexed(self, "_index", k)
        return np.argsort(-self._index.scores(check_text(query, "query")), kind="stable")[:k].tolist()


def _check_feedback(lm: Any) -> None:
    if not callable(lm):
        check_lm(lm)


class LearnedRetriever(Settings):
    """A :class:`~anytask.incontext.UDR` on one task's labelled examples.

    A UDR that was trained on other tasks is used as it is: the examples are indexed, and nothing is trained. One that
    was not is trained on the labelled examples themselves, by the feedback of the language model.

    Parameters
    ----------
    udr : anytask.incontext.UDR
        Trained or not.
    lm : anytask.lm.ScoringModel
        Gives the feedback; not asked if ``udr`` is trained.
    instruction : str, default ""
        One line that says what the task is.
    choices : sequence of str, optional
        All possible answers.
    name : str, default "task"
        The task's name within ``udr``.
    """

    udr: Any = positional(free, "the retriever, trained or not", kw_only=False)
    lm: Any = positional(free, "a language model, or what gives the feedback", _check_feedback, kw_only=False)
    instruction: str = free("", "one line that says what the task is")
    choices: Sequence[str] | None = choices_field("all possible answers, None: any")
    name: str = text("task", "the task's name within the retriever")

    def _check_settings(self) -> None:
        if not self._trained and not callable(self.lm):
            LMFeedback(self.lm)  # what it refuses is refused before labels are bought

    @property
    def _trained(self) -> bool:
        return hasattr(self.udr, "tasks_")

    def check(self, n: int, choices: Sequence[str] | None) -> None:
        """Raise a ``ValueError`` if ``n`` examples with these answers could not be indexed."""
        least = self.udr.candidates.l + 1
        if 0 < n < least and not self._trained:
            raise ValueError(f"training the retriever needs at least l + 1 = {least} labelled examples, and gets {n}")
        if self.choices is not None and not set(choices or self.choices) <= set(self.choices):
            raise ValueError(f"the retriever's choices lack some of {list(choices or ())}: got {list(self.choices)}")

    def index(
        self, inputs: Sequence[str], outputs: Sequence[str] | None = None, progress: Progress | None = None
    ) -> Self:
        """Train on the examples if need be, and index them; ``progress`` is told the finished share."""
        if outputs is None:
            raise ValueError("a learned retriever needs the outputs of its examples")
        task = RetrievalTask(self.name, inputs, outputs, self.instruction, self.choices)
        if self._trained:
            self.udr.add_task(task)
        else:
            self.udr.fit([task], self.lm, progress)
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of ``k`` examples, best first."""
        return self.udr.retrieve(self.name, [query], k)[0].indices[::-1].tolist()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the retriever to ``folder``, with the examples."""
        self.udr.save(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], lm: Any, **params: Any) -> Self:
        """Read what :meth:`save` wrote; ``params`` go to :meth:`anytask.incontext.UDR.load`."""
        from anytask.incontext.udr import UDR

        udr = UDR.load(folder, **params)
        task = list(udr.tasks_.values())[-1]
        return cls(udr, lm, instruction=task.instruction, choices=task.choices, name=task.name)


def _check_indexed(retriever: Any, state: str, k: int) -> None:
    check_counts(k=k)
    if not hasattr(retriever, state):
        raise NotFittedError(f"this {type(retriever).__name__} has no examples yet: call index first")
