"""UDR's trial on texts: three real tasks, a real language model, and what it answers with the demonstrations found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import numpy as np

from anytask.claims.text_tasks import TextProblem, TextTasks
from anytask.core.rng import derive
from anytask.incontext.feedback import TABBED
from anytask.lm.option_scoring import score_options
from anytask.lm.prompting import Demonstration
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.language import model_of


class NoDemonstrations:
    """Retrieve nothing: the model answers from the query alone."""

    def index(self, inputs: Sequence[str], outputs: Sequence[str]) -> Self:
        """Look at nothing."""
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return nothing."""
        return []


class RandomDemonstrations:
    """Retrieve at random, without replacement."""

    def index(self, inputs: Sequence[str], outputs: Sequence[str]) -> Self:
        """Count the examples."""
        self._n = len(inputs)
        return self

    def retrieve(self, query: str, k: int) -> list[int]:
        """Return the places of ``k`` examples; the same query gets the same."""
        return np.random.default_rng(derive(0, query)).choice(self._n, k, replace=False).tolist()


class RetrievalTexts(TextProblem):
    """Retrieve demonstrations for three text tasks, and let a language model answer with them.

    An entrant's class has ``fit(tasks, lm)`` and ``retrieve(task, inputs, k)``, or, for one task at a time,
    ``index(inputs, outputs)`` and ``retrieve(query, k)``.
    """

    key = "retrieval-texts"
    title = "Demonstrations for several text tasks at once"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "Accuracy, mean over the tasks"),)

    def baselines(self, data: TextTasks) -> tuple[Entrant, ...]:
        """Return what needs no training."""
        here, retrievers = __name__, "anytask.incontext.retrievers"
        entries = {
            "zero-shot": f"{here}:NoDemonstrations",
            "random": f"{here}:RandomDemonstrations",
            "BM25": f"{retrievers}:BM25Retriever",
            "cosine": f"{retrievers}:SimilarRetriever",
        }
        return tuple(Entrant(name, entry, role="baseline") for name, entry in entries.items())

    def run(
        self, entrant: Entrant, data: TextTasks, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train on the tasks where there is something to train, retrieve for held-out queries, and answer them."""
        lm, k, drawn = model_of(data.options.lm), data.options.k, data.draw(seed)
        before, system = lm.usage.total, entrant.make(seed=seed)
        if hasattr(system, "fit"):
            system.fit([task for task, _, _ in drawn], lm)
        accuracies = {}
        for task, queries, truth in drawn:
            if hasattr(system, "fit"):
                found = [one.indices for one in system.retrieve(task.name, queries, k=k)]
            else:
                index = system.index(task.inputs, task.outputs)
                found = [index.retrieve(query, k)[::-1] for query in queries]  # the best last
            shown = [[Demonstration(task.inputs[i], task.outputs[i], int(i)) for i in row] for row in found]
            prompts = [TABBED.assemble(demos, query).text for demos, query in zip(shown, queries)]
            options = [[TABBED.completion(answer) for answer in task.choices or ()]] * len(prompts)
            scores = np.array(score_options(lm, prompts, options, tag="answers"))
            accuracies[task.name] = float(np.mean(scores.argmax(axis=1) == truth))
        used = lm.usage.total - before
        cost = {"lm_calls": float(used.calls), "lm_tokens": float(used.total_tokens)}
        return Outcome({"accuracy": float(np.mean(list(accuracies.values())))}, {"by_task": accuracies}, cost, lm.kind)
