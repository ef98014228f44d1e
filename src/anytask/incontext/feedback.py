"""What a frozen language model says of demonstrations: tasks, one-shot scores, and the table in which they are kept."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.special import log_softmax

from anytask.core.checks import require_finite
from anytask.core.files import as_path
from anytask.core.settings import Settings, flag, free, positional
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.incontext.base import template_field
from anytask.lm.prompting import Demonstration, PromptTemplate
from anytask.lm.protocol import check_lm, require

#: One-shot prompts as the paper writes them.
TABBED = PromptTemplate("{input}\t{output}", separator="\n")


class Feedback(Protocol):
    """Says how much each demonstration helps with a query.

    ``name``, where it has one, tells it from any other: scores kept in a file need it.
    """

    def __call__(self, task: RetrievalTask, query: int, demos: Sequence[int]) -> Sequence[float]:
        """Return a score for each of ``demos``, higher is better; ``query`` and ``demos`` index the task's examples."""
        ...


class LMFeedback(Settings):
    """How likely a frozen language model finds the right answer after reading one demonstration.

    Parameters
    ----------
    lm : anytask.lm.ScoringModel
        The frozen model.
    normalize : bool, default True
        For tasks with choices, divide the answer's probability by that of all choices (the paper's rule). False takes
        the mean log-likelihood of the answer's tokens for all tasks, as the released code does; tasks without choices
        always do.
    template : PromptTemplate, default "{input}\\\\t{output}" joined by newlines
        How the demonstration and the query are written (the paper's).
    """

    lm: Any = positional(free, "the frozen model", check_lm, kw_only=False)
    normalize: bool = flag(True, "divide by the probability of all choices, where there are some")
    template: PromptTemplate = template_field(TABBED, "how the demonstration and the query are written")

    def _check_settings(self) -> None:
        require(self.lm, "logprobs", method="UDR")

    @property
    def name(self) -> str:
        """The model, by its weights where they can be had, the rule and the prompt."""
        model = self.lm.fingerprint() if hasattr(self.lm, "fingerprint") else f"{self.lm.kind}:{self.lm.name}"
        return f"{model}:{'normalized' if self.normalize else 'likelihood'}:{self.template}"

    def __call__(self, task: RetrievalTask, query: int, demos: Sequence[int]) -> list[float]:
        shown = [Demonstration(task.inputs[z], task.outputs[z], int(z)) for z in demos]
        prompts = [self.template.assemble([demo], task.inputs[query]).text for demo in shown]
        relative = self.normalize and task.choices is not None
        answers = list(task.choices or ()) if relative else [task.outputs[query]]
        options = [[self.template.completion(answer) for answer in answers]] * len(prompts)
        rows = self.lm.score(prompts, options, tag="feedback")
        values = np.array([[score.logprob if relative else score.mean for score in row] for row in rows])
        require_finite(values, "the language model's score of an answer")  # (n_demos, n_answers)
        if relative:
            values = log_softmax(values, axis=1)
        return values[:, answers.index(task.outputs[query])].tolist()


class ScoreTable:
    """Scores of (task, query, demonstration) in a SQLite file, committed query by query, so that scoring can be
    resumed.

    Parameters
    ----------
    path : path, optional
        The file; default: in memory, for the lifetime of the table.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None:
            as_path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(":memory:" if path is None else path, timeout=60)
        with self._db:
            self._db.execute("CREATE TABLE IF NOT EXISTS tasks (task TEXT PRIMARY KEY, fingerprint TEXT, scorer TEXT)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS scores (task TEXT, query INTEGER, demo INTEGER, score REAL, "
                "PRIMARY KEY (task, query, demo)) WITHOUT ROWID"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def open_task(self, task: RetrievalTask, feedback: Any) -> None:
        """Register a task, or check that the scores already there are of the same examples and the same feedback."""
        scorer = getattr(feedback, "name", None)
        if not isinstance(scorer, str):
            raise ValueError(f"scores kept in a file need feedback with a name that tells it from others: {feedback!r}")
        row = self._db.execute("SELECT fingerprint, scorer FROM tasks WHERE task = ?", [task.name]).fetchone()
        if row is None:
            with self._db:
                self._db.execute("INSERT INTO tasks VALUES (?, ?, ?)", [task.name, task.fingerprint, scorer])
        elif row != (task.fingerprint, scorer):
            other = "examples" if row[0] != task.fingerprint else "language model or prompt"
            raise ValueError(f"the score table holds task {task.name!r} with other {other}: use another file")

    def read(self, task: str, query: int) -> dict[int, float]:
        """Return the scores of one query by demonstration."""
        rows = self._db.execute("SELECT demo, score FROM scores WHERE task = ? AND query = ?", [task, int(query)])
        return dict(rows.fetchall())

    def write(self, task: str, query: int, scores: Mapping[int, float]) -> None:
        """Keep the scores of one query."""
        rows = [(task, int(query), int(demo), float(score)) for demo, score in scores.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM scores").fetchone()[0])
