"""Which of the labelled examples a query is shown: two retrievers that need no training, and one that learns.

All follow the family's protocol: ``index(inputs, outputs)`` takes the labelled examples, ``retrieve(query, k)``
returns their places, best first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np


class SimilarRetriever:
    """The examples whose embeddings are nearest to the query's, by cosine.

    Parameters
    ----------
    embedder : anytask.lm.Embedder, optional
        Default: the packaged MiniLM.

    Examples
    --------
    >>> retriever = SimilarRetriever().index(["a sad film", "a new phone", "a gloomy movie"])
    >>> retriever.retrieve("a melancholy picture at the cinema", 2)
    [2, 0]
    """

    def __init__(self, embedder: Any = None) -> None:
        self.embedder = embedder

    def index(self, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> Self:
        """Embed the examples; their outputs are not looked at."""
        if self.embedder is None:
            from anytask.lm.embeddings import Embedder

            self.embedder = Embedder()
        self._vectors = _unit(self.embedder.embed(list(inputs)))  # (n, d)
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of the ``k`` nearest examples, nearest first."""
        cosine = self._vectors @ _unit(self.embedder.embed([query]))[0]
        return np.argsort(-cosine, kind="stable")[:k].tolist()


class BM25Retriever:
    """The examples with the best BM25 score for the query's words; examples without a common word come last.

    Examples
    --------
    >>> BM25Retriever().index(["a sad film", "a new phone", "a gloomy movie"]).retrieve("this phone", 1)
    [1]
    """

    def index(self, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> Self:
        """Count the words of the examples; their outputs are not looked at."""
        from anytask.lm.search import BM25Index

        self._index = BM25Index(list(inputs))
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of the ``k`` best examples, best first."""
        return np.argsort(-self._index.scores(query), kind="stable")[:k].tolist()


class LearnedRetriever:
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

    def __init__(
        self, udr: Any, lm: Any, *, instruction: str = "", choices: Sequence[str] | None = None, name: str = "task"
    ) -> None:
        self.udr, self.lm, self.instruction, self.choices, self.name = udr, lm, instruction, choices, name

    def index(self, inputs: Sequence[str], outputs: Sequence[str] | None = None) -> Self:
        """Train on the examples if need be, and index them."""
        from anytask.datasets.retrieval_tasks import RetrievalTask

        if outputs is None:
            raise ValueError("a learned retriever needs the outputs of its examples")
        task = RetrievalTask(self.name, inputs, outputs, self.instruction, self.choices)
        if hasattr(self.udr, "tasks_"):
            self.udr.add_task(task)
        else:
            self.udr.fit([task], self.lm)
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


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
