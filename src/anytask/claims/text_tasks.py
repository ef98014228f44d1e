"""Three real text tasks, which the trials of several systems draw from: reviews, customers' messages and news."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import text, whole
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.datasets.text import TextData, load_text
from anytask.lm.prompting import PromptTemplate
from anytask.problems.base import Problem
from anytask.problems.options import Options
from anytask.problems.training import LoadedData

#: Built-in text sets, with the instructions by which a retriever tells them apart.
INSTRUCTIONS = {
    "reviews": "Is the review positive or negative?",
    "customer-intents": "What does the customer want?",
    "topics": "What is the news about?",
}

ASKING = PromptTemplate("{input}\nAnswer: {output}")


def asked(task: RetrievalTask, text: str) -> str:
    """Return a task's question about a text."""
    return f"{task.instruction}\n" + ASKING.assemble([], text).text


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


class TextProblem(Problem):
    """Base of the problems that read the three text sets."""

    options_class: ClassVar[type[Options]] = TextOptions

    def load(self, source: Any = None, **options: Any) -> TextTasks:
        """Read the three text sets."""
        return TextTasks(text_sets(), self.check_options(options))


def text_sets() -> Any:
    """Return the three text sets, for :class:`TextTasks`."""
    return _Sets(tuple(load_text(name) for name in INSTRUCTIONS))
