"""UDR's claim as a problem: train on the tasks of a generated world, retrieve for held-out queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import real, whole
from anytask.datasets.retrieval_tasks import Blocks, RetrievalTask, ScriptedFeedback, Sentences
from anytask.incontext.pool import Retrieved
from anytask.incontext.udr import UDR
from anytask.lm.search import VectorIndex
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options


class CosineRetriever:
    """Retrieve the examples whose vectors are most similar to the query's; nothing is trained.

    Parameters
    ----------
    seed : int, default 0
        Taken for the sake of a common signature.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, tasks: Sequence[RetrievalTask], lm: Any, progress: Any = None) -> CosineRetriever:
        """Index the tasks' vectors."""
        self._indexes = {task.name: VectorIndex().fit(np.asarray(task.vectors)) for task in tasks}
        return self

    def find(self, task: str, vectors: Any, k: int) -> np.ndarray:
        """Return (n, k) indices of the examples most similar to each query."""
        return self._indexes[task].search(vectors, k)[1]


class PerTaskRetrievers:
    """Train one retriever per task by contrast alone, as EPR does: one round of scored candidates, no ranks.

    Parameters
    ----------
    candidates : mapping
        Of :class:`~anytask.incontext.UDR`; ``n_first`` is what it asks the language model about each query.
    steps : int, default 450
        Of each retriever.
    seed : int, default 0
    """

    def __init__(self, candidates: Mapping[str, Any], steps: int = 450, seed: int = 0) -> None:
        self.candidates, self.steps, self.seed = candidates, steps, seed

    def fit(self, tasks: Sequence[RetrievalTask], lm: Any, progress: Any = None) -> PerTaskRetrievers:
        """Train a retriever on each task."""
        how: dict[str, Any] = {"lambda_": 0.0, "rounds": 1, "use_instruction": False, "steps": self.steps}
        made = [UDR.from_preset("small", candidates=self.candidates, seed=self.seed, **how) for _ in tasks]
        self._retrievers = {task.name: udr.fit([task], lm) for task, udr in zip(tasks, made)}
        return self

    def retrieve(self, task: str, inputs: Any = None, k: int = 8, **queries: Any) -> list[Retrieved]:
        """Return the demonstrations of each query."""
        return self._retrievers[task].retrieve(task, inputs, k, **queries)


class RetrievalOptions(Options):
    """The numbers of a world that may be changed; none: the world's own."""

    n_train: int | None = whole(None, "training examples per task (blocks: 300, sentences: 200)", optional=True)
    n_test: int | None = whole(None, "held-out queries per task (blocks: 60, sentences: 40)", optional=True)
    noise: float | None = real(
        None, "blocks: standard deviation of a block around its centre (0.7)", at_least=0, optional=True
    )
    feedback_noise: float = real(0.3, "standard deviation of the noise of the scripted scores", at_least=0)


class RetrievalBlocks(Problem):
    """Retrieve helpful demonstrations in the world of blocks.

    An entrant's class is made with its ``params`` and ``seed``, trained with ``fit(tasks, feedback)``, and asked for
    ``retrieve(task, vectors=..., k=8)``, or ``find(task, vectors, k)``.
    """

    key = "retrieval-blocks"
    title = "Demonstrations for several tasks at once"
    metrics = (
        Metric("helpful", "Share of retrieved demonstrations with the query's label"),
        Metric("mined_gain", "Rise of the mean score of the five best candidates from first to last round"),
    )
    options_class = RetrievalOptions

    def load(self, source: Any = "blocks", **options: Any) -> Blocks | Sentences:
        """Return the world ``"blocks"``, or ``"sentences"`` (which has no ``noise``)."""
        if source not in ("blocks", "sentences"):
            raise BadData(f"the built-in worlds are 'blocks' and 'sentences', got {source!r}")
        given = {name: value for name, value in self.check_options(options).as_dict().items() if value is not None}
        if source == "sentences" and "noise" in given:
            raise BadData("noise is for blocks, and these are sentences")
        return Blocks(**given) if source == "blocks" else Sentences(**given)

    def baselines(self, data: Blocks | Sentences) -> tuple[Entrant, ...]:
        """Return plain cosine."""
        return (Entrant("cosine", "anytask.claims.incontext.udr_blocks:CosineRetriever", role="baseline"),)

    def run(
        self, entrant: Entrant, data: Blocks | Sentences, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train on the tasks of this seed, and retrieve for their held-out queries."""
        tasks, queries = data.draw(seed)
        feedback = ScriptedFeedback(seed, data.feedback_noise)
        system = entrant.make(seed=seed).fit(tasks, feedback, progress=progress)
        shares = []
        for task, (X, labels) in zip(tasks, queries):
            if hasattr(system, "find"):
                found = system.find(task.name, X, data.k)
            else:
                found = np.array([one.indices for one in system.retrieve(task.name, vectors=X, k=data.k)])
            shares.append(float(np.mean(np.array(task.outputs)[found] == labels[:, None])))
        metrics = {"helpful": float(np.mean(shares))}
        details: dict[str, Any] = {"helpful_by_task": shares}
        history = getattr(system, "history_", None)
        if history:
            details["history"] = history
            metrics["mined_gain"] = float(np.mean(history[-1]["top5"]) - np.mean(history[0]["top5"]))
        return Outcome(metrics, details, {"lm_calls": feedback.calls}, kind="sim")
