"""UDR's trial on texts: three real tasks, a real language model, and what it answers with the demonstrations found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import text, whole
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.datasets.text import TextData, load_text
from anytask.incontext.feedback import TABBED
from anytask.lm.option_scoring import score_options
from anytask.lm.prompting import Demonstration
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.language import model_of
from anytask.problems.options import Options
from anytask.problems.training import LoadedData

#: Built-in text sets, with the instructions by which a retriever tells them apart.
INSTRUCTIONS = {
    "reviews": "Is the review positive or negative?",
    "customer-intents": "What does the customer want?",
    "topics": "What is the news about?",
}


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


class TextOptions(Options):
    """How many examples there are, and who answers."""

    lm: str = text("smollm2-135m?dtype=float32", "language model that scores demonstrations and answers")
    n_train: int = whole(40, "examples per task", at_least=4)
    n_test: int = whole(20, "held-out queries per task")
    k: int = whole(4, "demonstrations in a prompt")


@dataclass(frozen=True)
class TextTasks(LoadedData):
    """The text sets, from which a seed draws examples and queries."""

    source: Any

    def draw(self, seed: int) -> list[tuple[RetrievalTask, list[str], np.ndarray]]:
        """Return the tasks, each with its held-out queries and the places of their answers among the choices."""
        o, drawn = self.options, []
        for data in self.source.sets:
            order = np.random.default_rng(derive(seed, "udr texts", data.name)).permutation(len(data.texts))
            train, test = order[: o.n_train], order[o.n_train : o.n_train + o.n_test]
            inputs, outputs = ([values[i] for i in train] for values in (data.texts, data.labels))
            task = RetrievalTask(data.name, inputs, outputs, INSTRUCTIONS[data.name], list(data.classes))
            truth = np.array([data.classes.index(data.labels[i]) for i in test])
            drawn.append((task, [data.texts[i] for i in test], truth))
        return drawn


@dataclass(frozen=True)
class _Sets:
    sets: tuple[TextData, ...]
    name: str = "reviews, customer-intents, topics"

    @property
    def fingerprint(self) -> str:
        return " ".join(data.fingerprint for data in self.sets)


class RetrievalTexts(Problem):
    """Retrieve demonstrations for three text tasks, and let a language model answer with them.

    An entrant's class has ``fit(tasks, lm)`` and ``retrieve(task, inputs, k)``, or, for one task at a time,
    ``index(inputs, outputs)`` and ``retrieve(query, k)``.
    """

    key = "retrieval-texts"
    title = "Demonstrations for several text tasks at once"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", "Accuracy, mean over the tasks"),)
    options_class = TextOptions

    def load(self, source: Any = None, **options: Any) -> TextTasks:
        """Read the three text sets."""
        return TextTasks(_Sets(tuple(load_text(name) for name in INSTRUCTIONS)), self.check_options(options))

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
